"""k nearest neighbours: plain, dilated and stochastic (ViG, Han et al., 2022; after DeepGCNs, Li et al., 2019)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.distance import fill_diagonal, mean_node, smallest, squared_distance, unit
from ..graphs.draws import draw
from ..graphs.graph import Graph, is_traced
from .schedules import at

DISTANCES = 2**25  # pairs of nodes and sources compared at a time: 128 MiB


class KNN(nn.Module):
    """k nearest neighbours of L2-normalised features, dilated: every d-th of the k·d nearest, without gradient.

    Nearest first. A node is its own nearest neighbour, also where its distances to others are below rounding error (as
    in all the released code: k = 9 means eight others).
    epsilon: in training, the probability that an image's nodes take a random k of the k·d nearest instead (stochastic
    dilation, DeepGCNs).
    k and dilation are numbers or, so that images may be of several sizes, rules: functions of the number of sources M,
    as those of `schedules.py`.

    Nodes (B, N, C) -> Graph with index (B, N, k). sources: (B, M, C), the nodes themselves by default. relative:
    (N, M), added to the squared distances (Pyramid ViG). Raises ValueError if k·d > M, and for k, dilation or epsilon
    out of range.
    """

    def __init__(self, k: int | Callable[[int], int], dilation: int | Callable[[int], int] = 1, epsilon: float = 0.0):
        super().__init__()
        check_neighbours(epsilon, k=k, dilation=dilation)
        self.k, self.dilation, self.epsilon = k, dilation, epsilon

    @torch.no_grad()
    def forward(self, x: Tensor, grid: tuple[int, int] | None = None, sources: Tensor | None = None,
                relative: Tensor | None = None) -> Graph:
        num_sources = (x if sources is None else sources).shape[1]
        k, dilation = at(self.k, num_sources), at(self.dilation, num_sources)
        nearest = nearest_sources(x, sources, relative, k, dilation)  # (B, N, k·d)
        return Graph(num_sources, index=dilated(self, nearest, k, dilation))

    def extra_repr(self) -> str:
        return f"k={self.k}, dilation={self.dilation}, epsilon={self.epsilon}"


def check_neighbours(epsilon: float, **counts: int | Callable[[int], int]) -> None:
    """Raise ValueError unless the counts (k, dilation, groups) are whole numbers from 1 on, or rules, and ε is a
    probability."""
    for name, value in counts.items():
        if not callable(value) and (type(value) is not int or value < 1):
            raise ValueError(f"{name}={value!r}: must be at least 1, and a whole number")
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon={epsilon!r}: a probability, at least 0 and less than 1")


def nearest_sources(x: Tensor, sources: Tensor | None, relative: Tensor | None, k: int, dilation: int) -> Tensor:
    """Return the k·d sources of each node with the least ‖x̂_i − ŷ_j‖² + relative_ij, nearest first: (B, N, k·d).

    Where `sources` is None the nodes are the sources. Each then comes first among its own, whatever rounding says; with
    `relative` its distance to itself is exactly 0.
    """
    own, sources = sources is None, x if sources is None else sources
    num_sources, reach = sources.shape[1], k * dilation
    if reach > num_sources:
        raise ValueError(f"k·dilation = {k}·{dilation}: more neighbours than the {num_sources} nodes")
    # targets at a time: large images have more pairs than memory. A compiled program serves a batch of any size.
    rows = max(1, DISTANCES // (num_sources if is_traced() else x.shape[0] * num_sources))
    sources = unit(sources)
    mean = mean_node(sources)
    x, sources = (sources if own else unit(x)) - mean, sources - mean
    nearest = []
    for start in range(0, x.shape[1], rows):
        distance = squared_distance(x[:, start:start + rows], sources)  # (B, rows, M)
        if own:
            distance = fill_diagonal(distance, -torch.inf if relative is None else 0.0, start)
        if relative is not None:
            distance += relative[start:start + rows]
        nearest.append(smallest(distance, reach))
    return torch.cat(nearest, 1) if len(nearest) > 1 else nearest[0]


def dilated(constructor: nn.Module, nearest: Tensor, k: int, dilation: int) -> Tensor:
    """Return every d-th of the k·d nearest or, with probability ε for each image, a random k: (B, ..., k)."""
    device = nearest.device
    if not (constructor.training and constructor.epsilon > 0):
        return nearest[..., ::dilation]
    regular = torch.arange(0, nearest.shape[-1], dilation, device=device)  # (k,)
    chances = draw(len(nearest), nearest.shape[-1], device=device)
    drawn = chances.topk(k).indices.sort().values  # (B, k)
    stochastic = draw(len(nearest), 1, device=device) < constructor.epsilon  # (B, 1)
    ranks = torch.where(stochastic, drawn, regular)
    return nearest.gather(-1, ranks.view(-1, *[1] * (nearest.ndim - 2), k).expand(*nearest.shape[:-1], k))
