"""The search behind the maximum: each target's largest message, and the source that gives it, in little memory.

    where                        how
    compiled, or exported        one expression over all pairs, which a compiler fuses
    a GPU                        the same expression, a block of targets at a time
    a CPU, also compiled         a sparse matrix product with maximum for sum (`sparse.py`), which writes no message
      the winners of an index    messages of a block of targets, in memory that is used again
      edges with weights         the same; compiled, one expression in two strands

Of several equal sources the first wins: the nearest of k-NN's, else the one with the lowest number. Nothing here has a
gradient, and memory grows with B·N·C.
"""

import math
import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import Graph
from . import sparse
from .compiler import is_compiled, is_traced, may_branch, opaque

# elements searched at a time: 8 MiB, which stay in a CPU's cache; 256 MiB on a GPU
BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
_KEPT = threading.local()

@torch.no_grad()
def search(x: Tensor | None, sources: Tensor, graph: Graph, want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Return max_j a_ij (y_j − x_i), or max_j a_ij y_j if x is None, and its source j* if `want_index`: (B, N, C) each.

    j runs as in `aggregate.max_relative`. The maximum is in float32 or better: in half precision sources tie. It means
    nothing for a target without edges in a graph of bools. A source without an edge is never read, whatever it holds.
    """
    weighted = graph.weights is not None and graph.weights.dtype != torch.bool
    if is_compiled() and sources.device.type == "cpu" and not weighted:
        best, winner = _operation(x, sources, graph.index, graph.weights, graph.num_sources, want_index)
    else:
        best, winner = _search(x, sources, graph, weighted, want_index)
    return best, winner if want_index else None


def _search(x: Tensor | None, sources: Tensor, graph: Graph, weighted: bool,
            want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Do `search`, in a way that suits the device."""
    dtype = torch.promote_types(sources.dtype, torch.float32)
    x, sources = None if x is None else x.to(dtype), sources.to(dtype)
    about, channels = (x, sources, graph, want_index), sources.shape[2]
    best = winner = None
    if may_branch(sources):
        if weighted:
            best, winner = _by_blocks(_weighted, channels, *about)
        elif sparse.IS_THERE and (graph.index is None or not want_index):
            best, winner = _by_blocks(sparse.largest, 1, *about)
        if best is not None and x is not None:
            best = best - x
    if best is None or weighted and best.sum().isnan():  # of a NaN, or of 0 · ∞ where there is no edge
        best, winner = _by_blocks(_dense, channels, *about)
    return best, winner.to(_winner_dtype(graph.num_sources)) if want_index else None


def _winner_dtype(num_sources: int) -> torch.dtype:
    """Return the smallest type that can number the sources: autograd keeps the winners."""
    return torch.uint8 if num_sources <= 2**8 else torch.int16 if num_sources <= 2**15 else torch.int32


def _alike(x, sources, index, weights, num_sources, want_index):
    """Return tensors of the shapes and types that `_operation` returns."""
    shape, dtype = (weights if index is None else index).shape[:2], torch.promote_types(sources.dtype, torch.float32)
    best = sources.new_empty(*shape, sources.shape[2], dtype=dtype)
    return best, torch.empty_like(best, dtype=_winner_dtype(num_sources)) if want_index else sources.new_empty(0)


@opaque("search", _alike)
def _operation(x: Tensor | None, sources: Tensor, index: Tensor | None, weights: Tensor | None, num_sources: int,
               want_index: bool) -> tuple[Tensor, Tensor]:
    """Do `search` as one operation. For a CPU torch.compile would write C++ that makes the whole (B, N, M, C) of
    messages: SViG's training took three times as long as without torch.compile."""
    best, winner = _search(x, sources, Graph(num_sources, index=index, weights=weights), False, want_index)
    return best, winner if want_index else sources.new_empty(0)


def _by_blocks(work: Callable, elements: int, x: Tensor | None, sources: Tensor, graph: Graph,
               want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Do `work`, a block of targets at a time: the maximum and j*, or None, (B, N, C) each. elements: how many `work`
    makes for each pair of target and source."""
    batch, num_targets, channels = sources.shape[0], graph.num_targets, sources.shape[2]
    width = graph.num_sources if graph.index is None else graph.index.shape[2]
    if is_traced():
        best, place = work(x, sources, graph.index, graph.weights, want_index)
    else:
        best = sources.new_empty(batch, num_targets, channels)
        place = torch.empty_like(best, dtype=torch.int64) if want_index else None
        block_elements = BLOCK_ELEMENTS.get(sources.device.type, BLOCK_ELEMENTS["cpu"])
        rows = max(1, block_elements // (width * elements))
        b_step, n_step = max(1, rows // num_targets), min(rows, num_targets)
        for b in range(0, batch, b_step):
            for n in range(0, num_targets, n_step):
                images, block = slice(b, b + b_step), (slice(b, b + b_step), slice(n, n + n_step))
                x_i, index, weights = (None if t is None else t[block] for t in (x, graph.index, graph.weights))
                found = work(x_i, sources[images], index, weights, want_index)
                best[block] = found[0]
                if want_index:
                    place[block] = found[1]
    if want_index and graph.index is not None:
        place = graph.index.gather(2, place)
    return best, place


def _dense(x: Tensor | None, sources: Tensor, index: Tensor | None, weights: Tensor | None,
           want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Do `search` for targets x (b, n, C) and sources (b, M, C) with index (b, n, k), or weights or bools (b, n, M)."""
    batch, num_sources, channels = sources.shape
    if index is not None:
        rows = index + num_sources * torch.arange(batch, device=index.device)[:, None, None]  # into (b·M, C)
        out = _scratch((index.numel(), channels), sources)
        message = torch.index_select(sources.reshape(-1, channels), 0, rows.flatten(), out=out)
        best, place = _first_best(message.view(*index.shape, channels), want_index)  # of (b, n, k, C)
        return best if x is None else best - x, place
    if weights.dtype == torch.bool:
        message = torch.where(weights[..., None], sources[:, None], -torch.inf)  # (b, n, M, C)
        best, place = _first_best(message, want_index)
        return best if x is None else best - x, place
    if is_compiled() and sources.device.type == "cpu":
        return _in_strands(x, sources, weights, want_index)
    return _first_best(_messages(x, sources, weights), want_index)


def _messages(x: Tensor | None, sources: Tensor, weights: Tensor) -> Tensor:
    """Return a_ij (y_j − x_i), or a_ij y_j if x is None, and 0 where a_ij is 0: (b, n, M, C)."""
    message = sources[:, None] if x is None else sources[:, None] - x[:, :, None]
    return (message * weights[..., None].to(message.dtype)).masked_fill(weights[..., None] == 0, 0)


def _in_strands(x: Tensor | None, sources: Tensor, weights: Tensor, want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Do `_dense` for weights in the program that torch.compile writes for a CPU.

    In a plain loop over sources each maximum waits for the one before it. Here two strands, halves of the sources, go
    side by side, which takes two thirds of the time. With four, torch may write the messages out. For an odd M the
    strands overlap in one source, which changes no maximum.
    """
    num_sources = sources.shape[1]
    half = (num_sources + 1) // 2
    first, second = (_messages(x, sources[:, strand], weights[:, :, strand])
                     for strand in (slice(0, half), slice(num_sources - half, num_sources)))  # (b, n, M/2, C) each
    best = torch.maximum(first, second).amax(2)
    if not want_index:
        return best, None
    rank = torch.arange(half, 0, -1, dtype=best.dtype, device=best.device)[:, None]  # (M/2, 1): of the second half
    rank = torch.where(_wins(first, best), rank + (num_sources - half), _wins(second, best) * rank)
    return best, (num_sources - rank.amax(2)).long()


def _wins(message: Tensor, best: Tensor) -> Tensor:
    """Return where a message (b, n, M, C) is its target's maximum (b, n, C). A NaN is; it does not equal itself."""
    return (message == best[:, :, None]) | (message != message)


def _weighted(x: Tensor | None, sources: Tensor, index: None, weights: Tensor,
              want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Do `_dense` for weights on a CPU in fewer passes, without subtracting x. All sources must be finite.

    A message is rounded as a number of the size of x_i, not of its own size: with weights below 1e-5 sources may tie.
    """
    weights = weights[..., None].to(sources.dtype)
    message = _scratch((*weights.shape[:3], sources.shape[2]), sources)  # (b, n, M, C)
    if x is None:
        torch.mul(sources[:, None], weights, out=message)
    else:  # x_i + a_ij (y_j − x_i), in one pass; x_i is the same for all j
        torch.lerp(x[:, :, None], sources[:, None], weights, out=message)
    return _first_best(message, want_index)


def _first_best(message: Tensor, want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Return the maximum over the third dimension of (b, n, width, C), and the first place that has it (int64): (b, n,
    C) each. A NaN is the maximum."""
    if not want_index:
        return message.amax(2), None
    *targets, width, channels = message.shape
    if may_branch(message):
        # as max-pooling of b·n channels_last images of one row: one pass, ten times as fast as `max` and `argmax`
        images = message.reshape(-1, 1, width, channels).permute(0, 3, 1, 2)  # (b·n, C, 1, width)
        return tuple(t.view(*targets, channels) for t in F.max_pool2d(images, (1, width), return_indices=True))
    best = message.amax(2)
    rank = torch.arange(width, 0, -1, dtype=message.dtype, device=message.device)[:, None]  # the first has the highest
    return best, (width - (_wins(message, best) * rank).amax(2)).long()


def _scratch(shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    """Return memory for messages: that of the last call, since fresh pages can cost a CPU more than the search. None
    on a GPU, whose allocator does that, and for a compiler. Each thread has its own."""
    if not may_branch(like):
        return None
    elements, kept = math.prod(shape), vars(_KEPT).get(like.dtype)
    if kept is None or len(kept) < elements:
        with torch.inference_mode(False):  # memory made in inference mode could not be written to in training
            kept = vars(_KEPT)[like.dtype] = torch.empty(elements, dtype=like.dtype)
    return kept[:elements].view(shape)
