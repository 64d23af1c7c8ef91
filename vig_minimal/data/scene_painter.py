"""What is in a scene of the embedded data set, and how it is painted.

`compose` draws lots: where everything lies and which colour it has. `paint` turns that into pixels at any resolution:
the shapes are distance functions, so that an edge is smooth at any size.

Lengths are in units of the picture's shorter side; x goes right, y goes down; colours are red, green, blue in [0, 1].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val")

# ---- ten shapes ---------------------------------------------------------------------------------------------------
# Each maps local coordinates (u, v), in which the shape just fits into the unit circle, to a function that is negative
# inside, positive outside, and changes near the edge as the distance to it does.


def sides(u: np.ndarray, v: np.ndarray, n: int) -> np.ndarray:
    """How far each point lies in the n directions from a regular polygon's centre to its sides: (n, *u.shape)."""
    angles = 2 * np.pi * np.arange(n) / n
    x, y = np.cos(angles).astype(u.dtype), np.sin(angles).astype(u.dtype)
    return np.multiply.outer(x, u) + np.multiply.outer(y, v)


def disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The unit circle."""
    return np.hypot(u, v) - 1


def ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Between the circles of radius 0.48 and 1."""
    return np.abs(np.hypot(u, v) - 0.74) - 0.26


def square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Inside of all four sides."""
    return sides(u, v, 4).max(0) - math.cos(math.pi / 4)


def triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Inside of all three sides."""
    return sides(u, v, 3).max(0) - math.cos(math.pi / 3)


def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two bars at a right angle."""
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 0.95, np.minimum(a, b) - 0.3)


def star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Inside of at least four of the five lines that make a pentagram."""
    return np.partition(sides(u, v, 5), 3, axis=0)[3] - math.cos(2 * math.pi / 5)


def crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The unit circle without a circle of radius 0.8 to its right."""
    return np.maximum(np.hypot(u, v) - 1, 0.8 - np.hypot(u - 0.5, v))


def hexagon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Inside of all six sides."""
    return sides(u, v, 6).max(0) - math.cos(math.pi / 6)


def arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """To the right: a head, whose slanting sides have the normals (0.644, ±0.765), and a shaft."""
    v = np.abs(v)
    head = np.maximum(0.05 - u, 0.644 * (u - 1) + 0.765 * v)
    shaft = np.maximum(np.abs(u + 0.4) - 0.55, v - 0.25)
    return np.minimum(head, shaft)


def heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square on its corner, with a disc on each of its two sides towards +v."""
    u, v, half = np.abs(u), v + 0.2, 0.56
    square = (u + np.abs(v)) * math.sqrt(0.5) - half
    lobe = np.hypot(u - half * math.sqrt(0.5), v - half * math.sqrt(0.5)) - half
    return np.minimum(square, lobe)


SHAPES: tuple[Callable, ...] = (disc, ring, square, triangle, cross, star, crescent, hexagon, arrow, heart)

# ---- what is in a scene -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One shape in its place: its circumscribed circle, its rotation in radians, and its colour (3,)."""

    label: int
    x: float
    y: float
    radius: float
    angle: float
    colour: np.ndarray


