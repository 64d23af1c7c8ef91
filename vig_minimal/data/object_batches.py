"""Batches of images with objects: lists of images of any sizes, each with its target (see `detection`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .augment import normalise
from .batches import TrainingBatches, ValidationBatches
from .data_recipe import DataRecipe
from .decoding import DataError
from .loading import Batch, FileNote, Key, PreparedImages, checked

Objects = tuple[list[Tensor], list[dict[str, Tensor]]]


@dataclass(eq=False)
class ObjectImages(PreparedImages):
    """A source's images as uint8 tensors (3, H, W) of their own sizes, with their targets."""

    def __getitems__(self, keys: list[Key]) -> Batch | DataError:
        notes: list[FileNote] = []
        try:
            images, targets = zip(*(self._read(key, notes) for key in keys))
        except DataError as error:
            return error
        return Batch(list(images), list(targets), notes)


class ObjectTraining(TrainingBatches):
    """Normalised images [(3, H, W), …] and their targets: `epoch(n)` iterates over epoch n."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Objects]:
        self.order.epoch, self.order.first_step = epoch, first_step
        for images, targets, notes in checked(self.loader):
            self._take_notes(notes)
            yield on_device(images, targets, self.recipe, self.device)


class ObjectValidation(ValidationBatches):
    """This process's share of all validation images: normalised [(3, H, W), …], and their targets."""

    def __iter__(self) -> Iterator[Objects]:
        for images, targets, _ in checked(self.loader):
            yield on_device(images, targets, self.recipe, self.device)


def on_device(images: Sequence[Tensor], targets: Sequence[dict], recipe: DataRecipe, device: torch.device) -> Objects:
    """Return normalised images and their targets on the device."""
    images = [normalise(image[None].to(device, non_blocking=True), recipe.mean, recipe.std)[0] for image in images]
    return images, [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets]
