"""Data sets: from a name and a folder to pictures of the model's size.

    open_data   a name, a folder -> `Data`: sources of training and validation pictures, and the classes
    Pictures    a source's pictures at the model's size, decoded when asked for, in a worker process if there are any
    Stored      the same for a split that fits in memory: decoded once, all its pictures one uint8 tensor

What is random is a function of (seed, epoch, step or picture) and of nothing else: `mixed_seed`. The order of images
and what is done to each are therefore the same for any number of processes and workers, and a run that goes on from a
checkpoint needs no state of them.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.transforms.functional as TF
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets
from torchvision.transforms import InterpolationMode

from .augment import random_resized_box
from .shapes import Shapes

# Name to torchvision's class and what selects its training and validation split.
DOWNLOADS = {
    "cifar10": (datasets.CIFAR10, {"train": True}, {"train": False}),
    "cifar100": (datasets.CIFAR100, {"train": True}, {"train": False}),
    "stl10": (datasets.STL10, {"split": "train"}, {"split": "test"}),
    "svhn": (datasets.SVHN, {"split": "train"}, {"split": "test"}),
}
DATA_SETS = ("shapes", "imagefolder", *DOWNLOADS)
SIZES = {"shapes": 64, "cifar10": 32, "cifar100": 32, "stl10": 96, "svhn": 32}  # their own; a folder takes the model's
SHAPES_TRAIN, SHAPES_VAL = 10_000, 2_000
MEMORY_LIMIT = 2 * 2**30  # bytes of decoded images that the processes of one machine keep together


class DataError(ValueError):
    """Data that cannot be used, said in one sentence."""


def mixed_seed(*parts: int | str) -> int:
    """A seed that is a function of all parts, different for different ones: 0 ≤ seed < 2⁶³."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A random generator on the CPU, seeded by all parts."""
    return torch.Generator().manual_seed(mixed_seed(*parts))


# ---- sources: a sequence of (PIL image or uint8 tensor, label) -----------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Training and validation sources, as far as `--limit` allows, and the names of the classes by label."""

    name: str
    train: Sequence
    val: Sequence
    classes: list[str]


def fetch(name: str, folder: str | None) -> None:
    """Download a data set that can be downloaded and is not there yet. Raises DataError where that fails."""
    if name in DOWNLOADS:
        _downloaded(name, folder or "data", download=True)


