"""The picture of a patch and its sources: for each layer a panel, or one for each group (GKGNet's Figures 5 and 6)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from .explore_layers import Grid, Layer
from .panels import PALETTE, Box, colours, draw_sources, patch_box, picture, sheet, tint

PANEL = 256  # about the height and width of a panel, in pixels
SIDE = 256  # about the shorter side of a panel in pixels, more where patches would be too small to see
PATCH, LARGEST = 8, 512  # a patch gets at least this many pixels, unless the panel would get larger than that
GROUPS = tuple(PALETTE[i] for i in (0, 4, 6, 5, 3))  # colours that differ from grey and from the red of the lines
OPACITY, PALE = 0.65, 0.3  # share of a group's colour in its patches, and of white in the grey image below
FRAME = 5  # width in pixels, two of which are white
STRIPE = 4  # width in pixels of the stripes of a patch that several groups have



def explore(image: Tensor, layers: list[Layer], whole: tuple[int, int], node: tuple[int, int],
            title: str = "") -> Image.Image:
    """Draw the image, and for each layer a panel of what the patch `node` (row, column) of the first stage reads from,
    or in later stages the patch that covers it. whole: the grid of the first stage."""
    plain = picture(image, PANEL)
    panels, captions = [plain.copy()], ["the image"]
    frame(panels[0], patch_box(plain, whole, *node))
    for layer in layers:
        weights = layer.row(node)  # (M,)
        panels.append(draw_sources(plain, layer.spread(weights, whole)))
        frame(panels[-1], patch_box(plain, whole, *layer.patch_at(node), layer.scale))
        captions.append(f"{layer.name}: {int((weights != 0).sum())} neighbours\n"
                        f"mean of all nodes: {layer.graph.statistics()['mean_degree']:.1f}"
                        + ("" if layer.grid == layer.source_grid == whole else f"\n{layer.sizes}"))
    return sheet(panels, captions, columns=4, title=title)


def frame(panel: Image.Image, box: Box) -> None:
    """Draw the target's red frame with a white edge: just inside its box, or around it where the box is small."""
    if min(box[2] - box[0], box[3] - box[1]) < 4 * FRAME:
        box = box[0] - FRAME, box[1] - FRAME, box[2] + FRAME, box[3] + FRAME
    ImageDraw.Draw(panel).rectangle(box, outline="white", width=FRAME)
    ImageDraw.Draw(panel).rectangle(box, outline="red", width=FRAME - 2)


def tint_groups(panel: Image.Image, read: Tensor, palette: Sequence[str]) -> Image.Image:
    """A copy in which the patches `read` by a group, (G, rows, columns) bool, have its colour in the palette; those of
    several groups have stripes of each."""
    rows, columns = np.arange(panel.height) * read.shape[1] // panel.height, np.arange(panel.width)
    at = read.numpy()[:, rows[:, None], columns * read.shape[2] // panel.width]  # (G, height, width)
    turn = (np.arange(panel.height)[:, None] + columns) // STRIPE % np.maximum(at.sum(0), 1)  # (height, width)
    for group, colour in enumerate(palette):
        panel = tint(panel, OPACITY * (at[group] & (at[:group].sum(0) == turn)), colour)
    return panel


def connect(panel: Image.Image, start: Box, ends: Sequence[Box]) -> None:
    """Draw red lines with a white edge between the centres of boxes."""
    draw, (start, *ends) = ImageDraw.Draw(panel), [((left + right + 1) // 2, (top + bottom + 1) // 2)
                                                   for left, top, right, bottom in (start, *ends)]
    for colour, width in (("white", 3), ("red", 1)):
        for end in ends:
            draw.line((start, end), colour, width)
    for x, y in ends:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), "red", "white")


def draw_groups(plain: Image.Image, layer: Layer, reads: Tensor, whole: Grid, what: str,
                node: Grid | None = None) -> tuple[list[Image.Image], list[str]]:
    """Draw a panel for each group and, if there are several, one of all groups. Returns panels and captions.

    plain: the image. reads: (G, M) bool, the sources of one target in each group. what: the captions' word for them,
    "sources" or "patches". node: the target in the first stage, which gets a frame, and lines to its sources.
    """
    grey = tint(plain.convert("L").convert("RGB"), np.full((1, 1), PALE), "white")  # so that all colours are groups'
    groups, panels, captions = len(reads), [], []
    palette = GROUPS[:groups] if groups <= len(GROUPS) else colours(groups)
    for chosen in [[group] for group in range(groups)] + [list(range(groups))] * (groups > 1):
        read = reads[chosen]  # (1 or G, M)
        panel = tint_groups(grey, layer.spread(read, whole), [palette[group] for group in chosen])
        if node is not None:
            target = patch_box(panel, whole, *layer.patch_at(node), layer.scale)
            sources = [divmod(source, layer.source_grid[1]) for source in read.any(0).nonzero()[:, 0].tolist()]
            connect(panel, target, [patch_box(panel, whole, *source, layer.scale * layer.pool) for source in sources])
            frame(panel, target)
        panels.append(panel)
        number, shared = int(read.any(0).sum()), int((read.sum(0) > 1).sum())
        captions.append(f"group {chosen[0]}: {number} {what}" if len(chosen) == 1 else
                        f"all groups: {number} different {what}\n{shared} of them in several groups")
    return panels, captions


def explore_groups(image: Tensor, layers: Sequence[Layer], whole: Grid, target: Grid | int,
                   title: str = "") -> Image.Image:
    """Draw a row of panels for each layer: the image, what a target reads in each group, and in all groups.

    target: row and column of a patch of the first stage (Figure 6), or the number of a label (Figure 5).
    """
    side = max(SIDE, min(LARGEST, PATCH * min(whole)))
    panels, captions = [], []
    for layer in layers:
        plain, size = picture(image, side), f"{layer.grid[0]} by {layer.grid[1]}"
        if isinstance(target, int):
            drawn, texts = draw_groups(plain, layer, layer.graph.adj()[0, :, target], whole, "patches")
            caption = f"{layer.name}\n{size} patches"
        else:
            drawn, texts = draw_groups(plain, layer, layer.row(target), whole, "sources", target)
            row, column = layer.patch_at(target)
            frame(plain, patch_box(plain, whole, row, column, layer.scale))
            caption = f"{layer.name}: patch {row},{column} of {size}"
            caption += f"\na source is {layer.pool} by {layer.pool} patches" if layer.pool > 1 else ""
        panels += [plain, *drawn]
        captions += [caption, *texts]
    return sheet(panels, captions, columns=len(panels) // len(layers), title=title)
