"""COCO's JSON and VOC's XML: targets by hand, oversampling against its formula, one sentence for every defect."""

import math
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from vig_minimal import train
from commands import own_folder, refused, rows  # noqa: F401
from helpers import coco_folder, thing, voc_folder, xml
from vig_minimal.data.coco_voc import VOC_CLASSES, VocLabels, coco, coco_labels, repeats
from vig_minimal.data.datasets import fetch, image_name, label_counts, open_data, oversampled
from vig_minimal.data.decoding import DataError
from vig_minimal.training.run_log import warnings

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini.tar"


def test_classes_are_the_categories_by_id_and_images_without_objects_are_all_negative(tmp_path):
    train_split, val_split = coco(str(coco_folder(tmp_path)), coco_labels)
    assert train_split.classes == ["person", "train", "toothbrush"] and len(train_split) == len(val_split) == 3
    assert train_split.targets.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    image, target = train_split[0]
    assert image.size == (32, 24) and target.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_photos_of_2014_are_taken_where_there_are_no_others(tmp_path):
    folder = coco_folder(tmp_path)
    expected = [split.targets for split in coco(str(folder), coco_labels)]
    for path in [*folder.glob("annotations/*2017.json"), *folder.glob("*2017")]:
        path.rename(path.with_name(path.name.replace("2017", "2014")))
    found = coco(str(folder), coco_labels)
    assert all(torch.equal(split.targets, targets) for split, targets in zip(found, expected, strict=True))
    assert found[0][2][0].size == (32, 24)


@pytest.mark.parametrize(("years", "taken"), [(("2014", "2017"), 2017), (("2014",), 2014)])
def test_the_later_year_is_taken(tmp_path, years, taken):
    for year in years:
        folder = coco_folder(tmp_path / year)
        for path in [*folder.glob("annotations/*"), *folder.glob("*2017")]:
            to = tmp_path / "all" / path.relative_to(folder).with_name(path.name.replace("2017", year))
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
    assert f"train{taken}/0.jpg" in image_name(open_data("coco", str(tmp_path / "all"), (8, 8), None).train, 0)


def test_sizes_without_boxes(tmp_path):
    objects = [thing(10, 1, area=96.0**2) | {"bbox": None}, thing(11, 1) | {"bbox": []}]
    source, _ = coco(str(coco_folder(tmp_path, objects)), coco_labels)
    assert source.targets.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]] and source.sizes[:, 0].tolist() == [2, 0, 0]


def test_an_object_has_its_largest_size_and_a_crowd_counts(tmp_path):
    objects = [thing(10, 1, area=50.0), thing(10, 1, area=32.0**2), thing(10, 7, area=96.0**2, iscrowd=1),
               thing(11, 1, box=(0, 0, 30, 24))]  # 720 pixels, without an area
    source, _ = coco(str(coco_folder(tmp_path, objects)), coco_labels)
    assert source.targets.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert source.sizes.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_missing_folders_and_files_are_named(capsys, tmp_path):
    assert "with --data-dir" in refused(capsys, "--model", "gkgnet_nano", "--data", "coco")
    message = refused(capsys, "--model", "gkgnet_nano", "--data", "coco", "--data-dir", tmp_path)
    assert "instances_train2017.json: cannot be read (No such file" in message
    folder = coco_folder(tmp_path / "coco")
    (folder / "val2017" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images that .*instances_val2017.json lists are missing.* 2.jpg"):
        coco(str(folder), coco_labels)


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


@pytest.mark.parametrize("count, shown, threshold", [(50, 3, 0.54), (100, 3, 0.27), (200, 3, 0.135)])
def test_a_repeat_that_is_whole_is_not_rounded_up(count, shown, threshold):
    """0.54 / (3 / 50) = 3², whose root floats have as 3.0000000000000004: three times, and not four."""
    targets = torch.zeros(count, 1, dtype=torch.int8)
    targets[:shown] = 1
    assert repeats(targets, threshold).count(0) == 3


def test_photos_of_2017_are_taken_where_both_years_are_there(tmp_path):
    folder = coco_folder(tmp_path)
    for path in [*folder.glob("annotations/*2017.json"), *folder.glob("*2017")]:
        other = path.with_name(path.name.replace("2017", "2014"))
        shutil.copytree(path, other) if path.is_dir() else other.write_text(path.read_text())
    for split in coco(str(folder), coco_labels):
        assert Path(image_name(split, 0)).parent.name in ("train2017", "val2017")


# ---- VOC 2007 ------------------------------------------------------------------------------------------------------


def voc2007(folder):
    return VocLabels(folder, "trainval"), VocLabels(folder, "test")


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
    with pytest.raises(DataError, match=r"could not be downloaded \(no route to host\); put its files there"):
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


def test_names_with_spaces_and_lists_with_signs(tmp_path):
    root = voc_folder(tmp_path) / "VOCdevkit" / "VOC2007"
    for folder, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (root / folder / f"000005.{ending}").rename(root / folder / f"my dog.{ending}")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("my dog\n000007  1\n")
    source, _ = voc2007(str(tmp_path))
    assert [Path(path).name for path in source.paths] == ["my dog.jpg", "000007.jpg"] and source[0][0].size == (32, 24)
    assert source.targets[0, VOC_CLASSES.index("dog")] == 1 and source.targets[1, VOC_CLASSES.index("person")] == 1


@pytest.mark.parametrize(("box", "size"), [((1, 1, 31, 33), 0), ((1, 1, 32, 32), 1), ((3, 2, 34, 33), 1),
                                           ((1, 1, 95, 97), 1), ((1, 1, 96, 96), 2)])
def test_a_box_of_voc_includes_its_last_pixel(tmp_path, box, size):
    """GKGNet's sizes count pixels: 31 × 33 is below 32², 32 × 32 is not."""
    source, _ = voc2007(str(voc_folder(tmp_path, xml(("dog", 0, *box), size=(200, 200)))))
    assert source.sizes[0, VOC_CLASSES.index("dog")] == size


@pytest.mark.parametrize(("box", "fits"), [
    ((1, 1, 32, 24), True), ((0, 0, 33, 25), True), ((-1, 1, 32, 24), False), ((1, -1, 32, 24), False),
    ((1, 1, 34, 24), False), ((1, 1, 32, 26), False), ((9, 9, 8, 9), True), ((9, 9, 7, 9), False)])
def test_a_box_of_voc_lies_in_its_image_give_or_take_a_pixel(tmp_path, box, fits):
    folder = str(voc_folder(tmp_path, xml(("dog", 0, *box))))
    if fits:
        assert voc2007(folder)[0].targets[0, VOC_CLASSES.index("dog")] == 1
    else:
        with pytest.raises(DataError, match="malformed or outside its image"):
            voc2007(folder)


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
