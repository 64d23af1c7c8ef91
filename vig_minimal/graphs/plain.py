"""Two forms of an operation: the plain form is the definition, the fast form gives the same, to rounding, sooner or in
less memory.

The plain form stands where a reader meets the operation: dense, short, differentiated by autograd. The line above it

    @fast_form("maximum")
    def maximum(x, y, graph): ...

means that the function of this name in graphs/fast/maximum.py replaces it, except inside `with plain():` and where that
one returns NotImplemented, as on other devices. Without graphs/fast/ everything runs in plain form.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator

FAST = f"{__package__}.fast"
_plain = False  # global: blocks that are computed again in a backward pass may run in another thread


@contextlib.contextmanager
def plain(on: bool = True) -> Iterator[None]:
    """Run everything inside in plain form, for instance in a debugger; `plain(False)`: in fast form again."""
    global _plain
    before, _plain = _plain, on
    try:
        yield
    finally:
        _plain = before


def is_plain() -> bool:
    """Return whether operations run in plain form."""
    return _plain


def fast_form(file: str) -> Callable:
    """Mark a definition whose fast form is the function of the same name in graphs/fast/FILE.py, where there is one."""
    def choose(definition: Callable) -> Callable:
        try:
            fast = getattr(importlib.import_module(f"{FAST}.{file}"), definition.__name__)
        except ModuleNotFoundError as error:
            if error.name not in (FAST, f"{FAST}.{file}"):
                raise
            return definition

        @functools.wraps(definition)
        def chosen(*args, **kwargs):
            result = NotImplemented if _plain else fast(*args, **kwargs)
            return definition(*args, **kwargs) if result is NotImplemented else result

        return chosen

    return choose
