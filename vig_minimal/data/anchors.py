"""How CNN2GNN's anchors are drawn (Eq. 1): training images that stand for their classes, once by the seed.

In training, an anchor is augmented once per epoch: alike in all steps and processes of that epoch. A trained model
stores the embeddings of the anchors as they are, and needs their images no more.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from .augment import draw_flip_and_shift, flip_and_shift, normalise
from .data_recipe import DataRecipe
from .datasets import image_name, targets_of
from .decoding import DataError
from .loading import PreparedImages
from .seeds import generator


def draw_anchors(labels: Tensor, classes: Sequence[str], per_class: int, generator: torch.Generator) -> Tensor:
    """Indices of `per_class` random images of every class, class after class. Raises DataError for too few images."""
    # CNN2GNN Eq. 1: ℓ^i ∈_U X^i
    chosen = []
    for label, name in enumerate(classes):
        images = (labels == label).nonzero().flatten()
        if len(images) < per_class:
            raise DataError(f"anchors: class {name} has {len(images)} training images, too few for {per_class} anchors;"
                            " add images, or use fewer anchors with --anchors-per-class")
        chosen.append(images[torch.randperm(len(images), generator=generator)[:per_class]])
    return torch.cat(chosen)


class Anchors:
    """`per_class` images of every class, drawn uniformly; A = classes · per_class of them, class after class.

    names: their file names, with / on Windows too. Raises DataError for a class with too few images, and for data
    without a list of labels.
    """

    def __init__(self, source: Sequence, classes: Sequence[str], per_class: int, size: tuple[int, int],
                 recipe: DataRecipe, seed: int, device: torch.device):
        labels = targets_of(source)
        if labels is None or labels.ndim != 1:
            raise DataError("anchors: this data has no list with the one class of each image")
        self.indices = draw_anchors(labels, classes, per_class, generator("anchors", seed)).tolist()
        self.names = [image_name(source, index).replace(os.sep, "/") for index in self.indices]
        self.recipe, self.seed, self.device = recipe, seed, device
        self.varied, self.plain = (PreparedImages(source, size, recipe.eval_crop, r, seed) for r in (recipe, None))

    def augmented(self, epoch: int) -> Tensor:
        """Return the anchors (A, 3, H, W), normalised and augmented as training images, alike within an epoch."""
        images = self._read(self.varied, epoch)
        draws = draw_flip_and_shift(len(images), images.shape[2:], self.recipe.flip, self.recipe.crop == "pad",
                                    generator("anchors", self.seed, epoch))
        images = flip_and_shift(images, *(drawn.to(self.device) for drawn in draws))
        return normalise(images, self.recipe.mean, self.recipe.std)

    def as_they_are(self) -> Tensor:
        """Return the anchors (A, 3, H, W), normalised and not augmented."""
        return normalise(self._read(self.plain, 0), self.recipe.mean, self.recipe.std)

    def _read(self, images: PreparedImages, epoch: int) -> Tensor:
        return images[[(epoch, index, 0) for index in self.indices]].images.to(self.device)
