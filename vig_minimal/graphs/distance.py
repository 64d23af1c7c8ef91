"""Squared distances between nodes, never in half precision, which rounds the digits that tell neighbours apart."""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Return x in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x_i − y_j‖² = ‖x_i‖² − 2 x_i·y_j + ‖y_j‖²: nodes (B, N, C) and (B, M, C) to (B, N, M)."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = full_precision(x), full_precision(y)
        x2 = x.square().sum(-1)  # (B, N)
        y2 = x2 if y is x else y.square().sum(-1)  # (B, M)
        return torch.baddbmm(y2[:, None, :], x, y.mT, alpha=-2) + x2[:, :, None]


def unit_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return ‖x̂_i − ŷ_j‖² = 2 − 2 cos(x_i, y_j) of L2-normalised nodes, y being x by default: (B, N, M)."""
    unit = F.normalize(full_precision(x), dim=-1)
    return squared_distance(unit, unit if y is None else F.normalize(full_precision(y), dim=-1))
