"""A comparison as one operation of a program that torch.compile makes for a CPU. The code that it would write stores
the bools one by one, which takes twenty times as long."""

import torch
from torch import Tensor

from .compiler import is_compiled, opaque


def above(z: Tensor, least: float) -> Tensor:
    """Do `constructors.similarity_threshold.above`."""
    return _operation(z, least) if is_compiled() and z.device.type == "cpu" else NotImplemented


def _alike(z, least):
    """Return a tensor of the shape and type that `_operation` returns."""
    return torch.empty_like(z, dtype=torch.bool)


@opaque("above", _alike)
def _operation(z: Tensor, least: float) -> Tensor:
    return z > least
