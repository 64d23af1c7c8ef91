"""k nearest neighbours inside partitions (ClusterViG, Parikh et al., 2025, section IV-A and Algorithm 1).

    V^1, ..., V^κ = partition(V, X)          line 3, by k-means: `ClusterKNN.partition`
    G^i = k-NN(V^i, X_i, K)                  line 5, of every partition i: `cluster_graph`
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.distance import fill_diagonal, mean_node, smallest, squared_distance, unit
from ..graphs.graph import Graph, is_compiled, may_branch
from ..graphs.kmeans import fixed_start, kmeans, membership, pick
from .knn import DISTANCES
from .schedules import at

SIZE_GROUPS = 4  # partitions are sorted by size into this many groups, each padded to its largest partition


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
        """Return the partition of every node: (B, N, C) to labels (B, N), 0 to clusters − 1, each of which occurs."""
        start = "random" if self.training else pick(x, fixed_start(x.shape[1], self.clusters))
        return kmeans(x, self.clusters, self.iters, start)[0]

    def extra_repr(self) -> str:
        return f"k={self.k}, clusters={self.clusters}"


@torch.no_grad()
def cluster_graph(x: Tensor, labels: Tensor, clusters: int, k: int) -> Graph:
    """Return the k nearest nodes with the same label, nearest first. Nodes (B, N, C); labels (B, N), 0 to clusters − 1.

    In a partition of fewer than k nodes, missing places repeat the nearest node, which then counts once. Nodes with NaN
    still get valid neighbours, so that the loss becomes NaN and training reports it.
    """
    nodes, k = unit(x).nan_to_num_(0), min(k, x.shape[1])
    nodes = nodes - mean_node(nodes)
    if may_branch(x):
        search = _nearest_by_size
    elif is_compiled() and x.device.type == "cpu":
        search = _by_size_uncompiled
    else:  # exported programs and GPUs lose more by shapes that depend on the data than they save
        search = _nearest_alike
    return Graph(x.shape[1], index=search(nodes, labels, clusters, k))


def _nearest_alike(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Return (B, N, k) from all N² distances, ∞ between different partitions."""
    distance = squared_distance(nodes, nodes).masked_fill_(labels[:, :, None] != labels[:, None], torch.inf)
    distance = fill_diagonal(distance, -torch.inf)  # a node is its own nearest, whatever rounding says
    nearest = distance.topk(k, largest=False)
    return torch.where(nearest.values < torch.inf, nearest.indices, nearest.indices[..., :1])


def _nearest_by_size(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Return (B, N, k) from the distances inside partitions only: all partitions of the batch, grouped by size."""
    (batch, num_nodes, channels), device = nodes.shape, nodes.device
    offset = num_nodes * torch.arange(batch, device=device)[:, None]  # (B, 1)
    node = (labels.argsort(dim=1, stable=True) + offset).flatten()  # (B·N,), partition after partition
    size = membership(labels, clusters).sum(1).flatten()  # (B·κ,)
    start = size.cumsum(0) - size
    nodes, index = nodes.reshape(-1, channels), torch.empty(batch * num_nodes + 1, k, dtype=torch.int64, device=device)
    for alike in size.argsort().tensor_split(SIZE_GROUPS):  # (p,) partitions of similar size
        width = int(size[alike].max()) if len(alike) else 0
        if width == 0:
            continue
        place = torch.arange(width, device=device)
        inside = place < size[alike, None]  # (p, S), S the largest size; False is padding
        member = node[(start[alike, None] + place).clamp(max=len(node) - 1)]  # (p, S)
        piece = nodes.index_select(0, member.flatten()).view(*member.shape, channels)  # (p, S, C)
        member.masked_fill_(~inside, len(node))  # padding has the last row of `index`
        rows = max(1, DISTANCES // (len(alike) * width))  # targets at a time, as in `knn`
        for first in range(0, width, rows):
            targets = slice(first, first + rows)
            distance = squared_distance(piece[:, targets], piece)  # (p, rows, S)
            distance = fill_diagonal(distance, -torch.inf, first)
            distance.masked_fill_(~inside[:, None], torch.inf)
            nearest = smallest(distance, min(k, width))
            found = member[:, None].expand_as(distance).gather(2, nearest)  # (p, rows, ·) nodes
            found = torch.where(found < len(node), found, found[..., :1])
            repeated = found[..., :1].expand(-1, -1, k - found.shape[2])
            index[member[:, targets]] = torch.cat([found, repeated], 2)
    return index[:-1].view(batch, num_nodes, k) - offset[..., None]


@torch.library.custom_op("vig_minimal::nearest_by_size", mutates_args=())
def _by_size_uncompiled(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Do `_nearest_by_size` as an operation that torch.compile calls and does not look into."""
    return _nearest_by_size(nodes, labels, clusters, k)


@_by_size_uncompiled.register_fake
def _(nodes, labels, clusters, k):
    """Return a tensor of the same shape and type, for the compiler."""
    return labels.new_empty(*labels.shape, k)
