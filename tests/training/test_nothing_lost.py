"""Nothing is lost: killed at any moment, on a full disk or with a damaged file, a run goes on to the same weights."""

import csv
import os
import pickle
import re
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from vig_minimal import train
from commands import RANDOM, SECONDS, TINY, at_call, children, die, fell, finish, said, start, unfolded, until
from helpers import image_folder, same_tensors
from vig_minimal import atomic_files
from vig_minimal.data.decoding import DataError
from vig_minimal.training import checkpoint, endings, metrics, resume

OUT = ["--output", "out", "--resume", "auto"]


def ended(folder, *argv, prepare=None):
    return finish(start(folder, *TINY, *argv, prepare=prepare))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    assert ended(folder, *RANDOM, "--output", "out") == 0, said(folder)
    return folder


def rows(folder):
    with open(folder / "out" / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(folder, straight):
    """Bit-identical weights, average, optimiser and figures, to the last."""
    one, other = (checkpoint.load(where / "out" / "last.pt") for where in (folder, straight))
    assert one["step"] == 12 and same_tensors(one, other)
    best, other = (checkpoint.load(where / "out" / "best.pt") for where in (folder, straight))
    assert same_tensors(best, other)
    assert rows(folder) == rows(straight) and [row["epoch"] for row in rows(folder)] == ["0", "1", "2", "3"]


# ---- kill -9 -------------------------------------------------------------------------------------------------------


def in_a_step():
    train.update = at_call(3, train.update, die)


def while_writing():
    os.fsync = at_call(6, os.fsync, die)


def between_two_renames():
    atomic_files.os.replace = at_call(7, os.replace, die)


def in_an_evaluation():
    metrics.TopK.update = at_call(6, metrics.TopK.update, die)


def test_killed_at_any_moment_and_resumed_it_ends_bit_identical(tmp_path, straight):
    for moment in (in_a_step, while_writing, between_two_renames, in_an_evaluation):
        assert ended(tmp_path, *RANDOM, *OUT, prepare=moment) == -signal.SIGKILL, said(tmp_path)
        steps = [checkpoint.load(path)["step"] for path in (tmp_path / "out").glob("[lp]*.pt")]
        assert max(steps) < 12
    assert ended(tmp_path, *RANDOM, *OUT) == 0, said(tmp_path)
    text = said(tmp_path)
    assert " ".join(text.split()).count("resumed after") == 4 and not fell(tmp_path)
    assert_same_run(tmp_path, straight)


# ---- signals -------------------------------------------------------------------------------------------------------


def told_in_the_second_step():
    update = train.update

    def waits(run, *args, **kwargs):
        if run.step == 1:
            told.wait(SECONDS)  # until the signal is there, however slow the machine
        return update(run, *args, **kwargs)

    told, take = threading.Event(), signal.signal

    def tells(number, handler):
        def both(*args):
            handler(*args)
            told.set()

        return take(number, both if callable(handler) else handler)

    train.update, signal.signal = waits, tells


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_step_and_it_goes_on_from_there(tmp_path, straight, number):
    process = start(tmp_path, *TINY, *RANDOM, "--save-every", 100, *OUT, prepare=told_in_the_second_step)
    until(lambda: "first step" in said(tmp_path), process)
    os.kill(process.pid, number)
    assert finish(process) == 128 + number
    again = " (a second Ctrl-C ends it at once)" if number == signal.SIGINT else ""
    text = unfolded(tmp_path)
    assert f"{number.name}{again}: this step is finished, then the run saves" in text
    assert "ended by a signal after step" in text
    state = checkpoint.load(tmp_path / "out" / "last.pt")
    assert state["epoch"] == 0 and state["step"] in (1, 2)
    assert ended(tmp_path, *RANDOM, *OUT) == 0, said(tmp_path)
    assert f"resumed after epoch 0 and {state['step']} step" in unfolded(tmp_path)
    assert_same_run(tmp_path, straight)


def never_ending_step():
    train.update = lambda *args, **kwargs: threading.Event().wait(SECONDS)


def test_a_second_interrupt_ends_it_at_once(tmp_path):
    process = start(tmp_path, *TINY, *RANDOM, *OUT, prepare=never_ending_step)
    until(lambda: "epoch 0/3" in said(tmp_path), process)
    os.kill(process.pid, signal.SIGINT)
    until(lambda: "this step is finished" in said(tmp_path), process)
    time.sleep(endings.PATIENCE)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130 and "interrupted" in said(tmp_path) and not fell(tmp_path)


def test_an_interrupt_that_a_launcher_hands_on_is_the_same_one(monkeypatch):
    now, before = [100.0], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(endings.time, "monotonic", lambda: now[0])
    signals = endings.Signals()
    with signals.listening():
        for moment in (100.0, 100.5, 101.0):
            now[0] = moment
            signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        now[0] = 101.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# ---- disks and files -----------------------------------------------------------------------------------------------


def full_disk_at_the_third_save():
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    checkpoint.save = at_call(3, checkpoint.save, fill)


def test_a_disk_that_fills_leaves_the_checkpoint_before(tmp_path, straight):
    assert ended(tmp_path, *RANDOM, *OUT, prepare=full_disk_at_the_third_save) == 1
    text = said(tmp_path)
    assert "File too large" in text and "the last good checkpoint is out/last.pt, of epoch 0 and step 1" in text
    assert not fell(tmp_path) and not list((tmp_path / "out").glob("*.tmp"))
    assert ended(tmp_path, *RANDOM, *OUT) == 0
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize("damage", ["cut short", "one byte"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, straight, damage):
    (tmp_path / "out").mkdir()
    for file in (straight / "out").iterdir():
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    last = tmp_path / "out" / "last.pt"
    data = bytearray(last.read_bytes())
    if damage == "cut short":
        del data[len(data) // 2:]
    else:
        data[len(data) // 3] ^= 1
    last.write_bytes(data)
    assert ended(tmp_path, *RANDOM, *OUT) == 0, said(tmp_path)
    assert "resumed from out/previous.pt, the one before it" in unfolded(tmp_path)
    assert ("checksum" in said(tmp_path)) == (damage == "one byte")
    assert (tmp_path / "out" / "damaged.pt").read_bytes() == data
    assert_same_run(tmp_path, straight)


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert ended(tmp_path, *RANDOM, "--output", "file/out") == 2
    assert said(tmp_path).startswith("train.py: error: ") and "Not a directory" in said(tmp_path)


def test_two_runs_never_write_into_one_folder(tmp_path):
    first = start(tmp_path, *TINY, *RANDOM, *OUT, prepare=never_ending_step)
    until(lambda: "epoch 0/3" in said(tmp_path), first)
    assert finish(start(tmp_path, *TINY, *RANDOM, "--output", "out", log="second.txt")) == 2
    assert "out: another run writes there now" in said(tmp_path, "second.txt")
    assert finish(start(tmp_path, *TINY, *RANDOM, *OUT, log="third.txt")) == 2
    assert f"out: another run writes there now (process {first.pid} on" in said(tmp_path, "third.txt")
    first.kill()
    finish(first)
    assert ended(tmp_path, *RANDOM, *OUT) == 0  # the lock went with its process


def another_run_ends() -> None:
    """Just before the folder is locked, another run writes there and ends."""
    def then(*about):
        Path("out").mkdir()
        Path("out/last.pt").write_bytes(b"of a finished run")
        return claim_folder(*about)

    claim_folder, resume.claim_folder = resume.claim_folder, then


@pytest.mark.parametrize("argv", [OUT, OUT[:2]], ids=["auto", "new"])
def test_a_run_that_ends_while_another_begins_is_not_overwritten(tmp_path, argv):
    assert finish(start(tmp_path, *TINY, *RANDOM, *argv, prepare=another_run_ends)) == 2
    reason = "out/last.pt: cut short, damaged" if argv == OUT else "out holds a run already"
    assert reason in said(tmp_path)  # it is read, and checked, once the folder is locked
    assert (tmp_path / "out" / "last.pt").read_bytes() == b"of a finished run"


# ---- processes and data that go away -------------------------------------------------------------------------------

FOLDER = ["--data-dir", "data", "--crop", "resized", "--batch-size", "4", "--epochs", "5000", "--workers", "2", *OUT]


def test_a_worker_that_dies_is_a_sentence(tmp_path):
    image_folder(tmp_path / "data", count=8)
    process = start(tmp_path, *TINY, *FOLDER)
    until(lambda: "epoch    1/5000" in said(tmp_path), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert finish(process) == 1, said(tmp_path)
    error = said(tmp_path).split("train.py: error: ")[1]
    assert "a process that reads images died" in error and not fell(tmp_path)
    name = re.search(r"last good checkpoint is out/(last|previous)\.pt", error)[1]  # it may die between two renames
    assert checkpoint.load(tmp_path / "out" / f"{name}.pt")["epoch"] >= (name == "last")


@pytest.mark.parametrize("error", [
    EOFError(), ConnectionResetError(104, "Connection reset by peer"), pickle.UnpicklingError("pickle data cut short"),
    RuntimeError("received 0 items of ancdata"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_reader_that_dies_is_a_sentence_whatever_it_leaves_behind(capsys, tmp_path, error):
    """A kill reaches a reader in the middle of a message, and the trainer in the middle of anything: the error on the
    way out may be another one, with torch's behind it."""
    with pytest.raises(SystemExit) as end, endings.one_sentence(DataError, (), folder=tmp_path):
        try:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        except RuntimeError:
            raise error
    assert end.value.code == 1 and "a process that reads images died" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
    for alone in (EOFError(), pickle.UnpicklingError("truncated"), RuntimeError("received 0 items of ancdata"),
                  ConnectionRefusedError(111, "refused")):
        with pytest.raises(SystemExit), endings.one_sentence(DataError, (), folder=tmp_path):
            raise alone
        assert "a process that reads images died" in capsys.readouterr().err


def test_a_data_folder_that_disappears_is_a_sentence(tmp_path):
    image_folder(tmp_path / "data", count=8)
    process = start(tmp_path, *TINY, *FOLDER)
    until(lambda: "epoch    1/5000" in said(tmp_path), process)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert finish(process) == 1
    assert "cannot be read (No such file or directory); the last good checkpoint is out/last.pt" in said(tmp_path)
    assert not fell(tmp_path)
    assert checkpoint.load(tmp_path / "out" / "last.pt")["epoch"] >= 1


def test_signals_to_the_whole_job_leave_the_workers_until_the_step_is_saved(tmp_path):
    image_folder(tmp_path / "data", count=8)
    process = start(tmp_path, *TINY, *FOLDER)
    until(lambda: "first step" in said(tmp_path), process)
    for pid in (*children(process.pid), process.pid):
        os.kill(pid, signal.SIGTERM)
    assert finish(process) == 143, said(tmp_path)
    assert "ended by a signal after step" in said(tmp_path) and not fell(tmp_path)


# ---- losses that are not finite ------------------------------------------------------------------------------------


def far_too_fast():
    train.learning_rate = lambda *_: 1e30


def test_a_run_that_diverges_ends_with_where_and_what_is_left(tmp_path):
    argv = ["--limit", 256, "--batch-size", 8, "--epochs", 1, "--workers", 0, *OUT]
    assert ended(tmp_path, *argv, prepare=far_too_fast) == 1
    error = said(tmp_path).split("train.py: error: ")[1]
    assert "not finite" in error and "epoch 1, step" in error and "learning rate" in error
    assert "the last good checkpoint is out/last.pt, of epoch 0" in error and not fell(tmp_path)
    assert all(value.isfinite().all() for value in checkpoint.load(tmp_path / "out" / "last.pt")["model"].values()
               if isinstance(value, torch.Tensor) and value.is_floating_point())
