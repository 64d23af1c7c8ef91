"""Checkpoints of a run: their content, the last good one, and the lock of their folder. resume.py resumes from them.

`Run.save` writes them. A checkpoint is a dict of tensors and plain data and nothing else: `weights_only=True` loads it,
and runs no code. Writing is atomic (atomic_files.py), and the last.pt before this one stays as previous.pt.

    model      the weights to use: the exponential moving average where the recipe has one, else the trained weights
    name, config, classes, mean, std, multi_label, anchors   needed to use them
    recipe, epoch, step, steps, best   how they were trained: epochs and steps done, steps of an epoch
    given, flags, data   what was given to the run, what that came to, and a fingerprint of its images
    training   in last.pt and previous.pt, to resume: weights, moving average, optimiser, loss scaler, sums of the open
               epoch, and history, the rows of metrics.csv

No random state is kept: every random draw is a function of (seed, epoch, step or image), see data/seeds.py.
"""

import contextlib
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

try:
    import fcntl
except ImportError:  # not on Windows: there, nothing is locked
    fcntl = None

from ..atomic_files import CheckpointError, UnreadableError, load, save
from ..graphs.graph import GroupGraph
from ..models.registry import as_now

__all__ = ["CheckpointError", "check_types", "last_good", "load", "load_latest", "load_run", "lock", "save",
           "save_graphs"]

WEIGHTS = {"name": str, "config": dict, "classes": list, "recipe": dict, "model": dict}  # of any, and their types


def load_run(path: str | Path) -> dict:
    """Load a checkpoint that train.py wrote. Raises CheckpointError for any other file."""
    state = {"flags": {}, "given": None, "data": {}, "anchors": []} | load(path)
    if missing := [key for key in WEIGHTS if key not in state]:
        raise CheckpointError(f"{path}: not a checkpoint of train.py, it has no {missing[0]!r} (load released"
                              " weights with vig_minimal.load_released)")
    check_types(state, path, WEIGHTS | {"flags": dict, "given": (dict, type(None)), "data": dict})
    return state | {"config": as_now(state["name"], state["config"])}


def check_types(values: dict, path: str | Path, types: dict) -> None:
    """Raise CheckpointError unless this part of the checkpoint `path` has these keys, with values of these types."""
    for name, kind in types.items():
        if not isinstance(values.get(name), kind):
            raise CheckpointError(f"{path}: damaged or of another program, it has no right {name!r}")


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


def last_good(folder: Path, before: float = math.inf) -> str:
    """Name the checkpoint to resume from, of before that step, in a sentence."""
    try:
        state, path, _ = load_latest(folder, before)
    except CheckpointError as error:
        return str(error)
    if state is None:
        return "no checkpoint was written before"
    return (f"the last good checkpoint is {path}, of epoch {state['epoch']} and step {state['step']} in all:"
            f" resume it with --resume {'auto' if path.name == 'last.pt' else path}")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make the output folder and lock it inside this context, or until this process ends; remove it if it stays empty.
    Raises ValueError if another live process has the lock, and OSError if the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            if fcntl is not None:  # a record lock, which child processes do not inherit
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ValueError(f"{folder}: another run writes there now ({file.read().strip()}); wait until it ends,"
                             " stop it, or choose another folder with --output") from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # another run may have begun beside it
                if os.listdir(folder) == [".lock"]:
                    (folder / ".lock").unlink()
                    os.removedirs(folder)


@torch.no_grad()
def save_graphs(path: Path, model: nn.Module, images: Tensor, about: dict) -> None:
    """Write what `explore --run` shows of these normalised images (B, 3, H, W): the images, logits and graphs.

    about: other contents of the file, such as mean and std of the normalisation."""
    logits, graphs = model.eval().forward(images, return_graphs=True)  # not the compiled __call__
    mean, std = (torch.tensor(about[name], device=images.device)[:, None, None] for name in ("mean", "std"))
    graphs = [graph if isinstance(graph, GroupGraph) else graph.union() for graph in graphs]
    kept = [{name: part.cpu() if torch.is_tensor(part) else part for name, part in vars(graph).items()
             if part is not None and name not in ("centroids", "attention")} for graph in graphs]
    save(path, about | {
        "config": asdict(model.config), "images": (255 * (images * std + mean)).round().clamp(0, 255).byte().cpu(),
        "logits": logits.float().cpu(), "graphs": kept,
        "taus": [float(module.tau) for module in model.modules() if hasattr(module, "tau")]})