@dataclass(frozen=True)
class Stroke:
    """One distracting line from (x0, y0) to (x1, y1), 2·`half` thick, with its colour (3,)."""

    x0: float
    y0: float
    x1: float
    y1: float
    half: float
    colour: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Ground, strokes, and shapes of which the first is the main one.

    ground: two colours (2, 3). waves: what mixes them, (frequency in x, frequency in y, phase) each.
    hardness: how sharply one colour of the ground gives way to the other.
    """

    ground: np.ndarray
    waves: list[tuple[float, float, float]]
    hardness: float
    strokes: list[Stroke]
    items: list[Item]


def compose(index: int, split: str, seed: int, extent: tuple[float, float]) -> Scene:
    """The scene of that index in a picture of width and height `extent`: a main shape, up to three smaller companions.

    The main shape is of class index mod 10: classes take turns, so that any run of indices is balanced. Shapes are
    bright and the ground is dark, each of any hue. No class can be told by that, and a small network learns several
    times faster than from contrasts of random sign.
    """
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))

    ground = 0.45 * rng.random((2, 3))
    waves = []
    for _ in range(2):
        frequency, direction, phase = 1.5 + 3 * rng.random(), 2 * math.pi * rng.random(), 2 * math.pi * rng.random()
        waves.append((frequency * math.cos(direction), frequency * math.sin(direction), phase))
    hardness = 0.5 + 2 * rng.random()
    strokes = [_stroke(extent, rng) for _ in range(2 + int(3 * rng.random()))]

    items = [_item(index % len(SHAPES), 0.19 + 0.15 * rng.random(), extent, [], rng)]
    for _ in range(int(4 * rng.random())):
        label, radius = int(len(SHAPES) * rng.random()), 0.115 + 0.05 * rng.random()
        companion = _item(label, radius, extent, items, rng)
        items += [companion] if companion else []
    return Scene(ground, waves, hardness, strokes, items)


def _stroke(extent: tuple[float, float], rng: np.random.Generator) -> Stroke:
    x, y, angle = extent[0] * rng.random(), extent[1] * rng.random(), 2 * math.pi * rng.random()
    length, half = 0.15 + 0.25 * rng.random(), 0.008 + 0.012 * rng.random()
    return Stroke(x, y, x + length * math.cos(angle), y + length * math.sin(angle), half, 0.7 * rng.random(3))


def _item(label: int, radius: float, extent: tuple[float, float], others: list[Item],
          rng: np.random.Generator) -> Item | None:
    """A shape inside the picture whose circle touches none of the others'; None where 24 trials find no place for it.

    It always draws the same number of lots, so that what follows in a scene does not depend on what found a place.
    """
    x, y = radius + rng.random((24, 2)).T * (np.array(extent)[:, None] - 2 * radius)  # (24,), (24,)
    angle, colour = 2 * math.pi * rng.random(), 0.55 + 0.45 * rng.random(3)
    free = np.ones(len(x), bool)
    for other in others:
        free &= np.hypot(x - other.x, y - other.y) > radius + other.radius
    if not free.any():
        return None
    place = free.argmax()
    return Item(label, float(x[place]), float(y[place]), radius, angle, colour)


# ---- painting -----------------------------------------------------------------------------------------------------


def paint(scene: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture (3, height, width) uint8, and the mask of each of its items (items, height, width) bool.

    A pixel takes a shape's colour by the share of it that the shape covers: ½ − d clipped to [0, 1], d being the
    distance of the pixel's centre to the edge, in pixels. A mask holds the pixels that are covered by half or more.
    """
    unit = min(height, width)
    x = (np.arange(width, dtype=np.float32) + 0.5) / unit
    y = (np.arange(height, dtype=np.float32) + 0.5) / unit

    # sin(2π(f_x x + f_y y) + φ) is the imaginary part of a product of one factor in x and one in y
    waves = [(_turn(2 * math.pi * fy * y + phase)[:, None] * _turn(2 * math.pi * fx * x)).imag
             for fx, fy, phase in scene.waves]  # (height, width) each
    mix = np.clip(0.5 + scene.hardness * sum(waves) / 2, 0, 1)  # (height, width)
    first, second = scene.ground.astype(np.float32)[:, :, None, None]
    image = first + (second - first) * mix  # (3, height, width)

    for s in scene.strokes:
        rows, columns = _span(s.y0, s.y1, s.half, unit, height), _span(s.x0, s.x1, s.half, unit, width)
        px, py, dx, dy = x[columns] - s.x0, y[rows, None] - s.y0, s.x1 - s.x0, s.y1 - s.y0
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        _blend(image[:, rows, columns], unit * (np.hypot(px - along * dx, py - along * dy) - s.half), s.colour)

    masks = np.zeros((len(scene.items), height, width), bool)
    for item, mask in zip(scene.items, masks, strict=True):
        rows = _span(item.y, item.y, item.radius, unit, height)
        columns = _span(item.x, item.x, item.radius, unit, width)
        px, py = (x[columns] - item.x) / item.radius, (y[rows, None] - item.y) / item.radius
        cos, sin = math.cos(item.angle), math.sin(item.angle)
        # the circle keeps sharp tips, where lines meet at a small angle, from smearing beyond their end
        distance = np.maximum(SHAPES[item.label](cos * px + sin * py, cos * py - sin * px), disc(px, py))
        distance *= unit * item.radius
        _blend(image[:, rows, columns], distance, item.colour)
        mask[rows, columns] = distance <= 0
    return (255 * image + 0.5).astype(np.uint8), masks


def _turn(angle: np.ndarray) -> np.ndarray:
    """e^{i·angle}"""
    return np.exp(1j * angle)


def _span(first: float, last: float, margin: float, unit: int, length: int) -> slice:
    """The pixels between two coordinates, with that margin and one pixel more on either side, inside the picture."""
    low, high = min(first, last) - margin, max(first, last) + margin
    return slice(max(int(low * unit) - 1, 0), min(max(int(high * unit) + 2, 0), length))


def _blend(patch: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Paint into patch (3, h, w), in place; distance (h, w) to the edge of what is painted, in pixels."""
    patch += np.clip(0.5 - distance, 0, 1) * (colour.astype(np.float32)[:, None, None] - patch)
