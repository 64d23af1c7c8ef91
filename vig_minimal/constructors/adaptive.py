"""AdaptViG's graph: fixed places, and a learnt gate on the far ones (Munir et al., WACV 2026).

Sources of the node in row r and column c of an H × W grid, which wraps around, and the weight of their edges:

    local   (r − K mod H, c) and (r, c − K mod W)                                  1
    far     (r − 2^n mod H, c) for n = 1, …, bits of H − 1; columns in like manner  g_ij = exp(−‖x_i − x_j‖₁ / (|T| + 10⁻⁶))

K is `hops`, T one learnt scalar a block, 1 at first. A source that is both local and far has weight 1, since the local
edge carries at least as much to a maximum that starts at 0. Where 2^n is the side, the source is the node itself.
Degree: at most 2 + (bits of H − 1) + (bits of W − 1), which grows with the logarithm of the side. Cost for each node: C
subtractions and one exponential a far source.

Far sources lie one way alone, and a node is no source of its own otherwise. As in every weighted graph of this project,
the maximum runs over all nodes, and one without an edge carries 0: m_i = max(0, max_j w_ij (x_j − x_i)).
"""

import torch
from torch import Tensor, nn

from ..graphs.distance import full_precision
from ..graphs.graph import Graph
from .axial import Grid, Step, along, checked, steps_index


class Adaptive(nn.Module):
    """Local sources, and far ones through the gate g_ij = exp(−‖x_i − x_j‖₁ / (|T| + 10⁻⁶)) (AdaptViG's AdaptConv).

    hops: K; by default a seventh of the shorter side: as released, 8, 4, 2 and 1 at 56, 28, 14 and 7 nodes.
    Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, k), all different, and weights (B, N, k) in float32 or
    float64, with gradient for nodes and T.
    """

    def __init__(self, hops: int | None = None):
        super().__init__()
        self.hops = None if hops is None else checked(hops)
        self.temperature = nn.Parameter(torch.tensor(1.0))  # T

    def forward(self, x: Tensor, grid: Grid) -> Graph:
        grid = int(grid[0]), int(grid[1])  # compiled code is made for one grid
        local, far = self.steps(grid)
        index = steps_index(grid, (*local, *far), True, x.device)[:, 1:]  # (N, k), without the node that comes first
        with torch.autocast(x.device.type, enabled=False):
            image = full_precision(x).unflatten(1, grid)  # (B, H, W, C)
            one = image.new_ones(x.shape[:2])  # (B, N)
            # AdaptViG: g_ij = exp(−‖x_i − x_j‖₁ / (|T| + 10⁻⁶))
            gates = [torch.exp(-(image - image.roll((-down, -across), (1, 2))).abs().sum(-1).flatten(1)
                               / (self.temperature.abs() + 1e-6)) for down, across in far]
            weights = torch.stack([one] * len(local) + gates, -1)  # (B, N, k)
        return Graph(x.shape[1], index=index.expand(x.shape[0], -1, -1), weights=weights)

    def steps(self, grid: Grid) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """Return local and far steps on this grid, all different."""
        hops = self.hops or max(1, min(grid) // 7)
        local, far = (tuple(dict.fromkeys((down % grid[0], across % grid[1]) for down, across in steps)) for steps in (
            along([-hops], [-hops]),
            along(*[[-(2**n) for n in range(1, side.bit_length())] for side in grid])))
        return local, tuple(step for step in far if step not in local)

    def extra_repr(self) -> str:
        return f"hops={self.hops}"
