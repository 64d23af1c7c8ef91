"""Open a data set by name: training and validation images with their labels, and the names of the classes.

A source is a sequence of (PIL image or uint8 tensor, target). A target is a label; for multi-label data it is a tensor
(classes,) of 1, 0, and −1 for unknown, or (2, classes), see `coco_voc.Annotated`. For detection it is a dict of boxes,
labels and masks, see `dense.object_batches`; for segmentation a mask of class numbers, see `segmentation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.data import Dataset, Subset
from torchvision import datasets

from . import coco_voc
from .decoding import DataError
from .image_folders import image_folders
from .seeds import generator
from .segmentation import CocoMasks, SceneMasks, VocMasks, mask_folders
from .synthetic import Shapes

# Name to torchvision's class and the arguments that select its training and validation split.
DOWNLOADS = {
    "cifar10": (datasets.CIFAR10, {"train": True}, {"train": False}),
    "cifar100": (datasets.CIFAR100, {"train": True}, {"train": False}),
    "stl10": (datasets.STL10, {"split": "train"}, {"split": "test"}),
    "svhn": (datasets.SVHN, {"split": "train"}, {"split": "test"}),
    "voc2012": (VocMasks, {"image_set": "train"}, {"image_set": "val"}),
    "voc2007": (coco_voc.VocLabels, {"image_set": "trainval"}, {"image_set": "test"}),
}
WITH_BOXES = ("shapes-boxes", "coco")  # boxes and masks of objects
WITH_MASKS = ("shapes-masks", "maskfolder", "voc2012", "coco")  # a class for every pixel
MULTI_LABEL = ("shapes-multi", "coco", "voc2007")  # an image may show several classes
DATA_SETS = ("shapes", "imagefolder", *DOWNLOADS, "shapes-multi", "shapes-boxes", "coco", "shapes-masks", "maskfolder")
NEED_FOLDER = {"imagefolder": "train/ and val/", "maskfolder": "images/ and masks/",
               "coco": "train2017/, val2017/ and annotations/"}
# default side of the images; data sets of photos, which are not listed here, take the model's own
IMAGE_SIZES = {"shapes": 64, "shapes-multi": 64, "shapes-boxes": 64, "shapes-masks": 64, "cifar10": 32,
               "cifar100": 32, "stl10": 96, "svhn": 32}
SHAPES_TRAIN = 10_000


class Scenes(Shapes):
    """Synthetic scenes with the targets of detection, as `coco_voc.CocoObjects` has them."""

    def __init__(self, size: tuple[int, int], count: int, split: str):
        super().__init__(size, count, split, "boxes")

    def __getitem__(self, index: int):
        image, target = super().__getitem__(index)
        boxes, masks = target["boxes"], target["masks"]
        return image, {"boxes": boxes, "labels": target["labels"] + 1, "masks": masks.to(torch.uint8),
                       "area": masks.sum((1, 2)).float(), "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
                       "image_id": torch.tensor(index)}


# name to what makes a split of (size, count, split), and the number of validation images
SYNTHETIC = {"shapes": (partial(Shapes, view="single"), 2_000), "shapes-multi": (partial(Shapes, view="multi"), 2_000),
             "shapes-boxes": (Scenes, 500), "shapes-masks": (SceneMasks, 500)}
COCO_TARGETS = {"labels": coco_voc.coco_labels, "detection": coco_voc.CocoObjects, "segmentation": CocoMasks}


@dataclass(frozen=True)
class Data:
    """Training and validation sources, and the classes by label. multi_label: an image may show several, or none."""

    name: str
    train: Sequence
    val: Sequence
    classes: list[str]
    multi_label: bool = False
    remarks: Sequence[str] = ()  # how a folder was split, and what in it is not used


def fetch(name: str, folder: str | None) -> None:
    """Download a data set unless it is there or must be provided. Raises DataError if that fails."""
    if name in DOWNLOADS:
        _downloaded(name, folder or "data", download=True)


def open_data(name: str, folder: str | None, size: tuple[int, int], limit: int | None, seed: int = 0,
              task: str = "labels", only_val: bool = False) -> Data:
    """Open the data set of that name. Raises DataError if there is none, or its files are missing or inconsistent.

    folder: holds the image folders or downloads. size: height and width at which synthetic scenes are drawn.
    limit: use that many training images, the same random choice every time (synthetic scenes: validation images too).
    seed: splits a folder of classes that has no train/ and val/. task: labels, detection or segmentation: the kind of
    the targets. only_val: no training images are needed, see `image_folders`.
    """
    if folder is None and name in NEED_FOLDER:
        raise DataError(f"{name}: name the folder that holds {NEED_FOLDER[name]} with --data-dir")
    folder, remarks = folder or "data", []
    if name in SYNTHETIC:
        kind, most = SYNTHETIC[name]
        train, val = kind(size, limit or SHAPES_TRAIN, "train"), kind(size, min(most, limit or most), "val")
    elif name == "imagefolder":
        train, val, remarks = image_folders(folder, seed, only_val)
    elif name == "maskfolder":
        train, val, remarks = mask_folders(folder, seed)
    elif name == "coco":
        train, val = coco_voc.coco(folder, COCO_TARGETS[task])
    elif name in DOWNLOADS:
        train, val = _downloaded(name, folder, download=False)
    else:
        raise DataError(f"unknown data set {name!r}: there are {', '.join(DATA_SETS)}")
    classes = getattr(train, "classes", range(10))  # torchvision does not name SVHN's digits
    if limit is not None and limit < len(train):
        train = Subset(train, torch.randperm(len(train), generator=generator("limit"))[:limit].tolist())
    return Data(name, train, val, [str(c) for c in classes], name in MULTI_LABEL and task == "labels", remarks)


def oversampled(data: Data, threshold: float) -> Data:
    """The data with rare classes repeated in training, see `coco_voc.repeats`. Raises DataError without annotations."""
    targets = targets_of(data.train)
    if targets is None or targets.ndim != 2:
        raise DataError(f"--oversample counts the images of each class in annotations, and {data.name} has none;"
                        " leave it 0, or use coco or voc2007")
    return replace(data, train=Subset(data.train, coco_voc.repeats(targets, threshold)))


def image_name(source: Sequence, index: int) -> str:
    """Path of an image's file, or "image" and its number if it has no file of its own."""
    while isinstance(source, Subset):
        source, index = source.dataset, source.indices[index]
    return source.paths[index] if hasattr(source, "paths") else f"image {index}"


def label_counts(source: Sequence, classes: int) -> list[int] | None:
    """Number of images of each class; None if labels are known only by reading images."""
    labels = targets_of(source)
    if labels is None:
        return None
    return ((labels == 1).sum(0) if labels.ndim == 2 else torch.bincount(labels, minlength=classes)).tolist()


def targets_of(source: Sequence) -> torch.Tensor | None:
    """All labels (n,) or targets (n, classes); None if they are known only by reading images."""
    if isinstance(source, Subset):
        labels = targets_of(source.dataset)
        return None if labels is None else labels[source.indices]
    labels = getattr(source, "targets", getattr(source, "labels", None))
    return None if labels is None or len(labels) != len(source) else torch.as_tensor(labels)


def _downloaded(name: str, folder: str, download: bool) -> tuple[Dataset, Dataset]:
    build, train, val = DOWNLOADS[name]
    try:
        return build(folder, download=download, **train), build(folder, download=download, **val)
    except ImportError as error:
        raise DataError(f"torchvision reads {name} with the package {error.name}: pip install {error.name}") from None
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} is not complete in the folder {folder} and could not be downloaded ({reason}); put"
                        " its files there, or name another folder with --data-dir") from None
