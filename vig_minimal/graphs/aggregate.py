"""Aggregation over a graph: max-relative, max, sum and mean of each target's sources.

They take the nodes x (B, N, C), which are the targets; the sources y (B, M, C) are `graph.sources` or, where the graph
brings none, the nodes themselves. They return m (B, N, C). The weight a_ij of an edge scales its message. A target
without edges gets 0, with zero gradient. In a GroupGraph each group of channels has its own edges.

In a weighted graph a maximum runs over all sources, and a source without an edge (weight 0) counts as 0: the maximum is
at least 0 if one source has no edge (LRGC, text under Figure 4). Without weights it runs over the edges alone. Its
gradient flows only to the argmax, the first of equal sources; a weight of 0 gets none. A NaN among the messages of a
target's edges makes its maximum NaN. A maximum is found in float32 or better, and returned in the widest dtype among
nodes and weights.
"""

import torch
from torch import Tensor

from .distance import full_precision
from .graph import Graph, GroupGraph, subnodes
from .plain import fast_form


def max_relative(x: Tensor, graph: Graph) -> Tensor:
    """Return m_i = max_j a_ij (y_j − x_i) per channel: LRGC Eq. 5 with a = α; ViG: DeepGCNs (Li et al., 2019)."""
    return maximum(x, graph.features(x), graph)


def aggregate_max(x: Tensor, graph: Graph) -> Tensor:
    """Return m_i = max_j a_ij y_j for each channel."""
    return maximum(None, graph.features(x), graph)


@fast_form("maximum")
def maximum(x: Tensor | None, y: Tensor, graph: Graph) -> Tensor:
    """Return max_j a_ij (y_j − x_i), or max_j a_ij y_j if x is None."""
    if isinstance(graph, GroupGraph):  # groups of channels as nodes of their own
        x, y = (None if t is None else subnodes(t, graph) for t in (x, y))  # (B, N·G, C/G)
        return maximum(x, y, graph.subnodes()).unflatten(1, (graph.num_targets, -1)).flatten(2)
    # LRGC Eq. 5: the maximum of all messages; printed α_ij (x'_i − x'_j), with i for the source and j for the target
    message = full_precision(y)[:, None]  # y_j: (B, 1, M, C)
    if graph.index is not None:  # of the k sources of each target
        index = graph.index[..., None].expand(-1, -1, -1, y.shape[2])  # (B, N, k, C)
        message = message.expand(-1, index.shape[1], -1, -1).gather(2, index)
    message = message if x is None else message - full_precision(x)[:, :, None]  # y_j − x_i: (B, N, M or k, C)
    if graph.weights is None:
        return message.max(2).values.to(y.dtype)
    a = graph.weights[..., None]  # (B, N, M or k, 1)
    if a.dtype == torch.bool:  # of the edges alone
        m = torch.where(a, message, -torch.inf).max(2).values
        return torch.where(a.any(2), m, 0).to(y.dtype)
    m = torch.where(a != 0, a * message, 0).max(2).values  # (B, N, C): an edge that is not selected carries 0
    m = m.relu() if a.shape[2] < graph.num_sources else m  # and so do sources that an index leaves out
    return m.to(torch.promote_types(y.dtype, a.dtype))


def aggregate_sum(x: Tensor, graph: Graph) -> Tensor:
    """Return m_i = Σ_j a_ij y_j."""
    return _product(graph.adj(), graph.features(x))


def aggregate_mean(x: Tensor, graph: Graph) -> Tensor:
    """Return m_i = Σ_j a_ij y_j / |{j: a_ij ≠ 0}|. In a GroupGraph each group counts its own edges."""
    adj, y = graph.adj(), graph.features(x)
    count = (adj != 0).sum(-1, keepdim=True).clamp(min=1)
    return _product(adj.to(y.dtype) / count, y)  # divided first: in float16 a long sum may be above 65504


def _product(adj: Tensor, sources: Tensor) -> Tensor:
    """Return adj @ y: adj (B, N, M), or (B, G, N, M) of G groups of channels, and y (B, M, C) to (B, N, C)."""
    adj = adj.to(sources.dtype)
    if adj.ndim == 4:
        pieces = sources.unflatten(-1, (adj.shape[1], -1)).transpose(1, 2)  # (B, G, M, C/G)
        return (adj @ pieces).transpose(1, 2).flatten(2)
    return adj @ sources
