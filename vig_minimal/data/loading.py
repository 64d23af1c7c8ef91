"""Load images at the model's size: read, crop and augment them one by one, in worker processes if there are any.

`PreparedImages` reads and prepares an image each time it is asked for. `StoredImages` is a split that fits in memory
and looks the same every epoch: read once, one uint8 tensor.
"""

import functools
import math
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import BICUBIC, color_jitter, mean_colour, rand_augment, random_resized_box
from .broken_images import FileNote, Key, read_or_replace
from .data_recipe import DataRecipe
from .seeds import generator

MEMORY_LIMIT = 2 * 2**30  # bytes of decoded images that the processes of one machine keep together
LONGEST = 16  # times the length that a crop of the whole shorter side needs: more of an image is not looked at


class Batch(NamedTuple):
    """images (b, 3, H, W) uint8, labels (b,) int64 or targets (b, ...), and remarks on their files. Of objects or
    masks, whose images may differ in size: lists."""

    images: Tensor
    labels: Tensor
    notes: list[FileNote]


def centre_crop(image: Image.Image | Tensor, size: tuple[int, int], share: float) -> Image.Image | Tensor:
    """Scale an image until `share` of it just covers `size` (height, width), and cut that out of its centre.

    Lengths are cut to whole pixels, as torchvision's Resize and timm cut them: a square size s of any image's shorter
    side ⌊s / share⌋, and the other in proportion. A share of 0 stretches the whole image to `size`: nothing is cut off.
    """
    if share == 0:
        return TF.resize(image, size, BICUBIC)
    _, *sides = TF.get_dimensions(image)  # height, width
    short = 0 if size[0] * sides[1] >= size[1] * sides[0] else 1  # the side of which no more than needed is there
    # a thin image would become gigabytes: what lies far outside the crop goes first
    sides = [min(side, math.ceil(LONGEST * most * sides[short] / size[short])) for side, most in zip(sides, size)]
    image = TF.center_crop(image, sides)
    reach = math.floor(size[short] / share)  # the short side once scaled
    scaled = [reach * side // sides[short] for side in sides]
    return TF.center_crop(TF.resize(image, scaled, BICUBIC), size)


@dataclass(eq=False)
class PreparedImages(Dataset):
    """A source's images as uint8 tensors (3, H, W) of the model's size."""

    source: Sequence
    size: tuple[int, int]
    eval_crop: float  # side of the centre crop as a share of the resized image, see `centre_crop`
    recipe: DataRecipe | None = None  # for training: crop and augment by seed and key
    seed: int = 0
    skip: bool = False  # replace a broken image by another one (--bad-images), see `broken_images`
    notes = ()  # none before images are read
    joined = torch.stack  # makes one of the images, and of the targets, of a batch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: list[Key]) -> Batch:
        """The batch of these keys. Raises DataError for an image that is broken and must not be replaced."""
        notes: list[FileNote] = []
        images, targets = zip(*(self.prepared(key, *read_or_replace(self.source, key, self.seed, self.skip, notes))
                                for key in keys))
        return Batch(self.joined(images), self.joined(targets), notes)

    def prepared(self, key: Key, image: Image.Image | Tensor, target: object) -> tuple[Tensor, Tensor]:
        """Return the image as (3, H, W) of the model's size and the target, augmented alike for training."""
        recipe = self.recipe
        if recipe and recipe.crop == "resized":
            _, height, width = TF.get_dimensions(image)
            box = random_resized_box(height, width, generator("crop", self.seed, *key))
            image = TF.resized_crop(image, *box, self.size, BICUBIC)
        else:
            image = centre_crop(image, self.size, self.eval_crop)
        if recipe and (recipe.rand_augment > 0 or recipe.color_jitter > 0):
            source = generator("colours", self.seed, *key)
            image = (TF.to_pil_image(image) if isinstance(image, Tensor) else image).convert("RGB")
            if recipe.color_jitter > 0:
                image = color_jitter(image, source, recipe.color_jitter)
            if recipe.rand_augment > 0:
                image = rand_augment(image, source, recipe.rand_augment, fill=mean_colour(recipe.mean))
        return as_tensor(image), torch.as_tensor(target)


def as_tensor(image: Image.Image | Tensor) -> Tensor:
    """Return an image in RGB or grey as a tensor (3, H, W)."""
    return (image if isinstance(image, Tensor) else TF.pil_to_tensor(image)).expand(3, -1, -1)


class StoredImages(Dataset):
    """A split in memory: images (n, 3, H, W) uint8 and labels (n,) or targets (n, ...). Of a key the index counts."""

    def __init__(self, images: Tensor, labels: Tensor, notes: Sequence[FileNote] = ()):
        self.images, self.labels, self.notes = images, labels, list(notes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keys: list[Key]) -> Batch:
        indices = torch.tensor([index for _, index, _ in keys], device=self.labels.device)
        return Batch(self.images[indices], self.labels[indices], [])


def store_if_it_fits(images: PreparedImages, workers: int, copies: int,
                     device: torch.device) -> PreparedImages | StoredImages:
    """Read all images onto the device if they are of one size, look the same every epoch, and `copies` of them (one for
    each process of this machine) fit into MEMORY_LIMIT. Raises DataError for an unreadable image that is not skipped.
    """
    count, (height, width), recipe = len(images), images.size, images.recipe
    changes = recipe and (recipe.crop == "resized" or recipe.rand_augment > 0 or recipe.color_jitter > 0)
    if changes or type(images) is not PreparedImages or count * 3 * height * width * copies > MEMORY_LIMIT:
        return images
    workers = workers if count > 1000 else 0  # starting a worker costs more than reading a few images
    pixels, labels, notes = zip(*loader(images, validation_order(count, 128), workers))
    return StoredImages(torch.cat(pixels).to(device), torch.cat(labels).to(device), sum(notes, []))


def validation_order(count: int, batch_size: int, share: tuple[int, int] = (0, 1)) -> list[list[Key]]:
    """Batches of keys with every image exactly once over all processes: process r takes images r, r + world, ..."""
    rank, world = share
    keys = [(0, index, 0) for index in range(rank, count, world)]
    return [keys[start:start + batch_size] for start in range(0, len(keys), batch_size)]


def loader(images: PreparedImages | StoredImages, order: Iterable[list[Key]], workers: int,
           device: torch.device = torch.device("cpu")) -> DataLoader:
    """The batches of that order, prepared by `workers` processes, or by this one if 0; in pinned memory for a GPU."""
    reads = isinstance(images, PreparedImages)
    workers = workers if reads else 0
    return DataLoader(images, batch_size=None, sampler=order, num_workers=workers, persistent_workers=workers > 0,
                      pin_memory=reads and device.type == "cuda",
                      worker_init_fn=functools.partial(_obey_only, os.getpid()))


def _obey_only(trainer: int, _worker: int) -> None:
    """Let a DataLoader worker ignore Ctrl-C and SIGTERM, which a terminal or a cluster sends to every process: the
    training process needs its workers to finish the step and save. trainer: its id, whose SIGTERM ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which gives the sender, on Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()


def _end_with(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
