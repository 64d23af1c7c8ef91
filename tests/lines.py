"""How many lines of the package a reader goes through to follow a model or a run: those of the functions that run.

`python tests/lines.py --model lrgc --epochs 1 --limit 64 --batch-size 16 --workers 0` prints them of a training.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vig_minimal  # noqa: E402

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


def by_folder(lines: dict[str, int]) -> dict[str, int]:
    """Return the lines of each folder, of each module beside them, and of all."""
    folders: Counter = Counter()
    for place, count in lines.items():
        folders[place.partition("/")[0] if "/" in place else place.partition(":")[0]] += count
    return dict(folders) | {"all": sum(lines.values())}


if __name__ == "__main__":
    from vig_minimal import train
    lines = lines_of(functions_run(lambda: train.main(sys.argv[1:])))
    print("\n".join(f"{count:5} {place}" for place, count in (*sorted(lines.items()), *by_folder(lines).items())))
