"""Take the excerpts of the pages in this folder from the source again: `python docs/papers/update.py`.

A page says which lines it shows, between two comments; all that stands between them is written by this command:

    <!-- code: LRGC Eq. 2, to: score = -->
    <!-- end -->

File, function and test are those of the equation's row in docs/equations.md. The excerpt begins at the comment with the
equation's tag, and ends with the first line from there on that has the text after `to:`.
"""

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "papers"
EXCERPT = re.compile(r"(<!-- code: (.+?), to: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
ROW = re.compile(r"^\| ([^|]+?) \| `([^`]+)` `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)


def place(tag: str, root: Path) -> tuple[str, str, str]:
    """The file, function or class, and test of an equation, from the index. Raises ValueError."""
    for equation, path, symbol, test in ROW.findall((root / "docs" / "equations.md").read_text(encoding="utf-8")):
        if re.match(rf"{re.escape(tag)}(?!\w)", equation):
            return path, symbol, test
    raise ValueError(f"docs/equations.md has no row for «{tag}»")


def lines_of(path: Path, symbol: str, tag: str, last: str) -> str:
    """The lines of a function or class from the comment with the tag to the first one that has `last`. Raises
    ValueError."""
    text = path.read_text(encoding="utf-8")
    node = next((node for node in ast.parse(text).body if getattr(node, "name", "") == symbol), None)
    if node is None:
        raise ValueError(f"{path.name} has no {symbol}")
    lines = text.splitlines()[node.lineno - 1:node.end_lineno]
    at = re.compile(rf"#.*(?<!\w){re.escape(tag)}(?!\w)")
    first = next((n for n, line in enumerate(lines) if at.search(line)), None)
    if first is None:
        raise ValueError(f"no comment in {symbol} of {path.name} says «{tag}»")
    end = next((n for n in range(first, len(lines)) if last in lines[n]), None)
    if end is None:
        raise ValueError(f"no line of {symbol} in {path.name} has «{last}» after «{tag}»")
    return textwrap.dedent("\n".join(lines[first:end + 1]))


def updated(page: str, root: Path = ROOT) -> str:
    """The text of a page with every excerpt as the source has it now. Raises ValueError for one that is not there."""
    def excerpt(match: re.Match) -> str:
        begin, tag, last, end = match.groups()
        path, symbol, test = place(tag, root)
        code = lines_of(root / path, symbol, tag, last)
        file, _, name = test.partition("::")
        return (f"{begin}`{symbol}` in [`{path}`](../../{path}), tested by\n`{name}`\nin [`{file}`](../../{file}):\n\n"
                f"```py\n{code}\n```\n{end}")

    return EXCERPT.sub(excerpt, page)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        try:
            new = updated(text)
        except ValueError as error:
            sys.exit(f"{path}: {error}")
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(f"updated {path.relative_to(ROOT)}")
