"""The embedded data set: pictures of ten shapes, drawn on the fly, nothing to download.

A scene is decided by (seed, split, index) and by nothing else: no process, worker or order of access changes it, and at another
resolution it is the same picture (the geometry is a set of distance functions, so an edge is smooth at any size). One main
shape of random colour, size, rotation and place lies over a texture of two colours with distracting strokes. Three views of it:

    single    the main shape alone                      image, label
    multi     up to three smaller companions beside it  image, multi-hot labels
    boxes     the picture of `multi`                    image, boxes + labels + instance masks

It asks for shape, not for colour or place: softmax regression on the raw pixels (10,000 training images, tested on 2,000) reaches
at best LINEAR_FIGURE % top-1, where chance is 10 %, printed by

    python -m vig_minimal.shapes --linear

Lengths are in units of the image's shorter side; x goes right, y goes down.
"""

import argparse
import operator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from .drawing import outline, picture, sheet

SPLITS = ("train", "val")
VIEWS = ("single", "multi", "boxes")


# ---- ten shapes ------------------------------------------------------------------------------------------------------------
# Each maps local coordinates (u, v), in which the shape just fits into the unit circle, to a function d that is negative inside,
# positive outside, and grows like the distance near the edge.


def sides(u, v, n):
    """The n directions of a regular polygon, each's coordinate of every point: (n, ...)."""
    angles = 2 * np.pi * np.arange(n, dtype=np.float32) / n
    return np.multiply.outer(np.cos(angles), u) + np.multiply.outer(np.sin(angles), v)


def disc(u, v):
    return np.hypot(u, v) - 1


def ring(u, v):
    return np.abs(np.hypot(u, v) - 0.74) - 0.26


def square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - np.sqrt(0.5)


def triangle(u, v):
    return sides(u, v, 3).max(0) - 0.5


def cross(u, v):
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 0.95, np.minimum(a, b) - 0.3)


def star(u, v):
    # a point of the pentagram is on the inner side of at least four of its five lines
    return np.partition(sides(u, v, 5), 3, axis=0)[3] - np.cos(0.4 * np.pi)


def crescent(u, v):
    return np.maximum(np.hypot(u, v) - 1, 0.8 - np.hypot(u - 0.5, v))


def hexagon(u, v):
    return sides(u, v, 6).max(0) - np.sqrt(0.75)


def arrow(u, v):
    v = np.abs(v)
    head = np.maximum(0.05 - u, 0.644 * (u - 1) + 0.765 * v)
    shaft = np.maximum(np.abs(u + 0.4) - 0.55, v - 0.25)
    return np.minimum(head, shaft)


def heart(u, v):
    # a square on its corner, and a disc on each of its two upper sides
    u, v, side = np.abs(u), v + 0.2, 0.56
    corner = (u + np.abs(v)) * np.sqrt(0.5) - side
    lobe = np.hypot(u - side * np.sqrt(0.5), v - side * np.sqrt(0.5)) - side
    return np.minimum(corner, lobe)


SHAPES = (disc, ring, square, triangle, cross, star, crescent, hexagon, arrow, heart)
CLASSES = tuple(shape.__name__ for shape in SHAPES)


