"""The check of a lesson: calls its functions, compares the results with the package's definitions, and explains the
difference. Text is ASCII and at most 79 characters wide."""

import inspect
import itertools
import linecache
import re
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .lessons import Lesson
from .task import Open, Outcome, Task, agree, call, in_words, kind

WIDTH = 79
ROWS, NUMBERS, SHORT = 12, 4, 8  # of a table: its rows, and its columns of floats or of whole numbers

TYPES_DIFFER = "expected scalar type|same dtype|dtypes match|dtype to be equal|not implemented for"  # torch's words
TYPES = ("The check uses float64. adj.to(x) or adj.to(x.dtype) has the type of x: so a bool matrix becomes numbers, and"
         " new tensors fit.")


class Report(NamedTuple):
    """Whether a lesson is done, the text to print, and the function that failed."""

    done: bool
    text: str
    failing: str = ""


def check(lesson: Lesson, answers: dict) -> Report:
    """Check the functions in `answers`, the names of a lesson's file, in order up to the first wrong one: later
    functions may use earlier ones."""
    lines, tasks = [], lesson.checks().TASKS
    width = max(len(task.name) for task in tasks)
    for place, task in enumerate(tasks):
        function = answers.get(task.name)
        found = _find(task, function) if callable(function) else missing(task.name)
        lines.append(f"  {task.name:{width}}  {'right' if not found else found.short}")
        if found:
            lines += [f"  {later.name:{width}}  -" for later in tasks[place + 1:]]
            return Report(False, "\n".join([*lines, "", *found.lines]).rstrip(), task.name)
    return Report(True, "\n".join(lines))


class Found(NamedTuple):
    """A mistake: in two words, and in lines."""

    short: str
    lines: list[str]


def missing(name: str) -> Found:
    return Found("is not there", wrap(f"The file has no function {name}. Was it renamed? The lesson needs its name."))


def _find(task: Task | Open, function: Callable) -> Found | None:
    """Return what is wrong with a function, or None."""
    return _rule(task, function) if isinstance(task, Open) else _difference(task, function)


def _difference(task: Task, function: Callable) -> Found | None:
    for number, arguments in enumerate(task.cases):
        theirs, right = call(task, function, arguments, aloud=number == 0), call(task, task.right, arguments)
        if agree(theirs, right):
            continue
        if theirs.error:
            return raised(theirs.error, function, task.call_in_words(arguments))
        lines = wrap(f"Called as {task.call_in_words(arguments)}, it should return {task.returns}.")
        lines = lines + given(task, arguments) if number == 0 else [
            *wrap("The small example is right, another case is not."), *lines]
        lines += ["", *difference(theirs, right, task.with_gradient()), ""]
        for sentence, wrong in task.mistakes:
            if all(agree(call(task, function, case), call(task, wrong, case)) for case in task.cases):
                return Found("not yet", lines + wrap(sentence))
        return Found("not yet", lines + wrap("No known mistake gives this. Compute one row of the right ones by hand,"
                                             " or ask for a hint: --hint."))
    return None


def given(task: Task, arguments: tuple) -> list[str]:
    """Return the short tensors of a call, for the first image, one a line."""
    lines = []
    for name, value in zip(task.arguments(), arguments, strict=True):
        if isinstance(value, Tensor) and value.numel() <= 16:
            numbers = (value[0] if value.ndim > 2 and len(value) == 1 else value).tolist()
            text = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.3g}", str(numbers))
            text = text.replace("True", "1").replace("False", "0")
            lines.append(f"  {name} = {text}")
    return [line for line in lines if len(line) <= WIDTH]


def _rule(task: Open, function: Callable) -> Found | None:
    called, names = task.name, list(inspect.signature(task.right).parameters)

    def noted(*arguments: object) -> object:
        nonlocal called
        called = in_words(task.name, names, arguments)
        return function(*arguments)

    for sentence, broken in task.rules:
        try:
            if broken(noted):
                return Found("not yet", wrap(sentence))
        except (Exception, SystemExit) as error:
            return raised(error, function, called)
    return None


def raised(error: BaseException, function: Callable, called: str) -> Found:
    """Describe an exception in the student's code, with the line that raised it."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
              if frame.f_globals is getattr(function, "__globals__", None)]
    if not frames:
        return Found("raises an error", wrap(f"Called as {called}: {error}"))
    frame, line = frames[-1]
    written_there = list(traceback.walk_tb(error.__traceback__))[-1][0] is frame
    if isinstance(error, NotImplementedError) and written_there and "not implemented for" not in str(error):  # torch's
        name = frame.f_code.co_name
        return Found("not written yet", wrap(f"{name}: not written yet (line {line}). Write its body in place of the"
                                             " raise, then check again."))
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    message = f"{type(error).__name__}: {error}".splitlines() or [type(error).__name__]
    lines = [*wrap(f"Called as {called}, it raises an error in line {line}:"), "",
             f"    {text}", "", *(row for part in message[:6] for row in wrap(part))]
    if re.search(TYPES_DIFFER, str(error)):
        lines += ["", *wrap(TYPES)]
    return Found("raises an error", lines)


def raised_by_file(error: BaseException, path: Path, what: str = "The file cannot be read") -> str:
    """Describe an exception from importing or running a lesson's file, with the line that raised it."""
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        line, text = error.lineno, error.text or ""
    else:
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__)
                 if frame.f_code.co_filename == str(path.resolve())]
        line = lines[-1] if lines else 0
        text = linecache.getline(str(path.resolve()), line)
    message = error.msg if isinstance(error, SyntaxError) else error
    return "\n".join([f"  {what}; line {line}:", "", f"    {text.strip()}", "",
                      *wrap(f"{type(error).__name__}: {message}")])


