"""The check of one function of a lesson, and the recorded outcome of one call."""

import contextlib
import inspect
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..graphs.plain import plain

CLOSE = 1e-9  # relative and absolute: another right way differs by rounding alone


@dataclass(frozen=True)
class Task:
    """One function that a lesson asks for.

    cases: arguments of calls, the first an example of four nodes or as small, the others with other sizes and batches.
    mistakes: (sentence, wrong function): a student whose function agrees with the wrong one reads the sentence.
    gradient: positions of the arguments whose gradients are checked too.
    where: names of the answer in the package, such as "graphs.distance.unit".
    """

    name: str
    right: Callable
    returns: str
    cases: Sequence[tuple]
    mistakes: Sequence[tuple[str, Callable]]
    where: Sequence[str]
    gradient: Sequence[int] = ()

    def arguments(self) -> list[str]:
        """Return the names of the arguments."""
        return list(inspect.signature(self.right).parameters)

    def call_in_words(self, arguments: tuple) -> str:
        return in_words(self.name, self.arguments(), arguments)

    def with_gradient(self) -> list[str]:
        """Return the names of the arguments whose gradients are checked."""
        return [self.arguments()[place] for place in self.gradient]


@dataclass(frozen=True)
class Open:
    """A function without one right answer. rules: (sentence, whether a function breaks it), of which the first broken
    one is reported; right: one answer that keeps them all."""

    name: str
    right: Callable
    rules: Sequence[tuple[str, Callable[[Callable], bool]]]
    where: Sequence[str]


def in_words(function: str, names: Sequence[str], arguments: Sequence) -> str:
    """Format a call, such as "nearest(x (1, 4, 2), k=2)"."""
    parts = [f"{name} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name}={value}"
             for name, value in zip(names, arguments, strict=True)]
    return f"{function}({', '.join(parts)})"


class Outcome(NamedTuple):
    """The outcome of a call: tensors and gradients, an exception, or a problem in words."""

    values: tuple[Tensor, ...] = ()
    gradients: tuple[Tensor | None, ...] = ()
    error: BaseException | None = None
    problem: str = ""


def draw(seed: int, *shape: int) -> Tensor:
    """Draw normal float64 numbers, the same in every call."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edges(seed: int, *shape: int, share: float = 0.5) -> Tensor:
    """Draw bools that are True with probability `share`: a directed graph."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def call(task: Task, function: Callable, arguments: tuple, aloud: bool = False) -> Outcome:
    """Call a function with copies of the arguments. aloud: show what it prints."""
    copies = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
    for place in task.gradient:
        copies[place].requires_grad_()
    try:
        with plain(), contextlib.nullcontext() if aloud else contextlib.redirect_stdout(io.StringIO()):
            values = _tensors(function(*copies))
            if isinstance(values, str):
                return Outcome(problem=values)
            gradients = _gradients(values, [copies[place] for place in task.gradient])
    except (Exception, SystemExit) as error:
        return Outcome(error=error)
    for name, before, after in zip(task.arguments(), arguments, copies, strict=True):
        if isinstance(before, Tensor) and not _close(before, after.detach()):
            return Outcome(problem=f"changes its argument {name}, which its caller still needs; make a new tensor.")
    return Outcome(tuple(value.detach() for value in values), gradients)


def _tensors(result: object) -> tuple[Tensor, ...] | str:
    """Return a result (a tensor, several, or a list of integers) as tensors, or in words what is wrong with it."""
    if result is None or result is Ellipsis:
        return "returns None; does it end with a return?"
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, (list, tuple)) and result:
        if all(isinstance(part, Tensor) and part.ndim for part in result):
            return tuple(result)
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            return (torch.tensor([part.item() if hasattr(part, "item") else part for part in result]),)
    return f"returns a {type(result).__name__}, not a tensor."


def _gradients(values: tuple[Tensor, ...], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of a fixed weighted sum of the values; None where none arrives."""
    with_gradient = [value for value in values if value.requires_grad]
    if not inputs or not with_gradient:
        return tuple(None for _ in inputs)
    total = sum((value * draw(i, *value.shape).to(value.dtype)).sum() for i, value in enumerate(with_gradient))
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    # where an input is exactly 0, as the weight of no edge, what could change it had no gradient itself
    return tuple(None if g is None else g * (x != 0) for g, x in zip(gradients, inputs, strict=True))


def agree(a: Outcome, b: Outcome) -> bool:
    """Return whether two outcomes are equal up to float error."""
    if a.error or b.error or a.problem or b.problem:
        return type(a.error) is type(b.error) and a.problem == b.problem
    pairs = (*zip(a.values, b.values, strict=False), *zip(a.gradients, b.gradients, strict=False))
    return len(a.values) == len(b.values) and all(_close(x, y) for x, y in pairs)


def kind(x: Tensor) -> str:
    """Return the type of a tensor's numbers; all integers are one kind."""
    if x.dtype == torch.bool or x.is_floating_point():
        return str(x.dtype).removeprefix("torch.")
    return "integers"


def _close(x: Tensor | None, y: Tensor | None) -> bool:
    if x is None or y is None:  # no gradient is a gradient of 0
        return all(t is None or not t.any() for t in (x, y))
    return (x.shape == y.shape and kind(x) == kind(y)
            and torch.allclose(x.double(), y.double(), CLOSE, CLOSE, equal_nan=True))
