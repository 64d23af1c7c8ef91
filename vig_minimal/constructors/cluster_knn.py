"""k nearest neighbours inside partitions (ClusterViG, Parikh et al., 2025, section IV-A).

Two lines of Algorithm 1, which as a whole is `DEGC` in `models/clustervig.py`:

    V^1, ..., V^κ = partition(V, X)          line 3, by k-means: `ClusterKNN.partition`
    G^i = k-NN(V^i, X_i, K)                  line 5, of every partition i: `cluster_graph`
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.distance import fill_diagonal, mean_node, squared_distance, unit
from ..graphs.graph import Graph
from ..graphs.kmeans import fixed_start, kmeans, pick
from ..graphs.plain import fast_form
from .schedules import at


class ClusterKNN(nn.Module):
    """k nearest neighbours in the node's own partition, the node itself among them, without gradient.

    A partition of fewer than k nodes uses them all. k-means starts from random nodes in training, the same for all
    images of the batch; from fixed ones in evaluation, so that an image gets the same graph in every call.
    k is a number or, as in `KNN`, a rule of the number of nodes.

    Nodes (B, N, C) -> Graph with index (B, N, min(k, N)). Raises ValueError for k < 1, clusters < 1 or clusters > N.
    """

    def __init__(self, k: int | Callable[[int], int], clusters: int, iters: int = 20):
        super().__init__()
        if not callable(k) and k < 1 or clusters < 1:
            raise ValueError(f"k={k}, clusters={clusters}: both must be at least 1")
        self.k, self.clusters, self.iters = k, clusters, iters

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Graph:
        return self.inside(x, self.partition(x))

    def inside(self, x: Tensor, labels: Tensor) -> Graph:
        """Return the graph of nodes (B, N, C) whose partitions are known: labels (B, N)."""
        return cluster_graph(x, labels, self.clusters, at(self.k, x.shape[1]))

    @torch.no_grad()
    def partition(self, x: Tensor) -> Tensor:
        """Return the partition of every node: (B, N, C) to labels (B, N), 0 to clusters − 1, each occurring."""
        start = "random" if self.training else pick(x, fixed_start(x.shape[1], self.clusters))
        return kmeans(x, self.clusters, self.iters, start)[0]

    def extra_repr(self) -> str:
        return f"k={self.k}, clusters={self.clusters}"


@torch.no_grad()
def cluster_graph(x: Tensor, labels: Tensor, clusters: int, k: int) -> Graph:
    """Return the k nearest nodes with the same label, nearest first. Nodes (B, N, C); labels (B, N), 0 to clusters − 1.
    In a partition of fewer than k nodes the nearest is repeated, and counts once. Nodes with NaN get valid neighbours:
    the loss becomes NaN, and training reports it."""
    nodes, k = unit(x).nan_to_num_(0), min(k, x.shape[1])
    nodes = nodes - mean_node(nodes)
    return Graph(x.shape[1], index=nearest_inside(nodes, labels, clusters, k))


@fast_form("partitions")
def nearest_inside(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Return the k nearest with the same label, a node itself first, whatever rounding says: (B, N, k)."""
    distance = squared_distance(nodes, nodes).masked_fill(labels[:, :, None] != labels[:, None], torch.inf)
    nearest = fill_diagonal(distance, -torch.inf).topk(k, largest=False)  # (B, N, k)
    return torch.where(nearest.values < torch.inf, nearest.indices, nearest.indices[..., :1])
