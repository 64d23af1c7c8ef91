"""COCO and VOC 2007 as multi-label data sets, and COCO with its boxes and masks: read their JSON and XML with the
standard library, and check it.

    coco       FOLDER/{train2017,val2017}/*.jpg and FOLDER/annotations/instances_{train,val}2017.json, or all of 2014
    voc2007    FOLDER/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}: trainval to train, test to validate

Annotations are checked as a whole when they are opened; a DataError says in one sentence what is wrong.
"""

import json
import os
import reprlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .decoding import DataError, read_image
from .masks import array_of, check_polygons, edges_of

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
        self.paths, self.classes = _photos(folder, names, listed), list(classes)
        targets, areas = torch.zeros(2, len(names), len(classes))
        if objects:
            place = tuple(torch.tensor(list(objects)).T)  # images, classes
            largest = [[max(values) for values in zip(*found)] for found in objects.values()]
            targets[place], areas[place] = torch.tensor(largest, dtype=torch.float32).T
        self.targets, self.sizes = targets.to(torch.int8), size_class(areas).to(torch.int8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        return read_image(self.paths[index]), torch.stack([self.targets[index], self.sizes[index]]).long()


class CocoObjects(Dataset):
    """The photos of a split with their objects: `source[i]` is the image and a target, as `object_batches` says.

    Labels count the categories by id, from 1. Objects are kept as text, which takes a tenth of the memory. Raises
    DataError, naming the file and the first bad entry of each kind. targets: (n, classes), 1 for classes in the photo.
    """

    def __init__(self, folder: Path, split: str):
        path = folder / "annotations" / f"instances_{split}.json"
        images, categories, found = coco_objects(path)
        problems, objects = defaultdict(list), [[] for _ in images]
        self.shapes = [(image.get("height"), image.get("width")) for image in images]
        for shape, image in zip(self.shapes, images):
            if not all(type(side) is int and side > 0 for side in shape):
                problems["without a height and a width in whole pixels"].append(image["file_name"])
        _check(path, "images", problems)
        self.targets = torch.zeros(len(images), len(categories), dtype=torch.int8)
        for row, column, entry in found:
            try:
                if isinstance(mask := entry.get("segmentation"), dict):
                    edges_of(mask, *self.shapes[row])
                else:
                    check_polygons(mask)  # drawn when the image is read
            except ValueError as error:
                problems["with a broken mask"].append(f"{reprlib.repr(mask)} in {images[row]['file_name']} ({error})")
            objects[row].append((column + 1, *entry["bbox"], entry.get("area"), entry.get("iscrowd", 0), mask))
            self.targets[row, column] = 1
        _check(path, "objects", problems)
        self.classes = [category["name"] for category in categories]
        self.paths = _photos(folder / split, [image["file_name"] for image in images], path)
        self.objects = [json.dumps(some) for some in objects]
        order = sorted(range(len(images)), key=lambda row: (isinstance(images[row]["id"], str), images[row]["id"]))
        self.ranks = {row: rank for rank, row in enumerate(order)}  # evaluation takes equal scores by the image's id

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Tensor]]:
        image, (height, width), objects = read_image(self.paths[index]), self.shapes[index], self.objects[index]
        if image.size != (width, height):
            raise DataError(f"it has {image.width}×{image.height} pixels, and its annotations are for {width}×{height}")
        labels, left, top, wide, high, areas, crowd, masks = zip(*json.loads(objects)) if objects != "[]" else [()] * 8
        masks = [torch.from_numpy(array_of(edges_of(mask, height, width), height, width)) for mask in masks]
        masks = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
        areas = [own if area is None else area for area, own in zip(areas, masks.sum((1, 2)).tolist())]
        boxes = torch.tensor([left, top, wide, high], dtype=torch.float32).T  # (n, 4)
        boxes[:, 2:] += boxes[:, :2]
        return image, {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks.byte(),
                       "area": torch.tensor(areas, dtype=torch.float32), "iscrowd": torch.tensor(crowd).long(),
                       "image_id": torch.tensor(self.ranks[index])}


def _photos(folder: Path, names: list[str], listed: Path) -> list[str]:
    """Return the paths of the images `names` that the file `listed` lists. Raises DataError if some are missing."""
    try:
        there = set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); the images of {listed} go there") from None
    if missing := [name for name in names if name not in there and not (folder / name).is_file()]:
        raise DataError(f"{folder}: {len(missing)} of {len(names)} images that {listed} lists are missing, the"
                        f" first is {missing[0]}; put them there or remove them from the list")
    return [str(folder / name) for name in names]


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


def coco(folder: str, kind: type[CocoObjects] | None = None) -> tuple[Dataset, Dataset]:
    """COCO's training and validation photos: of 2017 or, where only these are there, of 2014. Classes are the
    categories by id; a crowd region counts as its class. kind: of a source with objects or masks; None: with labels alone."""
    listed = {year: Path(folder, "annotations", f"instances_train{year}.json").exists() for year in (2017, 2014)}
    year = 2014 if listed[2014] and not listed[2017] else 2017
    train, val = ((kind or _coco_split)(Path(folder), f"{split}{year}") for split in ("train", "val"))
    if train.classes != val.classes:
        raise DataError(f"{folder}: train{year} and val{year} name different categories; take both from one data set")
    return train, val


def _coco_split(folder: Path, split: str) -> Annotated:
    path = folder / "annotations" / f"instances_{split}.json"
    images, categories, found = coco_objects(path)
    objects = defaultdict(list)
    for row, column, entry in found:
        left, top, width, height = entry["bbox"]
        objects[row, column].append((1, entry.get("area", width * height)))
    return Annotated(folder / split, [image["file_name"] for image in images], path,
                     [category["name"] for category in categories], objects)


