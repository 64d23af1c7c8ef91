"""COCO and VOC 2007 as multi-label data sets: read their JSON and XML with the standard library, and check it.

    coco       FOLDER/{train2017,val2017}/*.jpg and FOLDER/annotations/instances_{train,val}2017.json
    voc2007    FOLDER/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}: trainval to train, test to validate

Annotations are checked as a whole when they are opened; a DataError says in one sentence what is wrong.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .decoding import DataError, read_image

OBJECT_SIZES = ("small", "medium", "large")  # see `size_class`
VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
               "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
BAD_BOX = "with a box that is malformed or outside its image"


def size_class(area: Tensor) -> Tensor:
    """0 (small) for areas below 32² pixels, 1 (medium) below 96², 2 (large) otherwise (GKGNet, Table 6)."""
    return (area >= 32**2).long() + (area >= 96**2).long()


class Annotated(Dataset):
    """Photos with several labels: `source[i]` is the image and an int64 tensor (2, classes).

    First row, the targets: 1 for classes in the photo, 0 for others, −1 for unknown. Second row: `size_class` of the
    largest object of each class, 0 if there is none. Both are known without reading an image: `targets` and `sizes`.

    The images are `folder`/`names`, listed in the file `listed`. Raises DataError if some are missing.
    objects: (image, class) to (target, area) of each object; the largest target and the largest area count.
    """

    def __init__(self, folder: Path, names: list[str], listed: Path, classes: Sequence[str], objects: dict):
        try:
            there = set(os.listdir(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror}); the images of {listed} go there") from None
        if missing := [name for name in names if name not in there and not (folder / name).is_file()]:
            raise DataError(f"{folder}: {len(missing)} of {len(names)} images that {listed} lists are missing, the"
                            f" first is {missing[0]}; put them there or remove them from the list")
        targets, areas = torch.zeros(2, len(names), len(classes))
        if objects:
            place = tuple(torch.tensor(list(objects)).T)  # images, classes
            largest = [[max(values) for values in zip(*found)] for found in objects.values()]
            targets[place], areas[place] = torch.tensor(largest, dtype=torch.float32).T
        self.paths, self.classes = [str(folder / name) for name in names], list(classes)
        self.targets, self.sizes = targets.to(torch.int8), size_class(areas).to(torch.int8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        return read_image(self.paths[index]), torch.stack([self.targets[index], self.sizes[index]]).long()


def repeats(targets: Tensor, threshold: float) -> list[int]:
    """Indices of all images, repeating rare classes: class-balanced oversampling (Gupta et al., LVIS, 2019).
    Class c, shown in a share f_c of the images, has r_c = max(1, √(t / f_c)). An image comes ⌈max_c r_c⌉ times, over
    the classes c that it shows, and once if it shows none. targets: (n, classes). threshold: t."""
    shown = targets == 1  # (n, classes)
    share = shown.double().mean(0)  # f_c
    factor = (threshold / share.clamp(min=1e-12)).sqrt().clamp(min=1)  # r_c
    # slightly less, so that rounding errors do not make three copies of 2.0000001
    times = (torch.where(shown, factor, 1.0).amax(1) - 1e-9).ceil().long()
    return torch.arange(len(targets)).repeat_interleave(times).tolist()


def coco(folder: str) -> tuple[Annotated, Annotated]:
    """COCO's training and validation photos. Classes are the categories by id; a crowd region counts as its class."""
    train, val = (_coco_split(Path(folder), split) for split in ("train2017", "val2017"))
    if train.classes != val.classes:
        raise DataError(f"{folder}: train2017 and val2017 name different categories; take both from one data set")
    return train, val


def _coco_split(folder: Path, split: str) -> Annotated:
    path = folder / "annotations" / f"instances_{split}.json"
    images, categories, annotations = _coco_json(path)
    categories.sort(key=lambda category: category["id"])
    rows, columns = ({entry["id"]: i for i, entry in enumerate(listed)} for listed in (images, categories))
    objects, problems = defaultdict(list), defaultdict(list)
    for entry in annotations:
        row, column, box = rows.get(entry["image_id"]), columns.get(entry["category_id"]), entry.get("bbox")
        if row is None:
            problems["of an image that the file does not list"].append(f"image_id {entry['image_id']}")
        elif column is None:
            problems["of a category that the file does not list"].append(f"category_id {entry['category_id']}")
        elif not _inside(box, images[row]):
            size = f"{images[row].get('width')}×{images[row].get('height')}"
            problems[BAD_BOX].append(f"{box} in {images[row]['file_name']} of {size}")
        else:
            objects[row, column].append((1, entry.get("area", box[2] * box[3])))
    _check(path, "objects", problems)
    names, classes = [image["file_name"] for image in images], [category["name"] for category in categories]
    return Annotated(folder / split, names, path, classes, objects)


