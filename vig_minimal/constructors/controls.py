"""Controls: graphs that know nothing of the image. What a learnt or found graph brings is what it brings beyond them.

    graph           sources of a node                                            degree         cost for each node
    Surroundings    the 3 × 3 nodes around it, cut at the border                 4 to 9         9 gathered rows
    Random          itself and k − 1 others, drawn once                          k              k gathered rows
    Full            all nodes, with weight 1                                     N              a maximum over N nodes
    Alone           itself, so that x_j − x_i = 0                                1              1 gathered row

Ours: no paper has them as a baseline. No distances, no parameters, no gradient.
"""

import itertools

import torch
from torch import Tensor, nn

from ..graphs.graph import Graph
from .axial import Grid, steps_graph

AROUND = tuple(step for step in itertools.product((-1, 0, 1), repeat=2) if step != (0, 0))


class Surroundings(nn.Module):
    """What a 3 × 3 convolution sees. Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, 9).

    Places beyond the border are replaced by the node itself, which counts once: 4 sources in a corner, 6 at an edge
    (less only where the grid has a side of 1 or 2)."""

    def forward(self, x: Tensor, grid: Grid) -> Graph:
        return steps_graph(x, grid, AROUND, wrap=False)


class Random(nn.Module):
    """Itself and k − 1 other nodes, drawn once when the module is made, and the same for all images.

    As many edges as k-NN has, and no similarity. The draw is part of the state dict, so that a saved network keeps its
    graph. Nodes (B, N, C) -> Graph with index (B, N, k), all different. Raises ValueError for k < 1, k > N, and nodes
    of another number than it was made for.
    """

    def __init__(self, k: int, num_nodes: int):
        super().__init__()
        if not 1 <= k <= num_nodes:
            raise ValueError(f"k={k}: a node reads from 1 to {num_nodes} of the {num_nodes} nodes")
        chances = torch.rand(num_nodes, num_nodes).fill_diagonal_(2)  # the node itself first
        self.index = chances.topk(k).indices  # (N, k); not a buffer: a moving average of the weights would average it

    def get_extra_state(self) -> Tensor:
        return self.index

    def set_extra_state(self, state: Tensor) -> None:
        self.index = state

    def forward(self, x: Tensor, grid: Grid | None = None) -> Graph:
        if x.shape[1] != len(self.index):
            raise ValueError(f"a random graph drawn for {len(self.index)} nodes, and there are {x.shape[1]}")
        return Graph(x.shape[1], index=self.index.to(x.device).expand(len(x), -1, -1))


class Full(nn.Module):
    """Every node reads from all nodes: what pruning starts from. Nodes (B, N, C) -> Graph with weights (B, N, N), bool.
    """

    def forward(self, x: Tensor, grid: Grid | None = None) -> Graph:
        return Graph(x.shape[1], weights=x.new_ones(1, x.shape[1], x.shape[1], dtype=torch.bool).expand(len(x), -1, -1))


class Alone(nn.Module):
    """Every node reads from itself alone: no graph. Nodes (B, N, C) -> Graph with index (B, N, 1)."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Graph:
        own = torch.arange(x.shape[1], device=x.device)[:, None]  # (N, 1)
        return Graph(x.shape[1], index=own.expand(len(x), -1, -1))
