"""Imports go only downwards, folders stay small, and few packages are needed: read from the sources, not imported.

The order is that of FOLDERS. A module may import from its own folder and from those before it. Nothing imports from
graphs/fast/, so that it can be left out: `graphs.plain.fast_form` alone finds what is there.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vig_minimal"
FOLDERS = ["own_modules", "streams", "trained_files", "atomic_files", "graphs", "constructors", "models", "data",
           "training", "weights", "look", "trained", "learn"]  # the first four and `trained` are files
TOP = ["__init__", "__main__", "train"]  # above all folders
FAST = f"{PACKAGE}.graphs.fast."
MOST_MODULES = 15  # in a folder, __init__.py aside
DEPENDENCIES = {"torch", "torchvision", "numpy", "PIL", "tqdm"}


def problems(root: Path) -> list[str]:
    """Violations in root/vig_minimal/ and in the scripts beside it, each with file and line."""
    package, found = root / PACKAGE, []
    for path in sorted([*root.glob("*.py"), *package.rglob("*.py")]):
        own = _part(path.relative_to(package).parts) if package in path.parents else "script"
        if own not in [*FOLDERS, *TOP, "script"]:
            found.append(f"{path.relative_to(root)}:1: {own} has no place in the order {' < '.join(FOLDERS)}")
            continue
        for line, name in imports(path, root):
            reason = _wrong(own, name.split("."))
            if f"{name}.".startswith(FAST) and FAST not in f"{PACKAGE}.{'.'.join(path.relative_to(package).parts)}.":
                reason = "imports from graphs/fast/, which can be left out: mark the plain form with @fast_form"
            if reason:
                found.append(f"{path.relative_to(root)}:{line}: {reason}")
    for folder in sorted({path.parent for path in package.rglob("*.py")} - {package}):
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if len(modules) > MOST_MODULES:
            found.append(f"{folder.relative_to(root)}: {len(modules)} modules, more than {MOST_MODULES}")
    return found


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield each import of a file: its line and its absolute dotted name."""
    here = list(path.relative_to(root).parent.parts)  # the package that a leading dot means

    def visit(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*module, alias.name])
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def _part(parts: tuple[str, ...]) -> str:
    """Return the folder of a path inside the package; for a module outside the folders, its name."""
    return parts[0].removesuffix(".py")


def _wrong(own: str, name: list[str]) -> str:
    """Return why a module of `own` must not import `name`, or an empty string if it may."""
    if name[0] != PACKAGE:
        if name[0] in DEPENDENCIES | sys.stdlib_module_names:
            return ""
        return f"imports {name[0]}, which is not among {', '.join(sorted(DEPENDENCIES))}"
    if own == "script":
        return ""
    theirs = name[1] if len(name) > 1 else "__init__"
    if theirs not in FOLDERS:  # the top itself, or a name that it defines, as create_model
        return f"imports {theirs} from the top of {PACKAGE}, which is above all folders"
    if own in FOLDERS and FOLDERS.index(theirs) > FOLDERS.index(own):
        return f"{own} imports from {theirs}, which is above it"
    return ""


def test_imports_go_downwards_and_folders_are_small():
    assert not (wrong := problems(ROOT)), "\n".join(wrong)


def test_every_file_of_the_package_is_read():
    read = list((ROOT / PACKAGE).rglob("*.py"))
    names = {name for path in read for _, name in imports(path, ROOT)}
    assert {"torch.nn", f"{PACKAGE}.graphs.graph.Graph", f"{PACKAGE}.atomic_files.CheckpointError"} <= names
    assert {_part(path.relative_to(ROOT / PACKAGE).parts) for path in read} == {*FOLDERS, *TOP}


# ------------------------------------------------------------------------------------- on made-up sources, it can fail

GRAPH = f"{PACKAGE}/graphs/graph.py"


def made_up(root: Path, sources: dict[str, str]) -> list[str]:
    """Write these files and an empty vig_minimal/__init__.py, and return `problems` of them."""
    for name, text in {f"{PACKAGE}/__init__.py": "", **sources}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return problems(root)


