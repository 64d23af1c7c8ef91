"""Batches for semantic segmentation: images and the class of every pixel.

In training an image is scaled by a factor from 1/r to r (`scale_range`), a part of the crop's size is cut out, or the
smaller image is surrounded by grey, and half of the parts are mirrored. The mask follows; it is never interpolated, and
what surrounds it is unknown. In evaluation images are whole, one by one, since they may differ in size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

from ..augment import normalise
from ..batches import TrainingBatches, ValidationBatches
from ..broken_images import Key
from ..loading import PreparedImages, as_tensor
from ..seeds import generator
from ..segmentation import UNKNOWN


@dataclass(eq=False)
class MaskImages(PreparedImages):
    """A source's images, uint8 (3, H, W), and their masks, uint8 (H, W): lists, since in evaluation sizes differ."""

    joined = list

    def prepared(self, key: Key, image: Image.Image | Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image, recipe = as_tensor(image), self.recipe
        if recipe is None:
            return image, mask
        mirror, scale, *place = torch.rand(4, generator=generator("masks", self.seed, *key)).tolist()
        if recipe.flip and mirror < 0.5:
            image, mask = image.flip(2), mask.flip(1)
        r = max(1.0, recipe.scale_range)
        grey = round(255 * sum(recipe.mean) / 3)
        return scaled_part(image, mask, 1 / r + scale * (r - 1 / r), self.size, place, grey)


def scaled_part(image: Tensor, mask: Tensor, factor: float, size: tuple[int, int], place: Sequence[float],
                fill: int) -> tuple[Tensor, Tensor]:
    """Return a part of the given size of the image scaled by `factor`, and of its mask.

    place: where the part lies in the scaled image, or the smaller image in the part: (down, right) from 0 to 1."""
    high, wide = (max(1, round(factor * side)) for side in image.shape[1:])
    down, right = (round(share * (outer - inner)) for share, outer, inner in zip(place, size, (high, wide)))
    pad = right, size[1] - wide - right, down, size[0] - high - down  # negative where it cuts
    image = F.pad(TF.resize(image, [high, wide], antialias=True), pad, value=fill)
    mask = F.interpolate(mask[None, None], (high, wide), mode="nearest-exact")[0, 0]
    return image, F.pad(mask, pad, value=UNKNOWN)


class MaskTraining(TrainingBatches):
    """Normalised images (b, 3, H, W) and their classes (b, H, W) int64: `epoch(n)` iterates over epoch n."""

    def augmented(self, images: list[Tensor], masks: list[Tensor], *place: int) -> tuple[Tensor, Tensor]:
        return normalise(torch.stack(images), self.recipe.mean, self.recipe.std), torch.stack(masks).long()


class MaskValidation(ValidationBatches):
    """This process's share of all validation images: normalised [(3, H, W), …] and their classes [(H, W), …]."""

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        for images, masks in self._read():
            yield ([normalise(image, self.recipe.mean, self.recipe.std) for image in images],
                   [mask.long() for mask in masks])
