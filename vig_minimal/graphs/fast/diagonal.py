"""A distance of every node to itself, written into the distances instead of into a copy of them."""

import torch
from torch import Tensor

from .compiler import is_traced


def fill_diagonal(distance: Tensor, value: float, start: int = 0) -> Tensor:
    """Do `distance.fill_diagonal` for distances (B, n, M) whose row i is node start + i. In place, but not while a
    program is recorded, since the ONNX exporter cannot write through a view."""
    if is_traced():
        rows, columns = (torch.arange(side, device=distance.device) for side in distance.shape[1:])
        return distance.masked_fill(rows[:, None] + start == columns, value)
    distance.diagonal(start, 1, 2).fill_(value)
    return distance
