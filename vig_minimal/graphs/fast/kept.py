"""A cache of tables that depend on the grid alone."""

import functools
from collections.abc import Callable

import torch

from ..plain import is_plain
from .compiler import is_traced


def made_once(function: Callable) -> Callable:
    """Do `constructors.axial.made_once`."""
    keeping = functools.lru_cache(maxsize=64)(function)

    @functools.wraps(function)
    def made(*about):
        if is_traced() or is_plain():  # while a program is recorded tensors are stand-ins, which must not be kept
            return function(*about)
        with torch.inference_mode(False):  # what is made in inference mode cannot be used in training
            return keeping(*about)

    return made
