"""The graph contract: what every constructor returns and every aggregation reads.

A graph has N targets i, the nodes that are updated, and M sources j, the nodes they read from. M = N where patches
read from patches; M differs from N for pooled sources, labels that read from patches, and centroids.

Rows are targets, columns are sources: `adj[b, i, j] != 0` is an edge from source j to target i in image b, so that
`adj @ sources` gathers. (PyG's `edge_index` has the source in its first row.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """A batch of graphs, given by neighbour indices or by a dense adjacency. Raises ValueError for both or none."""

    num_sources: int  # M
    index: Tensor | None = None  # (B, N, k) int64, sources of each target, of weight 1; duplicate sources count once
    weights: Tensor | None = None  # (B, N, M), bool or float, the dense adjacency; 0 (False) is no edge
    sources: Tensor | None = None  # (B, M, C), features of the sources; None: the sources are the nodes themselves

    def __post_init__(self):
        if (self.index is None) == (self.weights is None):
            raise ValueError("a Graph takes exactly one of index (B, N, k) and weights (B, N, M)")

    @property
    def num_targets(self) -> int:
        """N."""
        return (self.weights if self.index is None else self.index).shape[-2]

    def adj(self) -> Tensor:
        """Return the dense adjacency (B, N, M), rows are targets: float where edges have weights, else bool."""
        if self.index is None:
            return self.weights
        shape = (*self.index.shape[:-1], self.num_sources)
        return torch.zeros(shape, dtype=torch.bool, device=self.index.device).scatter_(-1, self.index, 1)

    def union(self) -> "Graph":
        """Return a graph with one (N, M) adjacency per image. GroupGraph: union over its groups; any other: itself."""
        return self

    def features(self, nodes: Tensor) -> Tensor:
        """Return the features of the sources: (B, M, C), the nodes' own where the graph brings none."""
        return nodes if self.sources is None else self.sources

    def degree(self) -> Tensor:
        """Return the number of different sources of each target: (B, N) int64."""
        return (self.union().adj() != 0).sum(-1)

    def edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return image, target, source (int64) and weight of each of the E edges: four tensors (E,)."""
        adj = self.union().adj()
        image, target, source = adj.nonzero(as_tuple=True)
        return image, target, source, adj[image, target, source]

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


@dataclass(frozen=True)
class GroupGraph(Graph):
    """G graphs over the same nodes, one for each group of channels (group k-NN, GKGNet).

    index: (B, G, N, k) int64, the sources of each target in each group. `adj()` is (B, G, N, M), bool. A target has
    k to G·k different sources: `degree()`, `edges()` and `statistics()` describe the union over groups.
    """

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
