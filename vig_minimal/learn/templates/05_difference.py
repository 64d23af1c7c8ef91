"""Lesson 5: the largest difference.

The mean of lesson 2 blurs. ViG asks instead: in which features is one of my sources above me, and
by how much? For every channel a target takes the largest difference to one of its sources. That is
max-relative aggregation. Each channel may have another winner, so that one target learns of several
sources at once. A difference tells apart what a mean hides: at an edge in the image it is large, in
the sky it is near 0.

    ViG's Grapher:    x''_i = max_{j ∈ N(i)} (x_j − x_i)        for each channel

Mind two things. Only the edges take part; what stands for a missing edge must not win. And a target
without sources gets 0. (LRGC Eq. 5 puts weights in front of the difference: lesson 8.)

The gradient of a maximum goes to its winner alone. If grad_i arrives at m_i and source j won there,
then x_j gets +grad_i, and x_i, which was subtracted, gets −grad_i: in each channel for itself. A
source that wins for several targets gets the sum. Autograd finds that by itself; write it once by
hand, and you know what it does. In random features no two messages are equal, so there is always
one winner.

Symbols: x targets, y sources, adj the graph, m = x''; B images, N targets i, M sources j, C
channels.
"""

import torch
from torch import Tensor


def max_relative(x: Tensor, y: Tensor, adj: Tensor) -> Tensor:
    """The largest y_j − x_i over the sources of each target, for each channel: targets (B, N, C), sources (B, M, C) and
    adj (B, N, M) bool to (B, N, C). A target without sources gets 0.

    With x = y = [[[1, 0], [3, 2], [5, -2], [7, 4]]] and adj = [[[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0],
    [1, 1, 0, 1]]], 1 standing for True: [[[4, 2], [-2, -2], [0, 0], [0, 0]]]. Target 1 reads from a source that is
    smaller: its message is negative. Target 3 reads from itself, so that its message cannot be.
    """
    raise NotImplementedError("not written yet")


def max_relative_gradient(x: Tensor, y: Tensor, adj: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients with respect to x (B, N, C) and to y (B, M, C), if grad (B, N, C) is that of the result. x and y
    count as two different tensors.

    In the example above, with grad all 1: of x all −1, but 0 for target 2; of y [[[1, 1], [0, 1], [1, 0], [1, 1]]].
    Target 0 sends the gradient of its first channel to source 2, that of its second to source 1.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    x = show.patches()
    show.heat(max_relative(x, x, show.surroundings()).sum(2), "05_difference.png")  # where a patch differs from others
