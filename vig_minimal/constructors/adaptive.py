"""AdaptViG's graph: fixed places, and a learnt gate on the far ones (Munir et al., WACV 2026).

Sources of the node in row r and column c of an H × W grid, which wraps around, and the weights of their edges:

    local   (r − K mod H, c) and (r, c − K mod W)                       1
    far     (r − 2^n mod H, c) for n = 1, …, bits of H − 1, and         g_ij = exp(−‖x_i − x_j‖₁ / (|T| + 10⁻⁶))
            (r, c − 2^n mod W) for n = 1, …, bits of W − 1

K is `hops`, T one learnt scalar a block, 1 at first. A source that is both local and far has weight 1: of the two edges
the local one decides the maximum. Where 2^n is the side the source is the node itself; else a node is no source of its
own. As in every weighted graph the maximum runs over all nodes, and those without an edge carry 0:
m_i = max(0, max_j w_ij (x_j − x_i)). Degree: at most bits of H + bits of W. Cost for each node: C subtractions and one
exponential a far source.

At the start most gates are closed, since the distance grows with C, and T gets nearly no gradient. Measured on 16
photos of CIFAR-10 (batch norm in training mode, float32, cross-entropy, gates of a node to itself left out):

    network, blocks             C     mean gate          exactly 0       gradient of T
    adaptvig_s, stage 1         32    0.04               none            3e-9 to 2e-8
                stage 2         64    0.005              4 to 5 %        1e-9 to 2e-9
                stage 3         128   3e-5 to 4e-5       51 to 53 %      9e-12 to 1e-10
    adaptvig_nano, stages 1-3   24-96 0.015, 1e-3, 3e-9  0, 1, 29 %      1e-8, 2e-9, 1e-13
    vig_nano, graph="adaptive"  96    2e-4 to 1e-5       30 to 36 %      3e-8 to 3e-5
    vig_ti, the same            192   5e-5 to 3e-7       77 to 83 %      2e-9 to 8e-7
    vig_s, the same             320   2e-5 to 1e-9       89 to 94 %      4e-11 to 3e-7

So at first it is the graph of the two local sources. AdamW divides a gradient by its size plus ε = 1e-8: of 1e-9 it
makes a tenth of a step, of 1e-11 a thousandth. In AdaptViG the gradients also carry the layer scale of 1e-5.
"""

import torch
from torch import Tensor, nn

from ..graphs.distance import full_precision
from ..graphs.graph import Graph
from .axial import Grid, Step, along, checked, steps_index


class Adaptive(nn.Module):
    """Local sources, and far ones through the gate g_ij = exp(−‖x_i − x_j‖₁ / (|T| + 10⁻⁶)) (AdaptViG's AdaptConv).

    hops: K; by default a seventh of the shorter side: as released, 8, 4, 2 and 1 at 56, 28, 14 and 7 nodes. Raises
    ValueError unless it is a whole number of at least 1.
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
        index = steps_index(grid, local + far, True, x.device)[:, 1:]  # (N, k): the node itself comes first
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
