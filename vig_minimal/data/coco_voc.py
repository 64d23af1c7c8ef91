"""COCO and VOC 2007 as multi-label data sets, and COCO with its boxes and masks.

    coco       FOLDER/{train2017,val2017}/*.jpg and FOLDER/annotations/instances_{train,val}2017.json, or all of 2014
    voc2007    FOLDER/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}: trainval to train, test to validate

Annotations are checked as a whole when they are opened; a DataError describes the problem in one sentence.
"""

import json
import os
import reprlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import VOCDetection

from .decoding import DataError, read_image
from .formats.coco_json import check, coco_objects
from .formats.voc_xml import VOC_CLASSES, voc_objects
from .masks import array_of, check_polygons, edges_of

OBJECT_SIZES = ("small", "medium", "large")  # see `size_class`


def size_class(area: Tensor) -> Tensor:
    """Return 0 (small) for areas below 32² pixels, 1 (medium) below 96², 2 (large) otherwise (GKGNet, Table 6)."""
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
    """The photos of a split with their objects: `source[i]` is the image and a target, see `dense.object_batches`.

    Labels count the categories by id, from 1. Objects are kept as text, which takes a tenth of the memory. Raises
    DataError, naming the file and the first bad entry of each kind. targets: (n, classes), 1 for classes in the photo.
    """

    def __init__(self, folder: Path, split: str):
        path = folder / "annotations" / f"instances_{split}.json"
        images, categories, found = coco_objects(path, boxes=True)
        problems, objects = defaultdict(list), [[] for _ in images]
        self.shapes = [(image.get("height"), image.get("width")) for image in images]
        for shape, image in zip(self.shapes, images):
            if None in shape:
                problems["without a height and a width"].append(image["file_name"])
        check(path, "images", problems)
        self.targets = torch.zeros(len(images), len(categories), dtype=torch.int8)
        for row, column, entry in found:
            mask, name = entry.get("segmentation"), images[row]["file_name"]
            try:
                if mask in (None, []):
                    problems["without a mask (segmentation), which detection learns"].append(f"one in {name}")
                elif isinstance(mask, dict):
                    edges_of(mask, *self.shapes[row])
                else:
                    check_polygons(mask)  # drawn when the image is read
            except ValueError as error:
                problems["with a broken mask"].append(f"{reprlib.repr(mask)} in {name} ({error})")
            objects[row].append((column + 1, *entry["bbox"], entry.get("area"), entry.get("iscrowd", 0), mask))
            self.targets[row, column] = 1
        check(path, "objects", problems)
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
            turned = "" if image.size != (height, width) or "rotated by EXIF" not in image.info.get("was", "") else (
                " as EXIF turns it; remove that orientation from the file, or turn the annotations")
            raise DataError(f"its annotations are for {width}×{height} pixels, and it has {image.width}×{image.height}"
                            + turned)
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
    """Return the indices of all images, repeating rare classes: class-balanced oversampling (Gupta et al., LVIS, 2019).
    Class c, shown in a share f_c of the images, has r_c = max(1, √(t / f_c)). An image comes ⌈max_c r_c⌉ times, over
    the classes c that it shows, and once if it shows none. targets: (n, classes). threshold: t."""
    shown = targets == 1  # (n, classes)
    share = shown.double().mean(0)  # f_c
    factor = (threshold / share.clamp(min=1e-12)).sqrt().clamp(min=1)  # r_c
    # slightly less, so that rounding errors do not make three copies of 2.0000001
    times = (torch.where(shown, factor, 1.0).amax(1) - 1e-9).ceil().long()
    return torch.arange(len(targets)).repeat_interleave(times).tolist()


def coco(folder: str, kind: Callable[[Path, str], Dataset]) -> tuple[Dataset, Dataset]:
    """Return COCO's training and validation photos: of 2017 or, where only these are there, of 2014. Classes are the
    categories by id; a crowd region counts as its class. kind: of a source, as `coco_labels`, of (folder, split)."""
    listed = {year: Path(folder, "annotations", f"instances_train{year}.json").exists() for year in (2017, 2014)}
    year = 2014 if listed[2014] and not listed[2017] else 2017
    train, val = (kind(Path(folder), f"{split}{year}") for split in ("train", "val"))
    if train.classes != val.classes:
        raise DataError(f"{folder}: train{year} and val{year} name different categories; take both from one data set")
    return train, val


def coco_labels(folder: Path, split: str) -> Annotated:
    """Return the photos of a split with the classes that they show."""
    path = folder / "annotations" / f"instances_{split}.json"
    images, categories, found = coco_objects(path, boxes=False)
    objects = defaultdict(list)
    for row, column, entry in found:
        *_, width, height = entry.get("bbox") or (0, 0)  # without box and area, an object counts as small
        objects[row, column].append((1, entry.get("area", width * height)))
    return Annotated(folder / split, [image["file_name"] for image in images], path,
                     [category["name"] for category in categories], objects)


class VocLabels(Annotated):
    """VOC 2007's photos of an image set, "trainval" or "test". A class with only «difficult» objects is unknown (−1).

    folder: VOC2007, VOCdevkit or the folder above. download: by torchvision, if the set is not there."""

    def __init__(self, folder: str, image_set: str, download: bool = False):
        roots = Path(folder, "VOCdevkit", "VOC2007"), Path(folder, "VOC2007"), Path(folder)
        listed = Path("ImageSets", "Main", f"{image_set}.txt")
        root = next((root for root in roots if (root / listed).is_file()), None)
        if root is None and download:
            root = Path(VOCDetection(folder, "2007", image_set, download=True).root, "VOCdevkit", "VOC2007")
        if root is None:
            raise DataError(f"{folder}: no VOCdevkit/VOC2007 with {listed.as_posix()} in it; put it there, or name"
                            " another folder with --data-dir")
        names, objects = voc_objects(root, root / listed)
        super().__init__(root / "JPEGImages", [f"{name}.jpg" for name in names], root / listed, VOC_CLASSES, objects)
