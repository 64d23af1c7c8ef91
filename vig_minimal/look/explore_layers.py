"""Where the nodes of a layer lie on the image, and what each group of channels reads (GKGNet's Figures 5 and 6).

Everything is drawn on the patches of the first stage. In stage s of a pyramid, counted from 0, a patch covers 2^s × 2^s
of them, and a source that is the mean of r × r patches covers r × r times as many. At the right and lower edge they
cover what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..graphs.graph import Graph, GroupGraph
from ..models.gkgnet import GKGNetConfig
from .panels import PALETTE, Box, colours, patch_box, picture, sheet, tint

SIDE = 256  # about the shorter side of a panel in pixels, more where patches would be too small to see
PATCH, LARGEST = 8, 512  # a patch gets at least this many pixels, unless the panel would get larger than that
GROUPS = tuple(PALETTE[i] for i in (0, 4, 6, 5, 3))  # colours that differ from grey and from the red of the lines
OPACITY, PALE = 0.65, 0.3  # share of a group's colour in its patches, and of white in the grey image below
FRAME = 5  # width in pixels, two of which are white
STRIPE = 4  # width in pixels of the stripes of a patch that several groups have

Grid = tuple[int, int]  # rows and columns of patches


@dataclass(frozen=True)
class Layer:
    """The graph of one layer, and where its nodes lie on the image.

    grid: rows and columns of its patches. They are the targets, except in a cross level (`of_labels`), whose targets
    are labels. pool: r, each source is the mean of r × r patches. scale: a patch is as wide as `scale` patches of the
    first stage.
    """

    name: str
    graph: Graph
    grid: Grid
    pool: int = 1
    scale: int = 1
    of_labels: bool = False

    @property
    def source_grid(self) -> Grid:
        """Rows and columns of sources. Patches at the edge that do not fill r × r are in no source."""
        return self.grid[0] // self.pool, self.grid[1] // self.pool

    @property
    def sizes(self) -> str:
        """How many targets and sources there are, in words."""
        patches, sources = (f"{rows} by {columns}" for rows, columns in (self.grid, self.source_grid))
        if self.of_labels:
            return f"{self.graph.num_targets} labels, {patches} patches"
        return f"{patches} patches" + (f", {sources} sources" if self.pool > 1 else "")

    def patch_at(self, node: Grid) -> Grid:
        """Row and column of the patch that covers the patch `node` of the first stage."""
        return node[0] // self.scale, node[1] // self.scale

    def row(self, node: Grid) -> Tensor:
        """The adjacency's row of the patch that covers `node` of the first stage: (M,), or (G, M) with groups."""
        row, column = self.patch_at(node)
        # of a hypergraph, the patches that a node reads from through hyperedges
        graph = self.graph if isinstance(self.graph, GroupGraph) else self.graph.union()
        return graph.adj()[0, ..., row * self.grid[1] + column, :]

    def spread(self, values: Tensor, whole: Grid) -> Tensor:
        """Give the values (..., M) of sources to the patches of the first stage that they cover, 0 to all others:
        (..., rows, columns) of `whole`, the first stage's grid."""
        side = self.scale * self.pool
        large = values.unflatten(-1, self.source_grid).repeat_interleave(side, -2).repeat_interleave(side, -1)
        large = large[..., :whole[0], :whole[1]]
        return F.pad(large, (0, whole[1] - large.shape[-1], 0, whole[0] - large.shape[-2]))


def layers_of(config: object, graphs: Sequence[Graph]) -> list[Layer]:
    """The graphs that a model with that config returns, as layers: "layer 0", … counted over all blocks; in GKGNet
    each stage ends with "cross level 0", …"""
    if isinstance(config.depth, int):
        return [Layer(f"layer {i}", graph, config.grid) for i, graph in enumerate(graphs)]
    result, made = [], iter(graphs)
    for stage, (grid, pool) in enumerate(zip(config.grids, config.pool, strict=True)):
        first = sum(config.depth[:stage])
        for block in range(first, first + config.depth[stage]):
            result.append(Layer(f"layer {block}", next(made), grid, pool, 2 ** stage))
        if isinstance(config, GKGNetConfig):
            result.append(Layer(f"cross level {stage}", next(made), grid, scale=2 ** stage, of_labels=True))
    return result


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


def choose_label(text: str, classes: Sequence[str]) -> int:
    """The number of a label, given by its name, or else by its number. Raises ValueError, with similar names."""
    if text in classes:
        return classes.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    near = " or ".join(get_close_matches(text, classes))
    raise ValueError(f"--label {text}: no such label{f'; did you mean {near}?' if near else '.'} There are"
                     f" {len(classes)}, by name or number: {', '.join(classes[:20])}{', …' * (len(classes) > 20)}")
