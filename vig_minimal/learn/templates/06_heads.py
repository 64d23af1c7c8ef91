"""Lesson 6: heads.

A target now has two vectors: itself, x', and what it was told, x''. The update turns both into new
features. One large linear layer could do it; ViG uses several small ones side by side, its heads:
each sees one slice of the channels and makes one slice of the result. With h heads that is 1/h of
the weights, and every head looks at something else.

So the order of channels matters. If x' and x'' are concatenated, then with 4 heads two see only x'
and two only x'', and none ever compares a node with what it was told. Interleave them, x'_0, x''_0,
x'_1, x''_1, …, and every head sees both.

With that you have all parts of ViG's block, the Grapher. In the paper's Eq. 5, j is the target, i
the source and α the weight of an edge, 1 in ViG; the graph is made of x', by the k nearest.
(Networks put batch norm after every linear layer and add biases. We leave both out.)

    LRGC Eq. 5:    x_j' = x_j^l W_in
                   x_j'' = max(α_ij (x_i' − x_j') | v_i ∈ Neighborhood(v_j))
                   x_j''' = GELU([x_j', x_j''] W_update) W_out
                   x_j^(l+1) = x_j''' + x_j^l

Symbols: W_in (C, C), W_update (heads, 2C/heads, 2C/heads), W_out (2C, C); B images, N nodes, C
channels, k neighbours.
"""

import torch
from torch import Tensor

from vig_minimal.learn.answers import earlier

adjacency, nearest, max_relative = earlier(__file__, "adjacency", "nearest", "max_relative")


def interleave(x: Tensor, m: Tensor) -> Tensor:
    """Nodes and messages in turns, channel by channel: two of (B, N, C) to (B, N, 2C).

    interleave([[[1, 2]]], [[[10, 20]]]) is [[[1, 10, 2, 20]]].
    """
    raise NotImplementedError("not written yet")


def in_heads(x: Tensor, weight: Tensor) -> Tensor:
    """A linear layer in heads: (B, N, heads·c) and weight (heads, c, d) to (B, N, heads·d).

    Head h multiplies its slice of c neighbouring channels, as a row, with weight[h]; the results stand side by side.
    With two heads, x = [[[1, 2, 3, 4]]] and weight = [[[1], [1]], [[1], [-1]]]: [[[3, -1]]].
    """
    raise NotImplementedError("not written yet")


def grapher(x: Tensor, w_in: Tensor, w_update: Tensor, w_out: Tensor, k: int) -> Tensor:
    """Eq. 5 with the graph of the k nearest of x', itself among them: (B, N, C) to (B, N, C).

    `[x', x'']` is interleaved, `W_update` in heads, and GELU is torch.nn.functional.gelu.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    x = show.patches()
    weights = show.random(48, 48), show.random(4, 24, 24), show.random(96, 48)
    show.heat((grapher(x, *weights, 9) - x).norm(dim=2), "06_heads.png")  # how much one untrained Grapher changes
