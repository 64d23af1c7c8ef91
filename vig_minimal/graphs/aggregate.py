"""Aggregation over a graph: max-relative, max, sum and mean of each target's sources.

They take targets x (B, N, C), sources y (B, M, C), or both; return m (B, N, C). The weight a_ij of an edge scales its
message. A target without edges gets 0, with zero gradient. In a GroupGraph each group of channels has its own edges.

Written plainly, max_j a_ij (y_j − x_i) is a (B, N, M, C) tensor that autograd keeps: 3.5 GiB a layer for LRGC-Ti at
batch 128. Here memory grows with B·N·C. A search without gradient finds the winning source j* of each target and
channel, a block of targets at a time; then m_i = a_ij* (y_j* − x_i) is gathered. Values and gradients are the same,
since a maximum passes its gradient to the winner only. Of several equal sources the last one wins.
"""

import math
import threading

import torch
from torch import Tensor

from .graph import Graph, GroupGraph

# elements searched at a time: 8 MiB, which stay in a CPU's cache; 256 MiB on a GPU
BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
_KEPT = threading.local()


def max_relative(x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
    """Return m_i = max_{j: a_ij ≠ 0} a_ij (y_j − x_i) for each channel, y being x by default (LRGC Eq. 5 with a = α).
    ViG took it from DeepGCNs (Li et al., 2019), deep graph networks on point clouds."""
    # a view of x, since under torch.compile an autograd.Function cannot take the same tensor twice
    return _maximum(x, x.view_as(x) if sources is None else sources, graph)


def aggregate_max(sources: Tensor, graph: Graph) -> Tensor:
    """Return m_i = max_{j: a_ij ≠ 0} a_ij y_j for each channel."""
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
    inputs = (x, sources, graph.weights)
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)):
        return _search(x, sources, graph, want_index=False)
    winner = _search(x, sources, graph, want_index=True)  # j*: (B, N, C)
    weights = None if graph.weights is None or graph.weights.dtype == torch.bool else graph.weights
    message = _Winners.apply(x, sources, weights, winner)
    if graph.weights is None:
        return message
    return message.masked_fill((graph.weights == 0).all(-1, keepdim=True), 0)  # no edge: 0, and no gradient


def subnodes(x: Tensor, graph: GroupGraph) -> Tensor:
    """View nodes (B, N, C) as their sub-nodes (B, N·G, C/G), the groups of a node one after the other."""
    return x.unflatten(-1, (graph.index.shape[1], -1)).flatten(1, 2)


class _Winners(torch.autograd.Function):
    """m_i = a_ij* (y_j* − x_i): two gathers, whose gradients are two scatters.

    Autograd would keep both gathered tensors, and the winners in 8 bytes each. This keeps the inputs, which exist
    anyway, and the winners in 2 or 4 bytes each, and gathers again in the backward pass.
    """

    @staticmethod
    def forward(ctx, x, sources, weights, winner):
        ctx.sources_shape = sources.shape
        compact = winner.to(torch.int16 if sources.shape[1] <= 2**15 else torch.int32)
        ctx.save_for_backward(compact, *((x, sources, weights) if weights is not None else ()))
        message = _relative(x, sources, winner)
        return message if weights is None else message * weights.gather(2, winner)

    @staticmethod
    def backward(ctx, grad):
        compact, *inputs = ctx.saved_tensors
        winner = compact.long()
        x, sources, weights = inputs or (None, None, None)
        grad_message = grad if weights is None else grad * weights.gather(2, winner)  # (B, N, C)
        grad_x = -grad_message if ctx.needs_input_grad[0] else None
        grad_sources = grad_weights = None
        if ctx.needs_input_grad[1]:
            grad_sources = grad.new_zeros(ctx.sources_shape).scatter_add(1, winner, grad_message)  # (B, M, C)
        if ctx.needs_input_grad[2]:
            grad_alpha = (grad * _relative(x, sources, winner)).to(weights.dtype)  # (B, N, C)
            grad_weights = torch.zeros_like(weights).scatter_add(2, winner, grad_alpha)  # (B, N, M)
        return grad_x, grad_sources, grad_weights, None


