"""Lesson files with answers in them."""

import inspect
import re
import types
from pathlib import Path

from vig_minimal.learn.answers import Progress
from vig_minimal.learn.lessons import Lesson

IMPORTS = ("import math\nfrom statistics import NormalDist\n\nimport numpy as np\nimport torch\n"
           "import torch.nn.functional as F\n\n\n")


def functions(lesson: Lesson) -> list[str]:
    """The names of the functions that a lesson asks for."""
    return re.findall(r"^def (\w+)", lesson.text(), re.MULTILINE)


def answers(lesson: Lesson, module: types.ModuleType) -> str:
    """The source of a module's answers to a lesson."""
    return IMPORTS + "\n\n".join(inspect.getsource(getattr(module, name)) for name in functions(lesson))


def answered(lesson: Lesson, module: types.ModuleType) -> str:
    """A lesson's file with a module's answers in it."""
    text, draws = lesson.text().split('\n\n\nif __name__ == "__main__":')
    return f'{text}\n\n\n{answers(lesson, module)}\n\nif __name__ == "__main__":{draws}'


def write(folder: Path, lesson: Lesson, text: str) -> Path:
    """Write a lesson's file."""
    folder.mkdir(exist_ok=True)
    (folder / lesson.file).write_text(text, encoding="utf-8")
    return folder / lesson.file


def finish(folder: Path, lesson: Lesson, module: types.ModuleType) -> None:
    """Write a lesson's file with answers, and count it as done."""
    write(folder, lesson, answered(lesson, module))
    Progress(folder).passed(lesson, True)
