"""Data sets by name: what they open, limits, and one sentence for everything that cannot be used."""

import os
from pathlib import Path

import pytest
from PIL import Image
from torchvision import datasets

from vig_minimal import train
from commands import TINY, own_folder  # noqa: F401
from helpers import image_folder
from vig_minimal.data import datasets as data_module
from vig_minimal.data.datasets import fetch, image_name, label_counts, open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.training.checkpoint import load


def test_shapes_follow_limit_and_size():
    data = open_data("shapes", None, (16, 24), 30)
    assert (len(data.train), len(data.val), len(data.classes)) == (30, 30, 10) and data.train[0][0].shape == (3, 16, 24)
    assert len(open_data("shapes", None, (16, 16), None).val) == data_module.SYNTHETIC["shapes"][1]


def test_data_sets_have_the_splits_and_sizes_that_their_pages_name():
    """10,000 scenes and 2,000, of which 500 with boxes or masks; downloads by the splits of their authors."""
    for name, count in (("shapes", 2_000), ("shapes-multi", 2_000), ("shapes-boxes", 500)):
        data = open_data(name, None, (16, 16), None)
        assert (len(data.train), len(data.val)) == (10_000, count)
    masks = open_data("shapes-masks", None, (16, 16), None, task="segmentation")
    assert (len(masks.train), len(masks.val)) == (10_000, 500)
    for name in ("shapes-boxes", "shapes-masks"):
        few, many = (open_data(name, None, (16, 16), limit) for limit in (40, 600))
        assert [len(source) for source in (few.train, few.val, many.train, many.val)] == [40, 40, 600, 500]
    train, test = {"train": True}, {"train": False}
    assert {name: about[1:] for name, about in data_module.DOWNLOADS.items()} == {
        "cifar10": (train, test), "cifar100": (train, test), "stl10": ({"split": "train"}, {"split": "test"}),
        "svhn": ({"split": "train"}, {"split": "test"}), "voc2012": ({"image_set": "train"}, {"image_set": "val"}),
        "voc2007": ({"image_set": "trainval"}, {"image_set": "test"})}
    assert data_module.IMAGE_SIZES == {
        "shapes": 64, "shapes-multi": 64, "shapes-boxes": 64, "shapes-masks": 64, "cifar10": 32, "cifar100": 32,
        "stl10": 96, "svhn": 32}


def test_a_limited_folder_is_always_the_same_choice(tmp_path):
    folder = str(image_folder(tmp_path, count=8))
    a, b = (open_data("imagefolder", folder, (16, 16), 5) for _ in range(2))
    assert a.train.indices == b.train.indices and len(set(a.train.indices)) == len(a.train) == 5 and len(a.val) == 16
    assert len(open_data("imagefolder", folder, (16, 16), 99).train) == 16


def photos(root, counts=(("cat", 20), ("dog", 7), ("fox", 2))):
    """A folder of classes without train/ and val/."""
    for name, count in counts:
        (root / name / "more").mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (8, 8), (i, sum(name.encode()) % 256, 0))
            image.save(root / name / ("more" if i % 3 else "") / f"{i}.png")
    return root


def names(source):
    return [image_name(source, i) for i in range(len(source))]


def test_a_folder_of_classes_is_split_by_the_seed(tmp_path):
    root = photos(tmp_path / "photos")
    data = open_data("imagefolder", str(root), (16, 16), None, seed=3)
    assert data.classes == ["cat", "dog", "fox"]
    assert label_counts(data.val, 3) == [4, 1, 1] and label_counts(data.train, 3) == [16, 6, 1]  # a fifth, 1 at least
    both = names(data.train) + names(data.val)
    assert len(set(both)) == len(both) == 29 and all(Path(name).is_file() for name in both)
    assert all(Path(names(source)[i]).relative_to(root).parts[0] == data.classes[source[i][1]]
               for source in (data.train, data.val) for i in range(len(source)))
    (said,) = data.remarks
    assert said.startswith(f"{root} has no train/ and val/: 20% of the images of every class") and "seed 3" in said
    assert not open_data("imagefolder", str(image_folder(tmp_path / "both")), (16, 16), None).remarks


