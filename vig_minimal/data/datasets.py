"""Data sets: from a name and a folder to sources of pictures and their classes.

What is random is a function of (seed, epoch, step or picture) and of nothing else: `mixed_seed`. The order of images
and what is done to each are therefore the same for any number of processes and workers, and a run that goes on from a
checkpoint needs no state of them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset, Subset
from torchvision import datasets

from . import coco_voc as annotations
from .decoding import DataError, read_image
from .seeds import generator
from .synthetic import Shapes

# Name to torchvision's class and what selects its training and validation split.
DOWNLOADS = {
    "cifar10": (datasets.CIFAR10, {"train": True}, {"train": False}),
    "cifar100": (datasets.CIFAR100, {"train": True}, {"train": False}),
    "stl10": (datasets.STL10, {"split": "train"}, {"split": "test"}),
    "svhn": (datasets.SVHN, {"split": "train"}, {"split": "test"}),
}
MULTI_LABEL = ("shapes-multi", "coco", "voc2007")  # an image may show several classes
DATA_SETS = ("shapes", "imagefolder", *DOWNLOADS, *MULTI_LABEL)
# their own; photos in folders take the model's
IMAGE_SIZES = {"shapes": 64, "shapes-multi": 64, "cifar10": 32, "cifar100": 32, "stl10": 96, "svhn": 32}
SHAPES_TRAIN, SHAPES_VAL = 10_000, 2_000


# ---- sources: a sequence of (PIL image or uint8 tensor, target) ----------------------------------------------------
# A target is a label, or of multi-label data a tensor (classes,) of 1, 0 and −1 for unknown; as (2, classes) it has the
# size class of each object in the second row.


@dataclass(frozen=True)
class Data:
    """Training and validation sources, as far as `--limit` allows, and the names of the classes by label.

    multi_label: whether an image may show several classes, or none.
    """

    name: str
    train: Sequence
    val: Sequence
    classes: list[str]
    multi_label: bool = False


def fetch(name: str, folder: str | None) -> None:
    """Download a data set that can be downloaded and is not there yet. Raises DataError where that fails."""
    if name in DOWNLOADS:
        _downloaded(name, folder or "data", download=True)
    if name == "voc2007":
        annotations.fetch_voc2007(folder or "data")


def open_data(name: str, folder: str | None, size: tuple[int, int], limit: int | None) -> Data:
    """The data set of that name. Raises DataError for one that does not exist, is not there or makes no sense.

    folder: of the image folders, or where downloads are kept. size: height and width at which shapes are drawn.
    limit: number of training images, a random choice that is always the same (of shapes also the most for validation).
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least 1 training image")
    if name in ("shapes", "shapes-multi"):
        view = "single" if name == "shapes" else "multi"
        train = Shapes(size, limit or SHAPES_TRAIN, "train", view)
        val = Shapes(size, min(SHAPES_VAL, limit or SHAPES_VAL), "val", view)
        return Data(name, train, val, list(train.classes), view == "multi")
    if name == "imagefolder":
        train, val = _image_folders(folder)
    elif name == "coco":
        train, val = annotations.coco(folder)
    elif name == "voc2007":
        train, val = annotations.voc2007(folder or "data")
    elif name in DOWNLOADS:
        train, val = _downloaded(name, folder or "data", download=False)
    else:
        raise DataError(f"unknown data set {name!r}: there are {', '.join(DATA_SETS)}")
    classes = list(getattr(train, "classes", range(10)))  # torchvision gives SVHN's digits no names
    if limit is not None and limit < len(train):
        train = Subset(train, torch.randperm(len(train), generator=generator("limit"))[:limit].tolist())
    return Data(name, train, val, [str(c) for c in classes], name in MULTI_LABEL)


def oversampled(data: Data, threshold: float) -> Data:
    """The data with training images of rare classes repeated, see `annotations.repeats`. Raises DataError for data that
    has no annotations to count."""
    targets = targets_of(data.train)
    if targets is None or targets.ndim != 2:
        raise DataError(f"--oversample counts the images of each class in annotations, and {data.name} has none;"
                        " leave it 0, or use coco or voc2007")
    return replace(data, train=Subset(data.train, annotations.repeats(targets, threshold)))


def image_name(source: Sequence, index: int) -> str:
    """What a person would look for: the file of a picture, or its number where it has no file of its own."""
    while isinstance(source, Subset):
        source, index = source.dataset, source.indices[index]
    if isinstance(source, datasets.ImageFolder):
        return source.samples[index][0]
    return source.paths[index] if hasattr(source, "paths") else f"image {index}"


def label_counts(source: Sequence, classes: int) -> list[int] | None:
    """Images of each class, where the source knows its labels without reading images; else None."""
    labels = targets_of(source)
    if labels is None:
        return None
    return ((labels == 1).sum(0) if labels.ndim == 2 else torch.bincount(labels, minlength=classes)).tolist()


def targets_of(source: Sequence) -> torch.Tensor | None:
    """The labels (n,) or (n, classes) of a source that knows them without reading images; else None."""
    indices = None
    while isinstance(source, Subset):
        indices = source.indices if indices is None else [source.indices[i] for i in indices]
        source = source.dataset
    labels = getattr(source, "targets", getattr(source, "labels", None))
    if labels is None or len(labels) != len(source):
        return None
    return torch.as_tensor(labels)[indices] if indices is not None else torch.as_tensor(labels)


def _downloaded(name: str, folder: str, download: bool) -> tuple[Dataset, Dataset]:
    build, train, val = DOWNLOADS[name]
    try:
        return build(folder, download=download, **train), build(folder, download=download, **val)
    except ImportError as error:
        raise DataError(f"torchvision reads {name} with the package {error.name}: pip install {error.name}") from None
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} is not complete in the folder {folder} and could not be downloaded ({reason}); put its"
                        " files there, or name another folder with --data-dir") from None


def _image_folders(folder: str | None) -> tuple[Dataset, Dataset]:
    if folder is None:
        raise DataError("imagefolder: name the folder that holds train/ and val/ with --data-dir")
    splits = []
    for path in (Path(folder), Path(folder, "train"), Path(folder, "val")):
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; an image folder holds train/CLASS/*.jpg and val/CLASS/*.jpg")
    for split in ("train", "val"):
        path = Path(folder, split)
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        if len(names) < 2:
            found = f"one class only ({names[0]})" if names else "no class"
            raise DataError(f"{path}: {found}; it needs a folder of images for each of at least two classes")
        try:
            splits.append(datasets.ImageFolder(str(path), loader=read_image))
        except FileNotFoundError as error:
            raise DataError(f"{path}: {' '.join(str(error).split())}") from None
    train, val = splits
    if train.classes != val.classes:
        more, less = sorted(set(train.classes) - set(val.classes)), sorted(set(val.classes) - set(train.classes))
        only = [f"only in {split}/: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                for split, names in (("train", more), ("val", less)) if names]
        raise DataError(f"{folder}: train/ and val/ have different classes ({'; '.join(only)})")
    return train, val
