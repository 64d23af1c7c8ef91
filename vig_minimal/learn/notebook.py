"""All lessons as one Jupyter notebook, written as plain JSON."""

import json
import re
from pathlib import Path

from .lessons import LESSONS, Lesson

WELCOME = """# Learn Vision GNNs by writing them

Twelve lessons. Write the bodies that are missing in place of `raise NotImplementedError`, run the cell, then the check
below it. A later lesson uses your functions of earlier ones. If you are stuck in lesson N, the next hint comes from
`python -m vig_minimal learn N --hint`.
"""
# lines of a lesson that a notebook does not need
EARLIER = r"from vig_minimal\.learn\.answers import earlier\n+[^=\n]+ = earlier\((?:.|\n)*?\)[^\n]*\n+"


def write(path: Path) -> str:
    """Write the notebook. Raises FileExistsError instead of overwriting a file."""
    with open(path, "x", encoding="utf-8") as file:
        json.dump(notebook(), file, indent=1, ensure_ascii=False)
    return f"wrote {path}; write the bodies that are missing, and run it from top to bottom"


def notebook() -> dict:
    """Return the notebook: for each lesson its text, a cell for its functions, and one that checks them and draws."""
    cells = [_text(WELCOME), _code("from vig_minimal.learn.notebook import check", "start")]
    for lesson in LESSONS:
        text, code, drawing = parts(lesson)
        draws = "\n".join(f"    {line}".rstrip() for line in drawing.splitlines())
        cells += [_text(text, f"text-{lesson.number}"), _code(code, f"lesson-{lesson.number}"),
                  _code(f"if check({lesson.number}, globals()):\n{draws}", f"check-{lesson.number}")]
    return {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def parts(lesson: Lesson) -> tuple[str, str, str]:
    """Return a lesson's text as Markdown, its functions, and its drawing code. A notebook has one namespace, so nothing
    is imported from earlier lessons."""
    docstring, rest = re.fullmatch(r'"""(.*?)"""\n\n(.*)', lesson.text(), re.DOTALL).groups()
    code, drawing = rest.split('\n\n\nif __name__ == "__main__":\n')
    code = re.sub(EARLIER, "", code)
    title, *paragraphs = docstring.strip().split("\n\n")
    text = "\n\n".join([f"## {title.rstrip('.')}", *(f"```\n{p}\n```" if p.startswith("    ") else p.replace("\n", " ")
                                                   for p in paragraphs)])
    drawing = "\n".join(line.removeprefix("    ") for line in drawing.rstrip().splitlines())
    return text, code.strip() + "\n", drawing


def check(number: int, answers: dict) -> bool:
    """Check a lesson whose functions are in a notebook, print the report, and return whether it is done."""
    from .check import check as check_lesson
    from .lessons import find

    lesson = find(number)
    report = check_lesson(lesson, answers)
    print(f"Lesson {number}: {lesson.title}\n\n{report.text}")
    return report.done


def _text(source: str, name: str = "title") -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source.splitlines(keepends=True)}


def _code(source: str, name: str) -> dict:
    return {"cell_type": "code", "id": name, "metadata": {}, "execution_count": None, "outputs": [],
            "source": source.splitlines(keepends=True)}
