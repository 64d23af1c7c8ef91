"""The graph contract: what every constructor returns and every aggregation reads.

A graph has N targets i, the nodes that are updated, and M sources j, the nodes they read from. M = N where patches
read from patches; M differs from N for pooled sources, labels that read from patches, and centroids.

Rows are targets, columns are sources: `adj[b, i, j] != 0` is an edge from source j to target i in image b, so that
`adj @ sources` gathers. (PyG's `edge_index` has the source in its first row; `Graph.edge_index()` returns it.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import mistakes


@dataclass(frozen=True, repr=False)
class Graph:
    """A batch of graphs, given by neighbour indices, by a dense adjacency, or by indices and their edges' weights; the
    k sources of a target are then all different. Raises ValueError for other shapes and types and, on a CPU, for an
    index of sources that do not exist."""

    num_sources: int  # M
    index: Tensor | None = None  # (B, N, k) int64, sources of each target; duplicate sources count once
    weights: Tensor | None = None  # (B, N, M), bool or float, or (B, N, k) of an index's edges; 0 (False) is no edge
    sources: Tensor | None = None  # (B, M, C), features of the sources; None: the sources are the nodes themselves

    ndim, dtypes = 3, (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64)  # no fields

    def __post_init__(self):
        index, weights, edges = self.index, self.weights, self.weights if self.index is None else self.index
        if not (torch.jit.is_tracing() or edges is not None and edges.ndim == self.ndim  # sizes are then tensors
                and (in_range(index, self.num_sources) if index is not None else edges.shape[-1] == self.num_sources)
                and (weights is None or weights.shape == edges.shape and weights.dtype in self.dtypes)):
            raise ValueError(mistakes.of_graph(self))

    def __repr__(self) -> str:
        """Return one line: B, N, M if it differs, k (and groups G) or the number of edges, and the weights' type."""
        edges = self.weights if self.index is None else self.index
        parts = {"B": edges.shape[0], "N": self.num_targets}
        if self.num_sources != self.num_targets:
            parts["M"] = self.num_sources
        if self.index is not None:
            parts |= ({"G": edges.shape[1]} if edges.ndim == 4 else {}) | {"k": edges.shape[-1]}
        elif edges.device.type != "meta":
            parts["edges"] = int((edges != 0).sum())
        if self.weights is not None and self.weights.dtype != torch.bool:
            parts["weights"] = str(self.weights.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in parts.items())})"

    @property
    def num_targets(self) -> int:
        """N."""
        return (self.weights if self.index is None else self.index).shape[-2]

    def adj(self) -> Tensor:
        """Return the dense adjacency (B, N, M), rows are targets: float where edges have weights, else bool."""
        if self.index is None:
            return self.weights
        shape = (*self.index.shape[:-1], self.num_sources)
        if self.weights is not None:
            return self.weights.new_zeros(shape).scatter(-1, self.index, self.weights)
        return torch.zeros(shape, dtype=torch.bool, device=self.index.device).scatter_(-1, self.index, 1)

    def union(self) -> "Graph":
        """Return a graph with one (N, M) adjacency per image. GroupGraph: union over its groups; any other: itself."""
        return self

    def features(self, nodes: Tensor) -> Tensor:
        """Return the features of the sources: (B, M, C), the nodes' own where the graph brings none."""
        return nodes if self.sources is None else self.sources

    def is_of(self, nodes: Tensor) -> bool:
        """Return whether these nodes (B, N, C) are its targets and, where it brings none, its sources."""
        edges = self.weights if self.index is None else self.index
        made = edges.shape[0], edges.shape[-2], self.num_sources
        return torch.jit.is_tracing() or made == (*nodes.shape[:2], self.features(nodes).shape[1])

    def again(self, nodes: Tensor) -> "Graph":
        """Return the same edges for a later block, whose nodes (B, N, C) have other features. HyperedgeGraph: also what
        comes along them."""
        return self

    def degree(self) -> Tensor:
        """Return the number of different sources of each target: (B, N) int64."""
        return (self.union().adj() != 0).sum(-1)

    def edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return image, target, source (int64) and weight of each of the E edges: four tensors (E,)."""
        adj = self.union().adj()
        image, target, source = adj.nonzero(as_tuple=True)
        return image, target, source, adj[image, target, source]

    def edge_index(self) -> Tensor:
        """Return the E edges as PyG's `edge_index`: (2, E) int64, row 0 sources, row 1 targets.

        The batch is one graph, as in PyG's `Batch`: node i of image b is number b·N + i, source j number b·M + j. If
        M = N, features (B·N, C) are nodes.flatten(0, 1); else row 0 numbers `sources.flatten(0, 1)` (B·M, C).
        A GroupGraph gives the union over its groups, a HyperedgeGraph the pairs that share a hyperedge.
        """
        image, target, source, _ = self.edges()
        return torch.stack([source + image * self.num_sources, target + image * self.num_targets])

    def edge_weight(self) -> Tensor | None:
        """Return the weights of the edges in the order of `edge_index`, (E,) with gradient; None if they have none."""
        weight = self.edges()[3]
        return None if weight.dtype == torch.bool else weight

    def statistics(self) -> dict[str, float]:
        """Describe the graphs of the whole batch by a few numbers.

        Sources of a target (`mean_degree`, `min_degree`, `max_degree`), `density` (share of the N·M possible edges that
        exist), `isolated` (share of targets without a source). If M = N also `self_loops` (share of nodes that are
        their own source) and `reciprocity` (share of edges whose reverse is an edge too).
        """
        graph = self.union()
        edge, degree = graph.adj() != 0, graph.degree().float()
        stats = {"mean_degree": degree.mean(), "min_degree": degree.min(), "max_degree": degree.max(),
                 "density": degree.mean() / graph.num_sources, "isolated": (degree == 0).float().mean()}
        if graph.num_sources == graph.num_targets:
            stats["self_loops"] = edge.diagonal(dim1=-2, dim2=-1).float().mean()
            stats["reciprocity"] = (edge & edge.mT).sum() / edge.sum().clamp(min=1)
        return {name: float(value) for name, value in stats.items()}


def in_range(index: Tensor, num_sources: int) -> bool:
    """Return whether an index is int64 and has only sources that exist. On a GPU it only sees the type."""
    seen = index[:1] if index.stride(0) == 0 else index  # expanded: the same in all images
    may_look = index.device.type == "cpu" and not torch.compiler.is_compiling() and index.numel() > 0
    return index.dtype == torch.int64 and not (may_look and (seen.amin() < 0 or seen.amax() >= num_sources))


@dataclass(frozen=True, repr=False)
class GroupGraph(Graph):
    """G graphs over the same nodes, one for each group of channels (group k-NN, GKGNet).

    index: (B, G, N, k) int64, the sources of each target in each group. `adj()` is (B, G, N, M), bool. A target has
    k to G·k different sources: `degree()`, `edges()` and `statistics()` describe the union over groups.
    """

    ndim = 4  # no field

    def union(self) -> Graph:
        """Return the graph with an edge wherever a group has one: weights (B, N, M), bool."""
        return Graph(self.num_sources, weights=self.adj().any(1))

    def subnodes(self) -> Graph:
        """Return the same edges between sub-nodes: N·G targets and M·G sources, group g of node i being i·G + g.

        Viewing nodes (B, N, C) as (B, N·G, C/G) gives their sub-nodes: what works on a graph then works in groups.
        """
        groups = self.index.shape[1]
        group = torch.arange(groups, device=self.index.device)[:, None]  # (G, 1)
        index = self.index.transpose(1, 2) * groups + group  # (B, N, G, k)
        return Graph(self.num_sources * groups, index=index.flatten(1, 2))


def subnodes(x: Tensor, graph: GroupGraph) -> Tensor:
    """View nodes (B, N, C) as their sub-nodes (B, N·G, C/G), the groups of a node one after the other."""
    return x.unflatten(-1, (graph.index.shape[1], -1)).flatten(1, 2)
