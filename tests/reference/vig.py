"""Slow, obvious oracles: every equation as its paper prints it, node by node and channel by channel.

Each function works on ONE image and on plain tensors (use float64), with Python loops, so that it can be checked
against the paper by eye. Results are built from torch scalars: autograd gives the oracle's gradient too.
Nothing here is imported from `vig_minimal`: the tests compare the two.

Letters: N targets, M sources, C channels. `adj[i][j]` follows the package's contract: ROW i IS THE TARGET, COLUMN j THE
SOURCE. LRGC's paper writes alpha_{i,j} with SOURCE i and TARGET j: functions that keep the paper's order say so.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Dense(NamedTuple):
    """A linear layer with its batch norm in evaluation mode: one "W" or "MLP" of the papers, before the activation."""

    weight: Tensor  # (out, in / groups)
    bias: Tensor  # (out,)
    scale: Tensor  # (out,) batch norm's gamma
    shift: Tensor  # (out,) batch norm's beta
    mean: Tensor  # (out,) running mean
    variance: Tensor  # (out,) running variance
    groups: int = 1


# ----------------------------------------------------------------------------------------------- layers, on one node


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution function."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def linear(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """W x + b for one node (in,) -> (out,). With groups = heads, head h's outputs see the h-th slice of x only."""
    outputs, width = weight.shape
    assert width * groups == len(x) and outputs % groups == 0
    result = []
    for o in range(outputs):
        head = o // (outputs // groups)
        value = bias[o]
        for c in range(width):
            value = value + weight[o, c] * x[head * width + c]
        result.append(value)
    return torch.stack(result)


def dense(x: Tensor, layer: Dense) -> Tensor:
    """Linear layer and batch norm of one node: (y - mean) / sqrt(variance + 1e-5) * scale + shift."""
    y = linear(x, layer.weight, layer.bias, layer.groups)
    return (y - layer.mean) / torch.sqrt(layer.variance + 1e-5) * layer.scale + layer.shift


def mlp(x: Tensor, layer: Dense) -> Tensor:
    """The MLP of ClusterViG's Table I: linear, batch norm, GELU."""
    return gelu(dense(x, layer))


def interleave(x: Tensor, m: Tensor) -> Tensor:
    """[x | m] of one node with channels in the order x0, m0, x1, m1, ..., so that each head sees a slice of both."""
    channels = []
    for c in range(len(x)):
        channels.append(x[c])
        channels.append(m[c])
    return torch.stack(channels)


# ------------------------------------------------------------------------------------------------------ aggregations


def _edges(adj: Tensor, i: int) -> list[tuple[int, Tensor]]:
    """Sources of target i, each with its weight (1 for a boolean graph)."""
    sources = []
    for j in range(adj.shape[1]):
        if adj[i, j] != 0:
            sources.append((j, adj[i, j].to(torch.float64)))
    return sources


def _largest(messages: list[Tensor], channels: int) -> Tensor:
    """Feature-wise maximum of a list of (C,); 0 if the list is empty."""
    if not messages:
        return torch.zeros(channels, dtype=torch.float64)
    result = []
    for c in range(channels):
        best = messages[0][c]
        for message in messages[1:]:
            if message[c] > best:
                best = message[c]
        result.append(best)
    return torch.stack(result)


def _messages(adj: Tensor, i: int, message) -> list[Tensor]:
    """What reaches target i: a_ij message(j) of each edge; in a weighted graph 0 of each source without an edge."""
    messages = [weight * message(j) for j, weight in _edges(adj, i)]
    if adj.dtype != torch.bool:
        messages += [torch.zeros_like(message(j)) for j in range(adj.shape[1]) if adj[i, j] == 0]
    return messages


def max_relative(targets: Tensor, sources: Tensor, adj: Tensor) -> Tensor:
    """m_i = max_j adj_ij (sources_j - targets_i), over the edges of a bool graph (0 if none), all j otherwise (N, C)"""
    rows = []
    for i in range(len(targets)):
        rows.append(_largest(_messages(adj, i, lambda j, i=i: sources[j] - targets[i]), targets.shape[1]))
    return torch.stack(rows)


def aggregate_max(sources: Tensor, adj: Tensor) -> Tensor:
    """m_i = max_j adj_ij sources_j, over the edges of a bool graph (0 if none), all j of others. -> (N, C)"""
    rows = []
    for i in range(len(adj)):
        rows.append(_largest(_messages(adj, i, lambda j: sources[j]), sources.shape[1]))
    return torch.stack(rows)


