"""Lesson 10: partitions talk.

With edges inside partitions alone, a patch of the car never hears of the road. So ClusterViG lets
the partitions speak for their nodes: their means z_i form a small complete graph, and each reads
from all, itself included, by attention. Then every node gets the new mean z'_i of its partition,
beside itself and its message.

The attention is GATv2. The first GAT took the product with a, then LeakyReLU; but then all targets
rank their sources alike, whatever they look for. GATv2 puts the LeakyReLU inside, so that target
and source mix before a looks at them.

    ClusterViG Eq. 2:    z'_i = Σ_j α_ji LIN_L(z_j)
    ClusterViG Eq. 3:    α_ji = exp(aᵀ LeakyReLU(LIN_R(z_i) + LIN_L(z_j)))
                                / Σ_k exp(aᵀ LeakyReLU(LIN_R(z_i) + LIN_L(z_k)))
    ClusterViG Eq. 4:    x'_v = Ψ(x_v, z'_i, ⊕_{u ∈ N(v)} Φ(x_v, x_u, z'_i))

The paper writes α_ji for source j and target i, and rows are targets: α_ji is stored at [b, i, j].
The slope of LeakyReLU is 0.2. LIN_L(z) = W_L z, as a row z @ W_L.T; we leave the biases out. In Eq.
4, Φ and ⊕ are max-relative, and Ψ is lesson 6's update in heads, of three vectors now: what it
reads is what you join.

Symbols: z means, W_L and W_R (C', C), a (C',), x nodes, m messages; B images, k partitions i and j,
N nodes v, C channels.
"""

import torch
from torch import Tensor


def attention(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    """α of Eq. 3: z (B, k, C), W_L and W_R (C', C) and a (C',) to (B, k, k). Row i is target i and adds up to 1.

    With w_left = w_right = [[1]] and a = [1], z = [[[0], [1]]] gives [[[0.2689, 0.7311], [0.2689, 0.7311]]].
    With z = [[[-2], [1]]] the targets differ: [[[0.3543, 0.6457], [0.0998, 0.9002]]].
    """
    raise NotImplementedError("not written yet")


def global_update(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    """z' of Eq. 2: the same arguments to (B, k, C')."""
    raise NotImplementedError("not written yet")


def join(x: Tensor, m: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    """What Ψ reads: nodes and messages (B, N, C), z' (B, k, C) and labels (B, N), whole numbers below k, to (B, N, 3C):
    in turns x_0, m_0, z'_0, x_1, m_1, z'_1, …, where z' is that of the node's partition.

    Of x = [[[1, 2]]], m = [[[10, 20]]], z = [[[5, 6], [100, 200]]], labels = [[1]]: [[[1, 10, 100, 2, 20, 200]]].
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    quarters = show.patches().unflatten(1, (4, -1)).mean(2)  # (1, 4, 48): four strips of the scene
    show.numbers(attention(quarters, show.random(8, 48), show.random(8, 48), show.random(8)))