def _coco_json(path: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Images, categories and annotations of an instances file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); COCO's folder holds train2017/, val2017/ and"
                        " annotations/instances_{train,val}2017.json") from None
    except ValueError:  # no JSON, or no text
        raise DataError(f"{path}: not a JSON file, or cut short; download it again") from None
    fields = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in fields):
        raise DataError(f"{path}: not COCO's instances, which have the lists images, categories and annotations")
    for name, keys in fields.items():
        for entry in content[name]:
            if not isinstance(entry, dict) or any(not isinstance(entry.get(key), (int, str)) for key in keys):
                raise DataError(f"{path}: an entry of {name} has no {' or no '.join(keys)}: {str(entry)[:80]}")
    for name, key in (("images", "id"), ("categories", "id"), ("categories", "name")):
        if not content[name]:
            raise DataError(f"{path}: has no {name}; nothing can be learnt from it")
        if len({entry[key] for entry in content[name]}) < len(content[name]):
            raise DataError(f"{path}: two {name} have the same {key}")
    return tuple(content[name] for name in fields)


def _inside(box: object, image: dict) -> bool:
    """Whether `box` is [left, top, width, height] inside the image, give or take a pixel of rounding."""
    try:
        left, top, width, height = map(float, box)
        right, bottom = (float(image.get(side, math.inf)) + 1 for side in ("width", "height"))
    except (TypeError, ValueError):
        return False
    return -1 <= left and -1 <= top and 0 <= width and 0 <= height and left + width <= right and top + height <= bottom


def voc2007(folder: str) -> tuple[Annotated, Annotated]:
    """VOC 2007's trainval and test photos. A class with only «difficult» objects is unknown (−1)."""
    root = voc_root(folder)
    if root is None:
        raise DataError(f"{folder}: no VOCdevkit/VOC2007 with ImageSets/Main/trainval.txt and test.txt in it; put it"
                        " there, or name another folder with --data-dir")
    return _voc_split(root, "trainval"), _voc_split(root, "test")


def voc_root(folder: str) -> Path | None:
    """The folder VOC2007, whether `folder` is it, VOCdevkit or the one above; None if its splits are not there."""
    roots = Path(folder, "VOCdevkit", "VOC2007"), Path(folder, "VOC2007"), Path(folder)
    splits = Path("ImageSets", "Main", "trainval.txt"), Path("ImageSets", "Main", "test.txt")
    return next((root for root in roots if all((root / split).is_file() for split in splits)), None)


def _voc_split(root: Path, split: str) -> Annotated:
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    if not names:
        raise DataError(f"{listed}: names no image; nothing can be learnt from it")
    objects, problems = defaultdict(list), defaultdict(list)
    for row, name in enumerate(names):
        try:
            tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
        except (OSError, ElementTree.ParseError) as error:
            missing = isinstance(error, OSError)
            problems["that are missing" if missing else "that are no XML, or cut short"].append(f"{name}.xml")
            continue
        size = {side: tree.findtext(f"size/{side}", "inf") for side in ("width", "height")}
        for thing in tree.iter("object"):
            label, difficult = thing.findtext("name", "").strip(), thing.findtext("difficult", "0").strip() == "1"
            corners = [thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
            try:  # corners count from 1 and include the last pixel
                left, top, right, bottom = map(float, corners)
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            except ValueError:
                box = None
            if label not in VOC_CLASSES:
                problems["with an object of a class that VOC does not have"].append(f"{label!r} in {name}.xml")
            elif not _inside(box, size):
                problems[BAD_BOX].append(f"{corners} in {name}.xml")
            else:
                objects[row, VOC_CLASSES.index(label)].append((-1 if difficult else 1, box[2] * box[3]))
    _check(root / "Annotations", "annotations", problems)
    return Annotated(root / "JPEGImages", [f"{name}.jpg" for name in names], listed, VOC_CLASSES, objects)


def _check(path: Path, what: str, problems: dict[str, list[str]]) -> None:
    """Raises DataError with the number of problems of each kind and the first of them."""
    if problems:
        kinds = "; ".join(f"{len(found)} {what} {kind}, as {found[0]}" for kind, found in problems.items())
        raise DataError(f"{path}: {kinds}; repair or remove them")