def aggregate_sum(sources: Tensor, adj: Tensor) -> Tensor:
    """m_i = sum over the edges j -> i of adj_ij sources_j. -> (N, C)"""
    rows = []
    for i in range(len(adj)):
        total = torch.zeros(sources.shape[1], dtype=torch.float64)
        for j, weight in _edges(adj, i):
            total = total + weight * sources[j]
        rows.append(total)
    return torch.stack(rows)


def aggregate_mean(sources: Tensor, adj: Tensor) -> Tensor:
    """m_i = (1 / degree_i) sum over the edges j -> i of adj_ij sources_j; 0 where there is no edge. -> (N, C)"""
    total = aggregate_sum(sources, adj)
    return torch.stack([total[i] / max(len(_edges(adj, i)), 1) for i in range(len(adj))])


# ------------------------------------------------------------------------------------------------ graph constructors


def normalise(x: Tensor) -> Tensor:
    """Each node divided by its Euclidean length. (N, C) -> (N, C)"""
    return torch.stack([node / torch.sqrt((node * node).sum()) for node in x])


def squared_distance(targets: Tensor, sources: Tensor) -> list[list[float]]:
    """|t_i / |t_i| - s_j / |s_j||^2 for every pair, as floats: they pick edges and carry no gradient."""
    t, s = normalise(targets), normalise(sources)
    result = []
    for i in range(len(t)):
        result.append([sum((t[i, c] - s[j, c]).item() ** 2 for c in range(t.shape[1])) for j in range(len(s))])
    return result


def nearest(targets: Tensor, sources: Tensor, k: int, dilation: int = 1) -> list[list[int]]:
    """For each target the 1st, (1 + d)th, (1 + 2d)th, ... of its k d nearest sources, nearest first (ViG, DeepGCN)."""
    distance = squared_distance(targets, sources)
    result = []
    for row in distance:
        order = sorted(range(len(row)), key=lambda j: row[j])
        result.append([order[n * dilation] for n in range(k)])
    return result


def svig_threshold(x: Tensor, quantile: float) -> Tensor:
    """SViG: edges of one image, (N, N) bool: s_ij = -|x_i - x_j|^2 of unit vectors, z = (s - mean) / std > Phi^-1(q).

    Mean and (unbiased) standard deviation run over all N^2 entries of the image. Phi^-1 is found by bisection.
    """
    n = len(x)
    distance = squared_distance(x, x)
    similarity = [[-distance[i][j] for j in range(n)] for i in range(n)]
    entries = [value for row in similarity for value in row]
    mean = sum(entries) / len(entries)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in entries) / (len(entries) - 1))
    low, high = -10.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < quantile:
            low = middle
        else:
            high = middle
    adj = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            adj[i, j] = (similarity[i][j] - mean) / deviation > low
    return adj


# -------------------------------------------------------------------------------------------------------- LRGC, 1 - 5


def lrgc_ffn(x: Tensor, layer1: Dense, layer2: Dense) -> Tensor:
    """LRGC Eq. 1: Y = GELU(X W_1) W_2 + X, each W a linear layer with its batch norm. (N, C) -> (N, C)"""
    return torch.stack([dense(gelu(dense(x[i], layer1)), layer2) + x[i] for i in range(len(x))])


def lrgc_score(h: Tensor, w_key: Tensor, b_key: Tensor, w_query: Tensor, b_query: Tensor) -> Tensor:
    """LRGC Eq. 2: alpha'_{i,j} = key(v_i) . query(v_j), [SOURCE i, TARGET j] as in the paper. (N, C) -> (N, N)"""
    rows = []
    for i in range(len(h)):
        row = []
        for j in range(len(h)):
            key = linear(h[i], w_key, b_key)
            query = linear(h[j], w_query, b_query)
            row.append(sum(key[c] * query[c] for c in range(len(key))))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def lrgc_soft_threshold(score: Tensor, tau: Tensor) -> Tensor:
    """LRGC Eq. 3: alpha'' = ReLU(sigma(alpha') - sigma(tau)), alpha = tanh(alpha''), entry by entry."""
    rows = []
    for i in range(score.shape[0]):
        row = []
        for j in range(score.shape[1]):
            difference = 1 / (1 + torch.exp(-score[i, j])) - 1 / (1 + torch.exp(-tau))
            row.append(torch.tanh(difference) if difference > 0 else difference * 0)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def lrgc_attention(h: Tensor, w_key: Tensor, b_key: Tensor, w_query: Tensor, b_query: Tensor, tau: Tensor) -> Tensor:
    """LRGC Eq. 4: alpha_{i,j} = tanh(ReLU(sigma(W_key h_i . W_query h_j) - sigma(tau))), [SOURCE i, TARGET j]."""
    return lrgc_soft_threshold(lrgc_score(h, w_key, b_key, w_query, b_query), tau)


