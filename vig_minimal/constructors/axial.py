"""Graphs along rows and columns: SVGA, MGC, DAGC and LSGC. Distances between nodes are never compared over the grid.

    graph   sources of the node in row r and column c of an H × W grid, beside itself          from
    SVGA    (r − mK mod H, c) and (r, c − mK mod W) for all m ≥ 1 with mK below the side        MobileViG, 2023
    MGC     (r ± K mod H, c) and (r, c ± K mod W)                                               MobileViGv2, 2024
    DAGC    those sources of SVGA that are nearer than μ − σ                                    GreedyViG, 2024
    LSGC    (r ± s mod H, c) and (r, c ± s mod W) for s = K^n − 1, n = 1, …, bits of the side − 1   LogViG, 2025

K is `hops`. Rows and columns wrap around. Where K divides the side, SVGA's sources are every K-th node of the row and
the column. All but DAGC are fixed by the grid: their index is made once and kept.

Cost for each node: no distances; k gathered rows of C numbers, k being 1 + ⌊(H−1)/K⌋ + ⌊(W−1)/K⌋ (SVGA, DAGC), 5 (MGC),
or about 1 + 2 log_K H + 2 log_K W (LSGC). DAGC compares all nodes of a row or column: (H + W)·C for each node.

Differs from the released code: there the maximum of MobileViG and LogViG takes x_i − x_j; here, as in ViG and in the
other two, it takes x_j − x_i. In all four the maximum starts at 0. That is the message of a node to itself, so here
every node is one of its own sources.
GreedyViG prints the Euclidean distance, and its code takes L1, as we do.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.distance import full_precision
from ..graphs.graph import Graph
from ..graphs.plain import fast_form

Grid = tuple[int, int]
Step = tuple[int, int]  # rows and columns from a node to a source


@fast_form("kept")
def made_once(function: Callable) -> Callable:
    """Mark a function of the grid alone: the fast form caches its results for all images and blocks."""
    return function


def steps_graph(x: Tensor, grid: Grid, steps_on: Callable[[Grid], tuple[Step, ...]], wrap: bool = True) -> Graph:
    """Return the graph in which a node reads from itself and from the nodes that are `steps_on(grid)` away from it.

    Where a step leaves the grid it wraps around, or else ends at the node itself, which counts once. Of steps that end
    at the same node one is kept."""
    grid = int(grid[0]), int(grid[1])  # compiled code is made for one grid
    steps = steps_on(grid)
    if wrap:
        steps = tuple(dict.fromkeys((down % grid[0], across % grid[1]) for down, across in steps))
        steps = tuple(step for step in steps if step != (0, 0))
    index = steps_index(grid, steps, wrap, x.device)  # (N, k)
    return Graph(x.shape[1], index=index.expand(x.shape[0], -1, -1))


@made_once
def steps_index(grid: Grid, steps: tuple[Step, ...], wrap: bool, device: torch.device) -> Tensor:
    """Return the sources of every node, itself first: (N, 1 + number of steps) int64."""
    size = torch.tensor(grid, device=device)
    own = torch.cartesian_prod(*(torch.arange(side, device=device) for side in grid))[:, None]  # (N, 1, 2)
    there = own + torch.tensor(((0, 0), *steps), device=device)  # (N, k, 2)
    inside = ((there >= 0) & (there < size)).all(-1, keepdim=True)
    row, column = (there % size if wrap else torch.where(inside, there, own)).unbind(-1)
    return row * grid[1] + column


def along(down: list[int], across: list[int]) -> tuple[Step, ...]:
    """Return steps along the column and along the row."""
    return (*((step, 0) for step in down), *((0, step) for step in across))


def svga_steps(hops: int, side: int) -> list[int]:
    """Return −K, −2K, … above −side."""
    return list(range(-hops, -side, -hops))


class SVGA(nn.Module):
    """Sparse vision graph attention (MobileViG, Munir et al., 2023): every K-th node of the row and of the column.

    A node (r, c) reads from itself, (r − mK mod H, c) and (r, c − mK mod W) for all m ≥ 1 with mK below the side.
    Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, 1 + ⌊(H−1)/K⌋ + ⌊(W−1)/K⌋), all different.
    """

    def __init__(self, hops: int = 2):
        super().__init__()
        self.hops = checked(hops)

    def forward(self, x: Tensor, grid: Grid) -> Graph:
        return steps_graph(x, grid, self.steps)

    def steps(self, grid: Grid) -> tuple[Step, ...]:
        return along(*(svga_steps(self.hops, side) for side in grid))

    def extra_repr(self) -> str:
        return f"hops={self.hops}"


class MGC(nn.Module):
    """Mobile graph convolution (MobileViGv2, Avery et al., 2024): the nodes K up, down, left and right.

    A node (r, c) reads from itself, (r ± K mod H, c) and (r, c ± K mod W). By default K is 2/7 of the shorter side: as
    released, 8, 4 and 2 at 28, 14 and 7 nodes. Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, 5), or fewer
    where K or 2K is a side.
    """

    def __init__(self, hops: int | None = None):
        super().__init__()
        self.hops = None if hops is None else checked(hops)

    def forward(self, x: Tensor, grid: Grid) -> Graph:
        return steps_graph(x, grid, self.steps)

    def steps(self, grid: Grid) -> tuple[Step, ...]:
        hops = self.hops or max(1, 2 * min(grid) // 7)
        return along(*[[hops, -hops]] * 2)

    def extra_repr(self) -> str:
        return f"hops={self.hops}"


class LSGC(nn.Module):
    """Logarithmic scalable graph construction (LogViG, Munir et al., 2025): few nodes far away, more of them near.

    A node (r, c) reads from itself, (r ± s mod H, c) and (r, c ± s mod W) for s = K^n − 1 with n from 1 to the number
    of bits of that side − 1. A step beyond the side ends at the node itself.
    Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, k), k at most 1 + 2 (bits of H − 1) + 2 (bits of W − 1).
    """

    def __init__(self, hops: int = 2):
        super().__init__()
        self.hops = checked(hops, least=2)

    def forward(self, x: Tensor, grid: Grid) -> Graph:
        return steps_graph(x, grid, self.steps)

    def steps(self, grid: Grid) -> tuple[Step, ...]:
        return along(*[[way * (self.hops**n - 1) for n in range(1, side.bit_length()) for way in (1, -1)
                        if self.hops**n <= side] for side in grid])

    def extra_repr(self) -> str:
        return f"hops={self.hops}"


class DAGC(nn.Module):
    """Dynamic axial graph construction (GreedyViG, Munir et al., 2024): SVGA's sources that are near enough.

    A node i reads from itself and from those sources j of SVGA with ‖x_i − x_j‖₁ < μ − σ: mean and unbiased deviation,
    an image each, of the distances ‖x_i − x_i'‖₁ between the image and its copy rolled by half in both axes, by ⌊−H/2⌋
    rows and ⌊−W/2⌋ columns. Picking carries no gradient. Features are not normalised.

    Nodes (B, N, C) and grid (H, W) -> Graph with index (B, N, 1 + ⌊(H−1)/K⌋ + ⌊(W−1)/K⌋); a source that is too far is
    replaced by the node itself, which counts once.
    """

    def __init__(self, hops: int = 2):
        super().__init__()
        self.hops = checked(hops)

    @torch.no_grad()
    def forward(self, x: Tensor, grid: Grid) -> Graph:
        grid = int(grid[0]), int(grid[1])
        graph = steps_graph(x, grid, SVGA(self.hops).steps)
        own, reached = graph.index[..., :1], graph.index[..., 1:]  # (B, N, 1), (B, N, k − 1)
        with torch.autocast(x.device.type, enabled=False):
            image = full_precision(x).unflatten(1, grid)  # (B, H, W, C)
            rolled = image.roll((-grid[0] // 2, -grid[1] // 2), (1, 2))  # // rounds down: by −4 of 7
            spread = (image - rolled).abs().sum(-1).flatten(1)  # (B, N)
            # one node has no spread
            std, mean = torch.std_mean(spread, 1, correction=min(1, x.shape[1] - 1), keepdim=True)  # σ, μ: (B, 1)
            # the distances inside every column and every row; of each, those at the steps
            down = torch.cdist(image.transpose(1, 2), image.transpose(1, 2), p=1).transpose(1, 2)  # (B, H, W, H)
            across = torch.cdist(image, image, p=1)  # (B, H, W, W)
            steps_down = len(svga_steps(self.hops, grid[0]))
            row = reached[..., :steps_down] // grid[1]  # (B, N, steps down)
            column = reached[..., steps_down:] % grid[1]  # (B, N, steps across)
            distance = torch.cat([down.flatten(1, 2).gather(2, row), across.flatten(1, 2).gather(2, column)], -1)
        near = distance < (mean - std)[..., None]  # (B, N, k − 1)
        return Graph(x.shape[1], index=torch.cat([own, torch.where(near, reached, own)], -1))

    def extra_repr(self) -> str:
        return f"hops={self.hops}"


def checked(hops: int, least: int = 1) -> int:
    """Return the hops. Raises ValueError unless they are an integer of at least `least`."""
    if type(hops) is not int or hops < least:
        raise ValueError(f"hops={hops!r}: a whole number of at least {least}")
    return hops
