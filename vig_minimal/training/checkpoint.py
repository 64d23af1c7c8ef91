"""Checkpoints: saving, loading, going on, and weights released by the papers' authors.

A checkpoint is a dict of tensors and plain data and nothing else: `weights_only=True` loads it, and runs no code. The
file ends with its own checksum. Writing is atomic, and the last.pt before this one stays as previous.pt.

    model      the weights to use: the exponential moving average where the recipe has one, else the trained weights
    name, config, classes, mean, std   what is needed to use them
    recipe, epoch, step, steps, best   how they came about: epochs and steps done, steps of an epoch
    training   in last.pt only, what is needed to go on: weights, moving average, optimiser, sums of the epoch

No random state is kept: every random draw is a function of (seed, epoch, step or image), see `data.mixed_seed`.
"""

import os
import socket
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows: there, nothing is locked
    fcntl = None

from ..files import CheckpointError, load, save

__all__ = ["CheckpointError", "check_same", "last_good", "load", "load_latest", "load_run", "lock", "position", "save"]


def load_run(path: str | Path) -> dict:
    """A checkpoint that train.py wrote. Raises CheckpointError as `load` does, and for a file of anything else."""
    state = load(path)
    if missing := [key for key in ("name", "config", "classes", "recipe", "model") if key not in state]:
        raise CheckpointError(f"{path}: not a checkpoint of train.py, it has no {missing[0]!r} (released weights are"
                              " loaded with vig_minimal.checkpoint.load_released)")
    return state


def load_latest(folder: str | Path) -> tuple[dict | None, Path | None, str]:
    """The run's last checkpoint or, if that cannot be used, the one before it; its path; and a sentence on what was
    wrong with the last, or "". (None, None, "") where there is none yet. Raises CheckpointError if no one can be used.
    """
    wrong = []
    for path in (Path(folder, "last.pt"), Path(folder, "previous.pt")):
        if path.exists():
            try:
                return load_run(path), path, "; ".join(wrong)
            except CheckpointError as error:
                wrong.append(str(error))
    if wrong:
        raise CheckpointError("; ".join(wrong))
    return None, None, ""


def position(state: dict, path: str | Path, steps: int) -> tuple[int, int]:
    """Where a run goes on: steps taken in all, and in the epoch that is open. steps: of an epoch, now.

    Raises CheckpointError for a checkpoint from the middle of an epoch that had another number of steps.
    """
    in_epoch = state["step"] - state["epoch"] * state["steps"]
    if in_epoch and steps != state["steps"]:
        raise CheckpointError(f"{path}: from the middle of an epoch of {state['steps']} steps, and this run's have"
                              f" {steps}; go on with the same data and batch size")
    return state["epoch"] * steps + in_epoch, in_epoch


def check_same(state: dict, path: str | Path, name: str, config: dict, classes: list[str]) -> None:
    """Raises CheckpointError unless `state`, from `load_run`, is of that model and for those classes."""
    if state["name"] != name:
        raise CheckpointError(f"{path}: a checkpoint of {state['name']}, and this run's model is {name}; choose --model"
                              f" {state['name']} or another checkpoint")
    if len(state["classes"]) != len(classes):
        raise CheckpointError(f"{path}: trained for {len(state['classes'])} classes, and this run's data has"
                              f" {len(classes)}")
    if state["classes"] != classes:
        theirs, ours = next(pair for pair in zip(state["classes"], classes) if pair[0] != pair[1])
        raise CheckpointError(f"{path}: trained for other classes: where it has {theirs!r}, the data has {ours!r}")
    theirs = state["config"]
    if differ := [key for key in config if theirs.get(key) != config[key]]:
        theirs, ours = (", ".join(f"{key}={values.get(key)}" for key in differ) for values in (theirs, config))
        raise CheckpointError(f"{path}: trained with {theirs}, and this run has {ours}; give the flags it was trained"
                              " with")


def last_good(folder: Path) -> str:
    """Name the checkpoint to go on from, in a sentence."""
    try:
        state, path, _ = load_latest(folder)
    except CheckpointError as error:
        return str(error)
    if state is None:
        return "no checkpoint was written yet"
    return (f"the last good checkpoint is {path}, of epoch {state['epoch']} and step {state['step']} in all:"
            " go on from it with --resume auto")


def lock(folder: Path) -> IO:
    """Make the output folder and take it for this process, until it ends, in whatever way, or closes the
    file that this returns.

    Raises ValueError if another process, still alive, writes there, and OSError if nobody can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a+")
    if fcntl is None:
        return file
    try:
        # a record lock, since children do not inherit it: it is gone as soon as this process is
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        with file:
            file.seek(0)
            raise ValueError(f"{folder}: another run writes there now ({file.read().strip()}); wait until it ends, stop"
                             " it, or choose another folder with --output") from None
    except OSError:  # a file system without locks
        return file
    file.truncate(0)
    print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
    return file