@pytest.mark.parametrize("name, text, line, says", [
    (GRAPH, "import torch\nfrom ..models.vig import ViG\n", 2, "graphs imports from models"),
    (GRAPH, "from .. import look\n", 1, "graphs imports from look"),
    (GRAPH, "from ..look import explore\n", 1, "graphs imports from look"),
    (GRAPH, f"import {PACKAGE}.constructors.knn\n", 1, "graphs imports from constructors"),
    (GRAPH, f"from {PACKAGE}.training import engine\n", 1, "graphs imports from training"),
    (GRAPH, "def f():\n    from ..data.loading import loader\n", 2, "graphs imports from data"),
    (GRAPH, "if True:\n    pass\nelse:\n    from ..models import vig\n", 4, "graphs imports from models"),
    (f"{PACKAGE}/graphs/__init__.py", "from ..models import vig\n", 1, "graphs imports from models"),
    (f"{PACKAGE}/atomic_files.py", "\nfrom .graphs.graph import Graph\n", 2, "atomic_files imports from graphs"),
    (f"{PACKAGE}/training/engine.py", "from ..look.plot import plot\n", 1, "training imports from look"),
    (f"{PACKAGE}/look/plot.py", "from .. import create_model\n", 1, "imports create_model from the top"),
    (f"{PACKAGE}/look/plot.py", f"from {PACKAGE} import create_model\n", 1, "imports create_model from the top"),
    (f"{PACKAGE}/look/plot.py", f"import {PACKAGE}\n", 1, "imports __init__ from the top"),
    (f"{PACKAGE}/look/plot.py", "from ..__main__ import main\n", 1, "imports __main__ from the top"),
    (f"{PACKAGE}/__main__.py", "from . import __version__\n", 1, "imports __version__ from the top"),
    (f"{PACKAGE}/graph.py", "import torch\n", 1, "graph has no place"),
    (f"{PACKAGE}/extra/a.py", "import torch\n", 1, "extra has no place"),
    (GRAPH, "from .fast.search import search\n", 1, "imports from graphs/fast/"),
    (GRAPH, "from . import fast\n", 1, "imports from graphs/fast/"),
    (f"{PACKAGE}/models/vig.py", "def f():\n    from ..graphs.fast import kept\n", 2, "imports from graphs/fast/"),
    (GRAPH, "import math, timm.models\n", 1, "imports timm"),
    (GRAPH, "def f():\n    from einops import rearrange\n", 2, "imports einops"),
    (GRAPH, "import pytest\n", 1, "imports pytest"),
    (GRAPH, "try:\n    import tensorboard\nexcept ImportError:\n    pass\n", 2, "imports tensorboard"),
    ("train.py", "import math\nimport yaml\n", 2, "imports yaml"),
])
def test_what_breaks_a_rule_is_named_with_file_and_line(tmp_path, name, text, line, says):
    wrong, = made_up(tmp_path, {name: text})
    assert wrong.startswith(f"{name}:{line}: ") and says in wrong


@pytest.mark.parametrize("name, text", [
    (f"{PACKAGE}/look/plot.py", "import numpy as np\nfrom PIL import Image\nfrom .panels import sheet\n"),
    (f"{PACKAGE}/look/plot.py", "from ..atomic_files import load\nfrom ..training import engine\nimport math\n"),
    (f"{PACKAGE}/look/plot.py", "from .. import atomic_files\n"),
    (f"{PACKAGE}/training/run_log.py", "def f():\n    from torch.utils import tensorboard\n"),
    (f"{PACKAGE}/graphs/fast/search.py", "from . import sparse\nfrom ..graph import Graph\n"),
    (f"{PACKAGE}/__init__.py", "from .models.registry import create_model\nfrom .look import plot\n"),
    (f"{PACKAGE}/__main__.py", f"import sys\nfrom {PACKAGE}.look import plot\n"),
    ("train.py", f"from {PACKAGE} import create_model\nfrom {PACKAGE}.look import plot\nimport torchvision, tqdm\n"),
])
def test_what_keeps_the_rules_passes(tmp_path, name, text):
    assert made_up(tmp_path, {name: text}) == []


def test_a_folder_of_too_many_modules_is_named(tmp_path):
    modules = {f"{PACKAGE}/data/m{i}.py": "" for i in range(MOST_MODULES)}
    assert made_up(tmp_path, {**modules, f"{PACKAGE}/data/__init__.py": ""}) == []
    assert made_up(tmp_path, {f"{PACKAGE}/data/one_more.py": ""}) == [f"{PACKAGE}/data: 16 modules, more than 15"]