# ---- what is in a scene ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One shape in its place: its circumscribed circle, its rotation in radians and its colour (3,) in [0, 1]."""

    label: int
    x: float
    y: float
    radius: float
    angle: float
    colour: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Background colours (2, 3), the two waves that mix them (2, 3), strokes, and shapes of which the first is the main one.

    A wave is x and y frequency in cycles a unit, and phase; a stroke is x, y of both ends, half its thickness, and a colour.
    """

    ground: np.ndarray
    waves: np.ndarray
    hardness: float
    strokes: list[tuple[float, float, float, float, float, np.ndarray]]
    items: list[Item]


def compose(index: int, split: str, seed: int, extent: tuple[float, float]) -> Scene:
    """The scene of that index; `extent` is the picture's width and height in units of its shorter side.

    The main shape's class is index mod 10: the classes take turns, so that they are balanced in every run of indices.
    """
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))
    extent = np.asarray(extent)

    ground = rng.random((2, 3))
    ground[1] = ground.mean(0)  # two colours that are nearer to each other than a shape is to either
    frequency, direction, phase = 1.5 + 3 * rng.random(2), 2 * np.pi * rng.random(2), 2 * np.pi * rng.random(2)
    waves = np.stack([frequency * np.cos(direction), frequency * np.sin(direction), phase], 1)
    hardness = 0.5 + 2 * rng.random()

    strokes = []
    for _ in range(2 + int(3 * rng.random())):
        start, angle = rng.random(2) * extent, 2 * np.pi * rng.random()
        end = start + (0.15 + 0.25 * rng.random()) * np.array([np.cos(angle), np.sin(angle)])
        strokes.append((*start, *end, 0.008 + 0.012 * rng.random(), rng.random(3)))

    items = [_item(index % len(CLASSES), 0.19 + 0.15 * rng.random(), extent, ground, [], rng)]
    for _ in range(int(4 * rng.random())):
        label, radius = int(len(CLASSES) * rng.random()), 0.115 + 0.05 * rng.random()
        items.append(_item(label, radius, extent, ground, items, rng))
    return Scene(ground, waves, hardness, strokes, [item for item in items if item is not None])


def _item(label, radius, extent, ground, others, rng) -> Item | None:
    """A shape inside the picture that touches none of the others; None where 24 trials find no place for it."""
    places = radius + rng.random((24, 2)) * (extent - 2 * radius)  # (24, 2)
    angle, colours = 2 * np.pi * rng.random(), rng.random((6, 3))
    # of six colours, the one that stands out best from both of the ground's
    contrast = np.linalg.norm(colours[:, None] - ground, axis=-1).min(1)  # (6,)
    free = np.ones(len(places), bool)
    for other in filter(None, others):
        free &= np.hypot(places[:, 0] - other.x, places[:, 1] - other.y) > radius + other.radius
    if not free.any():
        return None
    return Item(label, *places[free.argmax()], radius, angle, colours[contrast.argmax()])


# ---- painting --------------------------------------------------------------------------------------------------------------


def paint(scene: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture (3, height, width) uint8 of a scene, and the mask of each of its items (items, height, width) bool.

    A pixel takes a shape's colour by the share of it that the shape covers: ½ − d clipped to [0, 1], d the distance of the
    pixel's centre to the edge in pixels. A mask holds the pixels that are covered by half or more.
    """
    unit = min(height, width)
    x = (np.arange(width, dtype=np.float32) + 0.5) / unit
    y = (np.arange(height, dtype=np.float32) + 0.5) / unit

    # sin(2π(f_x x + f_y y) + φ) is the imaginary part of a product of one factor in x and one in y
    mix = sum((_turn(fy * y + phase / (2 * np.pi))[:, None] * _turn(fx * x)).imag for fx, fy, phase in scene.waves)
    mix = np.clip(0.5 + scene.hardness * mix / 2, 0, 1)  # (height, width)
    first, second = scene.ground.astype(np.float32)[:, :, None, None]
    image = first + (second - first) * mix  # (3, height, width)

    for x0, y0, x1, y1, thickness, colour in scene.strokes:
        rows = _span(min(y0, y1) - thickness, max(y0, y1) + thickness, unit, height)
        cols = _span(min(x0, x1) - thickness, max(x0, x1) + thickness, unit, width)
        px, py, dx, dy = x[cols] - x0, y[rows, None] - y0, x1 - x0, y1 - y0
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        _blend(image[:, rows, cols], (np.hypot(px - along * dx, py - along * dy) - thickness) * unit, colour)

    masks = np.zeros((len(scene.items), height, width), bool)
    for item, mask in zip(scene.items, masks):
        rows = _span(item.y - item.radius, item.y + item.radius, unit, height)
        cols = _span(item.x - item.radius, item.x + item.radius, unit, width)
        cos, sin = np.float32(np.cos(item.angle) / item.radius), np.float32(np.sin(item.angle) / item.radius)
        px, py = x[cols] - np.float32(item.x), y[rows, None] - np.float32(item.y)
        distance = SHAPES[item.label](cos * px + sin * py, cos * py - sin * px) * (item.radius * unit)
        _blend(image[:, rows, cols], distance, item.colour)
        mask[rows, cols] = distance <= 0
    return (255 * image + 0.5).astype(np.uint8), masks


def _turn(cycles):
    """e^{2πi · cycles}"""
    return np.exp(np.complex64(2j * np.pi) * cycles.astype(np.float32))


