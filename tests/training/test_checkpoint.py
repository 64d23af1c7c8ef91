"""Checkpoints: whole or not there, plain, and refused with a sentence where they cannot be used."""

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vig_minimal.atomic_files import CheckpointError
from vig_minimal.training import checkpoint, resume
from vig_minimal.training.config import RunConfig
from vig_minimal.training.recipes import Recipe

STATE = {"name": "vig_nano", "config": {"dim": 96, "img_size": (64, 64)}, "classes": ["a", "b"],
         "model": {"w": torch.ones(3)}, "flags": {}}


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "a.pt", STATE)
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded["model"].pop("w"), torch.ones(3)) and loaded["config"] == STATE["config"]
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def disk_fills(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_fills)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, STATE)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.pt"]


def test_a_file_that_the_system_does_not_let_us_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    """Else the run would go on from the one before it, and lose what this one holds."""
    for name in ("last.pt", "previous.pt"):
        checkpoint.save(tmp_path / name, STATE | {"recipe": {}})
    read = Path.read_bytes

    def refused(path):
        if path.name == "last.pt":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be read \(Permission denied\)"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize("value", [argparse.Namespace(lr=1), torch.nn.Linear(1, 1), print])
def test_only_tensors_and_plain_data_are_saved(tmp_path, value):
    with pytest.raises(TypeError, match=r"checkpoint\['args'\]\[0\]"):
        checkpoint.save(tmp_path / "a.pt", {"args": [value]})
    assert not os.listdir(tmp_path)


class Runs:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_carries_code_is_refused_and_not_run(tmp_path, zipped):
    torch.save({"model": Runs(tmp_path / "trace")}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="run code .*mkdir"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, share):
    checkpoint.save(tmp_path / "a.pt", STATE | {"more": torch.zeros(10_000)})
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[:int(len(data) * share)])
    with pytest.raises(CheckpointError, match="a.pt: cut short, damaged"):
        checkpoint.load(tmp_path / "a.pt")


def same(one, other):
    """Whether two states are equal; `same_tensors` of helpers, with types."""
    return repr(one) == repr(other)


def test_no_cut_and_no_flip_changes_what_is_loaded(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, STATE | {"w": torch.arange(40.0)})
    data, refused = path.read_bytes(), 0
    expected = checkpoint.load(path)
    for count in range(1, 100):
        path.write_bytes(data[:-count])
        with pytest.raises(CheckpointError, match="a.pt: (damaged|cut short)"):
            checkpoint.load(path)
    for place in [*range(8), *range(100, len(data) - 64, 97), *range(len(data) - 64, len(data))]:
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1:])
            try:  # padding and dates of the archive are in no checksum, and nobody reads them
                assert same(checkpoint.load(path), expected), (place, bit)
            except CheckpointError as error:
                refused += 1
                assert re.search("a.pt: (damaged|cut short)", str(error)), error
    assert refused > 100
    for place in range(data.index(torch.arange(40.0).numpy().tobytes()), len(data))[:160]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1:])
        with pytest.raises(CheckpointError, match="a.pt: damaged, the checksum of .*/data/.* does not match"):
            checkpoint.load(path)


def test_files_of_earlier_versions_which_end_with_their_own_checksum_are_read(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[:-2] + (32).to_bytes(2, "little") + bytes(range(32)))
    assert same(checkpoint.load(tmp_path / "a.pt"), STATE)


def test_files_that_others_wrote_are_read(tmp_path):
    for zipped in (True, False):
        torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert checkpoint.load(tmp_path / "a.pt")["classes"] == STATE["classes"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (("missing.pt", "no such"), ("text.pt", "not a checkpoint"), ("list.pt", "a list"),
                          ("", "cannot be read")):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(tmp_path / name)


def run_of(state, asked=(), evaluates=False, **fields):
    """A run that starts from a checkpoint, as far as `resume.compare` reads it. fields: of the model, now."""
    @dataclass
    class Config:
        dim: int = 96
        img_size: tuple = (64, 64)

    config = RunConfig(model="vig_nano", eval_only=evaluates, resume="x.pt")
    start = SimpleNamespace(path="x.pt", state=state, recipe=Recipe(), asked=asked)
    return SimpleNamespace(config=config, start=start, model=SimpleNamespace(config=Config(**fields)),
                           data=SimpleNamespace(classes=["a", "b"]))


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "lrgc_nano"}, "trained with model=lrgc_nano, and this run has model=vig_nano"),
    ({"config": {"dim": 48, "img_size": (64, 64)}}, "trained with dim=48, and this run has dim=96"),
    ({"classes": ["a", "b", "c"]}, "where it has 'c', the data has None"),
    ({"classes": ["a", "c"]}, "where it has 'c', the data has 'b'"),
])
def test_a_checkpoint_of_something_else_is_refused(change, message):
    assert resume.compare(run_of(STATE)) == []
    with pytest.raises(CheckpointError, match=message):
        resume.compare(run_of(STATE | change))


def test_fields_that_an_evaluation_sets_may_differ():
    assert resume.compare(run_of(STATE, ["dim", "k"], evaluates=True, dim=97)) == ["dim 96 → 97"]
    for run in (run_of(STATE, ["k"], evaluates=True, dim=97), run_of(STATE, ["dim"], dim=97)):
        with pytest.raises(CheckpointError, match="this run has dim=97"):
            resume.compare(run)


def test_released_weights_are_no_checkpoint_to_go_on_from(tmp_path):
    torch.save({"pos_embed": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="load_released"):
        checkpoint.load_run(tmp_path / "x.pt")


def test_a_run_that_finds_the_folder_locked_leaves_it_alone(tmp_path, monkeypatch):
    """The other run may have written nothing but the lock so far."""
    def taken(*_):
        raise BlockingIOError

    folder = tmp_path / "out"
    with checkpoint.lock(folder):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.fcntl, "lockf", taken)
            with pytest.raises(ValueError, match=f"another run writes there now .process {os.getpid()} on"):
                with checkpoint.lock(folder):
                    pass
        assert (folder / ".lock").exists()
    assert not folder.exists()  # nothing was written
