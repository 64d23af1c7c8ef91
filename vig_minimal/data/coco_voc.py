"""Photos with several labels: COCO's instances JSON and VOC 2007's XML, read with the standard library.

    coco       FOLDER/{train2017,val2017}/*.jpg and FOLDER/annotations/instances_{train,val}2017.json
    voc2007    FOLDER/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}: trainval to train, test to validate

What an image shows becomes a row of targets: 1, 0, and −1 for unknown. Everything wrong with a file is found here, when
it is opened, and said in one sentence.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets

from .decoding import DataError, read_image

OBJECT_SIZES = ("small", "medium", "large")  # see `size_class`
VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
               "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


def size_class(area: Tensor) -> Tensor:
    """0 small, 1 medium, 2 large, of areas in pixels: below 32², below 96², and the others (GKGNet, Table 6)."""
    return (area >= 32**2).long() + (area >= 96**2).long()


class Annotated(Dataset):
    """Photos and their targets: `source[i]` is the picture and a tensor (2, classes), int64.

    Its first row is 1 for every class that the photo shows, 0 for the others, −1 where that is unknown; its second the
    size class of the largest object of each class (`metrics.size_class`), 0 where there is none.
    `paths`, `targets` (n, classes) and `sizes` (n, classes) are known without reading a picture.
    """

    def __init__(self, paths: Sequence[Path], classes: Sequence[str], targets: Tensor, areas: Tensor):
        self.paths, self.classes, self.targets = [str(path) for path in paths], list(classes), targets
        self.sizes = size_class(areas).to(torch.int8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        return read_image(self.paths[index]), torch.stack([self.targets[index], self.sizes[index]]).long()


def repeats(targets: Tensor, threshold: float) -> list[int]:
    """Indices of images, those of rare classes several times: class-balanced oversampling (Gupta et al., LVIS, 2019).

    Of class c, f_c is the share of images that show it and r_c = max(1, √(t / f_c)); an image comes ⌈max_c r_c⌉ times,
    the maximum over the classes it shows, and once if it shows none. targets: (n, classes). threshold: t.
    """
    shown = targets == 1  # (n, classes)
    share = shown.double().mean(0)  # f_c
    factor = (threshold / share.clamp(min=1e-12)).sqrt().clamp(min=1)  # r_c
    # a hair less, so that rounding does not make 2.0000001 three copies
    times = (torch.where(shown, factor, 1.0).amax(1) - 1e-9).ceil().long()
    return torch.arange(len(targets)).repeat_interleave(times).tolist()


# ---- COCO ----------------------------------------------------------------------------------------------------------


def coco(folder: str | None) -> tuple[Annotated, Annotated]:
    """COCO's training and validation photos. Classes are the categories, in the order of their ids.

    Photos without an object are all-negative. A crowd region counts: the photo shows that class. Raises DataError.
    """
    if folder is None:
        raise DataError("coco: name the folder that holds train2017/, val2017/ and annotations/ with --data-dir")
    train, val = (_coco_split(Path(folder), split) for split in ("train2017", "val2017"))
    if train.classes != val.classes:
        raise DataError(f"{folder}: train2017 and val2017 name different categories; their instances_*.json must be of"
                        " one data set")
    return train, val


def _coco_split(folder: Path, split: str) -> Annotated:
    path = folder / "annotations" / f"instances_{split}.json"
    images, categories, objects = _coco_json(path)
    names = {category["id"]: category["name"] for category in sorted(categories, key=lambda entry: entry["id"])}
    if len(names) < len(categories) or len(set(names.values())) < len(names):
        raise DataError(f"{path}: two categories have the same id or name")
    row, column = {image["id"]: i for i, image in enumerate(images)}, {number: i for i, number in enumerate(names)}
    if len(row) < len(images):
        raise DataError(f"{path}: two images have the same id")
    targets, areas = torch.zeros(len(images), len(names), dtype=torch.int8), torch.zeros(len(images), len(names))
    shown = {}  # (row, column): largest area
    wrong = _Wrong(path)
    for entry in objects:
        place = row.get(entry["image_id"]), column.get(entry["category_id"])
        if place[0] is None:
            wrong.add("of an image that the file does not list", f"image_id {entry['image_id']}")
            continue
        if place[1] is None:
            wrong.add("of a category that the file does not list", f"category_id {entry['category_id']}")
            continue
        image, box = images[place[0]], entry.get("bbox")
        if not _inside(box, image):
            size = f"{image.get('width')}×{image.get('height')}"
            wrong.add("with a box that is malformed or outside its image", f"{box} in {image['file_name']} of {size}")
            continue
        shown[place] = max(shown.get(place, 0.0), entry.get("area", box[2] * box[3]))
    wrong.say("objects")
    if shown:
        rows, columns = torch.tensor(list(shown)).T
        targets[rows, columns], areas[rows, columns] = 1, torch.tensor(list(shown.values()), dtype=torch.float32)
    return Annotated(_existing(folder / split, [image["file_name"] for image in images], path), names.values(), targets,
                     areas)


def _coco_json(path: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Images, categories and annotations of an instances file."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); COCO's folder holds train2017/, val2017/ and"
                        " annotations/instances_{train,val}2017.json") from None
    except ValueError:  # what is no JSON, or no text
        raise DataError(f"{path}: not a JSON file, or cut short; download it again") from None
    fields = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in fields):
        raise DataError(f"{path}: not COCO's instances, which have the lists images, categories and annotations")
    for name, keys in fields.items():
        for entry in content[name]:
            if not isinstance(entry, dict) or any(not isinstance(entry.get(key), (int, str)) for key in keys):
                raise DataError(f"{path}: an entry of {name} has no {' or no '.join(keys)}: {str(entry)[:80]}")
    for name in ("images", "categories"):
        if not content[name]:
            raise DataError(f"{path}: has no {name}; nothing can be learnt from it")
    return tuple(content[name] for name in fields)


def _inside(box: object, image: dict) -> bool:
    """Whether [left, top, width, height] is a box inside that image, but for a pixel of rounding."""
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError):
        return False
    right, bottom = (float(image.get(side, math.inf)) + 1 for side in ("width", "height"))
    return -1 <= left and -1 <= top and 0 <= width and 0 <= height and left + width <= right and top + height <= bottom


# ---- VOC 2007 ------------------------------------------------------------------------------------------------------


def fetch_voc2007(folder: str) -> None:
    """Download VOC 2007 where it is not there yet (900 MB). Raises DataError where that fails."""
    if _voc_root(folder) is not None:
        return
    try:
        for split in ("trainval", "test"):
            datasets.VOCDetection(folder, year="2007", image_set=split, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"voc2007 is not complete in the folder {folder} and could not be downloaded ({reason}); put"
                        " VOCdevkit/VOC2007 there, or name another folder with --data-dir") from None


def voc2007(folder: str) -> tuple[Annotated, Annotated]:
    """VOC 2007's photos: trainval to train on, test to validate. A class of which a photo shows «difficult» objects
    only is unknown (−1). Raises DataError."""
    root = _voc_root(folder)
    if root is None:
        raise DataError(f"{folder}: no VOCdevkit/VOC2007 with ImageSets/Main/trainval.txt and test.txt in it; put it"
                        " there, or name another folder with --data-dir")
    return _voc_split(root, "trainval"), _voc_split(root, "test")


def _voc_root(folder: str) -> Path | None:
    """VOC2007's own folder in `folder`, which may hold VOCdevkit, be it, or be VOC2007; None if no split is there."""
    for root in (Path(folder, "VOCdevkit", "VOC2007"), Path(folder, "VOC2007"), Path(folder)):
        if all((root / "ImageSets" / "Main" / f"{split}.txt").is_file() for split in ("trainval", "test")):
            return root
    return None


