"""Batches: which images each step sees, this process's share of them, augmented and normalised on the device."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import cutmix, draw_flip_and_shift, draw_mix, erase, erasing_box, flip_and_shift, mixup, normalise
from .broken_images import FileNote, Key, check_broken
from .data_recipe import DataRecipe
from .loading import PreparedImages, StoredImages, loader, validation_order
from .seeds import generator


def images_of_epoch(count: int, repeats: int) -> int:
    """Return how many images an epoch of a data set of `count` has, before an incomplete last batch is left out."""
    return count // 256 * 256 if repeats > 1 and count >= 256 else count


class TrainingOrder:
    """The images of an epoch, as lists of keys (epoch, index, copy): this process's share of every part of a batch.

    All images come in random order, another one each epoch; an incomplete last batch is left out. With repeated
    augmentation (`repeats` r; Hoffer et al., 2020, as in DeiT) each image comes r times in a row, and an epoch ends
    after as many images as the data set has, rounded down to a multiple of 256: it sees 1/r of the data.
    A batch has `accumulation` parts, a part one share for each process. Set `epoch` and `first_step` to begin there.
    """

    def __init__(self, count: int, recipe: DataRecipe, seed: int, share: tuple[int, int] = (0, 1)):
        self.count, self.recipe, self.seed = count, recipe, seed
        self.rank, self.world = share
        self.epoch = self.first_step = 0
        self.steps = images_of_epoch(count, recipe.repeats) // recipe.batch_size

    def share(self, part: int) -> slice:
        """Where this process's share of that part lies in the global batch: the shares of all follow one another."""
        size = self.recipe.batch_size // (self.recipe.accumulation * self.world)
        start = (part * self.world + self.rank) * size
        return slice(start, start + size)

    def __iter__(self) -> Iterator[list[Key]]:
        repeats, size = self.recipe.repeats, self.recipe.batch_size
        order = torch.randperm(self.count, generator=generator("order", self.seed, self.epoch)).tolist()
        for step in range(self.first_step, self.steps):
            # all first copies, then all second ones, ...: mixup pairs neighbours, which must not be copies of one image
            places = sorted(range(step * size, (step + 1) * size), key=lambda place: place % repeats)
            batch = [(self.epoch, order[place // repeats], place % repeats) for place in places]
            for part in range(self.recipe.accumulation):
                yield batch[self.share(part)]


class Batches:
    """Batches on the device, in an order of keys. notes: remarks on files so far, by name. Raises DataError, naming
    files, if an image is unreadable and not replaced, or if too many are broken."""

    def __init__(self, images: PreparedImages | StoredImages, order: Iterable[list[Key]], recipe: DataRecipe,
                 device: torch.device, workers: int):
        self.recipe, self.device, self.notes = recipe, device, {}
        self.loader = loader(images, order, workers, device)
        self._take(images.notes)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets, notes in self.loader:
            self._take(notes)
            yield on_device([images, targets], self.device)

    def _take(self, notes: Iterable[FileNote]) -> None:
        self.notes |= {note.name: note for note in notes}
        if any(note.broken for note in notes):
            check_broken(self.notes.values(), len(self.loader.dataset))


def on_device(batch: Tensor | dict | list, device: torch.device) -> Tensor | dict | list:
    """Return a batch, a tensor or tensors in dicts and lists, on a device."""
    if isinstance(batch, dict):
        return {name: on_device(part, device) for name, part in batch.items()}
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else [on_device(b, device) for b in batch]


class TrainingBatches(Batches):
    """Augmented, normalised images (b, 3, H, W) and their targets: `epoch(n)` iterates over epoch n.

    Targets are labels (b,) or, where the recipe mixes images, the shares of the classes (b, classes); for multi-label
    data they are what the source gives.
    """

    def __init__(self, images: PreparedImages | StoredImages, classes: int, recipe: DataRecipe, seed: int,
                 share: tuple[int, int], device: torch.device, workers: int):
        self.classes, self.seed, self.order = classes, seed, TrainingOrder(len(images), recipe, seed, share)
        super().__init__(images, self.order, recipe, device, workers)

    def __len__(self) -> int:
        return self.order.steps  # of an epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of that epoch from that step on, `accumulation` parts a step."""
        self.order.epoch, self.order.first_step = epoch, first_step
        for i, (images, targets) in enumerate(self._read()):
            step, part = divmod(i, self.recipe.accumulation)
            yield self.augmented(images, targets, epoch, first_step + step, part)

    def augmented(self, images: Tensor, targets: Tensor, epoch: int, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Return that part of a step, normalised and augmented."""
        recipe, share, size = self.recipe, self.order.share(part), images.shape[2:]
        source = generator("augment", self.seed, epoch, step)
        # every process draws for the global batch and uses its share: the same for any number of processes
        draws = draw_flip_and_shift(recipe.batch_size, size, recipe.flip, recipe.crop == "pad", source)
        images = flip_and_shift(images, *(drawn[share].to(self.device) for drawn in draws))
        images = normalise(images, recipe.mean, recipe.std)
        if recipe.mixes:
            targets = F.one_hot(targets, self.classes).float()  # (b, classes)
            kind, how = draw_mix(*size, recipe.mixup, recipe.cutmix, 0.5, source)
            images, targets = (mixup if kind == "mixup" else cutmix)(images, targets, how)
        if recipe.erasing > 0:  # last, as in the released code, whose loader erases what its collation has mixed
            for image, place in zip(images, range(share.start, share.stop)):
                noise = generator("erase", self.seed, epoch, step, place)
                if box := erasing_box(*size, noise, recipe.erasing):
                    erase(image, box, noise)
        return images, targets


class ValidationBatches(Batches):
    """This process's share of all validation images: normalised (b, 3, H, W), with labels (b,) or targets (b, ...)."""

    def __init__(self, images: PreparedImages | StoredImages, recipe: DataRecipe, share: tuple[int, int],
                 device: torch.device, workers: int):
        size = recipe.batch_size // (share[1] * recipe.accumulation)
        super().__init__(images, validation_order(len(images), size, share), recipe, device, workers)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in self._read():
            yield normalise(images, self.recipe.mean, self.recipe.std), targets