def difference(theirs: Outcome, right: Outcome, with_gradient: list[str]) -> list[str]:
    """Describe where two outcomes differ: number of tensors, shapes, types, numbers, gradients."""
    if theirs.problem:
        return wrap(f"It {theirs.problem}")
    if len(theirs.values) != len(right.values):
        return wrap(f"It returns {count(theirs.values)}, and {count(right.values)} should come.")
    for mine, good in zip(theirs.values, right.values, strict=True):
        if mine.shape != good.shape:
            return wrap(f"Its shape is {tuple(mine.shape)}; it should be {tuple(good.shape)}.")
        if kind(mine) != kind(good):
            advice = " x.new_zeros(...) makes a tensor of the type of x." if good.is_floating_point() else ""
            return wrap(f"It holds {kind(mine)}; it should hold {kind(good)}.{advice}")
    names = ["", " (second)", " (third)"]
    for name, mine, good in zip(names, theirs.values, right.values, strict=False):
        if not agree(Outcome((mine,)), Outcome((good,))):
            return table(mine, good, name)
    for name, mine, good in zip(with_gradient, theirs.gradients, right.gradients, strict=True):
        if not agree(Outcome(gradients=(mine,)), Outcome(gradients=(good,))):
            if mine is None:
                return [f"The numbers are right, but no gradient comes back to {name}."]
            return [f"The numbers are right, their gradient with respect to {name} is not:",
                    *table(mine, torch.zeros_like(mine) if good is None else good)]
    return []


def count(values: tuple[Tensor, ...]) -> str:
    return f"{len(values)} tensors" if len(values) != 1 else "one tensor"


def table(mine: Tensor, good: Tensor, name: str = "") -> list[str]:
    """Print two tensors side by side, with a mark at rows that differ; of large ones, a part that differs."""
    sides = [t.reshape(-1, t.shape[-1]) if t.ndim else t.reshape(1, 1) for t in (mine, good)]
    places = list(itertools.product(*(range(size) for size in mine.shape[:-1])))
    wrong = ~torch.isclose(*(side.double() for side in sides), 1e-9, 1e-9, equal_nan=True)  # (rows, columns)
    differs = wrong.any(1)
    most = NUMBERS if good.is_floating_point() else SHORT
    top = _first(int(differs.int().argmax()) - 1, len(places), ROWS)
    left = _first(int(wrong[top:top + ROWS].any(0).int().argmax()), good.shape[-1] if good.ndim else 1, most)
    shown = range(top, min(top + ROWS, len(places)))
    texts = [[_figures(side[row, left:left + most]) for row in shown] for side in sides]
    head = [f"yours{name}", f"right{name}"]
    widths = [max(map(len, [title, *side])) for title, side in zip(head, texts, strict=True)]
    labels = ["".join(f"[{place}]" for place in places[row]) for row in shown]
    wide = max(map(len, labels))
    lines = [f"  {'':{wide}}   {head[0]:{widths[0]}}   {head[1]}".rstrip()]
    for label, a, b, row in zip(labels, *texts, shown, strict=True):
        lines.append(f"{'>' if differs[row] else ' '} {label:{wide}}   {a:{widths[0]}}   {b}".rstrip())
    if len(places) > ROWS or sides[0].shape[1] > most:
        lines.append(f"  (a part: rows from {top}, columns from {left}; {int(wrong.sum())} of {wrong.numel()} differ)")
    return lines


def _first(wanted: int, size: int, shown: int) -> int:
    """Return the start of a window of `shown` that contains `wanted` and ends within `size`."""
    return max(0, min(wanted, size - shown))


def _figures(row: Tensor) -> str:
    """Format a row of numbers; floats in columns of 8."""
    if row.is_floating_point():
        return " ".join(f"{x + 0.0:7.3f}" if abs(x) < 100 else f"{x:7.1e}" for x in row.tolist())  # + 0: no -0.0
    return " ".join(f"{x:2d}" for x in row.tolist())


def wrap(text: str) -> list[str]:
    """Break text into lines for a terminal of 80 columns."""
    return textwrap.wrap(text, WIDTH) or [""]
