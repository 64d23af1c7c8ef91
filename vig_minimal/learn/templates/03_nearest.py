"""Lesson 3: nearest neighbours.

Which patches should read from which? ViG's answer: each from the k that look most like it. A patch
of sky reads from other sky, wherever it is. Alike means a small distance between features. So that
a bright and a dark patch of the same kind count as alike, every feature vector is first divided by
its length; after that only directions differ, and

    ‖x̂_i − x̂_j‖² = 2 − 2 cos(x_i, x_j)

A node is at distance 0 from itself, so it is its own nearest neighbour. ViG's code leaves it there,
and so do you: k = 9 means itself and eight others. With itself among the sources, a target can
never be without any.

    ViG:    N(i) = the k nodes j with the least ‖x̂_i − x̂_j‖²,    x̂_i = x_i / ‖x_i‖

Symbols: x, y nodes of targets and of sources; x̂ unit features; B images, N targets i, M sources j,
C channels, k.
"""

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Divide every node by its length: (B, N, C) to (B, N, C). A node of zeros stays zero.

    unit([[[3, 4], [0, 0], [0, -2], [1, 0]]]) is [[[0.6, 0.8], [0, 0], [0, -1], [1, 0]]].
    """
    raise NotImplementedError("not written yet")


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of each target to each source: (B, N, C) and (B, M, C) to (B, N, M). Rows are targets.

    Of nodes [[[0, 0], [3, 4], [0, 1], [1, 1]]] and sources [[[0, 0], [3, 0]]]:
    [[[0, 9], [25, 16], [1, 10], [2, 5]]].
    """
    raise NotImplementedError("not written yet")


def nearest(x: Tensor, k: int) -> Tensor:
    """The k nearest nodes of each node by unit features, itself among them, nearest first: (B, N, C) to (B, N, k).

    nearest([[[1, 0], [8, 1], [0, 1], [-1, 0.5]]], 2) is [[[0, 1], [1, 0], [2, 3], [3, 2]]]: node 1 is long, but its
    direction is nearly that of node 0.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    show.sources(nearest(show.patches(), 9), "03_nearest.png")  # what one patch reads from
