"""Slow oracle of attention along the edges of a graph: one image, Python loops over targets, sources and heads."""

import math

import torch
from torch import Tensor

from .vig import Dense, interleave, linear, mlp


def attention(targets: Tensor, sources: Tensor, adj: Tensor, heads: int, query: tuple, key: tuple,
              value: tuple) -> Tensor:
    """m_i = sum over the edges j -> i of a_ij softmax_j(q_i . k_j / sqrt(C / heads)) v_j, head by head; else 0.

    adj: (N, M), or (G, N, M) where groups of channels have edges of their own; G divides heads, and head h has those of
    the group in which its channels lie. query, key, value: weight and bias of C -> C. -> (N, C)
    """
    width = targets.shape[1] // heads
    q = [linear(node, *query) for node in targets]
    k, v = ([linear(node, *layer) for node in sources] for layer in (key, value))
    rows = []
    for i in range(len(targets)):
        channels = []
        for h in range(heads):
            edges = adj if adj.ndim == 2 else adj[h * len(adj) // heads]
            mine = range(h * width, (h + 1) * width)
            found = [j for j in range(len(sources)) if edges[i, j] != 0]
            power = {j: torch.exp(sum(q[i][c] * k[j][c] for c in mine) / math.sqrt(width)) for j in found}
            total = sum(power.values())
            for c in mine:
                message = torch.zeros((), dtype=torch.float64)
                for j in found:
                    message = message + edges[i, j].to(torch.float64) * power[j] / total * v[j][c]
                channels.append(message)
        rows.append(torch.stack(channels))
    return torch.stack(rows)


def attention_conv(targets: Tensor, sources: Tensor, adj: Tensor, heads: int, query: tuple, key: tuple, value: tuple,
                   update: Dense) -> Tensor:
    """MLP(x_i | m_i) with the message of `attention`. -> (N, C')"""
    m = attention(targets, sources, adj, heads, query, key, value)
    return torch.stack([mlp(interleave(targets[i], m[i]), update) for i in range(len(targets))])
