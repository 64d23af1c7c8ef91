"""Batches: which images come in which step, this process's share of them, augmented and normalised on the device."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .augment import flip_and_shift, normalise
from .data import Pictures, Stored, as_it_is, generator, sound
from .distributed import Processes
from .recipes import Recipe


class TrainingOrder:
    """The images of every step as keys (epoch, index): this process's share of every global batch of `batch_size`.

    All images in random order, another one each epoch; the incomplete last batch is left out. `epoch` chooses.
    """

    def __init__(self, count: int, batch_size: int, seed: int, processes: Processes):
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0
        size = batch_size // processes.world
        # consecutive, so that all shares in the order of ranks are the batch
        self.share = slice(processes.rank * size, (processes.rank + 1) * size)

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = torch.randperm(self.count, generator=generator("order", self.seed, self.epoch)).tolist()
        for step in range(len(self)):
            batch = order[step * self.batch_size:(step + 1) * self.batch_size]
            yield [(self.epoch, index) for index in batch[self.share]]


class ValidationOrder:
    """Every image exactly once over all processes: process r takes images r, r + world, ... `batch_size` at a time."""

    def __init__(self, count: int, batch_size: int, processes: Processes):
        self.indices, self.batch_size = range(processes.rank, count, processes.world), batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start:start + self.batch_size]]


def loader(pictures: Pictures | Stored, order: TrainingOrder | ValidationOrder, workers: int,
           device: torch.device) -> DataLoader:
    """(images uint8 (b, 3, H, W), labels (b,)) in that order; `workers` processes decode what is not in memory."""
    workers = 0 if isinstance(pictures, Stored) else workers
    pin = device.type == "cuda" and isinstance(pictures, Pictures)
    return DataLoader(pictures, batch_sampler=order, num_workers=workers, collate_fn=as_it_is, pin_memory=pin,
                      persistent_workers=workers > 0)


class TrainingBatches:
    """Augmented, normalised images (b, 3, H, W) and labels (b,), step by step: `epoch(n)` iterates over an epoch."""

    def __init__(self, pictures: Pictures | Stored, recipe: Recipe, seed: int, processes: Processes, workers: int):
        self.recipe, self.seed, self.device = recipe, seed, processes.device
        self.order = TrainingOrder(len(pictures), recipe.batch_size, seed, processes)
        self.loader = loader(pictures, self.order, workers, processes.device)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of that epoch. Raises DataError, naming the file, at a broken picture."""
        self.order.epoch = epoch
        for step, (images, labels) in enumerate(sound(self.loader)):
            images = self._augment(images.to(self.device, non_blocking=True), epoch, step)
            yield normalise(images, self.recipe.mean, self.recipe.std), labels.to(self.device, non_blocking=True)

    def _augment(self, images: Tensor, epoch: int, step: int) -> Tensor:
        # drawn for the whole global batch, of which this process uses its share: the same for any number of processes
        source, count = generator("augment", self.seed, epoch, step), self.recipe.batch_size
        mirror = torch.rand(count, generator=source) < (0.5 if self.recipe.flip else 0)
        reach = [side // 8 if self.recipe.crop == "pad" else 0 for side in images.shape[2:]]
        down, right = (torch.randint(-r, r + 1, (count,), generator=source) for r in reach)
        return flip_and_shift(images, *(drawn[self.order.share].to(self.device) for drawn in (mirror, down, right)))


class ValidationBatches:
    """Normalised images (b, 3, H, W) and labels (b,): this process's share of all validation images, every time."""

    def __init__(self, pictures: Pictures | Stored, recipe: Recipe, processes: Processes, workers: int):
        self.recipe, self.device = recipe, processes.device
        self.order = ValidationOrder(len(pictures), recipe.batch_size // processes.world, processes)
        self.loader = loader(pictures, self.order, workers, processes.device)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in sound(self.loader):
            images = images.to(self.device, non_blocking=True)
            yield normalise(images, self.recipe.mean, self.recipe.std), labels.to(self.device, non_blocking=True)