def _span(low: float, high: float, unit: int, length: int) -> slice:
    """The pixels that the interval [low, high] may touch, with one more on either side, inside the picture."""
    return slice(max(int(low * unit) - 1, 0), min(max(int(high * unit) + 2, 0), length))


def _blend(patch: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Paint colour (3,) into patch (3, h, w), in place; distance (h, w) to the shape's edge, in pixels."""
    cover = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    patch += cover * (colour.astype(np.float32)[:, None, None] - patch)


# ---- the data set ----------------------------------------------------------------------------------------------------------


class Shapes(Dataset):
    """`count` scenes of a split in one of three views; the image is a uint8 tensor (3, H, W).

    view="single": image, label (int)
    view="multi":  image, (10,) float, 1 for every class in the picture
    view="boxes":  image, dict of `boxes` (n, 4) float, left, top, right, bottom in pixels, right and bottom one past the last;
                   `labels` (n,) int64; `masks` (n, H, W) bool. The main shape is the first.

    size: one number for a square, or (height, width), 16 pixels at least. seed: another seed, other scenes.
    Raises ValueError for what cannot be drawn, IndexError for an index outside 0 … count − 1.
    """

    classes = CLASSES

    def __init__(self, size: int | tuple[int, int] = 64, count: int = 10_000, split: str = "train", view: str = "single",
                 seed: int = 0):
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


# ---- the command -----------------------------------------------------------------------------------------------------------


def linear_baseline(size: int = 64, train: int = 10_000, val: int = 2_000, epochs: int = 20) -> float:
    """The best top-1, in percent, that softmax regression on raw pixels reaches on the validation scenes in any epoch."""
    torch.manual_seed(0)
    sets = [Shapes(size, train, "train"), Shapes(size, val, "val")]
    (x, y), (x_val, y_val) = [_pixels(scenes) for scenes in sets]
    model = torch.nn.Linear(x.shape[1], len(CLASSES))
    torch.nn.init.zeros_(model.weight)
    optimiser, best = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1), 0.0
    for _ in range(epochs):
        for batch in torch.randperm(train).split(256):
            optimiser.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            best = max(best, 100 * float((model(x_val).argmax(1) == y_val).float().mean()))
    return best


def _pixels(scenes: Shapes) -> tuple[Tensor, Tensor]:
    """All images as rows of numbers around 0, and their labels."""
    images, labels = zip(*scenes)
    return torch.stack(images).flatten(1).float() / 127.5 - 1, torch.tensor(labels)


def contact_sheet(view: str, size: int, seed: int) -> Image.Image:
    """Forty training scenes, ten a row: in the single view every column is a class."""
    panels, captions = [], []
    for image, target in Shapes(size, 40, "train", view, seed):
        panel = picture(image, 96)
        if view == "single":
            names = [CLASSES[target]]
        elif view == "multi":
            names = [CLASSES[label] for label in target.nonzero()[:, 0]]
        else:
            names = [CLASSES[label] for label in target["labels"]]
            for left, top, right, bottom in (target["boxes"] * (panel.width / image.shape[2])).tolist():
                outline(panel, (left, top, right - 1, bottom - 1), "red", 1)
        panels.append(panel)
        captions.append("\n".join(names))
    return sheet(panels, captions, columns=10)


def main(argv: list[str] | None = None) -> None:
    """The command; see `python -m vig_minimal.shapes --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m vig_minimal.shapes", description="Look at the embedded data set, or measure how little a linear"
        " classifier makes of it.", epilog="example: python -m vig_minimal.shapes --out sheet.png --view boxes --size 128")
    parser.add_argument("--out", metavar="FILE", help="draw a contact sheet with class names into this picture")
    parser.add_argument("--view", choices=VIEWS, default="single", help="which view of the scenes the sheet shows")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes (default 0)")
    parser.add_argument("--linear", action="store_true", help="train softmax regression on raw pixels and print its top-1")
    args = parser.parse_args(argv)
    if not args.out and not args.linear:
        parser.error("nothing to do: give --out FILE, --linear or both")
    try:
        if args.out:
            contact_sheet(args.view, args.size, args.seed).save(args.out)
            print(f"wrote {args.out}")
        if args.linear:
            print(f"softmax regression on raw pixels: {linear_baseline(args.size):.1f} % top-1 (chance: 10 %)")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