def open_data(name: str, folder: str | None, size: tuple[int, int], limit: int | None) -> Data:
    """The data set of that name. Raises DataError for one that does not exist, is not there or makes no sense.

    folder: of the image folders, or where downloads are kept. size: height and width at which shapes are drawn.
    limit: number of training images, a random choice that is always the same (of shapes also the most for validation).
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least 1 training image")
    if name == "shapes":
        train = Shapes(size, limit or SHAPES_TRAIN, "train")
        val = Shapes(size, min(SHAPES_VAL, limit or SHAPES_VAL), "val")
        return Data(name, train, val, list(train.classes))
    if name == "imagefolder":
        train, val = _image_folders(folder)
    elif name in DOWNLOADS:
        train, val = _downloaded(name, folder or "data", download=False)
    else:
        raise DataError(f"unknown data set {name!r}: there are {', '.join(DATA_SETS)}")
    classes = list(getattr(train, "classes", range(10)))  # torchvision gives SVHN's digits no names
    if limit is not None and limit < len(train):
        train = Subset(train, torch.randperm(len(train), generator=generator("limit"))[:limit].tolist())
    return Data(name, train, val, [str(c) for c in classes])


def picture_name(source: Sequence, index: int) -> str:
    """What a person would look for: the file of a picture, or its number where it has no file of its own."""
    while isinstance(source, Subset):
        source, index = source.dataset, source.indices[index]
    return source.samples[index][0] if isinstance(source, datasets.ImageFolder) else f"image {index}"


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
            splits.append(datasets.ImageFolder(str(path)))
        except FileNotFoundError as error:
            raise DataError(f"{path}: {' '.join(str(error).split())}") from None
    train, val = splits
    if train.classes != val.classes:
        more, less = sorted(set(train.classes) - set(val.classes)), sorted(set(val.classes) - set(train.classes))
        only = [f"only in {split}/: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                for split, names in (("train", more), ("val", less)) if names]
        raise DataError(f"{folder}: train/ and val/ have different classes ({'; '.join(only)})")
    return train, val


# ---- pictures of the model's size ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """Takes the place of a picture that cannot be read: an error would leave a worker wrapped in its traceback."""

    name: str
    reason: str


class Pictures(Dataset):
    """A source's pictures as uint8 tensors (3, H, W) of the model's size. A key is (epoch, index).

    random_crop: a random part at random scale, another one each epoch; else the middle, after a resize that makes the
    model's size `eval_crop` of the picture. Resizing is bicubic.
    """

    def __init__(self, source: Sequence, size: tuple[int, int], eval_crop: float, random_crop: bool = False,
                 seed: int = 0):
        self.source, self.size, self.eval_crop, self.random_crop, self.seed = source, size, eval_crop, random_crop, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor] | Broken:
        """A batch: images (b, 3, H, W) and labels (b,) int64; or its first broken picture, if there is one."""
        samples = [self._picture(*key) for key in keys]
        for sample in samples:
            if isinstance(sample, Broken):
                return sample
        images, labels = zip(*samples)
        return torch.stack(images), torch.tensor(labels)

    def _picture(self, epoch: int, index: int) -> tuple[Tensor, int] | Broken:
        try:
            image, label = self.source[index]
        except Exception as error:  # decoders raise many kinds; whatever it was, this picture is not usable
            return Broken(picture_name(self.source, index), " ".join(str(error).split()))
        width, height = (image.shape[2], image.shape[1]) if isinstance(image, Tensor) else image.size
        if self.random_crop:
            box = random_resized_box(height, width, generator("crop", self.seed, epoch, index))
            image = TF.resized_crop(image, *box, self.size, InterpolationMode.BICUBIC)
        else:
            image = self._middle(image, height, width)
        image = image if isinstance(image, Tensor) else TF.pil_to_tensor(image)
        return image.expand(3, -1, -1), int(label)

    def _middle(self, image, height: int, width: int):
        if self.eval_crop < 1 or (height, width) != self.size:
            scale = max(self.size[0] / height, self.size[1] / width) / self.eval_crop
            resized = [max(1, round(height * scale)), max(1, round(width * scale))]
            image = TF.resize(image, resized, InterpolationMode.BICUBIC)
        return TF.center_crop(image, self.size)


class Stored(Dataset):
    """A split in memory: images (n, 3, H, W) uint8 and labels (n,). Keys as for `Pictures`, whatever the epoch."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """A batch: images (b, 3, H, W) and labels (b,) int64."""
        indices = torch.tensor([index for _, index in keys], device=self.labels.device)
        return self.images[indices], self.labels[indices]


def stored_if_it_fits(pictures: Pictures, workers: int, copies: int, device: torch.device) -> Pictures | Stored:
    """All pictures decoded and kept on the device, if a machine can hold so many copies of them (one for each of its
    processes) and they are the same every epoch; else as they are. Raises DataError for a broken one."""
    height, width = pictures.size
    if pictures.random_crop or len(pictures) * 3 * height * width * copies > MEMORY_LIMIT:
        return pictures
    keys = [[(0, i) for i in range(start, min(start + 128, len(pictures)))] for start in range(0, len(pictures), 128)]
    workers = workers if len(pictures) > 1000 else 0  # starting a worker costs more than a few pictures
    images, labels = zip(*sound(DataLoader(pictures, batch_sampler=keys, num_workers=workers, collate_fn=as_it_is)))
    return Stored(torch.cat(images).to(device), torch.cat(labels).to(device))


def as_it_is(batch):
    """For a DataLoader whose data set makes whole batches."""
    return batch


def sound(batches: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a loader. Raises DataError, naming the file, at a broken picture."""
    for batch in batches:
        if isinstance(batch, Broken):
            raise DataError(f"{batch.name}: this image is broken ({batch.reason}); repair or remove it")
        yield batch
