"""A student's answers: their files, progress, and functions.

LESSONS/progress.json keeps which lessons are done, each with a hash of the file that passed, the function at which the
last check failed, and how many hints were read. A file changed since then is not done until it passes again.
"""

import builtins
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from .lessons import Lesson, find, owner

FOLDER = Path("lessons")
NEEDED = (3, 5, 6, 8)  # lessons whose functions a network can be trained with
_loaded: dict[tuple[Path, str], dict] = {}


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


class Progress:
    """The progress in a folder of lessons."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "progress.json"
        try:
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            self.done, self.hints = dict(kept["done"]), {name: int(n) for name, n in kept["hints"].items()}
            self.failing = dict(kept.get("failing", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.done, self.hints, self.failing = {}, {}, {}

    def is_done(self, lesson: Lesson) -> bool:
        """Return whether its file exists and is unchanged since it passed."""
        path = self.folder / lesson.file
        return path.is_file() and self.done.get(lesson.name) == fingerprint(path)

    def missing(self) -> list[int]:
        """Return the numbers of the lessons of NEEDED that are not done."""
        return [number for number in NEEDED if not self.is_done(find(number))]

    def passed(self, lesson: Lesson, passed: bool, failing: str = "") -> None:
        """Record whether a lesson passed, and which of its functions failed."""
        self.done.pop(lesson.name, None)
        self.failing[lesson.name] = failing
        if passed:
            self.done[lesson.name] = fingerprint(self.folder / lesson.file)
        self._write()

    def next_hint(self, lesson: Lesson) -> tuple[str, int]:
        """Count a hint; return the function that failed ("" if unknown) and the number of hints read before."""
        failing = self.failing.get(lesson.name, "")
        name = f"{lesson.name}.{failing}" if failing else lesson.name
        given = self.hints.get(name, 0)
        self.hints[name] = given + 1
        self._write()
        return failing, given

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"done": self.done, "failing": self.failing, "hints": self.hints}
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        os.replace(temporary, self.file)


def load(path: Path) -> dict:
    """Run a lesson's file and return its names; its exceptions propagate. An unchanged file runs only once."""
    path = path.resolve()
    key = path, fingerprint(path)
    if key not in _loaded:
        names = {"__name__": f"lesson_{path.stem}", "__file__": str(path), "__builtins__": builtins}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
        _loaded[key] = names
    return _loaded[key]


def earlier(file: str, *names: str) -> Callable | list[Callable]:
    """Return functions of earlier lessons for a lesson's file: yours where their lesson is done, else the package's."""
    folder, found = Path(file).resolve().parent, []
    progress = Progress(folder)
    for name in names:
        lesson = owner(name)
        if progress.is_done(lesson):
            found.append(load(folder / lesson.file)[name])
        else:
            found.append(next(task.right for task in lesson.checks().TASKS if task.name == name))
    return found if len(found) > 1 else found[0]
