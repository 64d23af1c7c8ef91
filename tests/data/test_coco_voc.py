"""COCO's JSON and VOC's XML: targets by hand, oversampling against its formula, one sentence for every defect."""

import math
import tarfile
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from vig_minimal import train
from commands import own_folder, refused, rows  # noqa: F401
from helpers import coco_folder, thing, voc_folder
from vig_minimal.data.coco_voc import VOC_CLASSES, coco, repeats, voc2007
from vig_minimal.data.datasets import fetch, image_name, label_counts, open_data, oversampled
from vig_minimal.data.decoding import DataError
from vig_minimal.training.run_log import warnings

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini.tar"


def test_classes_are_the_categories_by_id_and_images_without_objects_are_all_negative(tmp_path):
    train_split, val_split = coco(str(coco_folder(tmp_path)))
    assert train_split.classes == ["person", "train", "toothbrush"] and len(train_split) == len(val_split) == 3
    assert train_split.targets.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    image, target = train_split[0]
    assert image.size == (32, 24) and target.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_photos_of_2014_are_taken_where_there_are_no_others(tmp_path):
    folder = coco_folder(tmp_path)
    expected = [split.targets for split in coco(str(folder))]
    for path in [*folder.glob("annotations/*2017.json"), *folder.glob("*2017")]:
        path.rename(path.with_name(path.name.replace("2017", "2014")))
    found = coco(str(folder))
    assert all(torch.equal(split.targets, targets) for split, targets in zip(found, expected, strict=True))
    assert found[0][2][0].size == (32, 24)


def test_an_object_has_its_largest_size_and_a_crowd_counts(tmp_path):
    objects = [thing(10, 1, area=50.0), thing(10, 1, area=32.0**2), thing(10, 7, area=96.0**2, iscrowd=1),
               thing(11, 1, box=(0, 0, 30, 24))]  # 720 pixels, without an area
    source, _ = coco(str(coco_folder(tmp_path, objects)))
    assert source.targets.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert source.sizes.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_missing_folders_and_files_are_named(capsys, tmp_path):
    assert "with --data-dir" in refused(capsys, "--model", "gkgnet_nano", "--data", "coco")
    message = refused(capsys, "--model", "gkgnet_nano", "--data", "coco", "--data-dir", tmp_path)
    assert "instances_train2017.json: cannot be read (No such file" in message
    folder = coco_folder(tmp_path / "coco")
    (folder / "val2017" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images that .*instances_val2017.json lists are missing.* 2.jpg"):
        coco(str(folder))


def test_a_run_on_annotated_photos_names_classes_without_positives(capsys, tmp_path):
    folder = coco_folder(tmp_path / "coco", images=6)
    argv = ["--data", "coco", "--data-dir", folder, "--img-size", 16, "--set", "dim=(8,16)", "--set", "depth=(1,1)",
            "--set", "pool=(2,1)", "--batch-size", 4, "--epochs", 1, "--workers", 0, "--output", "out", "--oversample",
            0.3, "--device", "cpu"]
    train.main(["--model", "gkgnet_nano", *map(str, argv)])
    said = capsys.readouterr().out
    assert "warning: no training image of 1 class: train" in said
    assert "warning: no validation image of 1 class: train" in said
    assert "no AP, and in no mean, since no image shows them: train" in said
    assert "coco: 3 classes, 7 training images" in said  # f = 1/6 of toothbrush: image 10 comes ⌈√1.8⌉ times
    last = rows("out")[-1]
    assert "nan" not in last.values() and float(last["val_mAP_small"]) > 0 and "val_mAP_large" not in last
    assert (tmp_path / "out" / "per_class_ap.csv").read_text().splitlines()[2] == "train,"


def test_oversampling_against_its_formula():
    targets = torch.zeros(400, 4, dtype=torch.int8)
    targets[:300, 0] = targets[7, 1] = targets[9, 1] = targets[399, 2] = 1
    targets[20, 2] = -1  # unknown is not shown
    share = {0: 300 / 400, 1: 2 / 400, 2: 1 / 400}
    expected = []
    for i in range(400):
        factors = [max(1.0, math.sqrt(0.02 / share[c])) for c in range(3) if targets[i, c] == 1]
        expected += [i] * math.ceil(max(factors, default=1.0) - 1e-9)
    assert repeats(targets, 0.02) == expected and expected.count(7) == 2 and expected.count(399) == 3
    assert repeats(targets, 0.0) == list(range(400))


# ---- VOC 2007 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_a_class_with_only_difficult_objects_is_unknown(tmp_path, given):
    train_split, val_split = voc2007(str(voc_folder(tmp_path) / given))
    assert len(VOC_CLASSES) == 20 and list(VOC_CLASSES) == sorted(VOC_CLASSES) == train_split.classes
    expected = torch.zeros(2, 20, dtype=torch.int8)
    expected[0, VOC_CLASSES.index("dog")] = expected[1, VOC_CLASSES.index("person")] = 1
    expected[0, VOC_CLASSES.index("cat")] = -1
    assert torch.equal(train_split.targets, expected) and val_split.targets.tolist() == [[0] * 20]
    fetch("voc2007", str(tmp_path / given))  # there already: nothing is downloaded


def test_missing_parts_of_voc_are_named(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.VOCDetection, "__init__", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded \(no route to host\); put VOCdevkit/VOC2007 there"):
        fetch("voc2007", str(tmp_path))
    with pytest.raises(DataError, match="no VOCdevkit/VOC2007"):
        voc2007(str(tmp_path))
    root = voc_folder(tmp_path) / "VOCdevkit" / "VOC2007"
    (root / "Annotations" / "000007.xml").unlink()
    with pytest.raises(DataError, match="1 annotations that are missing, as 000007.xml"):
        voc2007(str(tmp_path))
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(DataError, match="names no image"):
        voc2007(str(tmp_path))


# ---- real photos ---------------------------------------------------------------------------------------------------


def test_photos_of_coco(tmp_path):
    if not MINI.exists():
        pytest.skip(f"no photos at {MINI}")
    with tarfile.open(MINI) as archive:
        archive.extractall(tmp_path)
    data = open_data("coco", str(tmp_path / "coco_mini"), (64, 64), None)
    assert data.multi_label and len(data.classes) == 80 and data.classes[0] == "person"
    assert len(data.train) == len(data.val) == 100
    counts = [label_counts(source, 80) for source in (data.train, data.val)]
    assert [sum(count > 0 for count in split) for split in counts] == [69, 72]
    assert [sum(split) / 100 for split in counts] == [2.91, 2.88]
    assert (data.train.targets.sum(1) == 0).sum() == 2
    assert len(warnings(data)) == 2 and "of 11 classes" in warnings(data)[0]
    assert data.train[0][0].mode == "RGB" and image_name(data.train, 0).endswith(".jpg")
    more = oversampled(data, 0.05)
    assert len(more.train) > 100 and set(more.train.indices) == set(range(100)) and more.val is data.val
