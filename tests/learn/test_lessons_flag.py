"""`train.py --lessons FOLDER`: training with a person's functions."""

import pytest
import tensors
from answering import finish
from commands import TINY

from vig_minimal import train
from vig_minimal.graphs import aggregate
from vig_minimal.learn.answers import FOLDER, NEEDED, load
from vig_minimal.learn.lessons import find


def test_training_runs_their_functions(capsys):
    for number in NEEDED:
        finish(FOLDER, find(number), tensors)
    names, calls, before = load(FOLDER / find(5).file), [], aggregate.maximum
    names["max_relative"] = lambda *given: calls.append(1) or tensors.max_relative(*given)
    train.main([*TINY, "--lessons", str(FOLDER), "--dry-run", "--limit", "32", "--workers", "0"])
    assert calls and aggregate.maximum is before
    assert "dry run: a step takes" in " ".join(capsys.readouterr().out.split())


def test_lessons_that_are_not_done_are_refused_before_anything_begins(capsys):
    with pytest.raises(SystemExit) as end:
        train.main([*TINY, "--lessons", "nowhere", "--dry-run"])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and err.startswith("train.py: error: --lessons nowhere: needs lessons 3, 5, 6 and 8,")
    assert err.count("\n") == 1 and "first step" not in out
