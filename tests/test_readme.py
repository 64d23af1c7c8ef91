"""README.md and docs/: snippets run as printed, commands are understood, links lead somewhere, tables are true.

Nothing is downloaded and nothing is trained. Names that a snippet does not define, as `images`, are in `prepared`.
"""

import argparse
import ast
import functools
import importlib
import os
import re
import shlex
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch.distributed.run import get_args_parser

from helpers import on_meta, script
from test_imports import FOLDERS
from vig_minimal import create_model, list_models
from vig_minimal.__main__ import COMMANDS
from vig_minimal.constructors import CONSTRUCTORS
from vig_minimal.data.datasets import DOWNLOADS
from vig_minimal.data.synthetic import CLASSES
from vig_minimal.models import registry
from vig_minimal.models.detection import create_detector
from vig_minimal.training import distributed
from vig_minimal.training.checkpoint import save
from vig_minimal.training.config import parse
from vig_minimal.training.recipes import RECIPES, get_recipe
from vig_minimal.training.resolve import resolve
from vig_minimal.training.resume import from_weights, output_folder

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
IMAGES = (".png", ".svg", ".jpg", ".gif")


class Piece(NamedTuple):
    """Code of a page: a fenced block, or a command inside a sentence."""

    page: Path
    line: int
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


@functools.cache
def blocks(page: Path) -> list[tuple[str, Piece]]:
    """The fenced code blocks of a page, each with its language."""
    found, language, start = [], None, 0
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if language is not None:
                found.append((language, Piece(page, start, "\n".join(lines[start - 1:number - 1]))))
            language, start = (line[3:] if language is None else None), number + 1
    assert language is None, f"{page.name}: a code block does not end"
    return found


def prose(page: Path) -> str:
    """The page, with the lines of its code blocks left empty."""
    inside, lines = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        inside ^= line.startswith("```")
        lines.append("" if inside or line.startswith("```") else line)
    return "\n".join(lines)


SNIPPETS = [piece for page in PAGES for language, piece in blocks(page) if language == "python"]


def commands() -> list[Piece]:
    """Every command of every `sh` block, and those that stand inside a sentence or a table."""
    found = []
    for page in PAGES:
        for language, block in blocks(page):
            if language == "sh":
                for match in re.finditer(r"(?:.*\\\n)*.+", block.text):  # a line that ends with \ goes on in the next
                    line = block.line + block.text[:match.start()].count("\n")
                    found.append(Piece(page, line, match[0].replace("\\\n", " ")))
        for match in re.finditer(r"`((?:torchrun |python )?(?:-m vig_minimal|train\.py) [^`]+)`", prose(page)):
            line = prose(page)[:match.start()].count("\n") + 1
            text = " ".join(match[1].split())
            found.append(Piece(page, line, text if text.startswith(("torchrun", "python")) else f"python {text}"))
    return [piece for piece in found if shlex.split(piece.text, comments=True)]


# ---- snippets ------------------------------------------------------------------------------------------------------


def prepared(folder: Path) -> dict:
    """What snippets may use without defining it. They run in `folder`."""
    torch.save(create_model("vig_ti").state_dict(), folder / "vig_ti_74.5.pth")
    model, run = create_model("lrgc_nano"), folder / "runs" / "lrgc_nano-shapes"
    run.mkdir(parents=True)
    save(run / "best.pt", {"name": "lrgc_nano", "config": asdict(model.config), "classes": list(CLASSES),
                           "recipe": asdict(RECIPES["demo"]), "mean": (0.5,) * 3, "std": (0.5,) * 3,
                           "model": model.state_dict()})
    model, run = create_detector("cvig_nano", num_classes=10), folder / "runs" / "cvig_nano-shapes-boxes"
    run.mkdir()
    save(run / "best.pt", {"name": "cvig_nano", "config": asdict(model.config), "classes": list(CLASSES),
                           "recipe": asdict(RECIPES["demo_detection"]), "mean": (0.5,) * 3, "std": (0.5,) * 3,
                           "model": model.state_dict()})
    Image.new("RGB", (80, 60)).save(folder / "photo.jpg")
    return {"images": torch.rand(2, 3, 224, 224), "photos": torch.rand(1, 3, 448, 448),
            "small_images": torch.rand(2, 3, 32, 32), "anchors": torch.rand(10, 3, 32, 32)}


