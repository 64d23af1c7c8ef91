"""Data sets for semantic segmentation: images with a class for every pixel.

    shapes-masks    synthetic scenes: background and ten shapes                      nothing to download
    mask folders    FOLDER/{train,val}/{images,masks}/*, or FOLDER/{images,masks}/* to be split
    voc2012         VOC 2012, by torchvision: background and 20 classes
    coco            COCO's objects drawn into one mask: background and its categories

Item i of a source is an image and its mask, (H, W) uint8: class numbers from 0, `UNKNOWN` where a pixel counts nowhere.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import VOCSegmentation

from .coco_voc import VOC_CLASSES, CocoObjects
from .decoding import DataError, read_image
from .image_folders import VALIDATION_SHARE, held_out
from .synthetic import CLASSES, Shapes

UNKNOWN = 255
BACKGROUND = "background"
LAYOUT = ("a folder for segmentation holds train/images/, train/masks/, val/images/ and val/masks/, or images/ and"
          " masks/ alone; the mask of images/a.jpg is masks/a.png")


class SceneMasks(Shapes):
    """Synthetic scenes; shapes of a scene do not overlap."""

    classes = (BACKGROUND, *CLASSES)

    def __init__(self, size: tuple[int, int], count: int, split: str):
        super().__init__(size, count, split, "boxes")

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, objects = super().__getitem__(index)
        return image, drawn(objects["masks"], objects["labels"] + 1)


class CocoMasks(CocoObjects):
    """COCO's photos of a split; see `CocoObjects`. Smaller objects lie on top; a crowd region is unknown where no
    object lies on it."""

    def __init__(self, folder: Path, split: str):
        super().__init__(folder, split)
        self.classes = [BACKGROUND, *self.classes]
        del self.targets  # classes of a photo, which are no labels here

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        image, objects = super().__getitem__(index)
        crowd = objects["iscrowd"] > 0
        order = (~crowd * -objects["area"]).masked_fill(crowd, -torch.inf).argsort(stable=True)  # crowds, then by size
        return image, drawn(objects["masks"][order], objects["labels"].masked_fill(crowd, UNKNOWN)[order])


def drawn(masks: Tensor, labels: Tensor) -> Tensor:
    """Return one mask (H, W) uint8 of objects (n, H, W), a later one on top of those before, on a background of 0."""
    result = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for mask, label in zip(masks, labels.tolist()):
        result[mask > 0] = label
    return result


class MaskFiles(Dataset):
    """Images `paths` with masks of class numbers, `masks`, in the same order."""

    def __init__(self, paths: Sequence[str], masks: Sequence[str], classes: Sequence[str]):
        self.paths, self.masks, self.classes = list(paths), list(masks), list(classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        return read_image(self.paths[index]), read_mask(self.masks[index], len(self.classes))


class VocMasks(MaskFiles):
    """VOC 2012's photos of an image set: "train" or "val"."""

    def __init__(self, folder: str, image_set: str, download: bool = False):
        files = VOCSegmentation(folder, "2012", image_set, download)
        super().__init__(files.images, files.masks, (BACKGROUND, *VOC_CLASSES))


def read_mask(path: str | Path, classes: int = UNKNOWN) -> Tensor:
    """Return the class numbers (H, W) uint8 of a PNG with or without a palette. Raises DataError, naming the file, for
    colours instead of numbers, for numbers from `classes` on other than 255, and for files that are no images."""
    try:
        with Image.open(path) as file:
            if file.mode not in ("1", "L", "P", "I", "I;16"):
                raise DataError(f"{path}: a mask in {file.mode}; a mask holds the class number of every pixel: save it"
                                " as a PNG in grey or with a palette")
            numbers = np.asarray(file).astype(np.int64)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: a mask that cannot be read ({' '.join(str(error).split())})") from None
    if (beyond := numbers[(numbers >= classes) & (numbers != UNKNOWN)]).size:
        raise DataError(f"{path}: class number {beyond[0]}, and classes are numbered from 0 to {classes - 1};"
                        f" {UNKNOWN} is «unknown»")
    return torch.from_numpy(numbers.astype(np.uint8))


def mask_folders(folder: str, seed: int) -> tuple[MaskFiles, MaskFiles, list[str]]:
    """Return training and validation sources of a folder (see LAYOUT), and remarks. Classes are the lines of
    classes.txt or, if there is none, all numbers up to the largest. Raises DataError, which names the file, before any
    training: every mask is read once, and must have the size of its image."""
    root, split = Path(folder), (Path(folder, "train"), Path(folder, "val"))
    if all(path.is_dir() for path in split):
        pairs, remarks = [_pairs(path) for path in split], []
    elif (root / "images").is_dir():
        every = _pairs(root)
        if len(every) < 2:
            raise DataError(f"{root}: 1 image only; one is for validation, so there must be 2 or more")
        held = held_out([image for image, _ in every], root / "images", seed)
        pairs = [[pair for pair in every if (pair[0] in held) == val] for val in (False, True)]
        remarks = [f"{root} has no train/ and val/: {VALIDATION_SHARE:.0%} of the images are for validation, chosen by"
                   f" seed {seed}"]
    else:
        raise DataError(f"{root}: {LAYOUT}")
    listed = root / "classes.txt"
    names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()] \
        if listed.is_file() else []
    with ThreadPoolExecutor() as threads:  # decoding leaves Python's lock
        largest = max(threads.map(lambda pair: _largest(pair, len(names) or UNKNOWN), pairs[0] + pairs[1]))
    classes = names or [str(number) for number in range(largest + 1)]
    if len(classes) < 2:
        raise DataError(f"{root}: one class only; segmentation needs two or more")
    train, val = (MaskFiles(*zip(*part), classes) for part in pairs)
    return train, val, remarks


def _pairs(folder: Path) -> list[tuple[str, str]]:
    """Return the paths of images and of their masks, by name. Raises DataError for one without a partner."""
    found = []
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise DataError(f"{folder / part}: no such folder; {LAYOUT}")
        files = sorted(path for path in (folder / part).iterdir() if path.is_file() and not path.name.startswith("."))
        named = {path.stem: path for path in files}
        if len(named) < len(files):
            twice = next(path for path in files if named[path.stem] != path)
            raise DataError(f"{twice}: another file has this name with another ending ({named[twice.stem].name})")
        found.append(named)
    images, masks = found
    for own, other, what in ((images, masks, "mask in masks/"), (masks, images, "image in images/")):
        if alone := sorted(set(own) - set(other)):
            raise DataError(f"{own[alone[0]]}: has no {what}" + f"; nor have {len(alone) - 1} more" * (len(alone) > 1))
    if not images:
        raise DataError(f"{folder}: no images; {LAYOUT}")
    return [(str(images[name]), str(masks[name])) for name in sorted(images)]


def _largest(pair: tuple[str, str], classes: int) -> int:
    """Return the largest class number of a mask. Raises DataError where it is not as large as its image."""
    path, mask = pair[0], read_mask(pair[1], classes)
    with Image.open(path) as file:
        turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientations that exchange width and height
        width, height = file.size[::-1] if turned else file.size
    if tuple(mask.shape) != (height, width):
        raise DataError(f"{pair[1]}: {mask.shape[1]}×{mask.shape[0]} pixels, and its image {path} has {width}×{height}")
    return int(mask[mask != UNKNOWN].max()) if (mask != UNKNOWN).any() else 0
