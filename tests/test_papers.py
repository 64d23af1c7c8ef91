"""docs/papers/: every excerpt is what the source says now, and every equation of a paper is on its page."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from equations import EQUATIONS

ROOT = Path(__file__).resolve().parents[1]
PAPERS = {"lrgc": ("lrgc",), "clustervig": ("clustervig",), "gkgnet": ("gkgnet",), "cnn2gnn": ("cnn2graph",)}
spec = importlib.util.spec_from_file_location("update", ROOT / "docs" / "papers" / "update.py")
update = importlib.util.module_from_spec(spec)
spec.loader.exec_module(update)


@pytest.mark.parametrize("name", PAPERS)
def test_excerpts_are_the_source(name):
    page = (update.PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert len(re.findall("<!-- code:", page)) == len(update.EXCERPT.findall(page)) > 0
    assert update.updated(page) == page, "run python docs/papers/update.py, then read the pages it names again"


@pytest.mark.parametrize("name", PAPERS)
def test_every_equation_of_the_paper_is_in_an_excerpt(name):
    page = (update.PAGES / f"{name}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```py\n(.*?)```", page, re.DOTALL))
    tags = [tag for (paper, _), tag in EQUATIONS.items() if paper in PAPERS[name]]
    assert tags and [tag for tag in tags if not re.search(rf"{re.escape(tag)}(?!\w)", code)] == []


def test_every_page_is_listed():
    assert {path.stem for path in update.PAGES.glob("*.md")} == set(PAPERS)


PAGE = "before\n<!-- code: LRGC Eq. 2, to: score = -->\nold\n<!-- end -->\nafter\n"


@pytest.fixture
def root(tmp_path):
    for name in ("docs/equations.md", "vig_minimal/constructors/lrgc.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_changed_line_changes_the_page_and_nothing_around_it(root):
    first = update.updated(PAGE, root)
    assert first.startswith("before\n<!-- code: LRGC Eq. 2, to: score = -->\n`LRGC` in ") and first.endswith("after\n")
    assert "```py\n# LRGC Eq. 2" in first and "old" not in first and update.updated(first, root) == first
    source = root / "vig_minimal/constructors/lrgc.py"
    source.write_text(source.read_text(encoding="utf-8").replace("score = ", "score = 2 * "), encoding="utf-8")
    assert update.updated(first, root) == first.replace("\nscore = ", "\nscore = 2 * ") != first


@pytest.mark.parametrize("page, says", [
    (PAGE.replace("Eq. 2", "Eq. 9"), "equations.md has no row for «LRGC Eq. 9»"),
    (PAGE.replace("to: score", "to: nothing"), "no line of LRGC in lrgc.py has «nothing =» after «LRGC Eq. 2»")])
def test_an_excerpt_that_is_not_there_is_named(page, says, root):
    with pytest.raises(ValueError, match=re.escape(says)):
        update.updated(page, root)


@pytest.mark.parametrize("old, new, says", [
    ("class LRGC", "class Another", "lrgc.py has no LRGC"), ("# LRGC Eq. 2", "# Eq. 2", "no comment in LRGC")])
def test_a_place_that_went_is_named(old, new, says, root):
    source = root / "vig_minimal/constructors/lrgc.py"
    text = source.read_text(encoding="utf-8").replace(old, new).replace("LRGC Eq. 2 inside", "Eq. 2 inside")
    source.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        update.updated(PAGE, root)