def _voc_split(root: Path, split: str) -> Annotated:
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    if not names:
        raise DataError(f"{listed}: names no image; nothing can be learnt from it")
    targets = torch.zeros(len(names), len(VOC_CLASSES), dtype=torch.int8)
    areas, wrong = torch.zeros(len(names), len(VOC_CLASSES)), _Wrong(root / "Annotations")
    for row, name in enumerate(names):
        path = root / "Annotations" / f"{name}.xml"
        try:
            tree = ElementTree.parse(path)
        except OSError:
            wrong.add("that are missing", path.name)
            continue
        except ElementTree.ParseError:
            wrong.add("that are no XML, or cut short", path.name)
            continue
        size = {side: tree.findtext(f"size/{side}", "inf") for side in ("width", "height")}
        for thing in tree.iter("object"):
            label, difficult = thing.findtext("name", "").strip(), thing.findtext("difficult", "0").strip() == "1"
            corners = [thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
            box = _voc_box(corners)
            if label not in VOC_CLASSES:
                wrong.add(f"with an object of a class that VOC does not have ({', '.join(VOC_CLASSES)})",
                          f"{label!r} in {path.name}")
            elif box is None or not _inside(box, size):
                wrong.add("with a box that is malformed or outside its image", f"{corners} in {path.name}")
            else:
                column = VOC_CLASSES.index(label)
                # 1 if any object of the class is not difficult, else −1
                targets[row, column] = 1 if targets[row, column] == 1 or not difficult else -1
                areas[row, column] = max(areas[row, column].item(), box[2] * box[3])
    wrong.say("annotations")
    paths = _existing(root / "JPEGImages", [f"{name}.jpg" for name in names], listed)
    return Annotated(paths, VOC_CLASSES, targets, areas)


def _voc_box(corners: list[str]) -> list[float] | None:
    """[left, top, width, height] of corners, which VOC counts from 1, last pixel included; None if they are none."""
    try:
        left, top, right, bottom = map(float, corners)
    except ValueError:
        return None
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]


# ---- what is wrong -------------------------------------------------------------------------------------------------


class _Wrong:
    """Collects what is wrong with a file, to say the first kind of it in one sentence: how many, and an example."""

    def __init__(self, path: Path):
        self.path, self.kinds = path, {}

    def add(self, kind: str, example: str) -> None:
        count, first = self.kinds.get(kind, (0, example))
        self.kinds[kind] = count + 1, first

    def say(self, what: str) -> None:
        """Raises DataError if anything is wrong."""
        if self.kinds:
            kinds = "; ".join(f"{count} {what} {kind}, as {first}" for kind, (count, first) in self.kinds.items())
            raise DataError(f"{self.path}: {kinds}; repair or remove them")


def _existing(folder: Path, names: Sequence[str], listed: Path) -> list[Path]:
    """The files of those names. Raises DataError if the folder or some of them are not there."""
    try:
        there = set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); it must hold the images of {listed}") from None
    if missing := [name for name in names if name not in there and not (folder / name).is_file()]:
        raise DataError(f"{folder}: {len(missing)} of {len(names)} images that {listed} lists are missing, the first is"
                        f" {missing[0]}; put them there or remove them from the list")
    return [folder / name for name in names]
