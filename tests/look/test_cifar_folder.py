"""docs/compare/cifar_folder.py: the folder of images that the commands in docs/results.md train on."""

import numpy as np
import pytest
from PIL import Image

from helpers import script
from vig_minimal.data.datasets import open_data


class Few:
    """As torchvision's CIFAR10, with four images of each of three classes, each of one grey."""

    classes = ["ape", "bee", "cow"]

    def __init__(self, folder, train, download):
        self.targets, self.train = [0, 1, 2] * 4, train

    def __getitem__(self, index):
        grey = 10 * index + self.train
        return Image.new("RGB", (32, 32), (grey, grey, grey)), self.targets[index]


@pytest.fixture
def folders(monkeypatch):
    made = script("docs/compare/cifar_folder.py")
    monkeypatch.setattr(made, "CIFAR10", Few)
    return made


def test_the_folder_has_so_many_images_of_each_class_and_the_same_ones_again(folders, tmp_path):
    for name in ("one", "two"):
        folders.main([str(tmp_path / name), "--train", "3", "--val", "2"])
    data = open_data("imagefolder", str(tmp_path / "one"), (32, 32), None)
    assert data.classes == Few.classes and (len(data.train), len(data.val)) == (9, 6)
    files = {path.relative_to(tmp_path / "one"): path for path in (tmp_path / "one").rglob("*.png")}
    again = {path.relative_to(tmp_path / "two"): path for path in (tmp_path / "two").rglob("*.png")}
    assert {name: path.read_bytes() for name, path in files.items()} == {
        name: path.read_bytes() for name, path in again.items()}
    for place, path in files.items():
        split, label, number = place.parts[0], Few.classes.index(place.parts[1]), int(place.stem)
        assert number % 3 == label and np.asarray(Image.open(path))[0, 0, 0] == 10 * number + (split == "train")


@pytest.mark.parametrize("argv, says", [
    (["."], ". is there already"), (["new", "--train", "0"], "--train 0: from 1 to 5000"),
    (["new", "--val", "1001"], "--val 1001: from 1 to 1000")])
def test_bad_input_is_a_sentence(folders, tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        folders.main(argv)
    assert end.value.code == 2 and says in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_no_network_is_a_sentence(folders, tmp_path, monkeypatch, capsys, error):
    def fails(*_, **__):
        raise error("no route to host")

    monkeypatch.setattr(folders, "CIFAR10", fails)
    with pytest.raises(SystemExit) as end:
        folders.main([str(tmp_path / "new")])
    assert end.value.code == 2 and "cannot be downloaded to data (no route to host)" in capsys.readouterr().err
