"""k-NN inside windows of the grid, every second block with windows shifted by half (WiGNet, Spadaro et al., 2024).

    symbol      variable        shape
    w, s        window, shift   side of a window, and by how much all windows lie lower and further right
    window      ⌊(r − s)/w⌋ and ⌊(c − s)/w⌋ of the node in row r and column c; nothing wraps around, so windows at the
                border are smaller
    allowed     inside.sum(-1)  (P,): nodes of each of the P windows
    k'          count           (P,): k in a whole window; max(⌊k · allowed/w²⌋, 3) in a smaller one, at most `allowed`

Distances are those inside windows: N·w² of them, not N².

Differs from the released code: no relative positions are added to the distances, as in all isotropic models here.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.distance import mean_node, smallest, squared_distance, unit
from ..graphs.graph import Graph
from .axial import made_once
from .schedules import at

OfGrid = Callable[[tuple[int, int]], int]  # a rule: a number from (H, W)


class WindowKNN(nn.Module):
    """The k nearest of L2-normalised nodes in the node's own window, nearest first, the node itself among them.

    Where the grid is smaller than a window, the window's side is the grid's. Without gradient.
    Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, min(max(k, 3), w²)); places that are missing in a smaller
    window repeat the node, which counts once. Cost for each node: at most w² distances, then k gathered rows. k, window
    and shift are numbers or, so that images may be of several sizes, rules of the grid. Raises ValueError for k < 1,
    window < 1 or shift < 0.
    """

    def __init__(self, k: int | OfGrid = 9, window: int | OfGrid = 7, shift: int | OfGrid = 0):
        super().__init__()
        for least, value in ((1, k), (1, window), (0, shift)):
            if not callable(value) and value < least:
                raise ValueError(f"k={k}, window={window}, shift={shift}: k and window at least 1, shift at least 0")
        self.k, self.window, self.shift = k, window, shift

    @torch.no_grad()
    def forward(self, x: Tensor, grid: tuple[int, int]) -> Graph:
        grid = int(grid[0]), int(grid[1])  # compiled code is made for one grid
        k, window, shift = at(self.k, grid), at(self.window, grid), at(self.shift, grid)
        member, place, count = windows(grid, window, shift, k, x.device)
        nodes = unit(x).nan_to_num_(0)  # NaN would tie with padding, which is no node; the loss gets NaN all the same
        nodes = (nodes - mean_node(nodes))[:, member.clamp(min=0)].flatten(0, 1)  # (B·P, S, C), S nodes or fewer each
        distance = squared_distance(nodes, nodes).unflatten(0, (x.shape[0], -1))  # (B, P, S, S)
        distance.masked_fill_((member < 0)[:, None], torch.inf)
        distance.diagonal(dim1=2, dim2=3).fill_(-torch.inf)  # a node is its own nearest, whatever rounding says
        width = min(max(k, 3), member.shape[1])
        nearest = smallest(distance, width)  # (B, P, S, k)
        rank = torch.arange(width, device=x.device)
        nearest = torch.where(rank < count[:, None, None], nearest, nearest[..., :1])
        index = member.expand(x.shape[0], -1, -1).gather(2, nearest.flatten(2))  # (B, P, S·k)
        return Graph(x.shape[1], index=index.view(x.shape[0], -1, width)[:, place])

    def extra_repr(self) -> str:
        return f"k={self.k}, window={self.window}, shift={self.shift}"


@made_once
def windows(grid: tuple[int, int], window: int, shift: int, k: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the nodes of each of the P windows (P, S), −1 where a window has fewer than S = w²; where each node stands
    in that table, counted row by row (N,); and the number of neighbours in each window (P,)."""
    height, width = (min(window, side) for side in grid)
    row, column = (torch.arange(side, device=device) - shift for side in grid)
    first = -shift // height, -shift // width  # windows are counted from these on
    rows, columns = (grid[0] - 1 - shift) // height - first[0] + 1, (grid[1] - 1 - shift) // width - first[1] + 1
    down, across = (place.div(side, rounding_mode="floor") for place, side in ((row, height), (column, width)))
    number = (down - first[0])[:, None] * columns + across - first[1]  # (H, W)
    size = height * width
    place = (number * size + (row % height)[:, None] * width + column % width).flatten()  # (N,)
    member = place.new_full((rows * columns, size), -1)
    member.view(-1)[place] = torch.arange(len(place), device=device)
    allowed = (member >= 0).sum(-1)  # (P,)
    # WiGNet: k' = max(⌊k · allowed/w²⌋, 3) in a smaller window
    count = torch.where(allowed < size, (k * allowed // size).clamp(min=3), k)
    return member, place, torch.minimum(count, allowed)
