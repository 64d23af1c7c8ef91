"""Pictures of graphs on the image: what a patch reads from, in each group of channels too (GKGNet's Figures 5, 6)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..data.augment import normalise
from ..data.decoding import Picture
from ..graphs.graph import GroupGraph
from ..models.layers import evaluating
from .explore_layers import Grid, Layer, attentions, counted, layers_of
from .panels import PALETTE, SOURCE, SWATCH, Box, colours, draw_sources, patch_box, picture, ramp, sheet, square, tint
from .predict import Transform, open_image, scene_view

PANEL = 256  # about the height and width of a panel, in pixels
SIDE = 256  # about the shorter side of a panel in pixels, more where patches would be too small to see
PATCH, LARGEST = 8, 512  # a patch gets at least this many pixels, unless the panel would get larger than that
GROUPS = tuple(PALETTE[i] for i in (0, 4, 6, 5, 3))  # colours that differ from grey and from the red of the lines
OPACITY, PALE = 0.65, 0.3  # share of a group's colour in its patches, and of white in the grey image below
FRAME = 5  # width in pixels, two of which are white
STRIPE = 4  # width in pixels of the stripes of a patch that several groups have
TARGET = square("white", "red", 3), "the target patch"  # of a legend


@torch.no_grad()
def draw(model: nn.Module, image: Picture, nodes: Grid | Sequence[Grid] | None = None, layer: int = -1) -> Image.Image:
    """Return a picture of the graph of one block over an image, for notebooks: the image, and beside it, for each node,
    the patches that it reads from.

    draw(model, "photo.jpg", (3, 4), layer=2)        draw(model, "shapes:9", [(0, 0), (3, 4)])

    model: any with a graph over patches, trained or not. image: as `predict` takes it. nodes: row and column of a patch
    of the first stage, or a list of these; default: the one in the middle. layer: the block, default the last. Where
    edges have weights (LRGC's α; with `conv="attention"` the mean over heads), colours show them. Raises ValueError for
    nodes and layers that the model does not have, for a model without patches, and for what is no image.
    """
    if not hasattr(getattr(model, "config", None), "grid"):
        raise ValueError(f"draw: {type(model).__name__} is no classifier with a graph over patches, which"
                         " vig_minimal.load opens; python -m vig_minimal has explore for detectors and segmentation,"
                         " attention for CNN2GNN")
    transform = getattr(model, "transform", None) or Transform(model.config.img_size)
    pixels = open_image(image, transform, scene_view(model))
    inputs = normalise(pixels[None].to(next(model.parameters()).device), transform.mean, transform.std)
    with evaluating(model), attentions(model) as attention:
        graphs = model(inputs, return_graphs=True)[1]
    layers = [one for one in layers_of(model.config, graphs, attention) if not one.of_labels]
    whole = layers[0].grid
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"draw: layer={layer}: the blocks of this model are 0 to {len(layers) - 1}")
    nodes = [(whole[0] // 2, whole[1] // 2)] if nodes is None else list(nodes)
    nodes = [tuple(nodes)] if nodes and not hasattr(nodes[0], "__len__") else nodes
    if not nodes:
        raise ValueError("draw: nodes=[]: give row and column of at least one patch")
    for node in nodes:
        if len(node) != 2 or not (0 <= node[0] < whole[0] and 0 <= node[1] < whole[1]):
            raise ValueError(f"draw: nodes={node}: row and column of a patch, (0, 0) to {whole[0] - 1, whole[1] - 1}")
    rows = [(layers[layer], node) for node in nodes]
    return (explore_groups if isinstance(layers[layer].graph, GroupGraph) else explore)(pixels, rows, whole)


def explore(image: Tensor, rows: Sequence[tuple[Layer, Grid]], whole: Grid, title: str = "") -> Image.Image:
    """Draw the image, and for each layer and node (row, column) of the first stage a panel of what this patch reads
    from, or in later stages the patch that covers it. whole: the grid of the first stage."""
    plain = picture(image, PANEL)
    panels, captions, weights = [plain], ["the image"], [layer.row(node) for layer, node in rows]  # (M,) each
    heaviest = scale_of(weights)
    for (layer, node), row in zip(rows, weights, strict=True):
        panels.append(draw_sources(plain, layer.spread(row, whole), heaviest))
        place = layer.patch_at(node)
        frame(panels[-1], patch_box(plain, whole, *place, layer.scale))
        captions.append(f"{layer.name}: patch {place[0]},{place[1]}\n{counted((row != 0).sum(), 'neighbour')}, mean of"
                        f" all nodes {layer.graph.statistics()['mean_degree']:.1f}"
                        + ("" if layer.grid == layer.source_grid == whole else f"\n{layer.sizes}"))
    return sheet(panels, captions, 4, title, [TARGET, source_entry(heaviest)])


def scale_of(weights: Sequence[Tensor]) -> float | None:
    """Return the largest weight of some rows of adjacencies, None where every edge weighs 1."""
    edges = torch.cat([row[row != 0].flatten().float().abs() for row in weights])
    return None if (edges == 1).all() else float(edges.max())


def source_entry(heaviest: float | None) -> tuple[Image.Image, str]:
    """Return the line of a legend for what `draw_sources` draws."""
    if heaviest is None:
        return square(SOURCE), "its sources"
    return ramp(), f"its sources, by weight from 0 to {heaviest:.3g}"


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
    at = read.cpu().numpy()[:, rows[:, None], columns * read.shape[2] // panel.width]  # (G, height, width)
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
    "source" or "patch". node: the target in the first stage, which gets a frame, and lines to its sources.
    """
    grey = tint(plain.convert("L").convert("RGB"), np.full((1, 1), PALE), "white")  # so that all colours are groups'
    groups, panels, captions = len(reads), [], []
    palette = palette_of(groups)
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
        captions.append(f"group {chosen[0]}: {counted(number, what)}" if len(chosen) == 1 else
                        f"all groups: {counted(number, f'different {what}')}\n{shared} in several groups")
    return panels, captions


def explore_groups(image: Tensor, rows: Sequence[tuple[Layer, Grid | int]], whole: Grid,
                   title: str = "") -> Image.Image:
    """Draw a row of panels for each layer and target: the image, what the target reads in each group, and in all.

    A target is row and column of a patch of the first stage (Figure 6), or the number of a label (Figure 5).
    """
    side = max(SIDE, min(LARGEST, PATCH * min(whole)))
    panels, captions, plain = [], [], picture(image, side)
    for layer, target in rows:
        size = f"{layer.grid[0]} by {layer.grid[1]}"
        if isinstance(target, int):
            drawn, texts = draw_groups(plain, layer, layer.graph.adj()[0, :, target], whole, "patch")
            caption = f"{layer.name}\n{size} patches"
        else:
            drawn, texts = draw_groups(plain, layer, layer.row(target), whole, "source", target)
            row, column = layer.patch_at(target)
            caption = f"{layer.name}: patch {row},{column} of {size}"
            caption += f"\na source is {layer.pool} by {layer.pool} patches" if layer.pool > 1 else ""
        panels += [plain, *drawn]
        captions += [caption, *texts]
    palette = palette_of(rows[0][0].graph.adj().shape[1])
    entries = [] if isinstance(rows[0][1], int) else [TARGET]
    entries += [(square(colour), f"sources in group {group}") for group, colour in enumerate(palette)]
    if len(palette) > 1:
        both = tint_groups(Image.new("RGB", (SWATCH, SWATCH), "white"), torch.ones(2, 1, 1) > 0, palette[:2])
        entries.append((both, "stripes: in several groups"))
    return sheet(panels, captions, len(panels) // len(rows), title, entries)


def palette_of(groups: int) -> Sequence[str]:
    """Return a colour for each group."""
    return GROUPS[:groups] if groups <= len(GROUPS) else colours(groups)
