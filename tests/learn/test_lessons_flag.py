"""`train.py --lessons FOLDER`: training with a student's functions."""

import re

import pytest
import tensors
from answering import finish
from commands import TINY

from vig_minimal import train
from vig_minimal.graphs import aggregate
from vig_minimal.learn.answers import FOLDER, NEEDED, load
from vig_minimal.learn.command import path_of_lessons
from vig_minimal.learn.lessons import find


def test_training_runs_their_functions(capsys):
    for number in NEEDED:
        finish(FOLDER, find(number), tensors)
    names, calls, before = load(FOLDER / find(5).file), [], aggregate.maximum
    names["max_relative"] = lambda *given: calls.append(1) or tensors.max_relative(*given)
    train.main([*TINY, "--lessons", str(FOLDER), "--dry-run", "--limit", "32", "--workers", "0"])
    assert calls and aggregate.maximum is before
    assert "dry run: a step takes" in " ".join(capsys.readouterr().out.split())


def test_the_command_that_the_path_prints_trains_with_their_functions(capsys):
    for number in NEEDED:
        finish(FOLDER, find(number), tensors)
    text = path_of_lessons(FOLDER).replace("\\\n", "")
    command = re.search(r"python train.py (.*)", text)[1].split()
    names, calls = load(FOLDER / find(5).file), []
    names["max_relative"] = lambda *given: calls.append(given[0].shape) or tensors.max_relative(*given)
    train.main([*command, "--dry-run", "--limit", "4", "--batch-size", "2", "--workers", "0", "--device", "cpu"])
    assert set(calls) == {(1, 36, 64)} and "dry run: a step takes" in " ".join(capsys.readouterr().out.split())


def test_lessons_that_are_not_done_are_refused_before_anything_begins(capsys):
    with pytest.raises(SystemExit) as end:
        train.main([*TINY, "--lessons", "nowhere", "--dry-run"])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and err.startswith("train.py: error: --lessons nowhere: needs lessons 3, 5, 6 and 8,")
    assert err.count("\n") == 1 and "first step" not in out
