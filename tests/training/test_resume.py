"""A resumed run is the same run: what a checkpoint keeps, what may change, and what is refused in one sentence."""

from pathlib import Path

import pytest

import train
from commands import own_folder, rows  # noqa: F401
from vig_minimal.training import checkpoint

SMALL = ["--img-size", "16", "--limit", "32", "--batch-size", "16", "--device", "cpu", "--workers", "0"]
VIG = ["--model", "vig_nano", *SMALL, "--set", "dim=16", "--set", "depth=2", "--set", "k=2", "--set", "patch=4"]
GKGNET = ["--model", "gkgnet", *SMALL, "--set", "dim=(8,16)", "--set", "depth=(1,1)", "--set", "pool=(2,1)"]


def run(*argv):
    train.main([str(arg) for arg in argv])


def killed(monkeypatch, *argv, before):
    """Run until just before the call of `before`, (module, name), as a kill would end it."""
    def end(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(*before, end)
        run(*argv)


@pytest.mark.parametrize("model", [VIG, GKGNET], ids=["one label", "several labels"])
def test_a_finished_run_says_so_and_changes_nothing(capsys, model):
    argv = [*model, "--epochs", 1, "--output", "out", "--resume", "auto"]
    run(*argv)
    before = {path: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}
    capsys.readouterr()
    run(*argv)
    assert "this run is finished: best " in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}


def test_a_kill_before_the_first_checkpoint_leaves_no_second_row(monkeypatch):
    argv = [*VIG, "--epochs", 1, "--output", "out", "--resume", "auto"]
    killed(monkeypatch, *argv, before=(checkpoint, "save"))
    assert [row["epoch"] for row in rows("out")] == ["0"] and not Path("out/last.pt").exists()
    run(*argv)
    assert [row["epoch"] for row in rows("out")] == ["0", "1"]


@pytest.mark.parametrize("content", [b"epoch,a\nzero,0\n", b"\xff\xfe\x00", b"epoch,a\n\x000,0\n", b"a\n1\n", b"\n"])
def test_a_damaged_table_is_set_aside(capsys, content):
    argv = [*VIG, "--output", "out", "--resume", "auto"]
    run(*argv, "--epochs", 1)
    Path("out/metrics.csv").write_bytes(content)
    run(*argv, "--epochs", 2)
    assert "out/metrics.csv is damaged; it is kept as out/damaged.csv" in capsys.readouterr().out
    assert [row["epoch"] for row in rows("out")] == ["2"] and Path("out/damaged.csv").read_bytes() == content
