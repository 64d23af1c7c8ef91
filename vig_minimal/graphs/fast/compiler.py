"""Whether torch.compile, torch.export or torch.jit.trace is recording, and operations opaque to torch.compile."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def is_traced() -> bool:
    """Return whether torch.compile, torch.export or torch.jit.trace is recording: the program it makes also runs on
    other images, so nothing may depend on what these hold."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_compiled() -> bool:
    """Return whether torch.compile is recording and not torch.export. torch 2.6 cannot tell them apart: False."""
    return torch.compiler.is_compiling() and not getattr(torch.compiler, "is_exporting", is_traced)()


def may_branch(x: Tensor) -> bool:
    """Return whether Python may decide by the values of x: not while a program is recorded; and not on a GPU, for which
    it would have to wait."""
    return x.device.type == "cpu" and not is_traced()


def opaque(name: str, like: Callable) -> Callable:
    """Make a function of tensors one operation, vig_minimal::NAME, that torch.compile calls as a whole.

    like: takes the same arguments, and returns tensors of the shapes and types that the function returns.
    """
    def wrap(function: Callable) -> Callable:
        operation = torch.library.custom_op(f"vig_minimal::{name}", function, mutates_args=())
        operation.register_fake(like)
        return operation

    return wrap


def opaque_if_compiled(name: str, like: Callable) -> Callable:
    """Make a function `opaque` while torch.compile records; at other times it is called as it is."""
    def wrap(function: Callable) -> Callable:
        operation = opaque(name, like)(function)

        @functools.wraps(function)
        def chosen(*args):
            return operation(*args) if is_compiled() else function(*args)

        return chosen

    return wrap
