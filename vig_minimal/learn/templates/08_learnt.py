"""Lesson 8: a graph that learns.

So far nobody learnt who reads from whom: topk and > pass no gradient on. LRGC makes the choice a
part of the network. Every node asks with a query and offers a key; their product scores the edge.
What is below a threshold τ, which is learnt too, is cut. The soft threshold subtracts before it
cuts: a weight falls to 0 without a jump, so that it can be learnt where to cut. The sigmoids keep
scores and τ in one range, tanh keeps 0 at 0.

    LRGC Eq. 2:    key(v_i) = W_key h_i,    query(v_j) = W_query h_j,    α'_ij = key(v_i) · query(v_j)
    LRGC Eq. 3:    α''_ij = ReLU(σ(α'_ij) − σ(τ)),    α_ij = tanh(α''_ij)
    LRGC Eq. 5:    x_j'' = max(α_ij (x_i' − x_j') | v_i ∈ Neighborhood(v_j))

In the paper i is the source and j the target. Rows are targets everywhere, so α_ij is stored at [b,
j, i].

An edge that was cut gets no gradient any more: nothing pulls it back. So all edges must be there at
first: τ starts at −1, and here W_query at 0, so that every score is 0. Then every α is tanh(σ(0) −
σ(−1)) = 0.227, and training prunes. And as the paper multiplies the differences of cut edges by 0,
the maximum of Eq. 5 runs over all i: a cut edge carries 0. So a target that has lost an edge never
gets a negative message.

Symbols: h = x' nodes, α' scores, α weights, σ the sigmoid, τ one number a block; B images, N nodes,
D channels.
"""

import torch
from torch import Tensor


def scores(h: Tensor, w_key: Tensor, w_query: Tensor) -> Tensor:
    """α': nodes (B, N, D) and two matrices (D, D) to (B, N, N). Row j, column i has key(v_i) · query(v_j).

    With h = [[[1, 0], [0, 1], [1, 1], [0, 0]]], w_key = [[1, 0], [0, 1]] and w_query = [[0, 1], [0, 0]], the nodes
    with a second feature read from those with a first: [[[0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]].
    """
    raise NotImplementedError("not written yet")


def soft_threshold(score: Tensor, tau: Tensor) -> Tensor:
    """α: scores (B, N, N) and one number, a tensor of shape (), to (B, N, N). Both get a gradient.

    Of scores -2, -1, 0, 3 with τ = -1: 0, 0, 0.2270, 0.5939.
    """
    raise NotImplementedError("not written yet")


def strongest(x: Tensor, alpha: Tensor) -> Tensor:
    """The second line of Eq. 5, over all i: nodes (B, N, D) and weights (B, N, N) to (B, N, D).

    With x = [[[1], [3], [5], [7]]], a target 0 of weights [0.5, 0, 0.5, 0.1] gets 2, the largest of 0, 0, 2 and 0.6.
    A target 3 of weights [0.5, 0.5, 0, 0] gets 0, since all others are below it and source 2 was cut.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    h = show.patches()
    alpha = soft_threshold(scores(h, show.random(48, 48), show.random(48, 48)), torch.tensor(0.2))
    show.sources(alpha, "08_learnt.png")  # with keys and queries that have learnt nothing yet
