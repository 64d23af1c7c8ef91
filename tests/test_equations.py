"""Every equation has a place in the code and a test, and docs/equations.md, the index of both, is true.

The index is the Markdown table whose header is `| Equation | Code | Test |`. One row names one place and one test:

    | LRGC Eq. 2: scores | `vig_minimal/constructors/lrgc.py` `LRGC` | `tests/constructors/test_lrgc.py::test_scores` |

The first cell starts with a tag of EQUATIONS; words may follow. The tag must stand in a comment inside the named
function or class, and the named test must carry `@pytest.mark.equation(paper, number)`. An equation may have several
rows. Files are parsed, not imported, so that a broken file is named here instead of raising an error.
"""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "docs" / "equations.md"

# (paper, number) as in the tests' marks -> the tag in the code's comments and in the index.
# Add a paper's equations here when you implement it.
EQUATIONS = {
    ("lrgc", 1): "LRGC Eq. 1",
    ("lrgc", 2): "LRGC Eq. 2",
    ("lrgc", 3): "LRGC Eq. 3",
    ("lrgc", 4): "LRGC Eq. 4",
    ("lrgc", 5): "LRGC Eq. 5",
    ("clustervig", "Table I: EdgeConv"): "ClusterViG Table I: EdgeConv",
    ("clustervig", "Table I: MRGCN"): "ClusterViG Table I: MRGCN",
    ("clustervig", "Table I: GraphSAGE"): "ClusterViG Table I: GraphSAGE",
    ("clustervig", "Table I: GIN"): "ClusterViG Table I: GIN",
    ("clustervig", "Table II: G-EdgeConv"): "ClusterViG Table II: G-EdgeConv",
    ("clustervig", "Table II: G-MRGCN"): "ClusterViG Table II: G-MRGCN",
    ("clustervig", "Table II: G-GraphSAGE"): "ClusterViG Table II: G-GraphSAGE",
    ("clustervig", "Table II: G-GIN"): "ClusterViG Table II: G-GIN",
    ("clustervig", 1): "ClusterViG Eq. 1",
    ("clustervig", 2): "ClusterViG Eq. 2",
    ("clustervig", 3): "ClusterViG Eq. 3",
    ("clustervig", 4): "ClusterViG Eq. 4",
    ("clustervig", 5): "ClusterViG Eq. 5",
    ("clustervig", 6): "ClusterViG Eq. 6",
    ("clustervig", "Algorithm 1"): "ClusterViG Algorithm 1",
    ("clustervig", "Algorithm 2"): "ClusterViG Algorithm 2",
    ("gkgnet", "group k-NN"): "GKGNet section 3.2, group k-NN",
    ("gkgnet", 1): "GKGNet Eq. 1",
    ("gkgnet", 2): "GKGNet Eq. 2",
    ("gkgnet", "cross level"): "GKGNet section 3.3",
    ("gkgnet", 3): "GKGNet Eq. 3",
    ("gkgnet", "loss"): "GKGNet section 3.4: L",
    ("gkgnet", "asymmetric loss"): "Asymmetric loss, L₋",
    ("gkgnet", "label smoothing"): "GKGNet section 3.4, label smoothing",
    ("gkgnet", "metrics"): "GKGNet section 4: CP, CR",
    ("cnn2graph", 1): "CNN2GNN Eq. 1",
    ("cnn2graph", 2): "CNN2GNN Eq. 2",
    ("cnn2graph", "max"): "CNN2GNN section 3.2",
    ("cnn2graph", 3): "CNN2GNN Eq. 3",
    ("cnn2graph", "Algorithm 1"): "CNN2GNN Algorithm 1",
    ("cnn2graph", 4): "CNN2GNN Eq. 4",
    ("cnn2graph", 5): "CNN2GNN Eq. 5",
    ("cnn2graph", 6): "CNN2GNN Eq. 6",
    ("cnn2graph", 7): "CNN2GNN Eq. 7",
    ("cnn2graph", 8): "CNN2GNN Eq. 8",
    ("cnn2graph", 9): "CNN2GNN Eq. 9",
    ("cnn2graph", 10): "CNN2GNN Eq. 10",
    ("cnn2graph", 11): "CNN2GNN Eq. 11",
    ("cnn2graph", 12): "CNN2GNN Eq. 12",
    ("cnn2graph", 13): "CNN2GNN Eq. 13",
    ("cnn2graph", 14): "CNN2GNN Eq. 14",
    ("cnn2graph", 15): "CNN2GNN Eq. 15",
    ("cnn2graph", 16): "CNN2GNN Eq. 16",
    ("cnn2graph", 17): "CNN2GNN Eq. 17",
    ("pvig", "sources"): "Pyramid ViG: S",
    ("pvig", "relative positions"): "Pyramid ViG: E",
    ("pvig", "dilation"): "Pyramid ViG: d_l",
    ("vig", "Grapher"): "ViG's Grapher",
    ("vig", "FFN"): "ViG's FFN",
    ("vig", "neighbours"): "ViG: k_l",
    ("vig", "dilation"): "ViG: d_l",
    ("svig", "threshold"): "SViG: z",
    ("svig", "quantile"): "SViG: q_l",
    ("adaptvig", "gate"): "AdaptViG: g_ij",
    ("adaptvig", "message"): "AdaptViG: m_i",
    ("adaptvig", "attention"): "AdaptViG: a_ij",
    ("adaptvig", "Grapher"): "AdaptViG's Grapher",
    ("adaptvig", "local block"): "AdaptViG's local block",
    ("ipg", "detail"): "IPG: X_i",
    ("ipg", "budget"): "IPG: k_i",
    ("attention", "message"): "Attention: m_i",
}


class Row(NamedTuple):
    """A row of the index."""

    equation: str
    path: str
    symbol: str
    test: str


HEADER = re.compile(r"\|\s*Equation\s*\|\s*Code\s*\|\s*Test\s*\|")
ROW = re.compile(r"\|\s*(?P<equation>.+?)\s*\|\s*`(?P<path>[^`]+)`\s+`(?P<symbol>[^`]+)`\s*\|\s*`(?P<test>[^`]+)`\s*\|")


def names(text: str, tag: str) -> bool:
    """Whether the text holds the whole tag: "Eq. 12" does not hold "Eq. 1"."""
    return re.search(rf"(?<!\w){re.escape(tag)}(?!\w)", text) is not None


def index() -> list[Row]:
    """The rows of the index. Fails on a row of another form."""
    lines = INDEX.read_text(encoding="utf-8").splitlines()
    headers = [n for n, line in enumerate(lines) if HEADER.fullmatch(line.strip())]
    assert len(headers) == 1, f"{INDEX} needs one table with the header | Equation | Code | Test |"
    rows = []
    for line in lines[headers[0] + 2:]:  # past the header and the rule under it
        if not line.startswith("|"):
            break
        match = ROW.fullmatch(line.strip())
        assert match, f"not of the form | equation | `path` `symbol` | `test` |: {line}"
        rows.append(Row(**match.groupdict()))
    return rows


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
