"""Batches: which images come in which step, this process's share of them, augmented and normalised on the device."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import cutmix, draw_mix, erase, erasing_box, flip_and_shift, mixup, normalise
from .data_recipe import DataRecipe
from .decoding import DataError
from .loading import FileNote, Key, PreparedImages, StoredImages, checked, loader
from .seeds import generator

BROKEN_SHARE = 0.01  # of the training pictures that may be broken


class TrainingOrder:
    """The images of an epoch, as lists of keys (epoch, index, copy): this process's parts of every global batch.

    All images in random order, another one each epoch; the incomplete last batch is left out. With `repeats` r, each
    image comes r times in a row of batches, and an epoch ends after as many images as there are, rounded down to a
    multiple of 256: it sees one r-th of the data set (repeated augmentation: Hoffer et al., 2020, as DeiT does it).

    A batch is made in `accumulation` parts, and a part in one share for each process. `epoch` and `first_step` choose.
    """

    def __init__(self, count: int, recipe: DataRecipe, seed: int, share: tuple[int, int] = (0, 1)):
        self.count, self.recipe, self.seed = count, recipe, seed
        self.rank, self.world = share
        self.epoch = self.first_step = 0
        drawn = count // 256 * 256 if recipe.repeats > 1 and count >= 256 else count
        self.steps = drawn // recipe.batch_size

    def share(self, part: int) -> slice:
        """Where in the global batch this process's images of that part are: all shares, one after the other, are it."""
        size = self.recipe.batch_size // (self.recipe.accumulation * self.world)
        start = (part * self.world + self.rank) * size
        return slice(start, start + size)

    def __iter__(self) -> Iterator[list[Key]]:
        repeats, size = self.recipe.repeats, self.recipe.batch_size
        order = torch.randperm(self.count, generator=generator("order", self.seed, self.epoch)).tolist()
        for step in range(self.first_step, self.steps):
            drawn = [(self.epoch, order[place // repeats], place % repeats)
                     for place in range(step * size, (step + 1) * size)]
            # all first copies, all second ones, ...: neighbours, which are mixed, are never of one image
            batch = [key for copy in range(repeats) for key in drawn if key[2] == copy]
            for part in range(self.recipe.accumulation):
                yield batch[self.share(part)]


class ValidationOrder:
    """Every image exactly once over all processes: process r takes images r, r + world, ... `batch_size` at a time."""

    def __init__(self, count: int, batch_size: int, share: tuple[int, int] = (0, 1)):
        rank, world = share
        self.indices, self.batch_size = range(rank, count, world), batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index, 0) for index in self.indices[start:start + self.batch_size]]


def _loader(pictures: PreparedImages | StoredImages, order: TrainingOrder | ValidationOrder, workers: int, device: torch.device):
    in_memory = isinstance(pictures, StoredImages)
    return loader(pictures, order, 0 if in_memory else workers, pin=device.type == "cuda" and not in_memory)


class TrainingBatches:
    """Augmented, normalised images (b, 3, H, W) and their targets: `epoch(n)` iterates over an epoch.

    Targets are labels (b,) or, where the recipe mixes images, the shares of the classes (b, classes); of multi-label
    data they are what the source gives.
    notes: what is to be said of files, by their name; whoever says it may clear it.
    """

    def __init__(self, pictures: PreparedImages | StoredImages, classes: int, recipe: DataRecipe, seed: int,
                 share: tuple[int, int], device: torch.device, workers: int):
        self.recipe, self.classes, self.seed, self.device = recipe, classes, seed, device
        self.order = TrainingOrder(len(pictures), recipe, seed, share)
        self.loader = _loader(pictures, self.order, workers, device)
        self.notes: dict[str, FileNote] = {}
        self._broken: set[str] = set()
        self._take_notes(getattr(pictures, "notes", []))

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.order.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of that epoch from that step on, `accumulation` parts a step. Raises DataError, naming the file,
        at a picture that cannot be read and is not replaced."""
        self.order.epoch, self.order.first_step = epoch, first_step
        for i, (images, labels, notes) in enumerate(checked(self.loader)):
            self._take_notes(notes)
            step, part = divmod(i, self.recipe.accumulation)
            images = images.to(self.device, non_blocking=True)
            yield self._augment(images, labels.to(self.device, non_blocking=True), epoch, first_step + step, part)

    def _augment(self, images: Tensor, labels: Tensor, epoch: int, step: int, part: int) -> tuple[Tensor, Tensor]:
        # drawn for the whole global batch, of which this process uses its share: the same for any number of processes
        recipe, share, count = self.recipe, self.order.share(part), self.recipe.batch_size
        source = generator("augment", self.seed, epoch, step)
        height, width = images.shape[2:]
        mirror = torch.rand(count, generator=source) < (0.5 if recipe.flip else 0)
        reach = [side // 8 if recipe.crop == "pad" else 0 for side in (height, width)]
        down, right = (torch.randint(-r, r + 1, (count,), generator=source) for r in reach)
        images = flip_and_shift(images, *(drawn[share].to(self.device) for drawn in (mirror, down, right)))
        images = normalise(images, recipe.mean, recipe.std)
        if recipe.erasing > 0:
            for image, place in zip(images, range(share.start, share.stop)):
                noise = generator("erase", self.seed, epoch, step, place)
                if box := erasing_box(height, width, noise, recipe.erasing):
                    erase(image, box, noise)
        if not recipe.mixes:
            return images, labels
        targets = F.one_hot(labels, self.classes).float()  # (b, classes)
        kind, how = draw_mix(height, width, recipe.mixup, recipe.cutmix, 0.5, source)
        return (mixup if kind == "mixup" else cutmix)(images, targets, how)

    def _take_notes(self, notes: list[FileNote]) -> None:
        self.notes |= {note.name: note for note in notes}
        self._broken |= {note.name for note in notes if note.broken}
        if len(self._broken) > BROKEN_SHARE * self.order.count:
            names = ", ".join(sorted(self._broken)[:5])
            raise DataError(f"more than {BROKEN_SHARE:.0%} of the {self.order.count:,} training images are broken,"
                            f" among them {names}; repair or remove them")


class ValidationBatches:
    """Normalised images (b, 3, H, W) and labels (b,) or targets (b, ...): this process's share of all validation
    images, every time."""

    def __init__(self, pictures: PreparedImages | StoredImages, recipe: DataRecipe, share: tuple[int, int],
                 device: torch.device, workers: int):
        self.recipe, self.device = recipe, device
        size = recipe.batch_size // (share[1] * recipe.accumulation)
        self.order = ValidationOrder(len(pictures), size, share)
        self.loader = _loader(pictures, self.order, workers, device)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, _ in checked(self.loader):
            images = images.to(self.device, non_blocking=True)
            yield normalise(images, self.recipe.mean, self.recipe.std), labels.to(self.device, non_blocking=True)
