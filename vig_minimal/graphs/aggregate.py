"""Aggregation of sources over a graph: max-relative, max, sum, mean, in memory that grows with B·N·C.

All take nodes, (B, N, C) targets and (B, M, C) sources, and give (B, N, C). An edge's weight a_ij multiplies what it
carries. A target with no edge gets 0, with zero gradient. Over a GroupGraph each group of channels has its own edges.

The maxima are the hard part. Written plainly, max_j a_ij (y_j − x_i) is a (B, N, M, C) tensor that autograd keeps:
3.5 GiB a layer at batch 128 of ViG-Ti. Instead the winning source j* of each (target, channel) is searched without
gradient, a block of targets at a time, and then gathered: m_i = a_ij* (y_j* − x_i). Values are the same, and so is the
gradient, since a maximum passes it to its winner only. Of several equal sources the last one wins.
"""

import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from .graph import Graph, GroupGraph

# of the searched tensor, held at a time: 8 MiB, which stay in a CPU's cache; 256 MiB on a GPU
BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
_KEPT = threading.local()


def max_relative(x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
    """m_i = max_{j: a_ij ≠ 0} a_ij (y_j − x_i), for each channel. Max-relative of DeepGCNs, ViG; with α, LRGC Eq. 5.

    x: (B, N, C) targets. sources y: (B, M, C), x itself by default. Returns (B, N, C).
    """
    # a view of x, since under torch.compile an autograd.Function cannot take the same tensor twice
    return _maximum(x, x.view_as(x) if sources is None else sources, graph)


def aggregate_max(sources: Tensor, graph: Graph) -> Tensor:
    """m_i = max_{j: a_ij ≠ 0} a_ij y_j, for each channel: (B, M, C) to (B, N, C)."""
    return _maximum(None, sources, graph)


def aggregate_sum(sources: Tensor, graph: Graph) -> Tensor:
    """m_i = Σ_j a_ij y_j: (B, M, C) to (B, N, C)."""
    if isinstance(graph, GroupGraph):
        pieces = sources.unflatten(-1, (graph.index.shape[1], -1)).transpose(1, 2)  # (B, G, M, C/G)
        return (graph.adj().to(sources.dtype) @ pieces).transpose(1, 2).flatten(2)
    return graph.adj().to(sources.dtype) @ sources


def aggregate_mean(sources: Tensor, graph: Graph) -> Tensor:
    """m_i = Σ_j a_ij y_j / |{j: a_ij ≠ 0}|: (B, M, C) to (B, N, C). In a GroupGraph each group counts its own edges."""
    total = aggregate_sum(sources, graph)
    if isinstance(graph, GroupGraph):
        count = (graph.adj() != 0).sum(-1).transpose(1, 2)[..., None]  # (B, N, G, 1)
        return (total.unflatten(-1, (count.shape[2], -1)) / count.clamp(min=1)).flatten(2)
    return total / graph.degree().clamp(min=1)[..., None]


def _maximum(x: Tensor | None, sources: Tensor, graph: Graph) -> Tensor:
    """max_j a_ij (y_j − x_i), or max_j a_ij y_j where x is None: (B, N, C)."""
    if isinstance(graph, GroupGraph):
        x, sources = (None if t is None else subnodes(t, graph) for t in (x, sources))  # (B, N·G, C/G)
        return _maximum(x, sources, graph.subnodes()).unflatten(1, (graph.num_targets, -1)).flatten(2)
    inputs = (x, sources, graph.weights)
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)):
        return _search(x, sources, graph, want_index=False)
    winner = _search(x, sources, graph, want_index=True)  # j*: (B, N, C)
    if graph.index is not None:
        return _Winners.apply(x, sources, None, winner)
    weights = None if graph.weights.dtype == torch.bool else graph.weights
    message = _Winners.apply(x, sources, weights, winner)
    return message.masked_fill((graph.weights == 0).all(-1, keepdim=True), 0)  # no edge: 0, and no gradient


def subnodes(x: Tensor, graph: GroupGraph) -> Tensor:
    """The groups of every node one after the other, without a copy: (B, N, C) to (B, N·G, C/G)."""
    return x.unflatten(-1, (graph.index.shape[1], -1)).flatten(1, 2)


