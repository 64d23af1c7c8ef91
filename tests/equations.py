"""The papers' equations, their index in docs/equations.md, and the hook that names them in failed tests.

The index is the Markdown table whose header is `| Equation | Code | Test |`. One row names one place and one test:

    | LRGC Eq. 2: scores | `vig_minimal/constructors/lrgc.py` `LRGC` | `tests/constructors/test_lrgc.py::test_scores` |

The first cell starts with a tag of EQUATIONS; words may follow. An equation may have several rows.
"""

import re
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


def title(equation: tuple, test: str = "") -> str:
    """Paper, equation and what it is about: "LRGC Eq. 3 (soft threshold)". test: whose row is preferred."""
    tag = EQUATIONS.get(equation, " ".join(map(str, equation)))
    rows = [row for row in index() if re.match(rf"{re.escape(tag)}(?!\w)", row.equation)]
    rows.sort(key=lambda row: not row.test.endswith(f"::{test}"))
    about = rows[0].equation[len(tag):].strip(" ,:") if rows else ""
    return f"{tag} ({about})" if about else tag


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Begin the message of a failed test with the equations of its marks: "LRGC Eq. 3 (soft threshold): …"."""
    outcome = yield
    marks = [mark.args for mark in pyfuncitem.iter_markers("equation")]
    error = outcome.excinfo and outcome.excinfo[1]
    if marks and isinstance(error, Exception):  # not a skip
        titles = "; ".join(title(mark, pyfuncitem.originalname) for mark in reversed(marks))
        error.args = (f"{titles}: {error}", *error.args[1:])
