"""Several processes end together: on a signal to one, and when one fails, dies or hangs. Gloo on the CPU."""

import functools
import os
import signal
import threading
import time

import pytest

from vig_minimal import train
from commands import SECONDS, TINY, at_call, fell, finish, free_port, join, said, start
from helpers import image_folder
from vig_minimal.training import checkpoint, metrics
from vig_minimal.training.endings import Signals

RUN = [*TINY, "--limit", 32, "--batch-size", 8, "--workers", 0, "--output", "out", "--resume", "auto", "--epochs"]

def joined(rank, port, prepare):
    join(rank, 2, port)
    if prepare is not None:
        prepare()


def two(folder, *argv, prepare=(None, None)):
    """Start two processes of train.py, which call `prepare` first; their output goes to 0.txt and 1.txt."""
    port = free_port()
    return [start(folder, *argv, prepare=functools.partial(joined, rank, port, prepare[rank]), log=f"{rank}.txt")
            for rank in range(2)]


def hang():
    threading.Event().wait(SECONDS)


def told_in_an_evaluation():
    metrics.TopK.update = at_call(6, metrics.TopK.update, lambda: os.kill(os.getpid(), signal.SIGTERM))


def hangs_in_a_step():
    train.update = at_call(3, train.update, hang)


def test_a_signal_is_taken_also_where_nobody_reads_stderr(monkeypatch):
    """`2>&1 | tee`: Ctrl-C ends tee first."""
    def gone(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    signals = Signals()
    signals.take(signal.SIGTERM)
    assert signals.received == signal.SIGTERM


def dies_in_a_step():
    train.update = at_call(3, train.update, lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_signal_to_one_in_an_evaluation_ends_both_with_all_saved(tmp_path):
    processes = two(tmp_path, *RUN, 1, "--save-every", 100, prepare=(None, told_in_an_evaluation))
    assert [finish(process) for process in processes] == [143, 143], said(tmp_path, "0.txt") + said(tmp_path, "1.txt")
    assert "SIGTERM: this step is finished, then the run saves" in said(tmp_path, "1.txt")
    assert "ended by a signal after step 4 of epoch 1" in said(tmp_path, "0.txt")
    state = checkpoint.load(tmp_path / "out" / "last.pt")
    assert (state["epoch"], state["step"], state["steps"]) == (0, 4, 4)  # the epoch is evaluated again


@pytest.mark.slow
def test_one_that_dies_ends_the_other(tmp_path):
    processes = two(tmp_path, *RUN, 1, prepare=(None, dies_in_a_step))
    begun = time.monotonic()
    assert [finish(process) for process in processes] == [1, -signal.SIGKILL]
    error = said(tmp_path, "0.txt").split("train.py: error: ")[1]
    assert "another process of this run has ended" in error
    assert "the last good checkpoint is out/last.pt, of epoch 0" in error
    assert error.count("\n") == 1 and not fell(tmp_path, "0.txt") and time.monotonic() - begun < 60


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_hangs_ends_the_other(tmp_path, which):
    prepare = [None, None]
    prepare[which] = hangs_in_a_step
    processes = two(tmp_path, *RUN, 1, "--timeout", 0.2, prepare=prepare)
    assert finish(processes[1 - which]) == 1
    processes[which].kill()
    finish(processes[which])
    log = f"{1 - which}.txt"
    sentence = "another process of this run has ended, or did not respond within --timeout"
    assert said(tmp_path, log).count(sentence) == 1 and not fell(tmp_path, log), said(tmp_path, log)
    assert "the last good checkpoint is out/last.pt" in said(tmp_path, log)


@pytest.mark.slow
def test_what_is_wrong_on_one_machine_alone_ends_both_and_is_said_once(tmp_path):
    image_folder(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    port = free_port()
    argv = [*TINY, "--batch-size", 4, "--epochs", 1, "--workers", 0, "--output", "out"]
    processes = [start(tmp_path, *argv, "--data-dir", folder, log=f"{rank}.txt",
                       prepare=functools.partial(joined, rank, port, None))
                 for rank, folder in enumerate(("data", "empty"))]
    assert [finish(process) for process in processes] == [2, 2]
    assert "error: empty: no class; an image folder holds train/CLASS/*.jpg" in said(tmp_path, "0.txt")
    assert "error" not in said(tmp_path, "1.txt") and sorted(path.name for path in tmp_path.iterdir()) == [
        "0.txt", "1.txt", "data", "empty"]
