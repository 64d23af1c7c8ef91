"""Folders of images: what in them is an image, what is left out, one name for one class, copies on both sides."""

import filecmp
import os
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from helpers import image_folder
from vig_minimal.data import image_folders as module
from vig_minimal.data.datasets import label_counts, open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.data.image_folders import copies, find_images
from vig_minimal.look import predict

COMPOSED, APART = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))
RNG = np.random.default_rng(0)


def picture(path, fmt="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, fmt)


def text(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no picture")


def opened(folder):
    return open_data("imagefolder", str(folder), (8, 8), None)


# what is added to train/cat, which has 3 images: how many more there are, what is said
ADDED = {
    "other endings of JPEG": ({"a.jfif": "jpeg", "b.JPE": "jpeg", "c.jpeg": "jpeg"}, 3, None),
    "GIF": ({"a.gif": "gif"}, 1, None),
    "AVIF": ({"a.avif": "avif"}, 1, None),
    "no ending": ({"a": "png", "b": "jpeg", "README": "text"}, 2, "1 files are left out, which are no images by their"
                                                                  " endings: 1 without an ending"),
    "an ending that lies": ({"a.jpg": "png"}, 1, None),
    "other files": ({"a.txt": "text", "b.txt": "text", "c.heic": "text"}, 0, "3 files are left out, which are no images"
                                                                             " by their endings: 2 .txt, 1 .heic"),
    "hidden": ({".a.png": "png", "._b.png": "text", ".thumbnails/a.png": "png"}, 0, None),
    "@eaDir": ({"@eaDir/a.jpg/thumb.jpg": "jpeg"}, 0, "1 folders are left out, where programs keep copies: "),
    "thumbnails": ({"thumbs/a.png": "png", "more/Thumbnails/b.png": "png", "more/c.png": "png"}, 1,
                   "2 folders are left out, where programs keep copies: "),
    "beside": ({"../a.png": "png"}, 0, None),
    "a folder of a program for a class": ({"../__MACOSX/a.png": "png", "../@eaDir/a.png": "png"}, 0, "2 folders are"),
}


@pytest.mark.parametrize("name", ADDED)
def test_what_is_an_image_and_what_is_said(tmp_path, name):
    files, count, said = ADDED[name]
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    folder = image_folder(tmp_path / "data")
    for file, kind in files.items():
        (text if kind == "text" else lambda path: picture(path, kind))(folder / "train" / "cat" / file)
    data = opened(folder)
    assert label_counts(data.train, 2) == [3 + count, 3] and data.classes == ["cat", "dog"]
    assert all(data.train[i][0].size in ((8, 8), (24, 20)) for i in range(len(data.train)))
    assert len(data.remarks) == (said is not None) and all(said in remark for remark in data.remarks), data.remarks
    remarks = []
    assert len(predict.find_images([str(folder / "train" / "cat")], remarks)) == 3 + count
    assert len(remarks) == (said is not None and "../" not in next(iter(files)))


def test_a_class_of_its_own_may_be_called_thumbs(tmp_path):
    folder = image_folder(tmp_path, train=("thumbs", "toes"), val=("thumbs", "toes"))
    assert opened(folder).classes == ["thumbs", "toes"] and not opened(folder).remarks


@pytest.mark.parametrize("first", [COMPOSED, APART])
def test_names_are_compared_as_people_see_them(tmp_path, first):
    assert COMPOSED != APART
    other = APART if first == COMPOSED else COMPOSED
    data = opened(image_folder(tmp_path / "both", train=("Birnen", first), val=("Birnen", other)))
    assert data.classes == ["Birnen", COMPOSED] and label_counts(data.train, 2) == label_counts(data.val, 2) == [3, 3]
    picture(tmp_path / "both" / "train" / other / "more.png")  # a folder beside the other one
    assert label_counts(opened(tmp_path / "both").train, 2) == [3, 4]
    split = []
    for name in (first, other):
        for label in (name, "Birnen"):
            for i in range(9):
                picture(tmp_path / name / label / f"{name}{i}.png")
        paths = opened(tmp_path / name).val.paths
        split.append([unicodedata.normalize("NFC", os.path.basename(path)) for path in paths])
    assert split[0] == split[1]


def test_links_are_followed_once_and_never_round(tmp_path):
    folder, far = image_folder(tmp_path / "data"), tmp_path / "far"
    picture(far / "a.png")
    picture(tmp_path / "farther" / "b.png")
    (far / "on").symlink_to(tmp_path / "farther")
    (far / "around").symlink_to(far)
    (folder / "train" / "fox").symlink_to(far)
    (folder / "val" / "fox").symlink_to(tmp_path / "farther")
    data = opened(folder)
    assert label_counts(data.train, 3) == [3, 3, 2] and label_counts(data.val, 3) == [3, 3, 1]
    said, copied = data.remarks
    assert said == f"1 links are not followed, since each folder is read once: {folder}/train/fox/around"
    assert "1 of 7 validation images are exact copies" in copied  # the one that both sides lead to


def test_copies_on_both_sides_are_counted(tmp_path):
    folder = image_folder(tmp_path / "data", count=6)
    assert not opened(folder).remarks
    for i in range(4):
        (folder / "val" / "cat" / f"{i}.png").write_bytes((folder / "train" / "dog" / f"{i}.png").read_bytes())
    near = folder / "val" / "cat" / "5.png"  # as long, and another file
    near.write_bytes((folder / "train" / "dog" / "5.png").read_bytes()[:-1] + b"?")
    (said,) = opened(folder).remarks
    assert said.startswith("warning: 4 of 12 validation images are exact copies of training images, such as ")
    assert f"{folder}/val/cat/0.png of {folder}/train/dog/0.png" in said
    for i in range(40):  # a folder that is split by the seed, each image twice
        picture(tmp_path / "one" / "ab"[i % 2] / f"{i}.png")
        (tmp_path / "one" / "ab"[i % 2] / f"again{i}.png").write_bytes(
            (tmp_path / "one" / "ab"[i % 2] / f"{i}.png").read_bytes())
    data = opened(tmp_path / "one")
    sides = [[Path(path).read_bytes() for path in side.paths] for side in (data.train, data.val)]
    count = sum(content in sides[0] for content in sides[1])
    assert count > 5 and data.remarks[1].startswith(f"warning: {count} of 16 validation images are exact copies")


def test_files_that_differ_far_from_their_middle_are_no_copies(tmp_path):
    content = RNG.bytes(20_000)
    for name, data in (("a", content), ("b", b"?" + content[1:]), ("c", content[:-1] + b"?"), ("d", content)):
        (tmp_path / name).write_bytes(data)
    paths = {name: str(tmp_path / name) for name in "abcd"}
    assert copies([paths["a"]], [paths["b"], paths["c"], paths["d"]]) == [(paths["d"], paths["a"])]


def test_copies_of_a_large_folder_take_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COMPARED", 50)
    monkeypatch.setattr(module, "OPENED", 500)
    for side, count in (("train", 1000), ("val", 200)):
        (tmp_path / side).mkdir()
        for i in range(count):  # all of one size, and every tenth of val is in train
            (tmp_path / side / f"{i:04}").write_bytes(i.to_bytes(4, "big") if side == "train" or i % 10 == 0 else
                                                      (5000 + i).to_bytes(4, "big"))
    sides = [sorted(map(str, (tmp_path / side).iterdir())) for side in ("train", "val")]
    read, middle, compare = [], module._middle, filecmp.cmp
    monkeypatch.setattr(module, "_middle", lambda path: read.append(path) or middle(path))
    monkeypatch.setattr(filecmp, "cmp", lambda *paths, **how: read.extend(paths) or compare(*paths, **how))
    begun = time.perf_counter()
    found = copies(*sides)
    assert found and all(int(a[-4:]) == int(b[-4:]) for a, b in found) and time.perf_counter() - begun < 5
    assert len(read) <= 50 + 500 + 2 * len(found)


def test_a_folder_without_images_says_what_it_has(tmp_path):
    text(tmp_path / "a.heic")
    with pytest.raises(ValueError, match=r"no image in this folder; .* 1 files are left out.*: 1 .heic"):
        predict.find_images([str(tmp_path)], [])
    folder = image_folder(tmp_path / "data", train=("cat", "dog", "fox"), val=("cat", "dog", "fox"), count=0)
    text(folder / "train" / "fox" / "a.heic")
    with pytest.raises(DataError, match=r"no images \(.jpg, .png and others .*\) of the classes cat, dog, fox; .*heic"):
        opened(folder)
    assert find_images(folder)[0] == []


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    folder, scandir = image_folder(tmp_path / "data"), os.scandir
    (folder / "train" / "dog" / "more").mkdir()

    def denied(path):
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"dog/more: cannot be read \(Permission denied\)"):
        opened(folder)
