"""The maximum in memory that grows with B·N·C, with the gradient of the winners alone.

Written plainly, max_j a_ij (y_j − x_i) is a (B, N, M, C) tensor that autograd keeps: 3.5 GiB per layer for LRGC-Ti at
batch 128. Here a search without gradient finds the maximum and its source j* of each target and channel (`search.py`);
the gradient is that of m_i = a_ij* (y_j* − x_i), since it flows only to the argmax.
"""

import functools

import torch
from torch import Tensor

from ..distance import full_precision
from ..graph import Graph, GroupGraph, subnodes
from .search import search


def maximum(x: Tensor | None, sources: Tensor, graph: Graph) -> Tensor:
    """Do `aggregate.maximum`."""
    if isinstance(graph, GroupGraph):
        x, sources = (None if t is None else subnodes(t, graph) for t in (x, sources))  # (B, N·G, C/G)
        return maximum(x, sources, graph.subnodes()).unflatten(1, (graph.num_targets, -1)).flatten(2)
    if graph.index is not None and graph.weights is not None:
        return _of_weighted_edges(x, sources, graph)
    if x is sources:  # a view, since under torch.compile an autograd.Function cannot take the same tensor twice
        sources = x.view_as(x)
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


def _of_weighted_edges(x: Tensor | None, sources: Tensor, graph: Graph) -> Tensor:
    """Do `maximum` of an index with weights: the k messages of a target are written, and one a channel is kept."""
    with torch.no_grad():
        every = graph.index.flatten(1)[..., None].expand(-1, -1, sources.shape[2])  # (B, N·k, C)
        message = full_precision(sources.gather(1, every)).unflatten(1, graph.index.shape[1:])  # (B, N, k, C)
        message = message if x is None else message - full_precision(x)[:, :, None]
        a = graph.weights[..., None]
        edge = torch.where(a != 0, a * message, 0).max(2).indices  # (B, N, C), 0 to k − 1
    weight = graph.weights.gather(2, edge)  # a_ij*: (B, N, C)
    message = _relative(x, sources, graph.index.gather(2, edge))
    m = torch.where(weight != 0, weight * message, 0)
    return m.relu() if graph.index.shape[2] < graph.num_sources else m  # a source without an edge carries 0


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
