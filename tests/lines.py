"""How many lines of the package a reader goes through to follow a model: those of the functions that run."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import vig_minimal

PACKAGE = str(Path(vig_minimal.__file__).parent)


def functions_run(work: Callable[[], object]) -> set[CodeType]:
    """Return the functions of the package that `work` calls, lambdas and comprehensions aside."""
    found = set()

    def called(frame, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            found.add(code)

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found


def lines_of(functions: set[CodeType]) -> dict[str, int]:
    """Return the lines of each function, from its first decorator to its end: file and name -> lines."""
    return {f"{code.co_filename[len(PACKAGE) + 1:]}:{code.co_firstlineno} {code.co_name}":
            len(inspect.getsourcelines(code)[0]) for code in functions}
