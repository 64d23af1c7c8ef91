"""Group k-NN: every group of channels has neighbours of its own (GKGNet, Yao et al., 2024, section 3.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.graph import GroupGraph
from .knn import check_neighbours, dilated, nearest_sources
from .schedules import at


class GroupKNN(nn.Module):
    """Group k-NN: channels are split into G groups, and a node has k nearest neighbours in each group.

    Neighbours are ranked by the cosine similarity of the group's slices, computed as the squared distance of the
    L2-normalised slices. A node reads from k to G·k different sources. With G = 1 this is `KNN`, whose other arguments
    it shares.

    Nodes (B, N, C) -> GroupGraph with index (B, G, N, k). Raises ValueError if k·d > M or if G does not divide C.
    """

    def __init__(self, k: int | Callable[[int], int], groups: int = 2, dilation: int | Callable[[int], int] = 1,
                 epsilon: float = 0.0):
        super().__init__()
        check_neighbours(epsilon, k=k, dilation=dilation, groups=groups)
        self.k, self.groups, self.dilation, self.epsilon = k, groups, dilation, epsilon

    @torch.no_grad()
    def forward(self, x: Tensor, grid: tuple[int, int] | None = None, sources: Tensor | None = None,
                relative: Tensor | None = None) -> GroupGraph:
        if x.shape[2] % self.groups:
            raise ValueError(f"groups={self.groups}: {x.shape[2]} channels cannot be split into {self.groups} equal"
                             " groups")
        # GKGNet section 3.2, group k-NN: D_ig searches among S_g only
        slices = [None if t is None else self._split(t) for t in (x, sources)]  # (B·G, N or M, C/G)
        num_sources = (x if sources is None else sources).shape[1]
        k, dilation = at(self.k, num_sources), at(self.dilation, num_sources)
        nearest = nearest_sources(*slices, relative, k, dilation)  # `relative` is the same for all groups
        nearest = nearest.unflatten(0, (-1, self.groups))  # (B, G, N, k·d)
        return GroupGraph(num_sources, index=dilated(self, nearest, k, dilation), sources=sources)

    def _split(self, x: Tensor) -> Tensor:
        """Return the slices (B·G, N, C/G) of nodes (B, N, C)."""
        return x.unflatten(-1, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"k={self.k}, groups={self.groups}, dilation={self.dilation}, epsilon={self.epsilon}"
