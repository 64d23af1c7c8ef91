"""Aggregation over a graph: max-relative, max, sum and mean of each target's sources.

They take targets x (B, N, C), sources y (B, M, C), or both; return m (B, N, C). The weight a_ij of an edge scales its
message. A target without edges gets 0, with zero gradient. In a GroupGraph each group of channels has its own edges.

In a weighted graph a maximum runs over all sources, and weight 0 carries 0: a source without an edge does not lower it
below 0 (LRGC, text under Figure 4). Without weights it runs over the edges alone. A weight of 0 gets no gradient.

Written plainly, max_j a_ij (y_j − x_i) is a (B, N, M, C) tensor that autograd keeps: 3.5 GiB per layer for LRGC-Ti at
batch 128. Here memory grows with B·N·C. A search without gradient finds the maximum and its source j* of each target
and channel, a block of targets at a time; the gradient is that of m_i = a_ij* (y_j* − x_i), since a maximum passes it
to the winner only. Of several equal sources the last one wins. A NaN among the messages of a target makes its maximum
NaN; the maximum never reads a source without an edge. With and without gradient the result is the same, in the widest
dtype among nodes and weights.
"""

import functools
import math
import threading

import torch
from torch import Tensor

from .graph import Graph, GroupGraph, is_traced

# elements searched at a time: 2 MiB, which stay in a CPU's cache; 256 MiB on a GPU
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
_KEPT = threading.local()


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
    adj = graph.adj().to(sources.dtype)
    if isinstance(graph, GroupGraph):
        pieces = sources.unflatten(-1, (adj.shape[1], -1)).transpose(1, 2)  # (B, G, M, C/G)
        return (adj @ pieces).transpose(1, 2).flatten(2)
    return adj @ sources


def aggregate_mean(sources: Tensor, graph: Graph) -> Tensor:
    """Return m_i = Σ_j a_ij y_j / |{j: a_ij ≠ 0}|. In a GroupGraph each group counts its own edges."""
    total, count = aggregate_sum(sources, graph), (graph.adj() != 0).sum(-1).clamp(min=1)  # (B, N) or (B, G, N)
    if isinstance(graph, GroupGraph):
        return (total.unflatten(-1, (count.shape[1], -1)) / count.mT[..., None]).flatten(2)
    return total / count[..., None]


def _maximum(x: Tensor | None, sources: Tensor, graph: Graph) -> Tensor:
    """Return max_j a_ij (y_j − x_i), or max_j a_ij y_j if x is None."""
    if isinstance(graph, GroupGraph):
        x, sources = (None if t is None else subnodes(t, graph) for t in (x, sources))  # (B, N·G, C/G)
        return _maximum(x, sources, graph.subnodes()).unflatten(1, (graph.num_targets, -1)).flatten(2)
    inputs = [t for t in (x, sources, graph.weights) if t is not None and t.dtype != torch.bool]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    best, winner = _search(x, sources, graph, needs_grad)  # the maximum and its j*: (B, N, C) each
    weighted = graph.weights is not None and graph.weights.dtype != torch.bool
    result = best if x is None or weighted else best - x
    result = result.to(functools.reduce(torch.promote_types, (t.dtype for t in inputs)))
    if needs_grad:
        result = _Winners.apply(x, sources, graph.weights if weighted else None, winner, result)
    if graph.weights is None or weighted:
        return result
    return result.masked_fill(graph.weights.to(torch.uint8).amax(-1, keepdim=True) == 0, 0)  # no edge: no gradient


def subnodes(x: Tensor, graph: GroupGraph) -> Tensor:
    """View nodes (B, N, C) as their sub-nodes (B, N·G, C/G), the groups of a node one after the other."""
    return x.unflatten(-1, (graph.index.shape[1], -1)).flatten(1, 2)


class _Winners(torch.autograd.Function):
    """The maximum, with the gradient of m_i = a_ij* (y_j* − x_i), whose two gathers become two scatters.

    Autograd would keep both gathered tensors, and the winners in 8 bytes each. This keeps the inputs, which exist
    anyway, and the winners in 2 or 4 bytes each, and gathers again in the backward pass.
    """

    @staticmethod
    def forward(ctx, x, sources, weights, winner, maximum):
        ctx.sources_shape = sources.shape
        compact = winner.to(torch.int16 if sources.shape[1] <= 2**15 else torch.int32)
        ctx.save_for_backward(compact, *((x, sources, weights) if weights is not None else ()))
        return maximum.clone()

    @staticmethod
    def backward(ctx, grad):
        compact, *inputs = ctx.saved_tensors
        winner = compact.long()
        x, sources, weights = inputs or (None, None, None)
        weight = None if weights is None else weights.gather(2, winner)  # a_ij*: (B, N, C)
        grad_message = grad if weights is None else grad * weight
        grad_x = -grad_message if ctx.needs_input_grad[0] else None
        grad_sources = grad_weights = None
        if ctx.needs_input_grad[1]:
            grad_sources = grad.new_zeros(ctx.sources_shape).scatter_add(1, winner, grad_message)  # (B, M, C)
        if ctx.needs_input_grad[2]:
            grad_weight = (grad * _relative(x, sources, winner)).to(weights.dtype).masked_fill(weight == 0, 0)
            grad_weights = torch.zeros_like(weights).scatter_add(2, winner, grad_weight)  # (B, N, M)
        return grad_x, grad_sources, grad_weights, None, None


def _relative(x: Tensor | None, sources: Tensor, winner: Tensor) -> Tensor:
    """Return y_j* − x_i, or y_j* if x is None: (B, N, C)."""
    message = sources.gather(1, winner)
    return message if x is None else message - x


