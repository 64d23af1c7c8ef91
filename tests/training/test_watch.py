"""Several processes end together: on a signal to one, and when one fails, dies or hangs. Gloo on the CPU."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch.distributed as dist

import train
from commands import SECONDS, TINY, at_call, children, fell, finish, free_port, join, said, start, until
from helpers import image_folder
from vig_minimal.training import checkpoint, metrics, watch
from vig_minimal.training.watch import Watch

RUN = [*TINY, "--limit", 32, "--batch-size", 8, "--workers", 0, "--output", "out", "--resume", "auto", "--epochs"]

# ---- what a process concludes from what the others wrote ------------------------------------------------------------


@pytest.fixture
def three(monkeypatch):
    """Three processes that share a store, and a clock."""
    clock = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    store = dist.HashStore()
    watches = [Watch(rank, 3, store, patience=60.0) for rank in range(3)]
    for one in watches:
        one.meet()
        one.others, one.alive, one.moved = one.read(), [0.0] * 3, [0.0] * 3
    return watches, clock


def looks(watches, clock, seconds=1.0):
    """What they find when they look once a second."""
    for _ in range(int(seconds)):
        clock[0] += 1.0
        found = [one.look() for one in watches]
    return found


def test_all_is_well_while_they_live_and_none_waits(three):
    watches, clock = three
    assert looks(watches, clock, 200) == [""] * 3  # a download, say
    for one in watches:
        one.state.joint += 1
    assert looks(watches, clock, 200) == [""] * 3  # the first step of a compiled model


def test_a_signal_to_one_reaches_all(three, capsys):
    watches, clock = three
    watches[1].signals.take(signal.SIGTERM, "process of rank 1: SIGTERM")
    looks(watches, clock, 2)
    assert [one.signals.received for one in watches] == [signal.SIGTERM] * 3
    assert capsys.readouterr().err.count("SIGTERM") == 1


def test_one_that_others_wait_for_too_long_is_named(three):
    watches, clock = three
    for one in (watches[0], watches[1]):
        one.state.joint += 1
    assert looks(watches, clock, 60) == [""] * 3
    assert looks(watches, clock, 3) == ["the process of rank 2 hangs: the others have waited for it for 60 s"] * 3


def test_one_without_a_word_is_named_and_soon_where_its_connection_broke(three):
    watches, clock = three
    assert looks(watches[:2], clock, 60) == [""] * 2
    assert looks(watches[:2], clock, 3) == ["the process of rank 2 is gone: no word from it for 60 s"] * 2
    looks(watches, clock)
    watches[0].state.lost = 1  # a joint operation failed in the first; the second, which waits, knows it too
    assert looks(watches[:2], clock, 5) == [""] * 2
    assert looks(watches[:2], clock, 3) == ["the process of rank 2 is gone: no word from it for 5 s"] * 2


def test_one_that_fails_is_named_and_what_the_first_says_too_is_said_once(three):
    watches, clock = three
    watches[1].end(failed=True)
    assert looks([watches[0], watches[2]], clock, 2) == ["the process of rank 1 has failed, and says why"] * 2
    watches[0].interval = watches[2].interval = 0.0
    assert not watches[0].said_by_first("a\udcff.png: broken") and watches[2].said_by_first("a\\udcff.png: broken")
    assert not watches[2].said_by_first("b.png: broken")


def test_a_store_that_is_gone_is_the_first_process(three, monkeypatch):
    watches, clock = three

    def gone(*_):
        raise dist.DistNetworkError("Broken pipe")

    monkeypatch.setattr(watches[1], "read", gone)
    assert watches[1].look() == "the process of rank 0 is gone, or its machine"


def test_a_store_that_goes_with_its_launcher_stops_no_one(monkeypatch):
    one = Watch(0, 2, dist.HashStore())

    def gone(*_):
        raise dist.DistNetworkError("Broken pipe")

    monkeypatch.setattr(one, "store", SimpleNamespace(set=gone, check=gone))
    with pytest.raises(dist.DistNetworkError):  # the launcher is there: the store is another process's
        one.wait_for_first()
    monkeypatch.setattr(one, "launcher", -1)
    one.wait_for_first()


@pytest.mark.parametrize("said", [False, True])
def test_why_a_run_ends_is_said_by_one_thread_alone(monkeypatch, capsys, said):
    ends = []
    monkeypatch.setattr(watch.os, "_exit", ends.append)
    one = Watch(1, 2, dist.HashStore())
    one.interval = 0.0
    assert not said or one.silent.acquire()  # the main thread says it
    one.end_run("the process of rank 0 hangs")
    assert ends == ([] if said else [1]) and one.found == "the process of rank 0 hangs"
    assert capsys.readouterr().err.count("rank 0 hangs") == (not said)


def test_one_that_does_not_come_is_named(monkeypatch):
    alone = Watch(0, 2, dist.HashStore(), patience=0.1)
    with pytest.raises(ValueError, match="the process of rank 1 did not come within 0.1 s"):
        alone.meet()


# ---- real processes -------------------------------------------------------------------------------------------------


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
    signals = watch.Signals()
    signals.take(signal.SIGTERM, "SIGTERM")
    assert signals.received == signal.SIGTERM


def dies_in_a_step():
    train.update = at_call(3, train.update, lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_signal_to_one_in_an_evaluation_ends_both_with_all_saved(tmp_path):
    processes = two(tmp_path, *RUN, 1, "--save-every", 100, prepare=(None, told_in_an_evaluation))
    assert [finish(process) for process in processes] == [143, 143], said(tmp_path, "0.txt") + said(tmp_path, "1.txt")
    assert "process of rank 1: SIGTERM: this step is finished, then the run saves" in said(tmp_path, "1.txt")
    assert "ended by a signal after step 4 of epoch 1" in said(tmp_path, "0.txt")
    state = checkpoint.load(tmp_path / "out" / "last.pt")
    assert (state["epoch"], state["step"], state["steps"]) == (0, 4, 4)  # the epoch is evaluated again


@pytest.mark.slow
def test_one_that_dies_ends_the_other_which_names_it(tmp_path):
    processes = two(tmp_path, *RUN, 1, prepare=(None, dies_in_a_step))
    begun = time.monotonic()
    assert [finish(process) for process in processes] == [1, -signal.SIGKILL]
    error = said(tmp_path, "0.txt").split("train.py: error: ")[1]
    assert "the process of rank 1 is gone" in error and "the last good checkpoint is out/last.pt, of epoch 0" in error
    assert error.count("\n") == 1 and not fell(tmp_path, "0.txt") and time.monotonic() - begun < 60


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_hangs_ends_both(tmp_path, which):
    prepare = [None, None]
    prepare[which] = hangs_in_a_step
    processes = two(tmp_path, *RUN, 1, "--timeout", 0.2, prepare=prepare)
    assert [finish(process) for process in processes] == [1, 1]
    sentence = f"the process of rank {which} hangs: the others have waited for it for 12 s; the last good checkpoint is"
    for log in ("0.txt", "1.txt"):
        assert said(tmp_path, log).count(sentence) == 1 and not fell(tmp_path, log), said(tmp_path, log)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_stopped_ends_the_other(tmp_path, which):
    processes = two(tmp_path, *RUN, 5000, "--timeout", 0.1)
    until(lambda: "epoch    1/5000" in said(tmp_path, "0.txt"), processes[0])
    os.kill(processes[which].pid, signal.SIGSTOP)
    assert finish(processes[1 - which]) == 1
    log = f"{1 - which}.txt"
    assert f"the process of rank {which} " in said(tmp_path, log) and not fell(tmp_path, log), said(tmp_path, log)


@pytest.mark.slow
def test_what_is_wrong_on_one_machine_alone_is_said_there(tmp_path):
    image_folder(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    port = free_port()
    argv = [*TINY, "--batch-size", 4, "--epochs", 1, "--workers", 0, "--output", "out"]
    processes = [start(tmp_path, *argv, "--data-dir", folder, log=f"{rank}.txt",
                       prepare=functools.partial(joined, rank, port, None))
                 for rank, folder in enumerate(("data", "empty"))]
    assert [finish(process) for process in processes] == [2, 2]
    assert "error: the process of rank 1 has failed, and says why" in said(tmp_path, "0.txt")
    assert "error: empty: no class; an image folder holds train/CLASS/*.jpg" in said(tmp_path, "1.txt")


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_trainers_whose_launcher_was_killed_save_and_end(tmp_path, world):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(world), "--master_port",
               str(free_port()), os.path.abspath(train.__file__), *map(str, RUN), "5000", "--save-every", "100000"]
    with open(tmp_path / "log.txt", "w") as log:
        launcher = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log,
                                    env=os.environ | {"OMP_NUM_THREADS": "1"})
    begun = time.monotonic()
    while "epoch    1/5000" not in said(tmp_path):
        assert launcher.poll() is None and time.monotonic() - begun < SECONDS, said(tmp_path)
        time.sleep(0.05)
    trainers = children(launcher.pid)
    launcher.kill()
    launcher.wait()
    begun = time.monotonic()
    while any(os.path.exists(f"/proc/{pid}") for pid in trainers):
        assert time.monotonic() - begun < SECONDS, said(tmp_path)
        time.sleep(0.05)
    assert "its launcher is gone" in said(tmp_path) and "ended by a signal after step" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