class _Winners(torch.autograd.Function):
    """m_i = a_ij* (y_j* − x_i): two gathers, whose gradients are two scatters.

    Autograd by itself would keep both gathered tensors for the backward pass, and the winners in 8 bytes each. This
    keeps the inputs, which are there anyway, and the winners in 2 bytes each, and gathers again.
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
    """y_j* − x_i, or y_j* where x is None: (B, N, C)."""
    message = sources.gather(1, winner)
    return message if x is None else message - x


@torch.no_grad()
def _search(x: Tensor | None, sources: Tensor, graph: Graph, want_index: bool) -> Tensor:
    """The maximum over the sources of each (target, channel), or the winning source's index: (B, N, C).

    Compilers see one expression over all targets and fuse it. Eager mode goes block by block, each in the same memory.
    """
    channels = sources.shape[2]
    if graph.index is None:
        no_edge = torch.zeros_like(graph.weights, dtype=torch.float32).masked_fill_(graph.weights == 0, -torch.inf)
        search, per_target, width = _search_dense, (x, graph.weights, no_edge), graph.num_sources
    else:
        search, per_target, width = _search_indexed, (x, graph.index), graph.index.shape[2]
    dtype = torch.promote_types(sources.dtype, torch.float32)  # in half precision sources tie and positions round
    if torch.compiler.is_compiling():
        return search(want_index, None, sources.to(dtype), *per_target)
    out = sources.new_empty(sources.shape[0], graph.num_targets, channels, dtype=torch.int64 if want_index else dtype)
    limit = BLOCK_ELEMENTS.get(sources.device.type, BLOCK_ELEMENTS["cpu"])
    rows = min(max(1, limit // (width * channels)), out.shape[0] * out.shape[1])  # (image, target) pairs a block
    scratch = _scratch(rows * width * channels, dtype, sources.device)
    for images, targets in _blocks(*out.shape[:2], rows):
        result = out[images, targets]
        shape = (*result.shape[:2], width, channels)
        block = scratch[:math.prod(shape)].view(shape)  # (b, n, M or k, C)
        parts = [None if t is None else t[images, targets] for t in per_target]
        result.copy_(search(want_index, block, sources[images].to(dtype), *parts))
    return out


def _scratch(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory to search in, at least (elements,). On a CPU it is kept from call to call, one a thread: fresh pages from
    the operating system in every layer can cost more than the search. On a GPU torch's allocator does that already."""
    if device.type != "cpu":
        return torch.empty(elements, dtype=dtype, device=device)
    kept = vars(_KEPT).get(dtype)
    if kept is None or len(kept) < elements:
        with torch.inference_mode(False):  # else training could not write to it later
            kept = vars(_KEPT)[dtype] = torch.empty(elements, dtype=dtype, device=device)
    return kept


def _blocks(batch: int, num_targets: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of targets that cover the batch, each with at most `rows` (image, target) pairs."""
    images, targets = max(1, rows // num_targets), min(rows, num_targets)
    for b in range(0, batch, images):
        for n in range(0, num_targets, targets):
            yield slice(b, b + images), slice(n, n + targets)


def _search_indexed(want_index: bool, out: Tensor | None, sources: Tensor, x: Tensor | None, index: Tensor) -> Tensor:
    """Over k neighbours. y_j − x_i is greatest where y_j is, also after rounding: x enters after the maximum."""
    batch, num_sources, channels = sources.shape
    rows = index + num_sources * torch.arange(batch, device=index.device)[:, None, None]  # into (B·M, C)
    out = None if out is None else out.view(-1, channels)
    neighbours = torch.index_select(sources.reshape(-1, channels), 0, rows.flatten(), out=out)
    neighbours = neighbours.view(*index.shape, channels)  # (B, n, k, C)
    best = neighbours.amax(2)  # (B, n, C)
    if want_index:
        return index.gather(2, _last_equal(neighbours, best))
    return best if x is None else best - x


def _search_dense(want_index: bool, out: Tensor | None, sources: Tensor, x: Tensor | None, weights: Tensor,
                  no_edge: Tensor) -> Tensor:
    """Over all M sources; no_edge (B, n, M) is −∞ where there is no edge, else 0."""
    x = sources.new_zeros(*weights.shape[:2], sources.shape[2]) if x is None else x.to(sources.dtype)  # (B, n, C)
    sources = sources[:, None]  # (B, 1, M, C)
    if weights.dtype == torch.bool:  # y_j − x_i is greatest where y_j is
        message = torch.add(sources, no_edge[..., None], out=out)  # (B, n, M, C)
    else:
        message = torch.sub(sources, x[:, :, None], out=out).mul_(weights[..., None]).add_(no_edge[..., None])
    best = message.amax(2)  # (B, n, C)
    if want_index:
        return _last_equal(message, best)
    best = best - x if weights.dtype == torch.bool else best
    return best.masked_fill_(best == -torch.inf, 0)


def _last_equal(candidates: Tensor, best: Tensor) -> Tensor:
    """Position of the last candidate (B, n, M, C) that equals the best (B, n, C). Far faster on a CPU than argmax."""
    position = torch.arange(candidates.shape[2], dtype=candidates.dtype, device=candidates.device)[:, None]  # (M, 1)
    return candidates.eq_(best[:, :, None]).mul_(position).amax(2).long()
