"""Checkpoints of a run: which one to go on from, whether it fits, and the lock of their folder.

`Job.save` in setup.py writes them. A checkpoint is a dict of tensors and plain data and nothing else:
`weights_only=True` loads it, and runs no code. The file ends with its own checksum. Writing is atomic, and the last.pt
before this one stays as previous.pt.

    model      the weights to use: the exponential moving average where the recipe has one, else the trained weights
    name, config, classes, mean, std, multi_label, anchors   what is needed to use them
    recipe, epoch, step, steps, best   how they came about: epochs and steps done, steps of an epoch
    flags, data   flags of the run, given or guessed, and a fingerprint of its images
    training   in last.pt and previous.pt, to go on: weights, moving average, optimiser, loss scaler, sums of the epoch

No random state is kept: every random draw is a function of (seed, epoch, step or image), see data/seeds.py.
"""

import argparse
import math
import os
import socket
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

try:
    import fcntl
except ImportError:  # not on Windows: there, nothing is locked
    fcntl = None

from ..atomic_files import CheckpointError, UnreadableError, load, save
from ..graphs.graph import GroupGraph
from ..models.registry import as_now
from .recipes import Recipe

__all__ = ["CheckpointError", "as_it_was", "check_data", "check_optimiser", "check_same", "check_types", "last_good",
           "load", "load_latest", "load_run", "lock", "on_disk", "position", "recipe_changes", "save", "save_graphs",
           "set_aside"]

# flags that a checkpoint keeps, so that --resume PATH alone goes on exactly: those that may change, and the others
MAY_CHANGE = ("data", "data_dir", "limit", "bad_images", "teacher_weights", "save_every", "keep_every", "every",
              "tensorboard", "grad_checkpoint")
STAY = ("task", "seed", "amp", "compile", "sync_bn", "freeze")
DEFAULTS = {"seed": 0, "bad_images": "skip"}
# fields of the recipe with which a run can go on; the batch only from an epoch's end
RECIPE_MAY_CHANGE = ("epochs", "batch_size", "accumulation", "lr", "schedule", "warmup_lr", "min_lr", "warmup_epochs",
                     "cooldown_epochs", "decay_epochs", "clip_grad")
# keys of a checkpoint and the types of their values: of any, of one to go on from, and of its part `training`
WEIGHTS = {"name": str, "config": dict, "classes": list, "recipe": dict, "model": dict}
POSITION = {"epoch": int, "step": int, "steps": int, "best": dict}
TRAINING = {"model": dict, "optimiser": dict, "scaler": dict, "losses": dict, "skipped": int, "bad_in_a_row": int}


def load_run(path: str | Path) -> dict:
    """Load a checkpoint that train.py wrote. Raises CheckpointError for any other file."""
    state = load(path)
    if missing := [key for key in WEIGHTS if key not in state]:
        raise CheckpointError(f"{path}: not a checkpoint of train.py, it has no {missing[0]!r} (load released"
                              " weights with vig_minimal.load_released)")
    check_types(state, path, WEIGHTS)
    check_types({"flags": {}, "data": {}} | state, path, {"flags": dict, "data": dict})
    for part in (state["config"], state["recipe"], state.get("flags", {})):
        check_types(part, path, dict.fromkeys(part, (bool, int, float, str, tuple, type(None))))
    return state | {"config": as_now(state["name"], state["config"])}


def check_types(values: dict, path: str | Path, types: dict) -> None:
    """Raise CheckpointError unless this part of the checkpoint `path` has these keys, with values of these types."""
    for name, kind in types.items():
        if not isinstance(values.get(name), kind):
            raise CheckpointError(f"{path}: damaged or of another program, it has no right {name!r}")


