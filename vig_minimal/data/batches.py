"""Batches: which images each step sees, this process's share of them, augmented and normalised on the device."""

from collections.abc import Iterator

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


class TrainingBatches:
    """Augmented, normalised images (b, 3, H, W) and their targets: `epoch(n)` iterates over epoch n.

    Targets are labels (b,) or, where the recipe mixes images, the shares of the classes (b, classes); for multi-label
    data they are what the source gives. notes: remarks on files, by file name; clear it once they are reported.
    """

    def __init__(self, images: PreparedImages | StoredImages, classes: int, recipe: DataRecipe, seed: int,
                 share: tuple[int, int], device: torch.device, workers: int):
        self.recipe, self.classes, self.seed, self.device = recipe, classes, seed, device
        self.order = TrainingOrder(len(images), recipe, seed, share)
        self.loader = loader(images, self.order, workers, device)
        self.notes, self._broken = {}, {}  # notes, and why each image so far is broken
        self._take_notes(getattr(images, "notes", []))

    def __len__(self) -> int:
        return self.order.steps  # of an epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of that epoch from that step on, `accumulation` parts a step. Raises DataError, naming files, if
        an image is unreadable and not replaced, or if too many are broken."""
        self.order.epoch, self.order.first_step = epoch, first_step
        for i, (images, labels, notes) in enumerate(self.loader):
            self._take_notes(notes)
            step, part = divmod(i, self.recipe.accumulation)
            images = images.to(self.device, non_blocking=True)
            yield self._augment(images, labels.to(self.device, non_blocking=True), epoch, first_step + step, part)

    def _augment(self, images: Tensor, labels: Tensor, epoch: int, step: int, part: int) -> tuple[Tensor, Tensor]:
        recipe, share, size = self.recipe, self.order.share(part), images.shape[2:]
        source = generator("augment", self.seed, epoch, step)
        # every process draws for the global batch and uses its share: the same for any number of processes
        draws = draw_flip_and_shift(recipe.batch_size, size, recipe.flip, recipe.crop == "pad", source)
        images = flip_and_shift(images, *(drawn[share].to(self.device) for drawn in draws))
        images = normalise(images, recipe.mean, recipe.std)
        targets = labels
        if recipe.mixes:
            targets = F.one_hot(labels, self.classes).float()  # (b, classes)
            kind, how = draw_mix(*size, recipe.mixup, recipe.cutmix, 0.5, source)
            images, targets = (mixup if kind == "mixup" else cutmix)(images, targets, how)
        if recipe.erasing > 0:  # last, as in the released code, whose loader erases what its collation has mixed
            for image, place in zip(images, range(share.start, share.stop)):
                noise = generator("erase", self.seed, epoch, step, place)
                if box := erasing_box(*size, noise, recipe.erasing):
                    erase(image, box, noise)
        return images, targets

    def _take_notes(self, notes: list[FileNote]) -> None:
        self.notes |= {note.name: note for note in notes}
        self._broken |= {note.name: note.text for note in notes if note.broken}
        check_broken(self._broken, self.order.count)


class ValidationBatches:
    """This process's share of all validation images: normalised (b, 3, H, W), with labels (b,) or targets (b, ...).
    notes: as of `TrainingBatches`."""

    def __init__(self, images: PreparedImages | StoredImages, recipe: DataRecipe, share: tuple[int, int],
                 device: torch.device, workers: int):
        self.recipe, self.device = recipe, device
        order = validation_order(len(images), recipe.batch_size // (share[1] * recipe.accumulation), share)
        self.loader = loader(images, order, workers, device)
        self.notes = {note.name: note for note in getattr(images, "notes", [])}

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, notes in self.loader:
            self.notes |= {note.name: note for note in notes}
            images = images.to(self.device, non_blocking=True)
            yield normalise(images, self.recipe.mean, self.recipe.std), labels.to(self.device, non_blocking=True)
