"""The one command line: the list of commands, their --help, and what they share; and the package that pip installs."""

import argparse
import ast
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import vig_minimal
from vig_minimal import __main__ as command_line
from vig_minimal.look import command
from vig_minimal.training.config import parse

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_command_all_are_listed(capsys):
    for argv in ([], ["--help"]):
        command_line.main(argv)
        lines = capsys.readouterr().out.splitlines()[2:]
        assert [line.split()[0] for line in lines] == list(command_line.COMMANDS)


def test_an_unknown_command_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(["explroe"])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("vig_minimal: error: unknown command 'explroe'; choose one of")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in command_line.COMMANDS if name != "train"])
def test_help_shows_an_example_that_the_flags_allow(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command_line.main([name, "--help"])
    printed = capsys.readouterr().out
    example, = re.findall(rf"^example: python -m vig_minimal {name} (.+)$", printed, re.MULTILINE)
    assert end.value.code == 0

    def stop(parser, argv):
        argparse.ArgumentParser.parse_args(parser, argv)
        raise KeyboardInterrupt

    monkeypatch.setattr(command.Parser, "parse_args", stop)
    with pytest.raises(KeyboardInterrupt):  # and not SystemExit, which wrong flags raise
        command_line.main([name, *shlex.split(example)])


def test_training_is_a_command_too(capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(["train", "--help"])
    example, = re.findall(r"^example: python -m vig_minimal train (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert end.value.code == 0 and parse(shlex.split(example))["model"] == "lrgc"


def test_a_picture_has_the_format_that_its_name_says(tmp_path):
    for name, kind in (("page.png", "PNG"), ("page.JPG", "JPEG"), ("page.webp", "WEBP")):
        command.save_picture(Image.new("RGB", (8, 8)), str(tmp_path / name))
        with Image.open(tmp_path / name) as page:
            assert page.format == kind


def test_an_error_of_the_system_names_the_file(capsys):
    parser = command.Parser("explore", "", "")
    with pytest.raises(SystemExit) as end, parser.errors_in_one_sentence():
        open("nowhere/image.png")
    assert end.value.code == 2
    assert capsys.readouterr().err == "explore: error: nowhere/image.png: No such file or directory\n"


# ---- pip install (read without tomllib, which Python 3.10 does not have)


def value(key: str) -> str:
    """The text after `key = ` in pyproject.toml."""
    found = re.findall(rf"^{re.escape(key)} = (.+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert len(found) == 1, key
    return found[0]


def test_pip_installs_every_folder_of_the_package_and_no_other():
    """setuptools takes each folder that has an __init__.py and whose name, with dots, fits a pattern of `include`."""
    packages = {".".join(path.relative_to(ROOT).parent.parts) for kind in ast.literal_eval(value("include"))
                for path in ROOT.glob(f"{kind}/**/__init__.py")}
    assert packages == {".".join(path.relative_to(ROOT).parent.parts) for path in ROOT.glob("vig_minimal/**/*.py")}


def test_pip_installs_every_file_that_is_no_module():
    patterns = {package: ast.literal_eval(kinds) for package, kinds in re.findall(
        r'^"([\w.]+)" = (\[.*\])$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)}
    missing = [str(path) for path in (ROOT / "vig_minimal").rglob("*.*") if path.is_file()
               and path.suffix not in (".py", ".pyc") and not any(map(path.match, patterns.get(
                   ".".join(path.relative_to(ROOT).parent.parts), [])))]
    assert not missing and (ROOT / "vig_minimal/look/page/page.js").is_file()


def test_the_version_is_that_of_the_package():
    assert ast.literal_eval(value("version").removeprefix("{attr = ").removesuffix("}")) == "vig_minimal.__version__"
    assigned = [node.value for node in ast.parse((ROOT / "vig_minimal/__init__.py").read_text()).body
                if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"]
    assert [ast.literal_eval(node) for node in assigned] == [vig_minimal.__version__]  # can be read without importing


def test_the_requirements_agree():
    listed = set((ROOT / "requirements.txt").read_text().split())
    assert {requirement for requirement in listed if not requirement.startswith("pytest")} == set(
        ast.literal_eval(value("dependencies")))
