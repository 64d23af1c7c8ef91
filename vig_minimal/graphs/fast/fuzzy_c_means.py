"""The rounds of fuzzy C-means, that torch.compile takes as one operation, as it does those of k-means."""

import torch
from torch import Tensor

from ..distance import mean_node, squared_distance
from .compiler import opaque_if_compiled


def _alike(x, centre, rounds):
    """Return a tensor of the shape and type that `fuzzy_c_means` returns."""
    return x.new_empty(*x.shape[:2], centre.shape[1])


@opaque_if_compiled("fuzzy_c_means", _alike)
@torch.no_grad()
def fuzzy_c_means(x: Tensor, centre: Tensor, rounds: int) -> Tensor:
    """Do `constructors.hypergraph.fuzzy_c_means`."""
    mean = mean_node(x)
    x, centre = x - mean, centre - mean
    for last in range(rounds + 1):
        distance = squared_distance(x, centre).clamp(min=torch.finfo(x.dtype).tiny)  # (B, N, E)
        near = distance.amin(-1, keepdim=True) / distance
        membership = near / near.sum(-1, keepdim=True)
        if last < rounds:
            weight = membership.square()
            centre = weight.mT @ x / weight.sum(1)[..., None]  # (B, E, C)
    return membership
