"""Aggregation over a graph: max-relative, max, sum and mean of each target's sources.

They take targets x (B, N, C), sources y (B, M, C), or both; return m (B, N, C). The weight a_ij of an edge scales its
message. A target without edges gets 0, with zero gradient. In a GroupGraph each group of channels has its own edges.

In a weighted graph a maximum runs over all sources, and a source without an edge (weight 0) counts as 0: the maximum is
at least 0 if one source has no edge (LRGC, text under Figure 4). Without weights it runs over the edges alone. From a
maximum, a weight of 0 gets no gradient.

Written plainly, max_j a_ij (y_j − x_i) is a (B, N, M, C) tensor that autograd keeps: 3.5 GiB per layer for LRGC-Ti at
batch 128. Here memory grows with B·N·C. A search without gradient finds the maximum and its source j* of each target
and channel (`maximum.py`); the gradient is that of m_i = a_ij* (y_j* − x_i), since a maximum passes it to the winner
only. Of several equal sources the first wins. A NaN among the messages of a target makes its maximum NaN; the maximum
never reads a source without an edge. With and without gradient the result is the same, in the widest dtype among nodes
and weights.
"""

import functools

import torch
from torch import Tensor

from .graph import Graph, GroupGraph
from .maximum import search


def max_relative(x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
    """Return m_i = max_j a_ij (y_j − x_i) for each channel, y being x by default (LRGC Eq. 5 with a = α).

    j runs over all sources of a weighted graph, and over the edges of one without weights. ViG took it from DeepGCNs
    (Li et al., 2019), deep graph networks on point clouds.
    """
    # a view of x, since under torch.compile an autograd.Function cannot take the same tensor twice
    return _maximum(x, x.view_as(x) if sources is None else sources, graph)


def aggregate_max(sources: Tensor, graph: Graph) -> Tensor:
    """Return m_i = max_j a_ij y_j for each channel; j as in `max_relative`."""
    return _maximum(None, sources, graph)


def aggregate_sum(sources: Tensor, graph: Graph) -> Tensor:
    """Return m_i = Σ_j a_ij y_j."""
    return _product(graph.adj(), sources)


def aggregate_mean(sources: Tensor, graph: Graph) -> Tensor:
    """Return m_i = Σ_j a_ij y_j / |{j: a_ij ≠ 0}|. In a GroupGraph each group counts its own edges."""
    adj = graph.adj()
    count = (adj != 0).sum(-1, keepdim=True).clamp(min=1)
    return _product(adj.to(sources.dtype) / count, sources)  # divided first: in float16 a long sum may be above 65504


def _product(adj: Tensor, sources: Tensor) -> Tensor:
    """Return adj @ y: adj (B, N, M), or (B, G, N, M) of G groups of channels, and y (B, M, C) to (B, N, C)."""
    adj = adj.to(sources.dtype)
    if adj.ndim == 4:
        pieces = sources.unflatten(-1, (adj.shape[1], -1)).transpose(1, 2)  # (B, G, M, C/G)
        return (adj @ pieces).transpose(1, 2).flatten(2)
    return adj @ sources


def _maximum(x: Tensor | None, sources: Tensor, graph: Graph) -> Tensor:
    """Return max_j a_ij (y_j − x_i), or max_j a_ij y_j if x is None."""
    if isinstance(graph, GroupGraph):
        x, sources = (None if t is None else subnodes(t, graph) for t in (x, sources))  # (B, N·G, C/G)
        return _maximum(x, sources, graph.subnodes()).unflatten(1, (graph.num_targets, -1)).flatten(2)
    if graph.index is not None and graph.weights is not None:
        return _weighted_edges(x, sources, graph)
    inputs = [t for t in (x, sources, graph.weights) if t is not None and t.dtype != torch.bool]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    best, winner = search(x, sources, graph, needs_grad)  # the maximum and its j*: (B, N, C) each
    weighted = graph.weights is not None and graph.weights.dtype != torch.bool
    result = best.to(functools.reduce(torch.promote_types, (t.dtype for t in inputs)))
    if needs_grad:
        result = _Winners.apply(x, sources, graph.weights if weighted else None, winner, result)
    if graph.weights is None or weighted:
        return result
    return result.masked_fill(graph.weights.sum(-1, keepdim=True) == 0, 0)  # no edge: no gradient


def _weighted_edges(x: Tensor | None, sources: Tensor, graph: Graph) -> Tensor:
    """Do `_maximum` for k edges with weights, the messages being small: (B, N, k, C)."""
    index, weights = graph.index, graph.weights[..., None]  # (B, N, k), (B, N, k, 1)
    rows = index.flatten(1)[..., None].expand(-1, -1, sources.shape[2])  # (B, N·k, C)
    message = sources.gather(1, rows).unflatten(1, index.shape[1:])  # y_j: (B, N, k, C)
    message = weights * (message if x is None else message - x[:, :, None])
    m = torch.where(weights != 0, message, 0).max(2).values
    return m.relu() if index.shape[2] < graph.num_sources else m  # a source without an edge carries 0


def subnodes(x: Tensor, graph: GroupGraph) -> Tensor:
    """View nodes (B, N, C) as their sub-nodes (B, N·G, C/G), the groups of a node one after the other."""
    return x.unflatten(-1, (graph.index.shape[1], -1)).flatten(1, 2)


class _Winners(torch.autograd.Function):
    """The maximum, with the gradient of m_i = a_ij* (y_j* − x_i), whose two gathers become two scatters.

    Autograd would keep both gathered tensors, and the winners in 8 bytes each. This keeps the inputs, which exist
    anyway, and the winners in 1 to 4 bytes each, and gathers again in the backward pass.
    """

    @staticmethod
    def forward(ctx, x, sources, weights, winner, maximum):
        ctx.sources_shape = sources.shape
        ctx.save_for_backward(winner, *((x, sources, weights) if weights is not None else ()))
        return maximum.clone()

    @staticmethod
    def backward(ctx, grad):
        winner, *inputs = ctx.saved_tensors
        winner = winner.long()
        x, sources, weights = inputs or (None, None, None)
        weight = None if weights is None else weights.gather(2, winner)  # a_ij*: (B, N, C)
        grad_message = grad if weights is None else grad * weight
        grad_x = -grad_message if ctx.needs_input_grad[0] else None
        grad_sources = grad_weights = None
        if ctx.needs_input_grad[1]:
            wide = torch.promote_types(grad.dtype, torch.float32)  # half precision loses digits of long sums
            grad_sources = torch.zeros(ctx.sources_shape, dtype=wide, device=grad.device)
            grad_sources = grad_sources.scatter_add_(1, winner, grad_message.to(wide)).to(grad.dtype)  # (B, M, C)
        if ctx.needs_input_grad[2]:
            grad_weight = (grad * _relative(x, sources, winner)).to(weights.dtype).masked_fill(weight == 0, 0)
            grad_weights = torch.zeros_like(weights).scatter_add(2, winner, grad_weight)  # (B, N, M)
        return grad_x, grad_sources, grad_weights, None, None


def _relative(x: Tensor | None, sources: Tensor, winner: Tensor) -> Tensor:
    """Return y_j* − x_i, or y_j* if x is None: (B, N, C)."""
    message = sources.gather(1, winner)
    return message if x is None else message - x
