"""k nearest neighbours: plain, dilated and stochastic (ViG, Han et al., 2022; after DeepGCNs, Li et al., 2019)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.distance import fill_diagonal, mean_node, smallest, squared_distance, unit
from ..graphs.draws import draw
from ..graphs.graph import Graph
from ..graphs.plain import fast_form
from .schedules import at


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
        return Graph(num_sources, index=dilated(self, nearest, k, dilation), sources=sources)

    def extra_repr(self) -> str:
        return f"k={self.k}, dilation={self.dilation}, epsilon={self.epsilon}"


def check_neighbours(epsilon: float, **counts: int | Callable[[int], int]) -> None:
    """Raise ValueError unless the counts (k, dilation, groups) are integers of at least 1, or rules, and ε is a
    probability."""
    for name, value in counts.items():
        if not callable(value) and (type(value) is not int or value < 1):
            raise ValueError(f"{name}={value!r}: must be at least 1, and a whole number")
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon={epsilon!r}: a probability, at least 0 and less than 1")


def nearest_sources(x: Tensor, sources: Tensor | None, relative: Tensor | None, k: int, dilation: int) -> Tensor:
    """Return the k·d sources of each node with the least ‖x̂_i − ŷ_j‖² + relative_ij, nearest first: (B, N, k·d).
    sources: None for the nodes themselves."""
    y = unit(x if sources is None else sources)  # (B, M, C)
    if k * dilation > y.shape[1]:
        raise ValueError(f"k·dilation = {k}·{dilation}: more neighbours than the {y.shape[1]} nodes")
    y = y - (mean := mean_node(y))
    return nearest(y if sources is None else unit(x) - mean, y, relative, k * dilation)


@fast_form("nearest")
def nearest(x: Tensor, y: Tensor, relative: Tensor | None, count: int) -> Tensor:
    """Return the `count` sources y (B, M, C) nearest to each x (B, N, C), nearest first: (B, N, count). If y is x each
    node is its own nearest, whatever rounding says; with `relative` its distance to itself is exactly 0."""
    distance = squared_distance(x, y)  # (B, N, M)
    if relative is not None:
        return smallest(distance + relative[:], count)  # [:]: all rows; the fast form takes some at a time
    return smallest(fill_diagonal(distance, -torch.inf) if y is x else distance, count)


def dilated(constructor: nn.Module, nearest: Tensor, k: int, dilation: int) -> Tensor:
    """Return every d-th of the k·d nearest or, with probability ε for each image, a random k: (B, ..., k)."""
    if not (constructor.training and constructor.epsilon > 0):
        return nearest[..., ::dilation]
    regular = torch.arange(0, nearest.shape[-1], dilation, device=nearest.device)  # (k,)
    chances = draw(len(nearest), nearest.shape[-1], device=nearest.device)
    drawn = chances.topk(k).indices.sort().values  # (B, k)
    stochastic = draw(len(nearest), 1, device=nearest.device) < constructor.epsilon  # (B, 1)
    ranks = torch.where(stochastic, drawn, regular)
    return nearest.gather(-1, ranks.view(-1, *[1] * (nearest.ndim - 2), k).expand(*nearest.shape[:-1], k))
