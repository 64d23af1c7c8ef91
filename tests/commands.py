"""Run train.py in a process of its own, which tests can kill. Its output goes to a file, log.txt in its folder."""

import csv
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch

from vig_minimal import train

TINY = ["--model", "vig_nano", "--set", "dim=16", "--set", "depth=2", "--set", "k=2", "--set", "epsilon=0.2",
        "--img-size", "16", "--set", "patch=4", "--device", "cpu"]
# uses every random draw: crops, RandAugment, mixup and cutmix, erasing, repeats, drop path, stochastic dilation
RANDOM = ["--recipe", "lrgc", "--limit", "64", "--batch-size", "16", "--repeats", "2", "--accumulation", "2",
          "--epochs", "3", "--save-every", "1", "--workers", "1"]
SECONDS = 120  # no test waits longer for a process that hangs

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = multiprocessing.get_context("forkserver")  # forked from a clean process that has imported torch
PROCESSES.set_forkserver_preload(["vig_minimal.train"])
os.environ["PYTHONPATH"] = str(ROOT)  # where Python 3.11's fork server looks for it


def die() -> None:
    """Simulate a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, function, action):
    """Wrap `function` so that `action()` runs just before its call number `number`, counted from 1."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            action()
        return function(*args, **kwargs)

    return counted


def _command(argv: list[str], folder: str, log: str, prepare) -> None:
    os.chdir(folder)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # its readers start as they do without a test: this is quicker
    try:
        if prepare is not None:
            prepare()
        train.main(argv)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(99)


def start(folder: Path, *argv, prepare=None, log: str = "log.txt") -> multiprocessing.Process:
    """Start train.py in `folder`. prepare: a module-level function that the process calls first."""
    process = PROCESSES.Process(target=_command, args=([str(arg) for arg in argv], str(folder), log, prepare))
    process.start()
    return process


def finish(process: multiprocessing.Process) -> int:
    """Wait for the process and return its exit code; -n if signal n killed it."""
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        raise AssertionError("the process hangs")
    return process.exitcode


def until(condition, process: multiprocessing.Process) -> None:
    """Wait for a condition while the process runs."""
    begun = time.monotonic()
    while not condition():
        assert process.is_alive() and time.monotonic() - begun < SECONDS, "the condition never became true"
        time.sleep(0.02)


def said(folder: Path, log: str = "log.txt") -> str:
    """The output so far."""
    path = Path(folder, log)
    return path.read_text() if path.exists() else ""


def unfolded(folder: Path) -> str:
    """The output so far, with lines that were broken for the terminal in one piece."""
    return " ".join(said(folder).split())


def children(pid: int) -> list[int]:
    """Ids of the processes that process `pid` started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def fell(folder: Path, log: str = "log.txt") -> bool:
    """Whether train.py itself ended with a traceback. (An orphaned process that reads images may leave one.)"""
    return 'train.py", line' in said(folder, log)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Work in an empty folder: default output folders lie below the working directory."""
    monkeypatch.chdir(tmp_path)


def refused(capsys, *argv):
    """Assert that train.py refuses these arguments in one line, and return that line."""
    with pytest.raises(SystemExit) as end:
        train.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and err.startswith("train.py: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in out + err and "epoch 1" not in out
    return err


def rows(folder):
    """The rows of the run's metrics.csv."""
    with open(Path(folder) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(rank, world, port):
    """Set the environment of process `rank` of `world`, as torchrun does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    warnings.simplefilter("error")
