"""Schedules over the blocks: k, dilation, SViG's quantile, windows, hyperedges.

    of block l of L, on N nodes     is                                                           from
    k_l    `neighbours`             k + ⌊k·l/(L − 1)⌋: from k to 2k, at most N                   ViG, ClusterViG, GKGNet
    d_l    `dilation`               min(⌊l/4⌋ + 1, ⌊N/2k⌋): one more every four blocks           ViG
    k, d   `pyramid_neighbours`     k in every block; min(⌊l/4⌋ + 1, 5), M sources               Pyramid ViG, GKGNet
    q_l    `quantiles`              q_0 − l·δ: deeper blocks have more edges                     SViG
    w, s   `window_side`            half of the shorter side; shift w/2 in every second block    WiGNet
    E_l    `hyperedges`             E + ⌊E·l/(L − 1)⌋: from E to 2E, at most N                   ViHGNN

Images may be of several sizes, so most of these are rules: functions of the number of nodes or of the grid. k, w and E
are None if not chosen, and then follow the size too. Stochastic depth is `models.layers.drop_path_rates`.
"""

from collections.abc import Callable, Hashable

PYRAMID_K = 9  # in every block of a pyramid


class Rule:
    """A number that follows from a size: rule(size) is function(*about, size). size: the number of nodes or of sources,
    or the grid (H, W). It is printed as the number at `built_for`, the size that its model is built for."""

    def __init__(self, built_for: Hashable, function: Callable[..., int], *about: object):
        self.built_for, self.function, self.about = built_for, function, about

    def __call__(self, size: Hashable) -> int:
        return self.function(*self.about, size)

    def __repr__(self) -> str:
        return repr(self(self.built_for))


def at(value: int | Callable[[Hashable], int], size: Hashable) -> int:
    """Return a constructor's number at a size: the number itself, or the result of its rule."""
    return value(size) if callable(value) else value


def first_k(num_nodes: int) -> int:
    """Return the default k of ViG's first block: the papers' 9, or half of fewer than 18 nodes: k doubles."""
    return max(1, min(9, num_nodes // 2))


def neighbours(k: int | None, depth: int, block: int, num_nodes: int) -> int:
    """Return k_l of block l: from k to 2k over the blocks. None stands for `first_k`."""
    k = first_k(num_nodes) if k is None else k
    # ViG: k_l = int(linspace(k, 2k, depth))
    return min(k + k * block // max(1, depth - 1), num_nodes)


def dilation(k: int | None, depth: int, block: int, num_nodes: int) -> int:
    """Return d_l of block l: one more every four blocks, while the last block's k·d nearest exist."""
    # ViG: d_l = min(l // 4 + 1, N // 2k)
    return max(1, min(block // 4 + 1, num_nodes // neighbours(k, depth, depth - 1, num_nodes)))


def pyramid_neighbours(k: int | None, num_sources: int) -> int:
    """Return k of every block of a pyramid: 9, or all sources where a stage has fewer."""
    return min(PYRAMID_K if k is None else k, num_sources)


def pyramid_dilation(k: int | None, block: int, num_sources: int) -> int:
    """Return d_l of a pyramid's block, counted over all stages."""
    # Pyramid ViG: d_l = min(l // 4 + 1, 49 // 9), and no more than there are sources for
    return max(1, min(block // 4 + 1, 49 // 9, num_sources // pyramid_neighbours(k, num_sources)))


def quantiles(threshold: float, decrement: float, depth: int) -> list[float]:
    """Return q_l of each block. It falls: deeper blocks have more edges. Raises ValueError unless 0 < q_l < 1."""
    # SViG: q_l = q_0 − l·δ
    q = [threshold - l * decrement for l in range(depth)]
    if not all(0 < q_l < 1 for q_l in q):
        raise ValueError(f"threshold={threshold:g}, decrement={decrement:g}: the quantile would go from"
                         f" {q[0]:g} to {q[-1]:g} over {depth} blocks; keep it between 0 and 1")
    return q


def neighbours_on(k: int | None, depth: int, block: int, grid: tuple[int, int]) -> int:
    """Return `neighbours` of a grid (H, W)."""
    return neighbours(k, depth, block, grid[0] * grid[1])


def window_side(window: int | None, grid: tuple[int, int]) -> int:
    """Return the side w of a window. None is half of the grid's shorter side, rounded up: 7 at 224 pixels."""
    return -(-min(grid) // 2) if window is None else window


def window_shift(window: int | None, block: int, grid: tuple[int, int]) -> int:
    """Return by how much windows are shifted: half a window in every second block, unless one window is the grid."""
    side = window_side(window, grid)
    return side // 2 if block % 2 == 1 and side < min(grid) else 0


def hyperedges(first: int | None, depth: int, block: int, num_nodes: int) -> int:
    """Return E of a block: it grows linearly to twice the first block's, by default 25 or, if less, a quarter of N."""
    first = max(1, min(25, num_nodes // 4)) if first is None else first
    return min(first + first * block // max(1, depth - 1), max(first, num_nodes))