def _relative(x: Tensor | None, sources: Tensor, winner: Tensor) -> Tensor:
    """Return y_j* − x_i, or y_j* if x is None: (B, N, C)."""
    message = sources.gather(1, winner)
    return message if x is None else message - x


@torch.no_grad()
def _search(x: Tensor | None, sources: Tensor, graph: Graph, want_index: bool) -> Tensor:
    """Return the maximum over the sources of each (target, channel), or the winning source's index: (B, N, C).

    A compiler gets one expression over all targets, which it fuses. Eager mode goes block by block, in the same memory.
    """
    width, no_edge = graph.num_sources if graph.index is None else graph.index.shape[2], None
    if graph.index is None:
        no_edge = torch.zeros_like(graph.weights, dtype=torch.float32).masked_fill_(graph.weights == 0, -torch.inf)
    per_target = x, graph.index, graph.weights, no_edge
    dtype = torch.promote_types(sources.dtype, torch.float32)  # in half precision sources tie and positions round
    if torch.compiler.is_compiling():
        return _search_block(want_index, None, sources.to(dtype), *per_target)
    batch, num_targets, channels = sources.shape[0], graph.num_targets, sources.shape[2]
    out = sources.new_empty(batch, num_targets, channels, dtype=torch.int64 if want_index else dtype)
    limit = BLOCK_ELEMENTS.get(sources.device.type, BLOCK_ELEMENTS["cpu"])
    rows = min(max(1, limit // (width * channels)), batch * num_targets)  # (image, target) pairs in a block
    scratch = _scratch(rows * width * channels, dtype, sources.device)
    b_step, n_step = max(1, rows // num_targets), min(rows, num_targets)
    for b in range(0, batch, b_step):
        for n in range(0, num_targets, n_step):
            images, targets = slice(b, b + b_step), slice(n, n + n_step)
            result = out[images, targets]  # (b, n, C)
            shape = (*result.shape[:2], width, channels)
            block = scratch[:math.prod(shape)].view(shape)  # (b, n, M or k, C)
            parts = [None if t is None else t[images, targets] for t in per_target]
            result.copy_(_search_block(want_index, block, sources[images].to(dtype), *parts))
    return out


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


def _search_block(want_index: bool, out: Tensor | None, sources: Tensor, x: Tensor | None, index: Tensor | None,
                  weights: Tensor | None, no_edge: Tensor | None) -> Tensor:
    """Do `_search` for a block of targets. out: memory for all messages. no_edge: −∞ where there is no edge, else 0."""
    weighted = weights is not None and weights.dtype != torch.bool
    if index is not None:
        batch, num_sources, channels = sources.shape
        rows = index + num_sources * torch.arange(batch, device=index.device)[:, None, None]  # into (B·M, C)
        out = None if out is None else out.view(-1, channels)
        message = torch.index_select(sources.reshape(-1, channels), 0, rows.flatten(), out=out)
        message = message.view(*index.shape, channels)  # (B, n, k, C)
    elif weighted:
        x = sources.new_zeros(*weights.shape[:2], 1) if x is None else x.to(sources.dtype)  # (B, n, 1 or C)
        message = torch.sub(sources[:, None], x[:, :, None], out=out)  # (B, n, M, C)
        message = message.mul_(weights[..., None]).add_(no_edge[..., None])
    else:
        message = torch.add(sources[:, None], no_edge[..., None], out=out)  # (B, n, M, C)
    best = message.amax(2)  # (B, n, C)
    if want_index:  # the last position that equals the best; on a CPU far faster than argmax
        position = torch.arange(message.shape[2], dtype=message.dtype, device=message.device)[:, None]
        winner = message.eq_(best[:, :, None]).mul_(position).amax(2).long()
        return winner if index is None else index.gather(2, winner)
    if x is not None and not weighted:  # y_j − x_i is greatest where y_j is, also after rounding
        best = best - x
    return best if index is not None else best.masked_fill_(best == -torch.inf, 0)
