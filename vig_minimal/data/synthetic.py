"""Synthetic scenes (`--data shapes`): ten classes of shapes, drawn on the fly, with nothing to download.

A scene depends on (seed, split, index) alone: not on process, worker, order or resolution. A main shape of random
colour, size, rotation and place lies over a two-coloured texture with distracting strokes, with up to three smaller
companions in some views. `compose` draws all of that, `paint` turns it into pixels, `Shapes` is the data set.

The class is in the shape, not in colour or place: softmax regression on the raw pixels (10,000 training images, 2,000
for validation) reaches at best 23.5 % top-1, where chance is 10 %. `python -m vig_minimal scenes --linear` prints it.

Lengths are in units of the image's shorter side; x goes right, y goes down; colours are red, green, blue in [0, 1].
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import masks_to_boxes

from .data_recipe import refuse_first

SPLITS = ("train", "val")


def _sides(u: np.ndarray, v: np.ndarray, n: int) -> np.ndarray:
    """Return how far each point lies from a regular polygon's centre towards each of its n sides: (n, *u.shape)."""
    angles = 2 * np.pi * np.arange(n) / n
    x, y = np.cos(angles).astype(u.dtype), np.sin(angles).astype(u.dtype)
    return np.multiply.outer(x, u) + np.multiply.outer(y, v)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 0.95, np.minimum(a, b) - 0.3)


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    v = np.abs(v)
    head = np.maximum(0.05 - u, 0.644 * (u - 1) + 0.765 * v)  # (0.644, ±0.765): the normals of its slanting sides
    shaft = np.maximum(np.abs(u + 0.4) - 0.55, v - 0.25)
    return np.minimum(head, shaft)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v, half = np.abs(u), v + 0.2, 0.56
    square = (u + np.abs(v)) * math.sqrt(0.5) - half
    lobe = np.hypot(u - half * math.sqrt(0.5), v - half * math.sqrt(0.5)) - half
    return np.minimum(square, lobe)


# Class to a function of local coordinates (u, v), in which the shape just fits into the unit circle. It is negative
# inside, positive outside, and changes near the edge as the distance to it does.
SHAPES = {
    "disc": lambda u, v: np.hypot(u, v) - 1,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.74) - 0.26,  # between the circles of radius 0.48 and 1
    "square": lambda u, v: _sides(u, v, 4).max(0) - math.cos(math.pi / 4),
    "triangle": lambda u, v: _sides(u, v, 3).max(0) - math.cos(math.pi / 3),
    "cross": _cross,  # two bars at a right angle
    "star": lambda u, v: np.partition(_sides(u, v, 5), 3, axis=0)[3] - math.cos(2 * math.pi / 5),  # inside 4 of 5 lines
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 1, 0.8 - np.hypot(u - 0.5, v)),  # a disc without another one
    "hexagon": lambda u, v: _sides(u, v, 6).max(0) - math.cos(math.pi / 6),
    "arrow": _arrow,  # points right: a head and a shaft
    "heart": _heart,  # a square on its corner, with a disc on each of its two sides towards +v
}
CLASSES = tuple(SHAPES)


class Item(NamedTuple):
    """One shape: its class, its circumscribed circle, its rotation in radians and its colour (3,)."""

    label: int
    x: float
    y: float
    radius: float
    angle: float
    colour: np.ndarray


class Scene(NamedTuple):
    """Ground, strokes, and shapes; the first shape is the main one."""

    ground: np.ndarray  # two colours (2, 3)
    waves: list[tuple[float, float, float]]  # that mix them: frequency in x, frequency in y, phase
    hardness: float  # of the edges between the two colours
    strokes: list[tuple]  # distracting lines: x0, y0, x1, y1, half of their thickness, colour (3,)
    items: list[Item]


def compose(index: int, split: str, seed: int, extent: tuple[float, float]) -> Scene:
    """Draw the scene of that index, with a main shape of class index mod 10, in an image of width and height `extent`.
    Shapes are bright and the ground is dark, each of any hue: that tells no class apart, and a small network learns
    several times faster than from contrasts of random sign."""
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))
    ground = 0.45 * rng.random((2, 3))
    waves = []
    for _ in range(2):
        frequency, direction, phase = 1.5 + 3 * rng.random(), 2 * math.pi * rng.random(), 2 * math.pi * rng.random()
        waves.append((frequency * math.cos(direction), frequency * math.sin(direction), phase))
    hardness = 0.5 + 2 * rng.random()
    strokes = []
    for _ in range(2 + int(3 * rng.random())):
        x, y, angle = extent[0] * rng.random(), extent[1] * rng.random(), 2 * math.pi * rng.random()
        length, half = 0.15 + 0.25 * rng.random(), 0.008 + 0.012 * rng.random()
        end = x + length * math.cos(angle), y + length * math.sin(angle)
        strokes.append((x, y, *end, half, 0.7 * rng.random(3)))
    items = []
    _place(items, index % len(SHAPES), 0.19 + 0.15 * rng.random(), extent, rng)
    for _ in range(int(4 * rng.random())):
        _place(items, int(len(SHAPES) * rng.random()), 0.115 + 0.05 * rng.random(), extent, rng)
    return Scene(ground, waves, hardness, strokes, items)


