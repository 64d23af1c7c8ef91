"""PreparedImages of the model's size: read, cropped, augmented one by one, in worker processes if there are any.

    PreparedImages    a source's pictures, read when asked for
    StoredImages      the same for a split that fits in memory and is the same every epoch: read once, one uint8 tensor

A training picture that cannot be read is replaced by another one or ends the run (--bad-images); a validation picture
that cannot be read always ends it.
"""

import functools
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode

from .augment import color_jitter, rand_augment, random_resized_box
from .data_recipe import DataRecipe
from .datasets import image_name
from .decoding import DataError
from .seeds import generator

MEMORY_LIMIT = 2 * 2**30  # bytes of decoded images that the processes of one machine keep together
REPLACEMENTS = 100  # pictures that are tried in the place of one that cannot be read

Key = tuple[int, int, int]  # epoch, index in the source, copy


class FileNote(NamedTuple):
    """What is to be said of a file: what it was before it became RGB, or why it is broken."""

    name: str
    text: str
    broken: bool


class Broken(NamedTuple):
    """Takes the place of a batch that cannot be made: an error would leave a worker wrapped in its traceback."""

    sentence: str


class Batch(NamedTuple):
    """images (b, 3, H, W) uint8, labels (b,) int64 or targets (b, ...), and notes on the files they came from."""

    images: Tensor
    labels: Tensor
    notes: list[FileNote]


class PreparedImages(Dataset):
    """A source's pictures as uint8 tensors (3, H, W) of the model's size. A key is (epoch, index, copy).

    recipe: crop and augment for training, in a way that is a function of seed and key; None for validation: the middle
    of the picture, after a resize that makes the model's size `eval_crop` of it. Resizing is bicubic.
    skip: replace a picture that cannot be read by another one, a function of seed and key too.
    """

    def __init__(self, source: Sequence, size: tuple[int, int], eval_crop: float, recipe: DataRecipe | None = None,
                 seed: int = 0, skip: bool = False):
        self.source, self.size, self.eval_crop, self.recipe = source, size, eval_crop, recipe
        self.seed, self.skip = seed, skip

    def __len__(self) -> int:
        return len(self.source)

    @property
    def changes(self) -> bool:
        """Whether a picture is another one each epoch."""
        recipe = self.recipe
        return recipe is not None and (recipe.crop == "resized" or recipe.rand_augment > 0 or recipe.color_jitter > 0)

    def __getitems__(self, keys: list[Key]) -> Batch | Broken:
        """A batch; or what is wrong with it, if a picture cannot be read and must not be replaced."""
        images, labels, notes = [], [], []
        for key in keys:
            try:
                image, label = self._picture(key, notes)
            except DataError as error:
                return Broken(str(error))
            images.append(image)
            labels.append(label)
        return Batch(torch.stack(images), torch.stack(labels), notes)

    def _picture(self, key: Key, notes: list[FileNote]) -> tuple[Tensor, Tensor]:
        image, label = self._readable(key, notes)
        recipe = self.recipe
        width, height = (image.shape[2], image.shape[1]) if isinstance(image, Tensor) else image.size
        if recipe and recipe.crop == "resized":
            box = random_resized_box(height, width, generator("crop", self.seed, *key))
            image = TF.resized_crop(image, *box, self.size, InterpolationMode.BICUBIC)
        else:
            image = self._middle(image, height, width)
        if recipe and (recipe.rand_augment > 0 or recipe.color_jitter > 0):
            image = self._augment(image, generator("colours", self.seed, *key))
        image = image if isinstance(image, Tensor) else TF.pil_to_tensor(image)
        return image.expand(3, -1, -1), torch.as_tensor(label)

    def _readable(self, key: Key, notes: list[FileNote]) -> tuple[Image.Image | Tensor, int | Tensor]:
        """The picture and label of that key, or of the first one in its place that can be read."""
        index = key[1]
        for trial in range(REPLACEMENTS):
            name = image_name(self.source, index)
            try:
                image, label = self.source[index]
            except DataError as error:
                if not self.skip:
                    raise DataError(f"{name}: this image is broken ({error}); repair or remove it") from None
                notes.append(FileNote(name, str(error), broken=True))
            except FileNotFoundError:
                raise DataError(f"{name}: this file has disappeared since the run began") from None
            except OSError as error:
                raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None
            else:
                if was := getattr(image, "info", {}).get("was"):
                    notes.append(FileNote(name, was, broken=False))
                return image, label
            index = int(torch.randint(len(self.source), (), generator=generator("instead", self.seed, *key, trial)))
        raise DataError(f"{name}: this image is broken, and so are {REPLACEMENTS} others tried in its place")

    def _middle(self, image, height: int, width: int):
        if self.eval_crop < 1 or (height, width) != self.size:
            scale = max(self.size[0] / height, self.size[1] / width) / self.eval_crop
            resized = [max(1, round(height * scale)), max(1, round(width * scale))]
            image = TF.resize(image, resized, InterpolationMode.BICUBIC)
        return TF.center_crop(image, self.size)

    def _augment(self, image, source: torch.Generator) -> Image.Image:
        image = TF.to_pil_image(image) if isinstance(image, Tensor) else image
        image = image.convert("RGB")
        if self.recipe.color_jitter > 0:
            image = color_jitter(image, source, self.recipe.color_jitter)
        if self.recipe.rand_augment > 0:
            image = rand_augment(image, source, self.recipe.rand_augment)
        return image


