"""What is random is a function of (seed, epoch, step or image) and of nothing else.

The order of images and what is done to each are therefore the same for any number of processes and workers, and a run
that goes on from a checkpoint needs no state of them.
"""

import hashlib

import torch


def mixed_seed(*parts: int | str) -> int:
    """A seed that is a function of all parts, different for different ones: 0 ≤ seed < 2⁶³."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A random generator on the CPU, seeded by all parts."""
    return torch.Generator().manual_seed(mixed_seed(*parts))