def check_optimiser(optimiser: torch.optim.Optimizer, kept: dict, path: str | Path) -> None:
    """Raise CheckpointError unless `kept` is a state of such an optimiser: torch compares neither kind nor shapes."""
    theirs, ours = ("adamw" if "betas" in groups[0] else "sgd" for groups in (kept["param_groups"],
                                                                             optimiser.param_groups))
    if theirs != ours:
        raise CheckpointError(f"{path}: its optimiser is {theirs}, and this run's is {ours}; give --optimiser {theirs}")
    moments = ("exp_avg", "exp_avg_sq") if ours == "adamw" else ("momentum_buffer",)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, values in kept["state"].items():
        check_types(values, path, dict.fromkeys(moments, torch.Tensor))
        if any(values[name].shape != parameters[number].shape for name in moments):
            raise CheckpointError(f"{path}: its optimiser has moments of other shapes than this run's weights")


def load_latest(folder: str | Path, before: float = math.inf) -> tuple[dict | None, Path | None, str]:
    """Load last.pt or, if it is damaged or not from before that step, previous.pt. Returns the checkpoint, its path,
    and what was wrong with last.pt or ""; (None, None, "") if there is none. Raises CheckpointError if all are damaged,
    or if the system does not let us read one."""
    wrong = []
    for path in filter(Path.exists, (Path(folder, "last.pt"), Path(folder, "previous.pt"))):
        try:
            state = load_run(path)
            if state.get("step", 0) < before:
                return state, path, "; ".join(wrong)
        except UnreadableError:
            raise
        except CheckpointError as error:
            wrong.append(str(error))
    if wrong:
        raise CheckpointError("; ".join(wrong))
    return None, None, ""


def position(state: dict, path: str | Path, steps: int) -> tuple[int, int]:
    """Return where a run goes on: steps done in all, and in the open epoch. steps: of an epoch of this run.

    Raises CheckpointError for the middle of an epoch that had another number of steps.
    """
    in_epoch = state["step"] - state["epoch"] * state["steps"]
    if not 0 <= in_epoch <= state["steps"]:
        raise CheckpointError(f"{path}: damaged, step {state['step']} is not in epoch {state['epoch'] + 1}")
    if in_epoch and steps != state["steps"]:
        raise CheckpointError(f"{path}: from the middle of an epoch of {state['steps']} steps, and this run's have"
                              f" {steps}; go on with the same data and batch size")
    return state["epoch"] * steps + in_epoch, in_epoch


def check_same(state: dict, path: str | Path, name: str, config: dict, classes: list[str],
               free: Collection[str] = ()) -> list[str]:
    """Raise CheckpointError unless the checkpoint `state` is of that model, config and classes. Fields named in `free`
    may differ; return what does."""
    if state["name"] != name:
        raise CheckpointError(f"{path}: a checkpoint of {state['name']}, and this run's model is {name}; choose --model"
                              f" {state['name']} or another checkpoint")
    if len(state["classes"]) != len(classes):
        raise CheckpointError(f"{path}: trained for {len(state['classes'])} classes, and this run's data has"
                              f" {len(classes)}")
    if state["classes"] != classes:
        theirs, ours = next(pair for pair in zip(state["classes"], classes) if pair[0] != pair[1])
        raise CheckpointError(f"{path}: trained for other classes: where it has {theirs!r}, the data has {ours!r}")
    differ = [key for key in config if state["config"].get(key) != config[key]]
    if not set(differ) <= set(free):
        theirs, ours = (", ".join(f"{key}={values.get(key)}" for key in differ) for values in (state["config"], config))
        raise CheckpointError(f"{path}: trained with {theirs}, and this run has {ours}; give the flags it was trained"
                              " with")
    return [f"{key} {state['config'].get(key)} → {config[key]}" for key in differ]


def as_it_was(args: argparse.Namespace, state: dict | None, path: Path | None) -> list[str]:
    """Give flags that were not given the values of the checkpoint's run, or else their defaults; return what differs.
    Raises ValueError for a flag that cannot differ; for an evaluation all can."""
    kept, changes = (state or {}).get("flags", {}), []
    if args.data not in (None, kept.get("data")) or args.data_dir and str(kept.get("data")).startswith("shapes"):
        kept = {name: value for name, value in kept.items() if name not in ("data", "data_dir")}
    for name in (*MAY_CHANGE, *STAY):
        given, was = getattr(args, name), kept.get(name, DEFAULTS.get(name))
        if given is None:
            setattr(args, name, was)
        elif name in kept and given != was and not (
                name in ("data_dir", "teacher_weights") and os.path.abspath(given) == was):
            flag, was = "--" + name.replace("_", "-"), "none" if was in (None, "") or was is False else was
            if name in STAY and not args.eval_only:
                raise ValueError(f"{flag} {given}: the run of {path} has {was}, and cannot change it; leave it out")
            changes.append(f"{flag} {was} → {given}")
    return changes


