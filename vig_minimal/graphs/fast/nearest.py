"""k-NN over blocks of targets: large images have more pairs of nodes and sources than memory."""

import torch
from torch import Tensor

from ..distance import smallest, squared_distance
from .compiler import is_traced
from .diagonal import fill_diagonal

DISTANCES = 2**25  # pairs of nodes and sources compared at a time: 128 MiB


def nearest(x: Tensor, y: Tensor, relative: Tensor | None, count: int) -> Tensor:
    """Do `constructors.knn.nearest`. Of `relative`, the rows of a block are asked for at a time."""
    num_targets, num_sources = x.shape[1], y.shape[1]
    # a compiled program serves a batch of any size
    rows = max(1, DISTANCES // (num_sources if is_traced() else x.shape[0] * num_sources))
    found = []
    for start in range(0, num_targets, rows):
        distance = squared_distance(x[:, start:start + rows], y)  # (B, rows, M)
        if y is x:
            distance = fill_diagonal(distance, -torch.inf if relative is None else 0.0, start)
        if relative is not None:
            distance += relative[start:start + rows]
        found.append(smallest(distance, count))
    return torch.cat(found, 1) if len(found) > 1 else found[0]
