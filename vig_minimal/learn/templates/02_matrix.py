"""Lesson 2: a graph is a matrix.

Nodes that are connected exchange what they know. An edge has a direction: its source is read, its
target reads. "A reads from B" does not mean that B reads from A, and in Vision GNNs it often does
not. The graph of N targets and M sources is a matrix with N rows and M columns, the adjacency.
Here, and everywhere in vig_minimal,

    rows are targets, columns are sources:    adj[b, i, j] ≠ 0  ⇔  in image b, target i reads from source j

so that `adj @ x` gathers: row i of the product is the sum of what target i reads from. The number
of its sources is its degree. With it the sum becomes a mean, the simplest message that there is.
(Papers differ: LRGC writes α_ij for source i and target j, and PyTorch Geometric lists sources
first. Most mistakes in graph code are this one.)

Often the number of sources is the same for all targets, k. Then an index (B, N, k) is shorter: the
sources of each.

    m_i = Σ_j adj_ij x_j / degree_i

Symbols: B images, N targets i, M sources j, C channels, k sources of each target; x nodes, m
messages.
"""

import torch
from torch import Tensor


def adjacency(index: Tensor, num_sources: int) -> Tensor:
    """The matrix of a graph given by lists: (B, N, k) whole numbers below M to (B, N, M) bool; num_sources is M.

    A source that is listed twice is one edge. index [[[0, 1], [2, 1], [0, 3], [3, 3]]] with 4 sources is
    [[[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]]], 1 standing for True.
    """
    raise NotImplementedError("not written yet")


def degree(adj: Tensor) -> Tensor:
    """The number of sources of each target: (B, N, M), bools or weights, to (B, N) whole numbers. Only 0 is no edge.

    degree([[[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]]]) is [[2, 2, 2, 1]].
    """
    raise NotImplementedError("not written yet")


def mean_of_sources(adj: Tensor, x: Tensor) -> Tensor:
    """The mean of each target's sources: adj (B, N, M) bool and nodes (B, M, C) to (B, N, C). A target without sources
    gets 0.

    The check uses float64, and a product needs two matrices of one type: adj.to(x) or adj.to(x.dtype) makes numbers of
    a bool matrix.
    With that matrix, nodes [[[1, 0], [3, 2], [5, -2], [7, 4]]] become [[[2, 1], [4, 0], [4, 2], [7, 4]]].
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    around = show.surroundings()  # (1, 64, 64): every patch reads from the 3 × 3 patches around it
    show.pieces(mean_of_sources(around, show.patches()), "02_matrix.png")  # a blurred scene
