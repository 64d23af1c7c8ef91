"""Where the nodes of a layer lie on the image.

Everything is drawn on the patches of the first stage. In stage s of a pyramid, counted from 0, a patch covers 2^s × 2^s
of them, and a source that is the mean of r × r patches covers r × r times as many. At the right and lower edge they
cover what is left.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch.nn.functional as F
from torch import Tensor, nn

from ..constructors.hypergraph import HyperedgeGraph, Hypergraph
from ..graphs.graph import Graph, GroupGraph
from ..models.convs import Attention
from ..models.gkgnet import GKGNetConfig

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

    def weighted(self, attention: Tensor) -> "Layer":
        """Return the layer with the attention (B, N, M) as weights of its edges; with groups or hyperedges, itself."""
        if isinstance(self.graph, (GroupGraph, HyperedgeGraph)):
            return self
        return replace(self, graph=replace(self.graph, index=None, weights=attention))

    def spread(self, values: Tensor, whole: Grid) -> Tensor:
        """Give the values (..., M) of sources to the patches of the first stage that they cover, 0 to all others:
        (..., rows, columns) of `whole`, the first stage's grid."""
        side = self.scale * self.pool
        large = values.unflatten(-1, self.source_grid).repeat_interleave(side, -2).repeat_interleave(side, -1)
        large = large[..., :whole[0], :whole[1]]
        return F.pad(large, (0, whole[1] - large.shape[-1], 0, whole[0] - large.shape[-2]))


def layers_of(config: object, graphs: Sequence[Graph], attention: Sequence[Tensor] = ()) -> list[Layer]:
    """Return the graphs of a model with that config as layers: "layer 0", … counted over all blocks; in GKGNet each
    stage ends with "cross level 0", … attention: from `attentions`, becomes the weights of the blocks' edges."""
    if isinstance(config.depth, int):
        result = [Layer(f"layer {i}", graph, config.grid) for i, graph in enumerate(graphs)]
    else:
        result, made = [], iter(graphs)
        for stage, (grid, pool) in enumerate(zip(config.grids, config.pool, strict=True)):
            first = sum(config.depth[:stage])
            for block in range(first, first + config.depth[stage]):
                result.append(Layer(f"layer {block}", next(made), grid, pool, 2 ** stage))
            if isinstance(config, GKGNetConfig):
                result.append(Layer(f"cross level {stage}", next(made), grid, scale=2 ** stage, of_labels=True))
    if attention:
        weights = iter(attention)
        result = [layer if layer.of_labels else layer.weighted(next(weights)) for layer in result]
    return result


@contextlib.contextmanager
def collected(model: nn.Module, kind: type, compute: Callable[..., Tensor]) -> Iterator[list[Tensor]]:
    """Collect compute(module, *inputs) of every module of that kind, in the order in which they run inside."""
    found = []
    handles = [module.register_forward_hook(lambda module, inputs, output: found.append(compute(module, *inputs)))
               for module in model.modules() if isinstance(module, kind)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attentions(model: nn.Module) -> contextlib.AbstractContextManager[list[Tensor]]:
    """Collect the attention of every block with `conv="attention"`, the mean over its heads: (B, N, M) each."""
    return collected(model, Attention, lambda conv, x, graph, *_: conv.attention(x, graph).mean(1))


def memberships_of(model: nn.Module) -> contextlib.AbstractContextManager[list[Tensor]]:
    """Collect the memberships of nodes in hyperedges of every hypergraph that is made: (B, N, E) each."""
    return collected(model, Hypergraph, lambda constructor, x, *_: constructor.memberships(x))


def counted(count: int, noun: str) -> str:
    """Return the number with its noun: 1 patch, 2 patches."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{int(count)} {noun}{ending}"


def choose_label(text: str, classes: Sequence[str]) -> int:
    """The number of a label, given by its name, or else by its number. Raises ValueError, with similar names."""
    if text in classes:
        return classes.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    near = " or ".join(get_close_matches(text, classes))
    raise ValueError(f"--label {text}: no such label{f'; did you mean {near}?' if near else '.'} There are"
                     f" {len(classes)}, by name or number: {', '.join(classes[:20])}{', …' * (len(classes) > 20)}")