def recipe_changes(recipe: Recipe, kept: Recipe, path: Path) -> list[str]:
    """Return what differs from the checkpoint's recipe. Raises ValueError for what cannot change in a run."""
    changes = {name: (was, now) for name, was in asdict(kept).items() if (now := getattr(recipe, name)) != was}
    for name, (was, now) in changes.items():
        if name not in RECIPE_MAY_CHANGE:
            raise ValueError(f"{path}: trained with {name}={was}, and this run has {name}={now}; leave it out")

    def plain(value):
        return f"{value:.6g}" if isinstance(value, float) else value

    return [f"{name} {plain(was)} → {plain(now)}" for name, (was, now) in changes.items()]


def check_data(state: dict, path: str | Path, seen: dict, in_epoch: int) -> list[str]:
    """Return a warning if the checkpoint's run saw other images than `seen`, or raise CheckpointError in the middle of
    an epoch, which could not go on."""
    if (was := state.get("data", seen)) == seen:
        return []
    counts = ", ".join(f"{split} {was.get(split, '?')[0]} → {now[0]}" for split, now in seen.items())
    if in_epoch:
        raise CheckpointError(f"{path}: from the middle of an epoch, and its images are not those of now ({counts});"
                              " go on with the same data, or from an epoch's end")
    return [f"warning: the images are not those of the checkpoint's run ({counts})"]


def set_aside(folder: Path, step: int) -> None:
    """Rename last.pt to diverged.pt if its weights, those after that step, gave losses that are not finite."""
    state, path, _ = load_latest(folder)
    if state and path.name == "last.pt" and state["step"] >= step:
        path.replace(folder / "diverged.pt")


def on_disk(folder: Path) -> tuple:
    """Return when, and how large, the checkpoints of a run in this folder were written; None for one that is not there.
    """
    files = [folder / name for name in ("last.pt", "previous.pt")]
    return tuple((about.st_mtime_ns, about.st_size) if (about := file.exists() and file.stat()) else None
                 for file in files)


def last_good(folder: Path, before: float = math.inf) -> str:
    """Name the checkpoint to go on from, of before that step, in a sentence."""
    try:
        state, path, _ = load_latest(folder, before)
    except CheckpointError as error:
        return str(error)
    if state is None:
        return "no checkpoint was written yet"
    return (f"the last good checkpoint is {path}, of epoch {state['epoch']} and step {state['step']} in all:"
            " go on from it with --resume auto")


def lock(folder: Path) -> IO:
    """Make the output folder and lock it, until this process ends or closes the file that is returned.

    Raises ValueError if another live process has the lock, and OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a+")
    if fcntl is None:
        return file
    try:
        # a record lock: children do not inherit it, so that it ends with this process
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


@torch.no_grad()
def save_graphs(path: Path, model: nn.Module, images: Tensor, about: dict) -> None:
    """Write what `explore --run` shows of these normalised images (B, 3, H, W): the images, logits and graphs.

    about: what else the file holds, mean and std of the normalisation among it."""
    logits, graphs = model.eval().forward(images, return_graphs=True)  # not the compiled __call__
    mean, std = (torch.tensor(about[name], device=images.device)[:, None, None] for name in ("mean", "std"))
    graphs = [graph if isinstance(graph, GroupGraph) else graph.union() for graph in graphs]
    kept = [{name: part.cpu() if torch.is_tensor(part) else part for name, part in vars(graph).items()
             if part is not None and name not in ("centroids", "attention")} for graph in graphs]
    save(path, about | {
        "config": asdict(model.config), "images": (255 * (images * std + mean)).round().clamp(0, 255).byte().cpu(),
        "logits": logits.float().cpu(), "graphs": kept,
        "taus": [float(module.tau) for module in model.modules() if hasattr(module, "tau")]})
