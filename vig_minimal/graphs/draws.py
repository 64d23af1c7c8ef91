"""Random numbers inside a model: an image gets the same ones however its batch is split over steps and processes.

A constructor or layer calls `draw` for them. The training loop declares which images it computes:

    with part_of_batch(first=32, total=128):  # images 32, 33, ... of a batch of 128
        model(images)
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_part: tuple[Tensor, int] | None = None  # (first, total); global, since backward passes may run in other threads


@contextlib.contextmanager
def part_of_batch(first: int, total: int) -> Iterator[None]:
    """Declare the images computed inside to be numbers first, first + 1, … of a global batch of `total`."""
    global _part
    # a tensor, since torch.compile would make another program for every number
    before, _part = _part, (torch.tensor(first), total)
    try:
        yield
    finally:
        _part = before


def draw(batch: int, *shape: int, device: torch.device) -> Tensor:
    """Return uniform random numbers in [0, 1) for each image: (batch, *shape).

    Inside `part_of_batch`, draw for the whole global batch and return the numbers of these images."""
    if _part is None:
        return torch.rand(batch, *shape, device=device)
    first, total = _part
    return torch.rand(total, *shape, device=device)[first + torch.arange(batch, device=device)]
