"""IPG's graph: a node gets as many neighbours as its patch has detail (Tian et al., CVPR 2024).

    symbol    variable    shape
    F         image       (B, C, H, W): the nodes on their grid
    X_i       lost        (B, N): Σ_c |F − up(down(F))|, what halving the image loses at node i
    k_i       budget      (B, N): N · k · X_i / Σ X, rounded, at least 1 and at most N
    S_ij      near        cosine of x_i and x_j

Super-resolution needs more of what is hard to see; sky and walls need little. The mean of k_i is about k.

Differs from the released code: there candidates are a window and a sparse grid, here all nodes; eight bisections search
a threshold that leaves about k_i edges, here they are exactly k_i; in the first stage X is pulled tenfold to its mean.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.distance import fill_diagonal, full_precision, mean_node, squared_distance, unit
from ..graphs.graph import Graph
from .axial import Grid
from .schedules import at


class Detail(nn.Module):
    """k_i nearest by cosine, k_i following the detail of node i (IPG, section 3.2). Without gradient.

    A node is its own first source; of equally similar ones the first wins. k, about the mean of k_i, is a number or, as
    in `KNN`, a rule of the number of nodes.
    Nodes (B, N, C) and grid (H, W) -> Graph with weights (B, N, N), bool. Raises ValueError for k < 1 and k > N.
    """

    def __init__(self, k: int | Callable[[int], int] = 9):
        super().__init__()
        self.k = k

    @torch.no_grad()
    def forward(self, x: Tensor, grid: Grid) -> Graph:
        num_nodes = int(x.shape[1])  # compiled code is made for one grid
        k = at(self.k, num_nodes)
        if not 1 <= k <= num_nodes:
            raise ValueError(f"k={k}: a node reads from 1 to {num_nodes} of the {num_nodes} nodes")
        with torch.autocast(x.device.type, enabled=False):
            # IPG: k_i = N · k · X_i / Σ X, between 1 and N
            lost = detail(x, grid)  # (B, N)
            share = (lost / lost.sum(1, keepdim=True)).nan_to_num(1 / num_nodes)  # the same for all of a plain image
            budget = (num_nodes * k * share).clamp(1, num_nodes).round()  # (B, N)
            # IPG: the k_i largest cosines; cos(x_i, x_j) = 1 − ½ ‖x̂_i − x̂_j‖²
            near = unit(x) - mean_node(unit(x))
            distance = fill_diagonal(squared_distance(near, near), -torch.inf)  # (B, N, N)
            order = distance.sort(stable=True).indices  # nearest first
            taken = torch.arange(num_nodes, device=x.device) < budget[..., None]  # (B, N, N), in that order
        return Graph(num_nodes, weights=torch.zeros_like(taken).scatter(-1, order, taken))

    def extra_repr(self) -> str:
        return f"k={self.k}"


def detail(x: Tensor, grid: Grid) -> Tensor:
    """Return X_i = Σ_c |F − up(down(F))|: nodes (B, N, C) to (B, N). Half the grid and back, bilinearly."""
    # IPG: X_i = Σ_c |F − up(down(F))|_c
    grid = int(grid[0]), int(grid[1])
    image = full_precision(x).transpose(1, 2).unflatten(2, grid)  # (B, C, H, W)
    half = F.interpolate(image, tuple(max(1, side // 2) for side in grid), mode="bilinear")
    return (image - F.interpolate(half, grid, mode="bilinear")).abs().sum(1).flatten(1)