def _place(items: list[Item], label: int, radius: float, extent: tuple[float, float], rng: np.random.Generator) -> None:
    """Add a shape to the items, inside the image and so that no circles touch, unless none of 24 drawn places is free.
    It always makes the same number of draws, so the rest of a scene does not depend on whether it fits."""
    places = radius + rng.random((24, 2)) * (np.array(extent) - 2 * radius)  # (24, 2)
    angle, colour = 2 * math.pi * rng.random(), 0.55 + 0.45 * rng.random(3)
    for x, y in places.tolist():
        if all(math.hypot(x - other.x, y - other.y) > radius + other.radius for other in items):
            items.append(Item(label, x, y, radius, angle, colour))
            break


def paint(scene: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint the image (3, height, width) uint8 and the mask of each shape (items, height, width) bool.
    A pixel takes a shape's colour by the share of it that the shape covers: ½ − d clipped to [0, 1], where d is the
    signed distance of the pixel's centre to the edge in pixels. A mask holds the pixels covered by half or more."""
    unit = min(height, width)
    x, y = ((np.arange(side, dtype=np.float32) + 0.5) / unit for side in (width, height))
    y = y[:, None]  # (height, 1), and x is (width,)
    # sin(2π(f_x x + f_y y) + φ) is the imaginary part of a product of one factor in x and one in y
    waves = [(np.exp(1j * (2 * math.pi * fy * y + phase)) * np.exp(1j * (2 * math.pi * fx * x))).imag
             for fx, fy, phase in scene.waves]  # (height, width) each
    mix = np.clip(0.5 + scene.hardness * sum(waves) / 2, 0, 1)  # (height, width)
    first, second = scene.ground.astype(np.float32)[:, :, None, None]
    image, masks = first + (second - first) * mix, []  # (3, height, width)
    for x0, y0, x1, y1, half, colour in scene.strokes:
        px, py, dx, dy = x - x0, y - y0, x1 - x0, y1 - y0
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        _blend(image, unit * (np.hypot(px - along * dx, py - along * dy) - half), colour)
    for label, x0, y0, radius, angle, colour in scene.items:
        px, py, cos, sin = (x - x0) / radius, (y - y0) / radius, math.cos(angle), math.sin(angle)
        distance = SHAPES[CLASSES[label]](cos * px + sin * py, cos * py - sin * px)
        # cut off by the circle: a sharp tip, where lines meet at a small angle, would smear beyond it
        distance = np.maximum(distance, np.hypot(px, py) - 1) * (unit * radius)
        _blend(image, distance, colour)
        masks.append(distance <= 0)
    return (255 * image + 0.5).astype(np.uint8), np.stack(masks)


def _blend(image: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Paint into image (3, H, W), in place. distance: (H, W), of each pixel to the painted edge, in pixels."""
    image += np.clip(0.5 - distance, 0, 1) * (colour.astype(np.float32)[:, None, None] - image)


def _objects(labels: Tensor, masks: Tensor) -> dict[str, Tensor]:
    boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # torchvision's end with the last pixel: (n, 4)
    return {"boxes": boxes, "labels": labels, "masks": masks}


# view to the target that it makes of the labels (n,) and masks (n, H, W) of a scene
VIEWS = {
    "single": lambda labels, masks: int(labels[0]),
    "multi": lambda labels, masks: torch.zeros(len(CLASSES)).index_fill_(0, labels, 1),
    "boxes": _objects,
}


class Shapes(Dataset):
    """`count` scenes of a split in one of three views; the image is a uint8 tensor (3, H, W).

    view="single": image, label (int)
    view="multi":  image, (10,) float, 1 for every class in the image
    view="boxes":  image, dict of `boxes` (n, 4) float: left, top, right, bottom in pixels, the last two one past the
                   end; `labels` (n,) int64; `masks` (n, H, W) bool. The main shape is the first.

    size: one number for a square, or (height, width), 16 pixels at least. seed: another seed, other scenes.
    Raises ValueError for fields out of range, IndexError for an index outside 0 … count − 1.
    """

    classes = CLASSES

    def __init__(self, size: int | tuple[int, int] = 64, count: int = 10_000, split: str = "train",
                 view: str = "single", seed: int = 0):
        self.height, self.width = height, width = (size, size) if isinstance(size, int) else size
        self.count, self.split, self.view, self.seed = count, split, view, seed
        refuse_first([
            (min(height, width) < 16, f"size={height}×{width}: shapes need sides of at least 16 pixels"),
            (count < 1, f"count={count}: a data set has at least one scene"),
            (split not in SPLITS, f"split={split!r}: choose one of {', '.join(SPLITS)}"),
            (view not in VIEWS, f"view={view!r}: choose one of {', '.join(VIEWS)}"),
            (seed < 0, f"seed={seed}: a seed is 0 or more"),
        ])
        self.targets = torch.arange(count) % len(CLASSES) if view == "single" else None  # all labels: they take turns

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor | dict[str, Tensor]]:
        if not 0 <= index < self.count:
            raise IndexError(f"index {index}: this data set has scenes 0 to {self.count - 1}")
        unit = min(self.height, self.width)
        scene = compose(index, self.split, self.seed, (self.width / unit, self.height / unit))
        if self.view == "single":
            scene = scene._replace(items=scene.items[:1])
        image, masks = (torch.from_numpy(array) for array in paint(scene, self.height, self.width))
        labels = torch.tensor([item.label for item in scene.items])  # (n,)
        return image, VIEWS[self.view](labels, masks)
