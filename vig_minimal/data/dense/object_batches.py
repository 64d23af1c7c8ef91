"""Batches of images with objects: lists of images of any sizes, each with its target.

A target is a dict: `boxes` (n, 4) as left, top, right, bottom, `labels` (n,) from 1, `masks` (n, H, W) of 0 and 1,
`area` (n,), `iscrowd` (n,) and `image_id`.

In training, half of the images are mirrored, and with `scale_jitter` s each is scaled by 1 − s to 1 + s and keeps its
size: of a larger one a part is cut out, a smaller one is surrounded by grey. Boxes and masks follow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ..augment import normalise
from ..batches import TrainingBatches, ValidationBatches
from ..broken_images import Key
from ..loading import PreparedImages, as_tensor
from ..seeds import generator

Target = dict[str, Tensor]
Objects = tuple[list[Tensor], list[Target]]


@dataclass(eq=False)
class ObjectImages(PreparedImages):
    """A source's images as uint8 tensors (3, H, W) of their own sizes, with their targets."""

    joined = list

    def prepared(self, key: Key, image: Image.Image | Tensor, target: Target) -> tuple[Tensor, Target]:
        image, recipe = as_tensor(image), self.recipe
        if recipe is None:
            return image, target
        mirror, scale, *place = torch.rand(4, generator=generator("objects", self.seed, *key)).tolist()
        if recipe.flip and mirror < 0.5:
            image, target = mirrored(image, target)
        if recipe.scale_jitter > 0:
            grey = round(255 * sum(recipe.mean) / 3)
            image, target = scaled(image, target, 1 + recipe.scale_jitter * (2 * scale - 1), place, grey)
        return image, target


def mirrored(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Return image and target with left and right exchanged."""
    left, top, right, bottom = target["boxes"].unbind(1)
    boxes = torch.stack([image.shape[2] - right, top, image.shape[2] - left, bottom], 1)
    return image.flip(2), target | {"boxes": boxes, "masks": target["masks"].flip(2)}


def scaled(image: Tensor, target: Target, factor: float, place: Sequence[float], fill: int) -> tuple[Tensor, Target]:
    """Return the image scaled by a factor and cut, or surrounded by `fill`, to its own size, and its target.

    place: where the part lies that is cut out, or the smaller image, (down, right) from 0 to 1. An object that is cut
    has the box of what is left of its mask; one without a pixel left is dropped. `area` counts the mask's pixels.
    """
    height, width = image.shape[1:]
    high, wide = (max(1, round(factor * side)) for side in (height, width))
    down, right = round(place[0] * (height - high)), round(place[1] * (width - wide))
    pad = right, width - wide - right, down, height - high - down  # negative where it cuts
    image = F.pad(TF.resize(image, [high, wide], antialias=True), pad, value=fill)
    masks = F.pad(F.interpolate(target["masks"][:, None], (high, wide), mode="nearest-exact")[:, 0], pad)
    window, stretch = torch.tensor([width, height] * 2), torch.tensor([wide / width, high / height] * 2)
    boxes = target["boxes"] * stretch + torch.tensor([right, down] * 2)
    left = masks.amax((1, 2)) > 0
    masks, boxes, target = masks[left], boxes[left], {
        name: value[left] if name in ("labels", "iscrowd") else value for name, value in target.items()}
    # give or take a pixel, by which boxes of COCO may leave their image
    cut = ((boxes < -factor) | (boxes > window + factor)).any(1)
    boxes[cut] = masks_to_boxes(masks[cut]) + torch.tensor([0, 0, 1, 1])  # torchvision's end with the last pixel
    return image, target | {"boxes": boxes, "masks": masks, "area": masks.sum((1, 2)).float()}


class ObjectTraining(TrainingBatches):
    """Normalised images [(3, H, W), …] and their targets: `epoch(n)` iterates over epoch n."""

    def augmented(self, images: list[Tensor], targets: list[Target], *place: int) -> Objects:
        return [normalise(image, self.recipe.mean, self.recipe.std) for image in images], targets


class ObjectValidation(ValidationBatches):
    """This process's share of all validation images: normalised [(3, H, W), …], and their targets."""

    def __iter__(self) -> Iterator[Objects]:
        for images, targets in self._read():
            yield [normalise(image, self.recipe.mean, self.recipe.std) for image in images], targets