def coco_objects(path: Path) -> tuple[list[dict], list[dict], list[tuple[int, int, dict]]]:
    """Read an instances file: its images, its categories by id, and of each object the places of its image and category
    in these lists, and its annotation. Raises DataError, naming the file and the first bad entry of each kind."""
    images, categories, annotations = _coco_json(path)
    categories.sort(key=lambda category: (isinstance(category["id"], str), category["id"]))
    rows, columns = ({entry["id"]: i for i, entry in enumerate(listed)} for listed in (images, categories))
    objects, problems = [], defaultdict(list)
    for number, entry in enumerate(annotations):
        row, column, box = rows.get(entry["image_id"]), columns.get(entry["category_id"]), entry.get("bbox")
        where = f"annotations[{number}]: "
        if row is None:
            problems["of an image that the file does not list"].append(f"{where}image_id {entry['image_id']!r}")
        elif column is None:
            problems["of a category that the file does not list"].append(f"{where}category_id {entry['category_id']!r}")
        elif not _inside(box, images[row]):
            size = f"{images[row].get('width')}×{images[row].get('height')}"
            problems[BAD_BOX].append(f"{where}{reprlib.repr(box)} in {images[row]['file_name']} of {size}")
        elif not all(_is_number(entry.get(name, 0)) and entry.get(name, 0) >= 0 for name in ("area", "iscrowd")):
            problems["whose area or iscrowd is no number from 0 on"].append(
                f"{where}{reprlib.repr(entry.get('area'))} and {reprlib.repr(entry.get('iscrowd'))}")
        else:
            objects.append((row, column, entry))
    _check(path, "objects", problems)
    return images, categories, objects


def _coco_json(path: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Images, categories and annotations of an instances file."""
    try:
        content = json.loads(path.read_bytes())  # UTF-8, 16 or 32, with a byte-order mark or without
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); COCO's folder holds train2017/, val2017/ and"
                        " annotations/instances_{train,val}2017.json") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: a text in another encoding than UTF-8, or no text; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: not a JSON file, or cut short ({what}); download it again") from None
    fields = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in fields):
        raise DataError(f"{path}: not COCO's instances, which have the lists images, categories and annotations")
    for name, keys in fields.items():
        for number, entry in enumerate(content[name]):
            if not isinstance(entry, dict) or not all(
                    type(entry.get(key)) in ((str,) if key == "file_name" else (int, str)) for key in keys):
                raise DataError(f"{path}: {name}[{number}] has no {' or no '.join(keys)}: {reprlib.repr(entry)}")
    for name, key in (("images", "id"), ("categories", "id"), ("categories", "name")):
        if not content[name]:
            raise DataError(f"{path}: has no {name}; nothing can be learnt from it")
        if len({entry[key] for entry in content[name]}) < len(content[name]):
            raise DataError(f"{path}: two {name} have the same {key}")
    return tuple(content[name] for name in fields)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9


def _inside(box: object, image: dict) -> bool:
    """Whether `box` is [left, top, width, height] inside the image, give or take a pixel of rounding."""
    sides = [image.get(side, 1e6) for side in ("width", "height")]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, [*box, *sides])):
        return False
    left, top, width, height = box
    right, bottom = left + width, top + height
    return min(left, top) >= -1 and min(width, height) >= 0 and right <= sides[0] + 1 and bottom <= sides[1] + 1


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
    try:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{listed}: a text in another encoding than UTF-8, or no text; save it as UTF-8") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{listed}: names no image; nothing can be learnt from it")
    objects, problems = defaultdict(list), defaultdict(list)
    for row, name in enumerate(names):
        try:
            tree = ElementTree.parse(root / "Annotations" / f"{name}.xml").getroot()
        except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
            missing = isinstance(error, OSError)
            problems["that are missing" if missing else "that are no XML, or cut short"].append(f"{name}.xml")
            continue
        size = {side: _float(tree.findtext(f"size/{side}")) for side in ("width", "height")}
        if tree.tag != "annotation" or None in size.values():
            problems["without a size"].append(f"{name}.xml")
            continue
        for thing in tree.iter("object"):
            label, difficult = thing.findtext("name", "").strip(), thing.findtext("difficult", "0").strip()
            corners = [thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = map(_float, corners)
            if label not in VOC_CLASSES:
                problems["with an object of a class that VOC does not have"].append(f"{label!r} in {name}.xml")
            elif difficult not in ("0", "1"):
                problems["with an object whose «difficult» is not 0 or 1"].append(f"{difficult!r} in {name}.xml")
            # corners count from 1 and include the last pixel
            elif None in (left, top, right, bottom) or not _inside(
                    box := [left - 1, top - 1, right - left + 1, bottom - top + 1], size):
                problems[BAD_BOX].append(f"{corners} in {name}.xml")
            else:
                objects[row, VOC_CLASSES.index(label)].append((-1 if difficult == "1" else 1, box[2] * box[3]))
    _check(root / "Annotations", "annotations", problems)
    return Annotated(root / "JPEGImages", [f"{name}.jpg" for name in names], listed, VOC_CLASSES, objects)


def _float(text: str | None) -> float | None:
    """The number that a text is, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _check(path: Path, what: str, problems: dict[str, list[str]]) -> None:
    """Raises DataError with the number of problems of each kind and the first of them."""
    if problems:
        kinds = "; ".join(f"{len(found)} {what} {kind}, as {found[0]}" for kind, found in problems.items())
        raise DataError(f"{path}: {kinds}; repair or remove them")