@torch.no_grad()
def _search(x: Tensor | None, sources: Tensor, graph: Graph, want_index: bool,
            exact: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the maximum over the sources of each (target, channel) and the winning source's index (or None).

    Both are (B, N, C), the maximum in float32 or better: in half precision sources tie and positions round. x is
    subtracted in weighted graphs only; elsewhere y_j − x_i is greatest where y_j is, also after rounding. In a graph
    of bools without an edge it is −∞. A compiler gets one expression over all targets, which it fuses. Eager mode
    goes block by block, reusing one buffer.

    exact: keep what non-edges hold out, whatever it is. A compiler and a GPU always do. On a CPU multiplying by 0 or
    adding −∞ is enough, and faster, unless it gives a NaN: then all is done again.
    """
    dense = graph.weights is not None
    weighted = dense and graph.weights.dtype != torch.bool
    width = graph.num_sources if dense else graph.index.shape[2]
    dtype = torch.promote_types(sources.dtype, torch.float32)
    exact = exact or not dense or sources.is_cuda or is_traced()
    no_edge = None
    if dense and exact:
        no_edge = graph.weights == 0
    elif dense and not weighted:
        no_edge = 1 - graph.weights.to(dtype).reciprocal_()  # 1 − 1/0 is −∞
    rank = None
    if want_index:  # of a source in the search; without weights 0 where there is no edge: (B, N, M or k)
        rank = torch.arange(width, dtype=dtype, device=sources.device)
        rank = rank * graph.weights if dense and not weighted else rank.expand(sources.shape[0], graph.num_targets, -1)
    per_target = x, graph.index, graph.weights if weighted else None, no_edge, rank
    if is_traced():
        return _search_block(None, sources.to(dtype), *per_target)
    batch, num_targets, channels = sources.shape[0], graph.num_targets, sources.shape[2]
    best = sources.new_empty(batch, num_targets, channels, dtype=dtype)
    winner = torch.empty_like(best, dtype=torch.int64) if want_index else None
    limit = BLOCK_ELEMENTS.get(sources.device.type, BLOCK_ELEMENTS["cpu"])
    rows = min(max(1, limit // (width * channels)), batch * num_targets)  # (image, target) pairs in a block
    scratch = _scratch(rows * width * channels, dtype, sources.device)
    b_step, n_step = max(1, rows // num_targets), min(rows, num_targets)
    for b in range(0, batch, b_step):
        for n in range(0, num_targets, n_step):
            images, targets = slice(b, b + b_step), slice(n, n + n_step)
            found = best[images, targets]  # (b, n, C)
            shape = (*found.shape[:2], width, channels)
            block = scratch[:math.prod(shape)].view(shape)  # (b, n, M or k, C)
            parts = [None if t is None else t[images, targets] for t in per_target]
            values, index = _search_block(block, sources[images].to(dtype), *parts)
            found.copy_(values)
            if want_index:
                winner[images, targets] = index
    if not exact and best.sum().isnan():
        return _search(x, sources, graph, want_index, exact=True)
    return best, winner


def _scratch(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory of at least (elements,) to search in. A CPU thread keeps its own from call to call, since fresh
    pages in every layer can cost more than the search; on a GPU torch's allocator reuses memory already."""
    if device.type != "cpu":
        return torch.empty(elements, dtype=dtype, device=device)
    kept = vars(_KEPT).get(dtype)
    if kept is None or len(kept) < elements:
        with torch.inference_mode(False):  # memory made in inference mode could not be written to in training
            kept = vars(_KEPT)[dtype] = torch.empty(elements, dtype=dtype, device=device)
    return kept


def _search_block(out: Tensor | None, sources: Tensor, x: Tensor | None, index: Tensor | None, weights: Tensor | None,
                  no_edge: Tensor | None, rank: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Do `_search` for a block of targets, without an index if `rank` is None.

    out: memory for all messages. no_edge: bool, or −∞ where there is no edge and 0 elsewhere, to be added: (b, n, M).
    None: what non-edges hold is finite, and their weight is 0.
    """
    if index is not None:
        batch, num_sources, channels = sources.shape
        rows = index + num_sources * torch.arange(batch, device=index.device)[:, None, None]  # into (B·M, C)
        out = None if out is None else out.view(-1, channels)
        message = torch.index_select(sources.reshape(-1, channels), 0, rows.flatten(), out=out)
        message = message.view(*index.shape, channels)  # (b, n, k, C)
    elif weights is not None:
        x = sources.new_zeros(*weights.shape[:2], 1) if x is None else x.to(sources.dtype)  # (b, n, 1 or C)
        message = torch.sub(sources[:, None], x[:, :, None], out=out).mul_(weights[..., None])  # (b, n, M, C)
        if no_edge is not None:
            message.masked_fill_(no_edge[..., None], 0)
    elif no_edge.dtype == torch.bool:
        message = torch.where(no_edge[..., None], sources.new_full((), -torch.inf), sources[:, None], out=out)
    else:
        message = torch.add(sources[:, None], no_edge[..., None], out=out)  # (b, n, M, C)
    best = message.amax(2)  # (b, n, C)
    if rank is None:
        return best, None
    # the last position that equals the best; on a CPU far faster than argmax
    winner = message.eq_(best[:, :, None]).mul_(rank[..., None]).amax(2).long()
    if index is not None:
        return best, index.gather(2, winner)
    if no_edge is not None and no_edge.dtype == torch.bool:  # a NaN equals nothing: the first edge stands for it
        winner = torch.where(best.isnan(), no_edge.int().argmin(2)[..., None], winner)
    return best, winner
