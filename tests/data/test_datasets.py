"""Data sets by name: what they open, limits, and one sentence for everything that cannot be used."""

import pytest
from PIL import Image
from torchvision import datasets

from helpers import image_folder
from vig_minimal.data import datasets as data_module
from vig_minimal.data.datasets import fetch, open_data
from vig_minimal.data.decoding import DataError


def test_shapes_follow_limit_and_size():
    data = open_data("shapes", None, (16, 24), 30)
    assert (len(data.train), len(data.val), len(data.classes)) == (30, 30, 10) and data.train[0][0].shape == (3, 16, 24)
    assert len(open_data("shapes", None, (16, 16), None).val) == data_module.SHAPES_VAL


def test_a_limited_folder_is_always_the_same_choice(tmp_path):
    folder = str(image_folder(tmp_path, count=8))
    a, b = (open_data("imagefolder", folder, (16, 16), 5) for _ in range(2))
    assert a.train.indices == b.train.indices and len(set(a.train.indices)) == len(a.train) == 5 and len(a.val) == 16
    assert len(open_data("imagefolder", folder, (16, 16), 99).train) == 16


def broken_folder(kind, root):
    if kind == "train and val differ":
        return image_folder(root, val=("cat", "fox"))
    if kind == "no class":
        return image_folder(root, train=(), val=())
    if kind == "one class":
        return image_folder(root, train=("cat",), val=("cat",))
    if kind == "empty class":
        return image_folder(root, count=0)
    if kind == "no val":
        folder = image_folder(root)
        (folder / "val").rename(folder / "test")
        return folder
    return root / "nowhere"


@pytest.mark.parametrize(("kind", "message"), [
    ("train and val differ", r"different classes \(only in train/: dog; only in val/: fox\)"),
    ("no class", "train: no class, or one without images"), ("one class", r"one class only \(cat\)"),
    ("empty class", "no valid file for the classes"),
    ("no val", "val: no such folder"), ("missing", "nowhere: no such folder"),
])
def test_folders_that_cannot_be_trained_on(tmp_path, kind, message):
    with pytest.raises(DataError, match=message):
        open_data("imagefolder", str(broken_folder(kind, tmp_path)), (16, 16), None)


def test_other_data_that_cannot_be_used():
    with pytest.raises(DataError, match="unknown data set 'cifar': there are shapes, imagefolder, cifar10"):
        open_data("cifar", None, (32, 32), None)
    with pytest.raises(DataError, match="--data-dir"):
        open_data("imagefolder", None, (32, 32), None)
    with pytest.raises(DataError, match="limit=0"):
        open_data("shapes", None, (32, 32), 0)


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
