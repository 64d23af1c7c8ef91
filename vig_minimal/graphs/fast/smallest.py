"""The smallest of each row on a CPU, by numpy's sort of integers, each a distance and its index.

Numpy 2 sorts several such keys in one instruction where the processor has AVX2 or AVX-512, and numpy was built for it.
Elsewhere topk is up to three times as fast, and is used; so it is where one thread of numpy stands against many.
"""

import numpy as np
import torch
from torch import Tensor

from .compiler import is_compiled, may_branch, opaque

KEYS = 2**16  # distances sorted at a time: 512 KiB of keys, which stay in a CPU's cache
FEW_THREADS = 4  # one thread of numpy sorts as fast as so many of topk


def _sorts_fast() -> bool:
    """Return whether numpy sorts whole numbers by AVX2 or AVX-512: from numpy 2.0 on, where the processor has them."""
    if int(np.__version__.split(".")[0]) < 2:
        return False
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as has  # what numpy found, and may use
    except ImportError:
        return False
    return any(has.get(name, False) for name in ("AVX2", "AVX512_SKX", "X86_V3", "X86_V4"))


SORTS_FAST = _sorts_fast()


def smallest(distance: Tensor, count: int) -> Tensor:
    """Do `distance.smallest`. Of equal ones in float32 the lowest place comes first."""
    # only float32 leaves room for the place in a key; an exported program must hold torch's own operations alone
    if distance.device.type == "cpu" and distance.dtype == torch.float32 and (is_compiled() or may_branch(distance)):
        return _operation(distance, count)
    return NotImplemented


def _alike(distance, count):
    """Return a tensor of the shape and type that `_operation` returns."""
    return distance.new_empty(*distance.shape[:-1], count, dtype=torch.int64)


@opaque("smallest", _alike)
def _operation(distance: Tensor, count: int) -> Tensor:
    """Do `smallest` on a CPU. To torch.compile and to the profiler this is one operation, like topk."""
    few_of_many = 64 * count <= distance.shape[-1]  # where topk sorts no more than it must
    if few_of_many or not SORTS_FAST or torch.get_num_threads() > FEW_THREADS:
        return distance.topk(count, largest=False).indices
    return _sorted_keys(distance, count)


def _sorted_keys(distance: Tensor, count: int) -> Tensor:
    """Do `smallest` by numpy. topk sorts pairs of a value and its place; here both are one int64, the key."""
    width = distance.shape[-1]
    rows, place = distance.reshape(-1, width), torch.arange(width)
    found = torch.empty(len(rows), count, dtype=torch.int64)
    step = max(1, KEYS // width)
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        # + 0 makes −0 a 0. The bits of floats, read as integers, are in the order of the floats; below 0 in the reverse
        # order, until they are flipped
        bits = rows[block].nan_to_num(torch.inf, torch.inf, -torch.inf).add_(0.0).view(torch.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF
        keys = ((bits.long() << 32) | place).numpy()  # distance in the upper half, place in the lower
        keys.partition(count - 1, axis=1)
        nearest = keys[:, :count]
        nearest.sort(axis=1)
        found[block] = torch.from_numpy(nearest)
    return (found & 0xFFFFFFFF).view(*distance.shape[:-1], count)
