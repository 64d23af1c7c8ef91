"""Squared distances between nodes, and the smallest of them: in float32 or better, since half precision rounds away
what tells neighbours apart.

On a GPU this holds only while torch.set_float32_matmul_precision is left at "highest", its default.

Under bfloat16 autocast the distances are float32, but the features that layers hand over are rounded already.

‖x‖² − 2 x·y + ‖y‖² loses its digits where x and y are much longer than they are apart. A vector subtracted from all
nodes changes no distance, so users of `squared_distance` subtract `mean_node` first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import is_compiled, is_traced, may_branch

KEYS = 2**16  # distances sorted at a time: 512 KiB of keys, which stay in a CPU's cache
FEW_THREADS = 4  # one thread of numpy sorts as fast as so many of topk


def full_precision(x: Tensor) -> Tensor:
    """Return x in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x_i − y_j‖² = ‖x_i‖² − 2 x_i·y_j + ‖y_j‖²: nodes (B, N, C) and (B, M, C) to (B, N, M).

    If y is x, the same tensor, a node's distance to itself is exactly 0.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = full_precision(x), full_precision(y)
        x2 = x.square().sum(-1)  # (B, N)
        y2 = x2 if y is x else y.square().sum(-1)  # (B, M)
        distance = torch.baddbmm(y2[:, None, :], x, y.transpose(-2, -1), alpha=-2) + x2[:, :, None]
        if y is x:
            distance = fill_diagonal(distance, 0.0)
        return distance


def fill_diagonal(distance: Tensor, value: float, start: int = 0) -> Tensor:
    """Return distances (B, n, M), of which row i is node start + i, with `value` between every node and itself. In
    place, but not while a program is recorded, since the ONNX exporter cannot write through a view."""
    if is_traced():
        rows, columns = (torch.arange(side, device=distance.device) for side in distance.shape[1:])
        return distance.masked_fill(rows[:, None] + start == columns, value)
    distance.diagonal(start, 1, 2).fill_(value)
    return distance


def mean_node(x: Tensor) -> Tensor:
    """Return the mean of each image's nodes, 0 where it is not finite: (B, N, C) to (B, 1, C)."""
    return x.mean(1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)


def unit(x: Tensor) -> Tensor:
    """Return L2-normalised nodes x̂: (B, N, C), in float32 or float64. ‖x̂_i − x̂_j‖² = 2 − 2 cos(x_i, x_j)."""
    return F.normalize(full_precision(x), dim=-1)


def smallest(distance: Tensor, count: int) -> Tensor:
    """Return the places of the `count` smallest in each row, smallest first: (..., M) to (..., count) int64.

    As `topk` does, and in most shapes two to four times as fast on a CPU of few threads. A NaN counts as ∞. Which of
    equal ones comes first is left open: it depends on the machine.
    """
    # only float32 leaves room for the place in a key; an exported program must hold torch's own operations alone
    if distance.device.type == "cpu" and distance.dtype == torch.float32 and (is_compiled() or may_branch(distance)):
        return _smallest(distance, count)
    return distance.topk(count, largest=False).indices


@torch.library.custom_op("vig_minimal::smallest", mutates_args=())
def _smallest(distance: Tensor, count: int) -> Tensor:
    """Do `smallest` on a CPU. To torch.compile and to the profiler this is one operation, like topk."""
    few_of_many = 64 * count <= distance.shape[-1]  # where topk sorts no more than it must
    if few_of_many or torch.get_num_threads() > FEW_THREADS:
        return distance.topk(count, largest=False).indices
    return _sorted_keys(distance, count)


@_smallest.register_fake
def _(distance, count):
    """Return a tensor of the same shape and type, for the compiler."""
    return distance.new_empty(*distance.shape[:-1], count, dtype=torch.int64)


def _sorted_keys(distance: Tensor, count: int) -> Tensor:
    """Do `smallest` for float32 on a CPU by numpy: of equal ones the lowest place comes first.

    topk sorts pairs of a value and its place. Here both are one int64, the key, and numpy 2 compares several keys in one
    instruction (AVX2 or AVX-512).
    """
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
