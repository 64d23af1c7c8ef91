"""Count the lines of functions that run in a command: `python tests/lines_run.py train --model lrgc --epochs 1 …`.

What a reader goes through who follows one run: the source lines of every function of the project that is called, each
function once, by folder. Nested functions count with the one around them; lambdas, comprehensions and class bodies do
not count on their own.
"""

import inspect
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def called(function: Callable, *args) -> set[types.CodeType]:
    """Return the code of all functions of the project that are called meanwhile."""
    seen: set[types.CodeType] = set()

    def note(frame: types.FrameType, event: str, _) -> None:
        if event == "call":
            seen.add(frame.f_code)

    sys.setprofile(note)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    own = str(ROOT) + "/"
    return {code for code in seen if code.co_filename.startswith(own) and not code.co_name.startswith("<")
            and not code.co_filename.startswith(own + "tests/") and code.co_flags & inspect.CO_NEWLOCALS
            and code.co_flags & inspect.CO_OPTIMIZED}


def lines_of(codes: set[types.CodeType]) -> dict[str, set[int]]:
    """Return the numbers of the lines of these functions, by file below the project's root."""
    lines: dict[str, set[int]] = {}
    for code in codes:
        source, first = inspect.getsourcelines(code)
        lines.setdefault(str(Path(code.co_filename).relative_to(ROOT)), set()).update(range(first, first + len(source)))
    return lines


def report(lines: dict[str, set[int]]) -> str:
    """Return a table: lines of each file, of each folder, and in all."""
    files = {name: len(numbers) for name, numbers in sorted(lines.items())}
    folders: Counter = Counter()
    for name, count in files.items():
        folders[str(Path(name).parent)] += count
    rows = [f"{count:6} {name}" for name, count in (*files.items(), *(folders.items()))]
    return "\n".join([*rows, f"{sum(files.values()):6} lines of functions in {len(files)} files"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] != ["train"]:
        sys.exit(__doc__)
    import train
    codes = called(train.main, sys.argv[2:])
    print(report(lines_of(codes)))