@pytest.mark.parametrize("snippet", [pytest.param(piece, marks=[pytest.mark.slow] * (piece.page.name != "README.md"))
                                     for piece in SNIPPETS], ids=lambda piece: piece.name)
def test_snippets_run_as_printed(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = CONSTRUCTORS, DOWNLOADS  # snippets may add to them
    before = [dict(table) for table in tables]
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)  # classes can then be sent to other processes
    try:
        vars(module).update(prepared(tmp_path))
        with torch.no_grad() if "train.main" not in snippet.text else torch.enable_grad():
            exec(compile(snippet.text, snippet.name, "exec"), vars(module))
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)


def test_own_constructor_and_own_data_take_at_most_20_lines():
    own = [snippet for snippet in SNIPPETS if "train.main" in snippet.text]
    assert len(own) == 2
    for snippet in own:
        assert len([line for line in snippet.text.splitlines() if line.strip()]) <= 20, snippet.name


# ---- commands ------------------------------------------------------------------------------------------------------


STARTS = {"vig_ti_74.5.pth": "vig_ti", "pvig_s.pth": "pvig_s", "runs/vig_nano-cifar10/best.pt": "vig_nano",
          "runs/lrgc_nano-shapes/best.pt": "lrgc_nano", "runs/cvig_s-imagefolder/best.pt": "cvig_s", "FILE": "vig_nano",
          "vig_nano-cifar10": "vig_nano"}


def weights_of(file: str) -> dict:
    """The shapes of a model's weights; with what train.py keeps beside them if it is a file of train.py."""
    name = STARTS[file]
    model = on_meta(name)
    recipe = asdict(get_recipe("demo"))
    kept = {"name": name, "config": asdict(model.config), "recipe": recipe, "model": model.state_dict()}
    return kept if file.startswith("runs/") or file.endswith("-cifar10") else model.state_dict()


class Understood(BaseException):
    """The arguments were parsed; nothing more is to be done."""


