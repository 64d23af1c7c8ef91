"""Slow, obvious oracles of ClusterViG: Eqs. 1 to 6, Tables I and II, Algorithms 1 and 2, as the paper prints them.

As in vig.py: ONE image, plain float64 tensors, Python loops, nothing taken from `vig_minimal`. Only Algorithm 2 takes a
batch, since it describes how a batch is computed.

Letters: N nodes v and u, kappa partitions i and j, C channels. labels: the partition of every node, a list of N numbers
from 0 to kappa - 1. neighbours: for every node v the list of the nodes u it reads from. The paper's attention
alpha_{ji} is kept as alpha[j][i], SOURCE FIRST; the package stores it with targets first.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reference.vig import Dense, dense, gelu, linear, mlp, squared_distance


class Attention(NamedTuple):
    """GATv2's parameters, one head."""

    left: Tensor  # LIN_L (out, in)
    left_bias: Tensor
    right: Tensor  # LIN_R (out, in)
    right_bias: Tensor
    a: Tensor  # (out,)
    bias: Tensor  # (out,), added to the sum of Eq. 2, as PyG does; not printed


def interleave(*parts: Tensor) -> Tensor:
    """[p | q | r] of one node with channels in the order p0, q0, r0, p1, ..., so that each head sees a slice of all."""
    return torch.stack([part[c] for c in range(len(parts[0])) for part in parts])


def maximum(messages: list[Tensor]) -> Tensor:
    """The aggregation "max", channel by channel."""
    result = messages[0]
    for message in messages[1:]:
        result = torch.stack([a if a > b else b for a, b in zip(result, message)])
    return result


def total(messages: list[Tensor]) -> Tensor:
    """The aggregation "sum"."""
    result = messages[0]
    for message in messages[1:]:
        result = result + message
    return result


# -------------------------------------------------------------------------------------------- message passing, 1 and 4


def message_passing(x: Tensor, neighbours: list[list[int]], phi: Callable, aggregate: Callable,
                    psi: Callable) -> Tensor:
    """Eq. 1: x_i = psi(x_i, (+) over j in N(i) of phi(x_i, x_j))."""
    rows = []
    for i in range(len(x)):
        messages = [phi(x[i], x[j]) for j in neighbours[i]]
        rows.append(psi(x[i], aggregate(messages)))
    return torch.stack(rows)


def global_message_passing(x: Tensor, z: Tensor, labels: list[int], neighbours: list[list[int]], phi: Callable,
                           aggregate: Callable, psi: Callable) -> Tensor:
    """Eq. 4: x'_v = psi(x_v, z'_i, (+) over u in N(v) of phi(x_v, x_u, z'_i)), i the partition of v. z: (kappa, C)"""
    rows = []
    for v in range(len(x)):
        z_i = z[labels[v]]
        messages = [phi(x[v], x[u], z_i) for u in neighbours[v]]
        rows.append(psi(x[v], z_i, aggregate(messages)))
    return torch.stack(rows)


# Phi, (+) and Psi of Eq. 1 for the four rows of Table I. sage takes a layer for Phi and one for Psi; gin takes epsilon.
TABLE_1 = {
    "edge": lambda layer: (lambda x_i, x_j: mlp(interleave(x_i, x_j - x_i), layer), maximum, lambda x_i, m: m),
    "mr": lambda layer: (lambda x_i, x_j: x_j - x_i, maximum, lambda x_i, m: mlp(interleave(x_i, m), layer)),
    "sage": lambda inner, layer: (lambda x_i, x_j: mlp(x_j, inner), maximum,
                                  lambda x_i, m: mlp(interleave(x_i, m), layer)),
    "gin": lambda epsilon, layer: (lambda x_i, x_j: x_j, total, lambda x_i, m: mlp((1 + epsilon) * x_i + m, layer)),
}


# ------------------------------------------------------------------------------------------------------------- Table II


