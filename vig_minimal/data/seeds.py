"""Seeds of everything random: functions of (seed, epoch, step or image), so there is no random state to save.

The order of images and their augmentations are therefore the same for any number of processes and workers, and a run
resumed from a checkpoint draws what it would have drawn without the break.
"""

import hashlib

import torch


def mixed_seed(*parts: int | str) -> int:
    """Hash all parts into one seed, 0 ≤ seed < 2⁶³: the same on every machine, another for other parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A random generator on the CPU, seeded by `mixed_seed` of all parts."""
    return torch.Generator().manual_seed(mixed_seed(*parts))
