"""k-NN inside partitions from the distances inside them alone, N²/κ instead of N²: partitions of like size go together.

On a CPU. Exported programs and GPUs lose more by shapes that depend on the data than they save.
"""

import torch
from torch import Tensor

from ..distance import smallest, squared_distance
from ..membership import membership
from .compiler import is_compiled, may_branch, opaque
from .diagonal import fill_diagonal
from .nearest import DISTANCES

SIZE_GROUPS = 4  # partitions are sorted by size into this many groups, each padded to its largest partition


def nearest_inside(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Do `constructors.cluster_knn.nearest_inside`."""
    if may_branch(nodes):
        return _nearest_by_size(nodes, labels, clusters, k)
    if is_compiled() and nodes.device.type == "cpu":
        return _operation(nodes, labels, clusters, k)
    return NotImplemented


def _nearest_by_size(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Do `nearest_inside` from the distances inside partitions only: all partitions of the batch, grouped by size."""
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


def _alike(nodes, labels, clusters, k):
    """Return a tensor of the shape and type that `_operation` returns."""
    return labels.new_empty(*labels.shape, k)


@opaque("nearest_by_size", _alike)
def _operation(nodes: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """Do `_nearest_by_size` as one operation."""
    return _nearest_by_size(nodes, labels, clusters, k)
