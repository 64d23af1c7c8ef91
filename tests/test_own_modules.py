"""`--import`: a constructor and a data set of one's own, in train.py, compare and the other commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vig_minimal import train
from vig_minimal.__main__ import main
from vig_minimal.constructors import CONSTRUCTORS
from vig_minimal.data.datasets import DOWNLOADS
from vig_minimal.own_modules import import_first

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "train.main" in block]
TINY = ["--set", "dim=16", "--set", "depth=2", "--img-size", "16", "--set", "patch=4", "--limit", "32",
        "--batch-size", "16", "--device", "cpu", "--workers", "0", "--epochs", "1"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The README's two examples as files in the current folder; afterwards as if nothing had been imported."""
    tables, path = (CONSTRUCTORS, DOWNLOADS), list(sys.path)
    before = [dict(table) for table in tables]
    monkeypatch.chdir(tmp_path)
    for name, block in zip(("my_graphs", "my_data"), EXAMPLES, strict=True):
        Path(f"{name}.py").write_text(block)
    yield
    for table, old in zip(tables, before):
        table.clear()
        table.update(old)
    sys.path[:] = path
    for name in ("my_graphs", "my_data", "broken", "inside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["my_graphs", "my_graphs.py"])
def test_both_examples_of_the_readme_train_from_the_command_line(own, name, capsys):
    argv = ["--import", name, "--import", "my_data.py", "--set", "graph=beside", "--data", "stripes"]
    row = train.main(["--model", "vig_nano", *argv, *TINY, "--output", "out"])
    said = capsys.readouterr().out
    assert row["neighbours_0"] == 4 and "stripes: 2 classes" in said  # on 4 × 4 patches: itself and 2, 3 or 4 others
    assert "2 classes" in said and torch.load("out/best.pt", weights_only=True)["config"]["graph"] == "beside"
    assert train.main(["--resume", "out/last.pt", "--import", name, "--eval-only"])["top1"] == row["val_top1"]


@pytest.mark.slow
def test_compare_trains_a_constructor_of_ones_own(own, capsys):
    main(["compare", "--import", "my_graphs.py", "--graphs", "knn", "beside", "--output", "table", "--limit", "32",
          "--epochs", "1", "--", *TINY[:8], "--batch-size", "16"])
    assert "| beside | 1 of 1 |" in capsys.readouterr().out
    assert "--import" in json.loads(Path("table/compare.json").read_text())["flags"]


def test_all_graphs_of_a_comparison_have_it_too(own, capsys):
    main(["compare", "--import", "my_graphs", "--dry-run", "--epochs", "1", "--limit", "32", "--", *TINY[:8]])
    assert "beside" in capsys.readouterr().out


@pytest.mark.parametrize("name, text, message", [
    ("nothing", "", "nothing: no such module here"),
    ("nothing.py", "", "nothing.py: no such file"),
    ("broken", "1 / 0", "broken: ZeroDivisionError: division by zero"),
    ("broken", "import nothing_of_that_name", "broken: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ("broken", "x =", "broken: SyntaxError: invalid syntax (broken.py, line 1)"),
    ("json.py", "", "json.py: a module json is there already"),
])
@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_module_that_cannot_be_imported_is_one_sentence(own, command, name, text, message, capsys):
    if text or name == "json.py":
        Path(name.removesuffix(".py") + ".py").write_text(text)
    with pytest.raises(SystemExit) as end:
        main([command, "--import", name])
    error = capsys.readouterr().err
    assert end.value.code == 2 and f"argument --import: {message}" in error and error.count("\n") == 1


def test_a_file_in_another_folder_can_be_imported(own):
    Path("deep").mkdir()
    Path("deep/inside.py").write_text("VALUE = 3")
    assert import_first("deep/inside.py") == "deep/inside.py" and sys.modules["inside"].VALUE == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_example_trains_however_workers_are_started(own, method):
    """Python 3.14 starts them with forkserver. The example's last line stands below `if __name__`, and must."""
    begin, end = "import multiprocessing\n", f"multiprocessing.set_start_method({method!r}, force=True)\n"
    flags = '--batch-size 8 --limit 32 --epochs 1 --crop resized --workers 1 --output out".split'
    text = Path("my_data.py").read_text().replace('--dry-run".split', flags)
    assert flags in text
    Path("good.py").write_text(begin + end + text)
    Path("bare.py").write_text(begin + end + text.replace('if __name__ == "__main__":', "if True:")
                               .replace("--output out", "--output bare"))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    good, bare = (subprocess.run([sys.executable, f"{name}.py"], capture_output=True, text=True, env=environment)
                  for name in ("good", "bare"))
    assert good.returncode == 0 and "best top-1" in good.stdout, good.stderr
    assert bare.returncode == 2 and 'write `if __name__ == "__main__":` above' in bare.stderr, bare.stderr