def lrgc_max(x: Tensor, alpha: Tensor) -> Tensor:
    """LRGC Eq. 5: x''_j = max over all i of alpha_{i,j} (x'_i - x'_j); alpha [SOURCE, TARGET].

    The text under Figure 4: «non-selected edges would have the residuals multiplied by zero», so they carry 0.
    """
    rows = []
    for j in range(len(x)):
        rows.append(_largest([alpha[i, j] * (x[i] - x[j]) for i in range(len(x))], x.shape[1]))
    return torch.stack(rows)


def grapher(x: Tensor, w_in: Dense, w_update: Dense, w_out: Dense, make_graph) -> Tensor:
    """LRGC Eq. 5 and ViG's Grapher: x' = x W_in; x'' = max-relative; x''' = GELU([x', x''] W_update) W_out; + x.

    make_graph: x' (N, C) -> adjacency (N, N), rows = targets. W_update has 4 heads: `w_update.groups`.
    """
    inner = torch.stack([dense(x[i], w_in) for i in range(len(x))])
    aggregate = max_relative(inner, inner, make_graph(inner))
    rows = []
    for j in range(len(x)):
        updated = mlp(interleave(inner[j], aggregate[j]), w_update)
        rows.append(dense(updated, w_out) + x[j])
    return torch.stack(rows)


# ----------------------------------------------------------------------------------------------- ClusterViG, Table I


def edge_conv(targets: Tensor, sources: Tensor, adj: Tensor, layer: Dense) -> Tensor:
    """Table I, EdgeConv: x_i = max_j adj_ij MLP(x_i | x_j - x_i)."""
    rows = []
    for i in range(len(targets)):
        messages = _messages(adj, i, lambda j, i=i: mlp(interleave(targets[i], sources[j] - targets[i]), layer))
        rows.append(_largest(messages, len(layer.bias)))
    return torch.stack(rows)


def mrgcn(targets: Tensor, sources: Tensor, adj: Tensor, layer: Dense) -> Tensor:
    """Table I, MRGCN: x_i = MLP(x_i | max_j adj_ij (x_j - x_i))."""
    m = max_relative(targets, sources, adj)
    return torch.stack([mlp(interleave(targets[i], m[i]), layer) for i in range(len(targets))])


def graph_sage(targets: Tensor, sources: Tensor, adj: Tensor, inner: Dense, outer: Dense) -> Tensor:
    """Table I, GraphSAGE: x_i = MLP_outer(x_i | max_j adj_ij MLP_inner(x_j))."""
    messages = torch.stack([mlp(sources[j], inner) for j in range(len(sources))])
    m = aggregate_max(messages, adj)
    return torch.stack([mlp(interleave(targets[i], m[i]), outer) for i in range(len(targets))])


def gin(targets: Tensor, sources: Tensor, adj: Tensor, epsilon: Tensor, layer: Dense) -> Tensor:
    """Table I, GIN: x_i = MLP((1 + epsilon) x_i + sum_j adj_ij x_j)."""
    m = aggregate_sum(sources, adj)
    return torch.stack([mlp((1 + epsilon) * targets[i] + m[i], layer) for i in range(len(targets))])


# ------------------------------------------------------------------------------------------- schedules over the blocks


def neighbours_by_block(depth: int, first: int = 9, last: int = 18) -> list[int]:
    """ViG: k grows linearly from 9 to 18 over the blocks, rounded down."""
    return [int(first + (last - first) * b / (depth - 1) + 1e-9) for b in range(depth)]


def dilation_by_block(depth: int) -> list[int]:
    """ViG: dilation of block b is min(b // 4 + 1, 196 // 18)."""
    return [min(b // 4 + 1, 10) for b in range(depth)]
