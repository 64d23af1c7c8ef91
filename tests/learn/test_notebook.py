"""The lessons as one notebook: its code cells are run from top to bottom, without Jupyter."""

import json
from pathlib import Path

import pytest
import tensors
from answering import answers, functions

from vig_minimal.__main__ import main
from vig_minimal.learn import race
from vig_minimal.learn.lessons import LESSONS
from vig_minimal.learn.notebook import write


def cells() -> dict[str, dict]:
    write(Path("lessons.ipynb"))
    notebook = json.loads(Path("lessons.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return {cell["id"]: cell for cell in notebook["cells"]}


def run(cells: dict[str, dict], replaced: dict[str, str] | None = None) -> dict:
    """Run the code cells, some with another source, and return the notebook's names."""
    names = {"__name__": "__main__"}
    for name, cell in cells.items():
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]) + "\n\n" + (replaced or {}).get(name, "")
            exec(compile(source, name, "exec"), names)
    return names


def test_the_command_writes_it_but_never_over_a_file(capsys):
    main(["learn", "--notebook", "lessons.ipynb"])
    assert "wrote lessons.ipynb" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["learn", "--notebook", "lessons.ipynb"])
    assert capsys.readouterr().err == "learn: error: lessons.ipynb: File exists\n"


def test_its_cells_are_the_lessons():
    found = cells()
    for lesson in LESSONS:
        text, code, check = (found[f"{kind}-{lesson.number}"] for kind in ("text", "lesson", "check"))
        assert text["cell_type"] == "markdown" and text["source"][0].startswith(f"## Lesson {lesson.number}: ")
        code = "".join(code["source"])
        assert all(f"def {name}(" in code for name in functions(lesson)) and "earlier" not in code
        assert "".join(check["source"]).startswith(f"if check({lesson.number}, globals()):\n    from vig_minimal.learn")
        assert all({"cell_type", "metadata", "source", "id"} <= set(cell) for cell in found.values())


def test_as_given_it_says_what_is_missing(capsys):
    run(cells())
    printed = capsys.readouterr().out
    for lesson in LESSONS:
        assert f"Lesson {lesson.number}: {lesson.title}" in printed
    assert printed.count("not written yet (line") == 12 and "Done" not in printed


def test_with_answers_it_runs_from_top_to_bottom(capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(race, "race", ran.append)  # it trains four networks
    names = run(cells(), {f"lesson-{lesson.number}": answers(lesson, tensors) for lesson in LESSONS})
    printed = capsys.readouterr().out
    assert "not yet" not in printed and "not written yet" not in printed and ran == [names["my_graph"]]
    assert printed.isascii() and max(map(len, printed.splitlines())) < 80
    assert len(list(Path().glob("*.png"))) >= 11
