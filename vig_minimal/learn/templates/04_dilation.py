"""Lesson 4: farther for free.

The nearest neighbours of a patch tell it little that is new: they look like itself. Reading from
more of them costs more. DeepGCNs take from convolutions what helps there: dilation. Find the k·d
nearest, and keep every d-th of them. A target still reads from k sources, but they reach d times as
far down its list; the search was needed anyway.

ViG lets both grow with depth: early blocks look near, late blocks far. Over the blocks, k goes from
9 to 18 in equal steps, and d grows by one every four blocks, as long as there are nodes enough to
find 2k·d neighbours.

    ViG:    k_l = int(k + k·l / (depth − 1)),    d_l = min(⌊l / 4⌋ + 1, ⌊N / 2k⌋),    l = 0, …, depth − 1

Symbols: k neighbours, d dilation, l the number of the block, depth the number of blocks, N nodes.
"""

import torch
from torch import Tensor

from vig_minimal.learn.answers import earlier

nearest = earlier(__file__, "nearest")  # yours, once its lesson is done; until then the package's


def dilated(x: Tensor, k: int, d: int) -> Tensor:
    """Every d-th of the k·d nearest nodes, beginning with the node itself: (B, N, C) to (B, N, k).

    Of a node whose nearest are 5, 2, 0, 7, 1, 3 in this order, k = 3 and d = 2 keep 5, 0, 1.
    """
    raise NotImplementedError("not written yet")


def neighbours(k: int, depth: int) -> list[int]:
    """k of every block: a list of `depth` whole numbers from k to 2k, rounded down. depth is at least 2.

    neighbours(9, 4) is [9, 12, 15, 18].
    """
    raise NotImplementedError("not written yet")


def dilations(k: int, depth: int, num_nodes: int) -> list[int]:
    """d of every block: a list of `depth` whole numbers, for k of the first block. There are at least 2k nodes.

    dilations(9, 10, 196) is [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]; dilations(9, 10, 49) is [1, 1, 1, 1, 2, 2, 2, 2, 2, 2].
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    show.sources(dilated(show.patches(), 9, 3), "04_dilation.png")  # beside 03_nearest.png: as many, but farther
