"""The maximum over edges as a sparse matrix product on a CPU, with maximum for sum: it writes no message.

`torch.sparse.mm(matrix, values, "amax")` calls `aten::_sparse_mm_reduce_impl` and keeps to itself which edge gave each
maximum, so that one is called here. It is no public name: where torch has none, `search` makes messages instead.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

IS_THERE = hasattr(torch.ops.aten, "_sparse_mm_reduce_impl")

with warnings.catch_warnings():  # torch warns once per process that these tensors are in beta: trigger it here
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


def largest(x: Tensor | None, sources: Tensor, index: Tensor | None, weights: Tensor | None,
            want_index: bool) -> tuple[Tensor, Tensor | None]:
    """Do `search._dense` for bools, or for an index without its winners: no messages are made, and x is not subtracted.
    """
    batch, num_sources, channels = sources.shape
    offset = num_sources * torch.arange(batch)  # all images are one sparse matrix (b·n, b·M), a row for each target
    if index is not None:
        shape, column = index.shape[:2], (index + offset[:, None, None]).flatten()  # (E,) of E edges
        begin = torch.arange(0, len(column) + 1, index.shape[2])  # a row's first edge
    else:
        image, _, source = weights.nonzero(as_tuple=True)
        shape, column = weights.shape[:2], source + offset[image]
        begin = F.pad(weights.sum(2).flatten().cumsum(0), (1, 0))
    ones, size = sources.new_ones(len(column)), (math.prod(shape), batch * num_sources)
    matrix = torch.sparse_csr_tensor(begin, column, ones, size, check_invariants=False)
    values = sources.reshape(-1, channels).detach().requires_grad_(want_index)
    # torch returns the argmax only where it would need a gradient; the tensors saved for that are dropped
    with torch.set_grad_enabled(want_index), saved_tensors_hooks(lambda saved: None, lambda nothing: nothing):
        # what torch.sparse.mm(matrix, values, "amax") calls; that one keeps the edges to itself
        best, edge = torch.ops.aten._sparse_mm_reduce_impl(matrix, values, "amax")
    best = best.detach().view(*shape, channels)
    if not want_index:
        return best, None
    if len(column) == 0:
        return best, torch.zeros_like(best, dtype=torch.int64)
    place = F.pad(source, (0, 1))[edge]  # E: a row without edges
    return best, place.view(best.shape)