class StoredImages(Dataset):
    """A split in memory: images (n, 3, H, W) uint8 and labels (n,). Keys as for `PreparedImages`, whatever epoch and copy."""

    def __init__(self, images: Tensor, labels: Tensor, notes: Sequence[FileNote] = ()):
        self.images, self.labels, self.notes = images, labels, list(notes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[Key]) -> Batch:
        """A batch, without notes: those are of the time when the split was read."""
        indices = torch.tensor([index for _, index, _ in keys], device=self.labels.device)
        return Batch(self.images[indices], self.labels[indices], [])


def store_if_it_fits(pictures: PreparedImages, workers: int, copies: int, device: torch.device) -> PreparedImages | StoredImages:
    """All pictures read and kept on the device, if a machine can hold so many copies of them (one for each of its
    processes) and they are the same every epoch; else as they are. Raises DataError for a broken one."""
    height, width = pictures.size
    if pictures.changes or len(pictures) * 3 * height * width * copies > MEMORY_LIMIT:
        return pictures
    starts = range(0, len(pictures), 128)
    keys = [[(0, i, 0) for i in range(start, min(start + 128, len(pictures)))] for start in starts]
    workers = workers if len(pictures) > 1000 else 0  # starting a worker costs more than a few pictures
    images, labels, notes = zip(*checked(loader(pictures, keys, workers)))
    return StoredImages(torch.cat(images).to(device), torch.cat(labels).to(device), sum(notes, []))


def loader(pictures: PreparedImages | StoredImages, order: Iterable[list[Key]], workers: int, pin: bool = False) -> DataLoader:
    """The batches of that order, read by `workers` processes, or by this one where there are none."""
    return DataLoader(pictures, batch_sampler=order, num_workers=workers, collate_fn=_as_it_is, pin_memory=pin,
                      persistent_workers=workers > 0, worker_init_fn=functools.partial(_start_worker, os.getpid()))


def checked(batches: Iterable[Batch | Broken]) -> Iterator[Batch]:
    """The batches of a loader. Raises DataError, naming the file, at a picture that cannot be read."""
    for batch in batches:
        if isinstance(batch, Broken):
            raise DataError(batch.sentence)
        yield batch


def _as_it_is(batch):
    """For a DataLoader whose data set makes whole batches."""
    return batch


def _start_worker(trainer: int, _) -> None:
    """One thread each. Signals that end the run are for the training process, which ends its workers itself; yet
    they come to every process of a terminal or a cluster's job.

    trainer: the number of the training process, which is not a worker's parent where a fork server starts workers.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # Linux tells who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_trainers_word, args=(trainer,), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_at_trainers_word(trainer: int) -> None:
    """End this process when the trainer says so, or some seconds after it was killed."""
    while True:
        told = signal.sigtimedwait({signal.SIGTERM}, 5)
        if told is not None and told.si_pid == trainer:
            os._exit(0)
        try:
            os.kill(trainer, 0)  # sends nothing, but fails if there is no such process
        except ProcessLookupError:
            os._exit(0)