def test_the_split_follows_from_seed_and_names_alone(tmp_path, monkeypatch):
    def split(root, seed=3):
        val = open_data("imagefolder", str(root), (16, 16), None, seed).val
        return [str(Path(name).relative_to(root)) for name in names(val)]

    root = photos(tmp_path / "photos")
    once = split(root)
    assert once != split(root, seed=4) and once == split(root)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *args, **kwargs: (
        (place, folders, files[::-1]) for place, folders, files in walk(*args, **kwargs)))
    assert split(root) == once
    monkeypatch.undo()
    root.rename(tmp_path / "elsewhere")
    assert split(tmp_path / "elsewhere") == once
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "cat" / "new.png")
    assert len(set(once) - set(split(tmp_path / "elsewhere"))) <= 1  # a new image leaves the others where they were


@pytest.mark.parametrize(("counts", "says"), [
    ([("cat", 5), ("dog", 1)], "photos: 1 image only of dog; one is for validation, so each class needs 2"),
    ([("cat", 5), ("dog", 0)], "photos: no images .* of the classes dog"),
    ([("cat", 5)], r"photos: one class only \(cat\)"), ([], "photos: no class; an image folder holds"),
    ([("Train", 5), ("test", 5)], "photos: Train, test cannot be classes; an image folder holds train/CLASS"),
])
def test_a_folder_that_cannot_be_split(tmp_path, counts, says):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "loose.png")
    with pytest.raises(DataError, match=says):
        open_data("imagefolder", str(photos(tmp_path / "photos", counts)), (16, 16), None)


def test_a_run_that_goes_on_and_its_evaluation_see_the_same_split(capsys, tmp_path):
    def run(*argv):
        train.main([*TINY, "--workers", "0", *map(str, argv)])
        return capsys.readouterr().out

    root = photos(tmp_path / "photos", [("cat", 25), ("dog", 25)])
    begun = run("--data-dir", root, "--seed", 5, "--batch-size", 8, "--epochs", 1, "--output", "out")
    begun = " ".join(begun.split())
    assert "40 training images, 10 validation images" in begun
    assert "has no train/ and val/: 20% of the images of every class are for validation, chosen by seed 5" in begun
    kept = load("out/last.pt")["data"]
    again = run("--resume", "out/last.pt", "--epochs", 2)
    assert "seed 5" in again and "the images are not those" not in again and load("out/last.pt")["data"] == kept
    assert "chosen by seed 5" in " ".join(run("--resume", "out/last.pt", "--eval-only").split())
    with pytest.raises(SystemExit):  # it would evaluate images that were trained on
        run("--resume", "out/last.pt", "--eval-only", "--seed", 6)
    assert "trained with seed=5, and this run has seed=6" in capsys.readouterr().err


def test_what_is_hidden_is_no_image(tmp_path):
    """Notebooks copy images into .ipynb_checkpoints/, and macOS puts a ._0.png beside 0.png."""
    root = photos(tmp_path / "photos", [("cat", 5), ("dog", 5)])
    (root / "cat" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(root / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "dog" / "._0.png").write_text("no image")
    data = open_data("imagefolder", str(root), (16, 16), None)
    assert len(data.train) + len(data.val) == 10


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; an image folder holds train/CLASS"):
        open_data("imagefolder", str(tmp_path / "nowhere"), (16, 16), None)


def test_other_data_that_cannot_be_used():
    with pytest.raises(DataError, match="unknown data set 'cifar': there are shapes, imagefolder, cifar10"):
        open_data("cifar", None, (32, 32), None)
    with pytest.raises(DataError, match="--data-dir"):
        open_data("imagefolder", None, (32, 32), None)


def test_a_download_that_fails_is_a_sentence(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"cifar10 is not complete .* \(no network\)"):
        fetch("cifar10", str(tmp_path))
    with pytest.raises(DataError, match="cifar10 is not complete"):
        open_data("cifar10", str(tmp_path), (32, 32), None)


def test_downloaded_sets_open_through_torchvision(monkeypatch):
    class Digits(list):
        """Stands in for torchvision's SVHN, which names no classes."""

        def __init__(self, root, download, split):
            digits = [(Image.new("RGB", (32, 32)), label) for label in range(10)]
            super().__init__(digits * (2 if split == "train" else 1))

    monkeypatch.setitem(data_module.DOWNLOADS, "svhn", (Digits, {"split": "train"}, {"split": "test"}))
    data = open_data("svhn", None, (32, 32), 15)
    assert data.classes == [str(digit) for digit in range(10)] and (len(data.train), len(data.val)) == (15, 10)


def test_a_missing_package_is_named(monkeypatch):
    def needs_scipy(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setitem(data_module.DOWNLOADS, "svhn", (needs_scipy, {}, {}))
    with pytest.raises(DataError, match="pip install scipy"):
        open_data("svhn", None, (32, 32), None)
