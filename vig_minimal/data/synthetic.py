"""The embedded data set: pictures of ten shapes, drawn on the fly, nothing to download.

A scene is decided by (seed, split, index) and by nothing else: no process, worker or order of access changes it, and at
another resolution it is the same picture. One main shape of random colour, size, rotation and place lies over a texture
of two colours with distracting strokes. There are three views of the same scenes:

    single    the main shape alone                       image, label
    multi     up to three smaller companions beside it   image, multi-hot labels
    boxes     the pictures of `multi`                    image, boxes + labels + instance masks

It asks for shape, not for colour or place: softmax regression on the raw pixels (10,000 training images, 2,000 for
validation) gets at best 23.5 % top-1, where chance is 10 %. The command prints it:

    python -m vig_minimal scenes --linear

How a scene comes about is in `scenes.py`.
"""

import operator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .scene_painter import SHAPES, SPLITS, compose, paint

CLASSES = tuple(shape.__name__ for shape in SHAPES)
VIEWS = ("single", "multi", "boxes")


class Shapes(Dataset):
    """`count` scenes of a split in one of three views; the image is a uint8 tensor (3, H, W).

    view="single": image, label (int)
    view="multi":  image, (10,) float, 1 for every class in the picture
    view="boxes":  image, dict of `boxes` (n, 4) float: left, top, right, bottom in pixels, the last two one past the
                   end; `labels` (n,) int64; `masks` (n, H, W) bool. The main shape is the first.

    size: one number for a square, or (height, width), 16 pixels at least. seed: another seed, other scenes.
    Raises ValueError for what cannot be drawn, IndexError for an index outside 0 … count − 1.
    """

    classes = CLASSES

    def __init__(self, size: int | tuple[int, int] = 64, count: int = 10_000, split: str = "train",
                 view: str = "single", seed: int = 0):
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 16:
            raise ValueError(f"size={height}×{width}: shapes need sides of at least 16 pixels")
        if count < 1:
            raise ValueError(f"count={count}: a data set has at least one scene")
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
        if view not in VIEWS:
            raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}")
        if seed < 0:
            raise ValueError(f"seed={seed}: a seed is 0 or more")
        self.height, self.width, self.count, self.split, self.view, self.seed = height, width, count, split, view, seed

    def __len__(self) -> int:
        return self.count

    @property
    def targets(self) -> Tensor | None:
        """The labels (count,) of the single view, in which classes take turns; None in the others."""
        return torch.arange(self.count) % len(CLASSES) if self.view == "single" else None

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor | dict[str, Tensor]]:
        index = operator.index(index)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index}: this data set has scenes 0 to {self.count - 1}")
        unit = min(self.height, self.width)
        scene = compose(index, self.split, self.seed, (self.width / unit, self.height / unit))
        if self.view == "single":
            image, _ = paint(replace(scene, items=scene.items[:1]), self.height, self.width)
            return torch.from_numpy(image), scene.items[0].label
        image, masks = paint(scene, self.height, self.width)
        labels = torch.tensor([item.label for item in scene.items])  # (n,)
        if self.view == "multi":
            return torch.from_numpy(image), torch.zeros(len(CLASSES)).index_fill_(0, labels, 1)
        boxes = torch.tensor([_box(mask) for mask in masks], dtype=torch.float32)  # (n, 4)
        return torch.from_numpy(image), {"boxes": boxes, "labels": labels, "masks": torch.from_numpy(masks)}


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