def g_edge_conv(x: Tensor, z: Tensor, labels: list[int], neighbours: list[list[int]], layer: Dense) -> Tensor:
    """Table II, G-EdgeConv: x'_v = max_u MLP(x_v | x_u - x_v | z'_i)."""
    rows = []
    for v in range(len(x)):
        rows.append(maximum([mlp(interleave(x[v], x[u] - x[v], z[labels[v]]), layer) for u in neighbours[v]]))
    return torch.stack(rows)


def g_mrgcn(x: Tensor, z: Tensor, labels: list[int], neighbours: list[list[int]], layer: Dense) -> Tensor:
    """Table II, G-MRGCN: x'_v = MLP(x_v | max_u (x_u - x_v) | z'_i)."""
    rows = []
    for v in range(len(x)):
        m = maximum([x[u] - x[v] for u in neighbours[v]])
        rows.append(mlp(interleave(x[v], m, z[labels[v]]), layer))
    return torch.stack(rows)


def g_graph_sage(x: Tensor, z: Tensor, labels: list[int], neighbours: list[list[int]], inner: Dense,
                 outer: Dense) -> Tensor:
    """Table II, G-GraphSAGE: x'_v = MLP_outer(x_v | max_u MLP_inner(x_u) | z'_i)."""
    rows = []
    for v in range(len(x)):
        m = maximum([mlp(x[u], inner) for u in neighbours[v]])
        rows.append(mlp(interleave(x[v], m, z[labels[v]]), outer))
    return torch.stack(rows)


def g_gin(x: Tensor, z: Tensor, labels: list[int], neighbours: list[list[int]], epsilon: Tensor, delta: Tensor,
          layer: Dense) -> Tensor:
    """Table II, G-GIN: x'_v = MLP((1 + epsilon) x_v + sum_u x_u + (1 + delta) z'_i)."""
    rows = []
    for v in range(len(x)):
        m = (1 + epsilon) * x[v] + total([x[u] for u in neighbours[v]]) + (1 + delta) * z[labels[v]]
        rows.append(mlp(m, layer))
    return torch.stack(rows)


# -------------------------------------------------------------------------------------------------- global update, 2, 3


def attention_scores(z: Tensor, gat: Attention) -> list[list[Tensor]]:
    """Eq. 3: alpha[j][i] = exp(a . LeakyReLU(LIN_R z_i + LIN_L z_j)) / (the same summed over all sources k)."""
    kappa = len(z)
    alpha = [[None] * kappa for _ in range(kappa)]
    for i in range(kappa):
        exponentials = []
        for j in range(kappa):
            inner = linear(z[i], gat.right, gat.right_bias) + linear(z[j], gat.left, gat.left_bias)
            leaky = torch.stack([value if value > 0 else 0.2 * value for value in inner])
            exponentials.append(torch.exp(sum(gat.a[c] * leaky[c] for c in range(len(leaky)))))
        for j in range(kappa):
            alpha[j][i] = exponentials[j] / sum(exponentials)
    return alpha


def global_update(z: Tensor, gat: Attention) -> Tensor:
    """Eq. 2: z'_i = sum over j of alpha_{ji} LIN_L(z_j), plus GATv2's bias. (kappa, C) -> (kappa, C)"""
    alpha = attention_scores(z, gat)
    rows = []
    for i in range(len(z)):
        rows.append(sum(alpha[j][i] * linear(z[j], gat.left, gat.left_bias) for j in range(len(z))) + gat.bias)
    return torch.stack(rows)


# -------------------------------------------------------------------------------------------------- Algorithms 1 and 2


def nearest_in(x: Tensor, members: list[int], k: int) -> dict[int, list[int]]:
    """k-NN(V^i, X_i, K): for every member its k nearest members, itself included; all members if there are fewer."""
    distance = squared_distance(x[members], x[members])
    graph = {}
    for row, v in zip(distance, members):
        order = sorted(range(len(members)), key=lambda n: row[n])
        graph[v] = [members[n] for n in order[:k]]
    return graph


