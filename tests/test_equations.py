"""Every equation has a place in the code and a test, and docs/equations.md, the index of both, is true.

A row's tag must stand in a comment inside the named function or class, and the named test must carry
`@pytest.mark.equation(paper, number)`. Files are parsed, not imported, so that a broken file is named here instead of
raising an error.
"""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from equations import EQUATIONS, INDEX, ROOT, index, names, title


@cache
def definitions(path: Path) -> dict[str, ast.AST]:
    """Top-level functions and classes of a file by name, and methods as Class.method."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


@cache
def comments(path: Path) -> list[tuple[int, str]]:
    """Line number and text of every comment of a file; strings and docstrings do not count."""
    source = path.read_text(encoding="utf-8")
    return [(token.start[0], token.string) for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT]


@cache
def marks(path: Path) -> dict[str, set[tuple]]:
    """The equations in the marks of each test of a file: test name -> {(paper, number)}."""
    found = {}
    for name, node in definitions(path).items():
        if isinstance(node, ast.FunctionDef) and name.startswith("test_"):
            calls = [decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
            found[name] = {tuple(ast.literal_eval(argument) for argument in call.args) for call in calls
                           if ast.unparse(call.func) == "pytest.mark.equation"}
    return found


def all_marks() -> dict[tuple, list[str]]:
    """(paper, number) -> the tests marked with it."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test, equations in marks(path).items():
            for equation in equations:
                found.setdefault(equation, []).append(f"{path.relative_to(ROOT)}::{test}")
    return found


@pytest.mark.parametrize("equation", EQUATIONS, ids=EQUATIONS.values())
def test_every_equation_has_a_test(equation):
    assert all_marks().get(equation), f"no test is marked @pytest.mark.equation{equation}"


@pytest.mark.parametrize("tag", EQUATIONS.values())
def test_every_equation_has_a_place_in_the_code(tag):
    files = sorted((ROOT / "vig_minimal").rglob("*.py"))
    found = any(names(text, tag) for path in files for _, text in comments(path))
    assert found, f"no comment of vig_minimal/ says «{tag}»"


@pytest.mark.parametrize("tag", EQUATIONS.values())
def test_every_equation_is_in_the_index(tag):
    assert any(names(row.equation, tag) for row in index()), f"{INDEX.name} has no row for «{tag}»"


def test_every_mark_names_an_equation_of_the_list():
    unknown = {equation: tests for equation, tests in all_marks().items() if equation not in EQUATIONS}
    assert not unknown, f"marked with an equation that EQUATIONS does not list: {unknown}"


def test_every_row_of_the_index_is_true():
    wrong = []
    for row in index():
        tag = next((tag for tag in EQUATIONS.values() if re.match(rf"{re.escape(tag)}(?!\w)", row.equation)), None)
        if tag is None:
            wrong.append(f"{row.equation}: starts with no tag of EQUATIONS")
            continue
        code = ROOT / row.path
        symbol = definitions(code).get(row.symbol) if code.is_file() else None
        if symbol is None:
            wrong.append(f"{row.equation}: {row.path} has no {row.symbol}")
        elif not any(names(text, tag) for line, text in comments(code) if symbol.lineno <= line <= symbol.end_lineno):
            wrong.append(f"{row.equation}: no comment in {row.symbol} of {row.path} says «{tag}»")
        test_file, _, test = row.test.partition("::")
        marked = marks(ROOT / test_file).get(test) if (ROOT / test_file).is_file() else None
        if marked is None:
            wrong.append(f"{row.equation}: there is no test {row.test}")
        elif tag not in {EQUATIONS.get(equation) for equation in marked}:
            wrong.append(f"{row.equation}: {row.test} is not marked with that equation")
    assert not wrong, "\n".join(wrong)


def test_the_title_of_an_equation_is_that_of_the_index():
    assert title(("lrgc", 3)) == "LRGC Eq. 3 (soft threshold)"
    assert title(("lrgc", 5), "test_updated_grapher") == "LRGC Eq. 5 (Grapher)"
    assert title(("cnn2graph", 12)) == "CNN2GNN Eq. 12 (L_pt)" and title(("vig", "FFN")) == "ViG's FFN"
    assert all(title(equation).startswith(tag) for equation, tag in EQUATIONS.items())


FAILING = """
import pytest, torch

@pytest.mark.equation("lrgc", 2)
@pytest.mark.equation("lrgc", 3)
@pytest.mark.parametrize("kind", ["close", "assert", "raise", "skip", "pass"])
def test_one(kind):
    if kind == "close":
        torch.testing.assert_close(torch.zeros(1), torch.ones(1))
    assert kind != "assert", "a message"
    if kind == "raise":
        torch.zeros(2) @ torch.zeros(3)
    if kind == "skip":
        pytest.skip("no GPU")

def test_of_no_equation():
    assert 0, "a message"
"""


class Messages:
    """What a failed test says, by test."""

    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            says = report.longrepr.reprcrash.message if report.failed else report.outcome
            self.found[report.nodeid.split("::")[1]] = says


def test_a_failed_test_begins_with_its_equation(tmp_path):
    (tmp_path / "test_failing.py").write_text(FAILING)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = equation\n")
    messages = Messages()
    pytest.main(["-p", "equations", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c",
                 str(tmp_path / "pytest.ini"), str(tmp_path)], plugins=[messages])
    begin = "LRGC Eq. 2 (scores); LRGC Eq. 3 (soft threshold): "
    assert messages.found["test_one[close]"].startswith(f"AssertionError: {begin}Tensor-likes are not close")
    assert messages.found["test_one[assert]"].startswith(f"AssertionError: {begin}a message")
    assert messages.found["test_one[raise]"].startswith(f"RuntimeError: {begin}inconsistent tensor size")
    assert messages.found["test_one[skip]"] == "skipped" and messages.found["test_one[pass]"] == "passed"
    assert messages.found["test_of_no_equation"].startswith("AssertionError: a message")
