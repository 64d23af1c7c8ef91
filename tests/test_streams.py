"""Progress without a terminal: when a line is printed, and what it says. Time is a list of seconds, not a clock."""

import itertools
import subprocess
import sys

import pytest

from vig_minimal.streams import Progress, duration


def lines(seconds: float, steps: int, **about) -> dict[int, str]:
    """The lines of an epoch of so many steps, which take so many seconds each: step to line."""
    said, begun = {}, about.get("step", 0)
    clock = (seconds * n for n in itertools.count())
    now = [next(clock)]
    with Progress("epoch 2/3", steps, 8 * steps, lambda line: said.__setitem__(now[1], line),
                  clock=lambda: now[0], **about) as progress:
        for step in range(begun + 1, begun + steps + 1):
            now[:] = [next(clock), step]
            progress.update(8, loss=float(step))
    return said


# seconds a step, steps, further arguments: steps with a line
WHEN = [
    (0.1, 50, {}, []),                                              # an epoch of five seconds
    (0.5, 40, {}, [20]),                                            # at 5, 10 and 15 s; ten seconds apart at least
    (2, 40, {}, [10, 20, 30]),                                      # 10 % are passed after 8 s
    (5, 40, {}, [4, 10, 20, 30]),
    (20, 40, {}, [3, 4, 7, 10, 13, 16, 19, 20, 23, 26, 29, 30, 33, 36, 39]),  # each minute, and at the marks
    (90, 3, {}, [1, 2, 3]),
    (0.1, 10, {"every": 4}, [4, 8]),
    (0.1, 10, {"every": 4, "step": 10}, [12, 16, 20]),              # steps count through all epochs
    (10, 4, {"step": 4}, [5, 6, 7]),                                # the marks are those of this epoch
]


@pytest.mark.parametrize("seconds, steps, about, expected", WHEN)
def test_a_line_is_printed_now_and_then(seconds, steps, about, expected, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert list(lines(seconds, steps, **about)) == expected


def test_a_line_has_step_mean_loss_speed_and_time_left(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    said = lines(2, 40, step=0, epochs=3)
    assert said[10] == "epoch 2/3  step 10/120  loss 5.500  4 images/s  about 3 min 40 s left"  # the mean of 1 to 10
    assert "step 20/120  loss 15.500  4 images/s  about 3 min 20 s left" in said[20]
    with Progress("evaluation", 2, 8, print_never := [].append, every=1, clock=iter(range(9)).__next__) as progress:
        progress.update(4)  # no loss: every counts steps of training
        progress.update(4)
    assert print_never.__self__ == []


def test_a_terminal_has_a_bar_and_no_lines_but_those_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert lines(20, 40) == {} and list(lines(20, 40, every=20)) == [20, 40]
    assert "epoch 2/3" in capsys.readouterr().err
    assert lines(20, 4, shown=False) != {} and "epoch" not in capsys.readouterr().err


NOTEBOOK = """
import sys, types
sys.modules["ipykernel.zmqshell"] = types.ModuleType("shell")
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: None)
import tqdm.notebook
class Bar(tqdm.std.tqdm):
    def update(self, n=1):
        print("widget", n, self.disable)
tqdm.notebook.IProgress, tqdm.notebook.tqdm = object, Bar
from vig_minimal.streams import Progress
with Progress("epoch", 1, 8, print) as progress:
    progress.update(8, 1.0)
"""


def test_a_notebook_has_its_own_bar():
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True)
    assert done.stdout == "widget 8 False\n", done.stderr


@pytest.mark.parametrize("seconds, text", [(0.054, "0.054 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"),
                                           (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
