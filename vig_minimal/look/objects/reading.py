"""Do objects read from themselves? For `explore` with a detector.

`explore_objects` takes, for each object found, the patch under its centre, and counts in the graph of every layer how
many of that patch's sources lie inside the object. Beside it stands what a random choice of sources would give: the
share of all sources that lie inside.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ...graphs.graph import Graph
from ...models.detection import Detector, padded
from ..explore_layers import Grid, Layer, layers_of
from ..panels import draw_sources, patch_box, picture, sheet, square
from ..patch_sources import TARGET, frame, scale_of, source_entry
from .found import Found, draw_found

PANEL = 200  # about the shorter side of a panel in pixels
MOST_OBJECTS = 6  # rows of a page
BOX = "#56b4e9"  # colour of an object's box


class Reading(NamedTuple):
    """What the patch under an object's centre reads from in one layer: how many sources it has, how many of them lie
    inside the object, and the share of all sources of the layer that do."""

    sources: int
    inside: int
    by_chance: float


def seen(model: Detector, image: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Return the image as the backbone sees it, resized and padded: uint8 (3, H′, W′), and by how much it was scaled in
    height and width."""
    resized = model.resize([image.float() / 255])[0]
    height, width = resized.image_sizes[0]
    pixels = (255 * resized.tensors[0]).round().clamp(0, 255).byte()
    whole = padded((height, width), model.body.config.patch)
    pixels = F.pad(pixels, (0, whole[1] - pixels.shape[2], 0, whole[0] - pixels.shape[1]))  # cuts where it is negative
    return pixels, (height / image.shape[1], width / image.shape[2])


def detector_layers(model: Detector, pixels: Tensor, graphs: Sequence[Graph]) -> list[Layer]:
    """Return the layers of the backbone for an image as it sees it, (3, H′, W′)."""
    return layers_of(replace(model.body.config, img_size=tuple(pixels.shape[1:])), graphs)


def inside(mask: Tensor, grid: Grid, side: float, scale: tuple[float, float]) -> Tensor:
    """Return which squares of a grid have their middle in the mask: (rows, columns) bool. mask: (H, W) of the image
    before it was scaled. side: of a square, in pixels of the scaled image."""
    places = [((torch.arange(count) + 0.5) * side / factor).long() for count, factor in zip(grid, scale)]
    within = [place < length for place, length in zip(places, mask.shape)]
    rows, columns = (place.clamp(max=length - 1) for place, length in zip(places, mask.shape))
    return mask[rows][:, columns] & within[0][:, None] & within[1]


def centre_patch(one: Found, grid: Grid, side: float, scale: tuple[float, float]) -> Grid:
    """Return row and column of the patch under the centre of the object's box or, where that is not in the mask, as in
    a ring, of the object's patch next to it."""
    left, top, right, bottom = one.box
    centre = [(first + last) / 2 * factor / side for first, last, factor in ((top, bottom, scale[0]),
                                                                             (left, right, scale[1]))]
    patch = tuple(min(int(place), count - 1) for place, count in zip(centre, grid))
    own = inside(one.mask, grid, side, scale)
    if own[patch] or not own.any():
        return patch
    places = own.nonzero()
    return tuple(places[(places + 0.5 - torch.tensor(centre)).square().sum(1).argmin()].tolist())


def read_from(layer: Layer, node: Grid, mask: Tensor, side: float, scale: tuple[float, float]) -> Reading:
    """Return what `node` of the first stage, of patches of that side, reads from in a layer."""
    own = inside(mask, layer.source_grid, side * layer.scale * layer.pool, scale).flatten()  # (M,)
    sources = layer.row(node) != 0
    return Reading(int(sources.sum()), int((sources & own).sum()), float(own.float().mean()))


def explore_objects(image: Tensor, found: Sequence[Found], layers: Sequence[Layer], pixels: Tensor,
                    scale: tuple[float, float], classes: Sequence[str], title: str = "") -> tuple[Image.Image, str]:
    """Draw a row for each object, the highest scores first: the image with all of them, and a panel for each layer, the
    object outlined by its box. Return the page, and a table of all objects and layers in words.

    image: uint8 (3, H, W). pixels, scale: as `seen` returns them. layers: as of `detector_layers`.
    """
    whole = layers[0].grid
    side, plain = pixels.shape[1] / whole[0], picture(pixels, PANEL)
    factor = plain.width / pixels.shape[2]
    if min(plain.size) > 2 * PANEL:  # a photo
        factor *= PANEL / min(plain.size)
        plain = plain.resize([round(factor * length) for length in pixels.shape[:0:-1]])
    nodes = [centre_patch(one, whole, side, scale) for one in found]
    heaviest = scale_of([layer.row(node) for node in nodes[:MOST_OBJECTS] for layer in layers])
    panels, captions, rows = [], [], []
    for number, one in enumerate(found):
        node = nodes[number]
        readings = [read_from(layer, node, one.mask, side, scale) for layer in layers]
        rows.append((f"{one.name} {one.score:.2f}", node, readings))
        if number >= MOST_OBJECTS:
            continue
        panels.append(draw_found(image, [one], classes, factor * scale[1]))
        captions.append(f"{one.name} {one.score:.2f}\npatch {node[0]},{node[1]} of {whole[0]} by {whole[1]}")
        box = [round(factor * side * scale[1 - i % 2]) for i, side in enumerate(one.box)]
        for layer, (count, own, by_chance) in zip(layers, readings):
            panel = draw_sources(plain, layer.spread(layer.row(node), whole), heaviest)
            ImageDraw.Draw(panel).rectangle(box, outline=BOX, width=2)
            frame(panel, patch_box(plain, whole, *layer.patch_at(node), layer.scale))
            panels.append(panel)
            captions.append(f"{layer.name}: {own} of {count} sources\ninside; {100 * by_chance:.0f} % of all are")
    entries = [TARGET, source_entry(heaviest), (square("white", BOX, 2), "the object's box")]
    return sheet(panels, captions, 1 + len(layers), title, entries), in_words(rows, layers)


def in_words(rows: Sequence[tuple[str, Grid, list[Reading]]], layers: Sequence[Layer]) -> str:
    """Return lines of text: for each object its sources inside it and in all, by layer; then the shares of all objects
    together, and by chance."""
    names = [layer.name.removeprefix("layer ") for layer in layers]
    width = max(6, *(len(name) for name, _, _ in rows))
    lines = ["sources inside the object / sources of the patch under its centre, by layer",
             f"{'object':<{width}}  {'patch':>7}" + "".join(f"{name:>7}" for name in names)]
    for name, node, readings in rows:
        cells = "".join(f"{f'{own}/{count}':>7}" for count, own, _ in readings)
        lines.append(f"{name:<{width}}  {f'{node[0]},{node[1]}':>7}{cells}")
    for text, share in (("inside", lambda some: sum(r.inside for r in some) / max(1, sum(r.sources for r in some))),
                        ("chance", lambda some: sum(r.by_chance for r in some) / len(some))):
        cells = "".join(f"{100 * share(some):5.0f} %" for some in zip(*(readings for _, _, readings in rows)))
        lines.append(f"{text:<{width}}  {'':>7}{cells}")
    return "\n".join(lines)
