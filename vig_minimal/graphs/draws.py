"""Random numbers inside a model, drawn so that an image gets the same ones however its batch is split.

A constructor or layer that draws calls `draw`. The training loop says which part of the global batch it computes:

    with part_of_batch(first=32, total=128):  # images 32, 33, ... of a batch of 128
        model(images)
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_part: tuple[int, int] | None = None  # (first, total); a plain global, since backward passes may run in other threads


@contextlib.contextmanager
def part_of_batch(first: int, total: int) -> Iterator[None]:
    """Meanwhile, the images that a model sees are those from number `first` on of a global batch of `total`."""
    global _part
    before, _part = _part, (first, total)
    try:
        yield
    finally:
        _part = before


def draw(batch: int, *shape: int, device: torch.device) -> Tensor:
    """Return uniform random numbers in [0, 1) for each image of a batch: (batch, *shape).

    Inside `part_of_batch` the numbers of the whole global batch are drawn, and this part's are returned.
    """
    first, total = _part or (0, batch)
    return torch.rand(total, *shape, device=device)[first:first + batch]
