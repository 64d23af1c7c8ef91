"""Image-independent baselines: a graph must beat these.

    graph           sources of a node                                            degree         cost for each node
    Surroundings    the 3 × 3 nodes around it, cut at the border                 4 to 9         9 gathered rows
    Random          itself and k − 1 others, drawn once                          k              k gathered rows
    Full            all nodes, with weight 1                                     N              a maximum over N nodes
    Alone           itself, so that x_j − x_i = 0                                1              1 gathered row

Ours: no paper has them as a baseline. No distances, no parameters, no gradient.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.graph import Graph
from .axial import Grid, made_once, steps_graph
from .schedules import at

AROUND = tuple(step for step in itertools.product((-1, 0, 1), repeat=2) if step != (0, 0))


class Surroundings(nn.Module):
    """The receptive field of a 3 × 3 convolution. Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, 9).

    Places beyond the border are replaced by the node itself, which counts once: 4 sources in a corner, 6 at an edge
    (fewer where the grid has a side of 1)."""

    def forward(self, x: Tensor, grid: Grid) -> Graph:
        return steps_graph(x, grid, lambda grid: AROUND, wrap=False)


class Random(nn.Module):
    """Itself and k − 1 other nodes, drawn once when the module is made, and the same for all images.

    As many edges as k-NN has, and no similarity. The seed of the draw is part of the state dict, so that a saved
    network keeps its graph. k is a number or, as in `KNN`, a rule of the number of nodes.
    Nodes (B, N, C) -> Graph with index (B, N, k), all different. Raises ValueError for k < 1 and k > N.
    """

    def __init__(self, k: int | Callable[[int], int] = 9):
        super().__init__()
        self.k = k
        self.seed = int(torch.randint(2**31, (), device="cpu"))  # no buffer: a moving average would average it

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.seed)

    def set_extra_state(self, state: Tensor) -> None:
        self.seed = int(state)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Graph:
        num_nodes = int(x.shape[1])  # compiled code is made for one grid
        k = at(self.k, num_nodes)
        if not 1 <= k <= num_nodes:
            raise ValueError(f"k={k}: a node reads from 1 to {num_nodes} of the {num_nodes} nodes")
        return Graph(num_nodes, index=random_index(self.seed, k, num_nodes, x.device).expand(x.shape[0], -1, -1))

    def extra_repr(self) -> str:
        return f"k={self.k}"


@made_once
def random_index(seed: int, k: int, num_nodes: int, device: torch.device) -> Tensor:
    """Return k different random nodes for each of N, itself first: (N, k) int64. The same on every device.

    The chances are a hash of the seed and the pair's number (C. Wellons' lowbias32), which a compiler can trace."""
    pairs = torch.arange(num_nodes**2, device=device) + seed
    for shift, factor in ((16, 0x7feb352d), (15, 0x846ca68b), (16, 1)):
        pairs = ((pairs ^ (pairs >> shift)) * factor) & 0xffffffff
    chances = pairs.view(num_nodes, num_nodes)
    return chances.masked_fill(torch.eye(num_nodes, dtype=torch.bool, device=device), 2**32).topk(k).indices


class Full(nn.Module):
    """Every node reads from all nodes: no edge is pruned. Nodes (B, N, C) -> Graph with weights (B, N, N), bool.
    """

    def forward(self, x: Tensor, grid: Grid | None = None) -> Graph:
        batch, num_nodes = x.shape[:2]
        return Graph(num_nodes, weights=x.new_ones(1, num_nodes, num_nodes, dtype=torch.bool).expand(batch, -1, -1))


class Alone(nn.Module):
    """Every node reads from itself alone: no graph. Nodes (B, N, C) -> Graph with index (B, N, 1)."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Graph:
        own = torch.arange(x.shape[1], device=x.device)[:, None]  # (N, 1)
        return Graph(x.shape[1], index=own.expand(x.shape[0], -1, -1))