def degc(x: Tensor, labels: list[int], kappa: int, k: int, gat: Attention, local_update: Callable) -> Tensor:
    """Algorithm 1 from its line 3 on, for given partitions: graphs, global update, local update. (N, C) -> (N, C')

    local_update(x, z', labels, neighbours) is a row of Table II, for every node.
    """
    partitions = [[v for v in range(len(x)) if labels[v] == i] for i in range(kappa)]  # line 3
    neighbours = {}
    for members in partitions:  # lines 4 to 6
        neighbours |= nearest_in(x, members, k)
    z = []
    for members in partitions:  # lines 7 to 9
        z.append(sum(x[v] for v in members) / len(members))
    z_updated = global_update(torch.stack(z), gat)  # lines 10 to 13
    return local_update(x, z_updated, labels, [neighbours[v] for v in range(len(x))])  # lines 14 to 20


def optimised_degc(x: Tensor, labels: list[list[int]], kappa: int, k: int, gat: Attention,
                   local_update: Callable) -> Tensor:
    """Algorithm 2 from its line 2 on: a whole batch "unrolled and arranged" into B kappa partitions of B N nodes.

    (B, N, C) -> (B, N, C'). Partition b kappa + i is partition i of image b; its nodes stand one after another.
    """
    images, nodes, _ = x.shape
    z_u = []  # line 2, Z'_u: (B kappa, C)
    for b in range(images):
        means = []
        for i in range(kappa):
            members = [v for v in range(nodes) if labels[b][v] == i]
            means.append(sum(x[b, v] for v in members) / len(members))
        z_u.extend(global_update(torch.stack(means), gat))
    x_ua, batch, place = [], [], {}  # line 3, scatter: X_ua (B N, C), batch (B N,)
    for b in range(images):
        for i in range(kappa):
            for v in range(nodes):
                if labels[b][v] == i:
                    place[b, v] = len(x_ua)
                    x_ua.append(x[b, v])
                    batch.append(b * kappa + i)
    x_ua = torch.stack(x_ua)
    neighbours = {}  # line 4, local_update: B kappa graphs at once
    for partition in range(images * kappa):
        rows = [row for row in range(len(x_ua)) if batch[row] == partition]
        neighbours |= nearest_in(x_ua, rows, k)
    updated = local_update(x_ua, torch.stack(z_u), batch, [neighbours[row] for row in range(len(x_ua))])
    return torch.stack([torch.stack([updated[place[b, v]] for v in range(nodes)]) for b in range(images)])  # 5, gather


# --------------------------------------------------------------------------------------------------- Grapher, FFN, 5, 6


def depthwise(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """CPE (conditional positional encoding): depthwise, zero-padded. image (C, H, W), weight (C, 1, s, s), s odd."""
    channels, height, width = image.shape
    side = weight.shape[-1]
    rows = []
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                value = bias[c]
                for dy in range(side):
                    for dx in range(side):
                        above, left = y + dy - side // 2, x + dx - side // 2
                        if 0 <= above < height and 0 <= left < width:
                            value = value + weight[c, 0, dy, dx] * image[c, above, left]
                rows.append(value)
    return torch.stack(rows).view(channels, height, width)


def grapher(image: Tensor, cpe: tuple[Tensor, Tensor], w1: Dense, w2: Dense, degc_of: Callable) -> Tensor:
    """Eq. 5: Y = sigma(DEGC((CPE(X) + X) W_1)) W_2 + X. (C, H, W) -> (N, C); sigma is in the MLP of DEGC.

    degc_of: (N, C) -> (N, 2 C).
    """
    def tokens(picture: Tensor) -> Tensor:
        return torch.stack([picture[:, y, x] for y in range(picture.shape[1]) for x in range(picture.shape[2])])

    x, encoded = tokens(image), tokens(depthwise(image, *cpe))
    inner = torch.stack([dense(encoded[v] + x[v], w1) for v in range(len(x))])
    updated = degc_of(inner)
    return torch.stack([dense(updated[v], w2) + x[v] for v in range(len(x))])


def ffn(y: Tensor, w1: Dense, w2: Dense) -> Tensor:
    """Eq. 6: Z = sigma(Y W'_1) W'_2 + Y. (N, C) -> (N, C)"""
    return torch.stack([dense(gelu(dense(y[v], w1)), w2) + y[v] for v in range(len(y))])