@pytest.mark.parametrize("piece", commands(), ids=lambda piece: piece.name)
def test_commands_are_understood(piece, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # default output folders lie below the working directory
    monkeypatch.setenv("NODE", "0")
    monkeypatch.setenv("FIRST", "localhost")
    for file in STARTS:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    monkeypatch.setattr(registry, "load", lambda path: weights_of(str(path)))
    try:
        for part in os.path.expandvars(piece.text).split("&&"):
            understand(shlex.split(part, comments=True), monkeypatch)
    except SystemExit as end:
        pytest.fail(f"{piece.text}: exit code {end.code}: {capsys.readouterr().err}")


def understood(main, argv, monkeypatch):
    """The command parses these arguments; it is not run."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None, namespace=None):
        parse_args(parser, argv, namespace)
        raise Understood

    with monkeypatch.context() as patch, pytest.raises(Understood):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        main(argv)


def understand(words: list[str], monkeypatch) -> None:
    """Check a command as far as that goes without running it. Ends the process if it is refused."""
    match words:
        case ["srun", "--kill-on-bad-exit", *rest]:
            understand(rest, monkeypatch)
        case ["export", *_] | ["pytest"]:
            pass
        case ["pip", "install", "-r", file]:
            assert (ROOT / file).is_file()
        case ["torchrun", *rest]:
            launch = get_args_parser().parse_args(rest)
            assert launch.training_script == "train.py"
            check_training(launch.training_script_args)
        case ["python", "train.py", *rest]:
            check_training(rest)
        case ["python", "docs/compare/lrgc_variants.py", variant, *rest]:
            assert variant in script("docs/compare/lrgc_variants.py").VARIANTS
            check_training(["--model", "vig_nano", "--set", "graph=lrgc", *rest])
        case ["python", "docs/compare/swap_graphs.py" as path, *rest]:
            with monkeypatch.context() as patch, pytest.raises(SystemExit, match="no such checkpoint"):  # understood
                patch.setattr(argparse.ArgumentParser, "error", lambda parser, message: sys.exit(message))
                script(path).main(rest)
        case ["python", "-m", "vig_minimal"]:
            pass
        case ["python", "docs/compare/cifar_folder.py" as path, *rest]:
            understood(script(path).main, rest, monkeypatch)
        case ["python", "-m", "vig_minimal", "train", *rest]:
            check_training(rest)
        case ["python", "-m", "vig_minimal", command, *rest]:
            module, _ = COMMANDS[command]
            understood(importlib.import_module(f".{module}", "vig_minimal.look").main, rest, monkeypatch)
        case _:
            pytest.fail(f"a command that nobody knows: {' '.join(words)}")


def check_training(argv: list[str]) -> None:
    """Parse flags of train.py. Unless there is a checkpoint to open, resolve what they mean, which builds the model."""
    given = parse(argv)
    if given.get("resume") in (None, "auto"):
        resolve(given, from_weights(given) if "init_from" in given else None)


# ---- the pages -----------------------------------------------------------------------------------------------------


def test_the_readme_begins_with_the_two_commands():
    language, block = blocks(README)[0]
    assert language == "sh" and block.text.splitlines() == [
        "pip install -r requirements.txt && torchrun train.py --model lrgc",
        "pip install -r requirements.txt && pytest"]


def test_the_five_commands_use_only_what_earlier_ones_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (_, first), (_, then) = blocks(README)[:2]
    made, steps = [], then.text.splitlines()
    assert len(steps) == 5
    for line in [*first.text.splitlines(), *steps]:
        for run in re.findall(r"runs/[\w-]+", line):
            assert run in made, f"{line}: {run} is not there yet; only {made} is"
        if model := re.search(r"(?:torchrun|python) train.py --model (\w+)", line):
            made.append(str(output_folder(parse(["--model", model[1]]))))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert page != README or len(lines) < 200
    long = [f"{page.name}:{n}" for n, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith("|")]
    assert not long


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for file, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", prose(page)):
        if file.startswith("https://"):
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {file} does not exist"
        assert not anchor or anchor in anchors(target), f"{page.name}: {file} has no heading {anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_code_that_are_named_exist(page):
    for name in re.findall(r"`([\w/]+\.py)(?:::\w+)?`", prose(page)):
        found = (ROOT / name).is_file() or list((ROOT / "vig_minimal").rglob(name))
        assert found, f"{page.name}: there is no {name}"


def test_the_table_of_folders_is_true():
    """Every folder has a row, in the order of imports; its job is what it says of itself; the files named are in it."""
    rows = re.findall(r"^\| `(\w+)/` \| ([^|]+) \| ([^|]+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "vig_minimal").glob("*/__init__.py")}
    assert [name for name, _, _ in rows] == [name for name in FOLDERS if name in folders] and len(rows) == len(folders)
    for name, job, files in rows:
        folder = ROOT / "vig_minimal" / name
        says = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))).split("\n")[0]
        assert says == job[0].upper() + job[1:] + ".", f"README.md says «{job}» of {name}/, __init__.py «{says}»"
        missing = [file for file in re.findall(r"`([\w./]+\.py)`", files)
                   if not ((folder / file).is_file() or (ROOT / file).is_file())]
        assert not missing, f"README.md sends readers of {name}/ to {missing}"


def test_every_folder_inside_a_folder_says_what_it_is_for_in_one_sentence():
    for path in (ROOT / "vig_minimal").glob("*/*/__init__.py"):
        says = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert re.match(r"[^.\n]+[.:]", says), f"{path.relative_to(ROOT)} does not say what its folder is for"


def test_every_image_is_used():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    images = [path.name for path in (ROOT / "docs").iterdir() if path.suffix in IMAGES]
    assert images and [name for name in images if name not in text] == []


def test_the_table_of_models_is_true(monkeypatch):
    for name in ("kaiming_normal_", "kaiming_uniform_", "uniform_", "normal_"):  # numbers are counted, not read
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    counted = {name: sum(p.numel() for p in create_model(name).parameters()) for name in list_models()}
    listed = {page: {name: int(number.replace(",", "")) for name, number in re.findall(
        r"^\| `(\w+)` \|[^|]*\| ([\d,]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)}
        for page in (README, ROOT / "docs" / "models.md")}
    assert listed[ROOT / "docs" / "models.md"] == counted
    assert {name: counted.get(name) for name in listed[README]} == listed[README] != {}
