"""The graph contract: what every constructor returns and every aggregation reads.

A graph has N targets, the nodes that are updated, and M sources, the nodes they read from. M = N for patches that read
from patches; M differs for pooled sources, for labels that read from patches, for patches that read from centroids.

Rows are targets, columns are sources: `adj[b, i, j] != 0` is an edge from source j to target i in image b, so that
`adj @ sources` gathers. It is the opposite of an `edge_index` whose first row is the source, hence said here once and
relied upon everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """A batch of directed graphs, given by neighbour indices or by a dense adjacency.

    num_sources: M.
    index: (B, N, k) int64, the sources of each target; edges have weight 1, and a source that comes again is no further
    edge. Or None.
    weights: (B, N, M), bool or float, the dense adjacency; 0 (False) is no edge. Or None.

    Raises ValueError unless exactly one of `index` and `weights` is given.
    """

    num_sources: int
    index: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self):
        if (self.index is None) == (self.weights is None):
            raise ValueError("a Graph takes either index (B, N, k) or weights (B, N, M), not both and not neither")

    @property
    def num_targets(self) -> int:
        """N."""
        return (self.weights if self.index is None else self.index).shape[-2]

    def adj(self) -> Tensor:
        """The dense adjacency (B, N, M): bool, or float where edges carry a weight. Rows are targets."""
        if self.index is None:
            return self.weights
        shape = (*self.index.shape[:-1], self.num_sources)
        return torch.zeros(shape, dtype=torch.bool, device=self.index.device).scatter_(-1, self.index, True)

    def degree(self) -> Tensor:
        """The number of sources of each target: (B, N) int64."""
        return (self.adj() != 0).sum(-1)

    def edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The edge list: image, target, source (int64) and weight of each of the E edges, four tensors (E,)."""
        adj = self.adj()
        image, target, source = adj.nonzero(as_tuple=True)
        return image, target, source, adj[image, target, source]

    def statistics(self) -> dict[str, float]:
        """What a person asks of a graph, over the whole batch.

        Neighbours per node (`mean_degree`, `min_degree`, `max_degree`), `density` (share of the N·M possible edges),
        `isolated` (share of targets with no source) and, where nodes read from one another (M = N), `self_loops` (share
        of nodes that are their own source) and `reciprocity` (share of edges whose reverse is an edge too).
        """
        edge, degree = self.adj() != 0, self.degree().float()
        stats = {"mean_degree": degree.mean(), "min_degree": degree.min(), "max_degree": degree.max(),
                 "density": degree.mean() / self.num_sources, "isolated": (degree == 0).float().mean()}
        if self.num_sources == self.num_targets:
            stats["self_loops"] = edge.diagonal(dim1=-2, dim2=-1).float().mean()
            stats["reciprocity"] = (edge & edge.mT).sum() / edge.sum().clamp(min=1)
        return {name: float(value) for name, value in stats.items()}


@dataclass(frozen=True)
class GroupGraph(Graph):
    """G graphs over the same nodes, one for each group of channels, as group k-NN makes them (GKGNet).

    index: (B, G, N, k) int64, the sources of each target in each group. `adj()` is (B, G, N, M), bool. A target reads
    from k to G·k different sources, which `degree()`, `edges()` and `statistics()` count once.
    """

    def union(self) -> Graph:
        """The graph that has an edge wherever a group has one: weights (B, N, M), bool."""
        return Graph(self.num_sources, weights=self.adj().any(1))

    def degree(self) -> Tensor:
        """The number of different sources of each target over all groups: (B, N) int64."""
        return self.union().degree()

    def edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The edge list of the union, as `Graph.edges`."""
        return self.union().edges()

    def statistics(self) -> dict[str, float]:
        """Of the union, as `Graph.statistics`."""
        return self.union().statistics()

    def subnodes(self) -> Graph:
        """The same edges between sub-nodes: N·G targets and M·G sources, sub-node i·G + g being group g of node i.

        Nodes (B, N, C) viewed as (B, N·G, C/G) are their sub-nodes, so that what works on a graph works in groups.
        """
        groups = self.index.shape[1]
        group = torch.arange(groups, device=self.index.device)[:, None]  # (G, 1)
        index = self.index.transpose(1, 2) * groups + group  # (B, N, G, k)
        return Graph(self.num_sources * groups, index=index.flatten(1, 2))
