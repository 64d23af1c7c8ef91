"""Squared distances between nodes, and the smallest of them: in float32 or better, since half precision cannot tell
near neighbours apart.

On a GPU this holds only while torch.set_float32_matmul_precision is left at "highest", its default.

Under bfloat16 autocast the distances are float32, but the features that layers hand over are rounded already.

‖x‖² − 2 x·y + ‖y‖² loses its digits where x and y are much longer than they are apart. A vector subtracted from all
nodes changes no distance, so users of `squared_distance` subtract `mean_node` first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .plain import fast_form


def full_precision(x: Tensor) -> Tensor:
    """Return x in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x_i − y_j‖² = ‖x_i‖² − 2 x_i·y_j + ‖y_j‖²: nodes (B, N, C) and (B, M, C) to (B, N, M). If y is x, the
    same tensor, the distance of a node to itself is exactly 0."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = full_precision(x), full_precision(y)
        x2 = x.square().sum(-1)  # (B, N)
        y2 = x2 if y is x else y.square().sum(-1)  # (B, M)
        distance = torch.baddbmm(y2[:, None], x, y.mT, alpha=-2) + x2[:, :, None]
        return fill_diagonal(distance, 0.0) if y is x else distance


@fast_form("diagonal")
def fill_diagonal(distance: Tensor, value: float) -> Tensor:
    """Return distances (B, N, N) with `value` between every node and itself."""
    return distance.masked_fill(torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device), value)


def mean_node(x: Tensor) -> Tensor:
    """Return the mean of each image's nodes, 0 where it is not finite: (B, N, C) to (B, 1, C)."""
    return x.mean(1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)


def unit(x: Tensor) -> Tensor:
    """Return L2-normalised nodes x̂: (B, N, C), in float32 or float64. ‖x̂_i − x̂_j‖² = 2 − 2 cos(x_i, x_j)."""
    return F.normalize(full_precision(x), dim=-1)


@fast_form("smallest")
def smallest(distance: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` smallest of each row (..., M), in order. NaN counts as ∞; ties in any order."""
    return distance.topk(count, largest=False).indices
