"""How a run starts: from random weights, from those of --init-from, or where a checkpoint left it (--resume).

A checkpoint keeps what was given to its run and what that came to. Resuming resolves again, from what was given then
and what is given now. `compare` then compares all fields: one that differs and may not change is refused, the others
are printed. --eval-only starts in the same way, and may change what leaves weights, classes and split as they are.
"""

import contextlib
import ntpath
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

import torch
from torch import nn

from ..atomic_files import CheckpointError
from ..models.checks import plural
from ..models.registry import as_now, recognise
from ..models.released import misfit
from ..trained_files import located, trained
from . import checkpoint
from .config import CHANGES, OPTIONS, RunConfig, family_of
from .distributed import Processes
from .engine import Run
from .recipes import PAPERS, RECIPE_FLAGS, get_recipe, kept_recipe
from .resolve import Start, resolve, resolve_names

# fields that may differ in a resumed run; those of the batch only from an epoch's end
MAY_CHANGE = {name for name, option in OPTIONS.items() if option.metadata["kept"] == CHANGES} | {
    "recipe", "epochs", "batch_size", "accumulation", "lr", "schedule", "warmup_lr", "min_lr", "warmup_epochs",
    "cooldown_epochs", "decay_epochs", "clip_grad"}


def begin(given: dict, processes: Processes, resources: contextlib.ExitStack) -> tuple[RunConfig, Start | None]:
    """Choose and lock the output folder, find what the run starts from, and resolve its config. Raises ValueError for
    what cannot work."""
    return processes.together(settle, given, processes.from_first(claim_folder, given, resources))


def settle(given: dict, folder: Path) -> tuple[RunConfig, Start | None]:
    """The part of `begin` that every process does by itself."""
    start = find_start(given, folder)
    if start is None or not start.resumes:
        return replace(resolve(given, start), output=folder), start
    with content_of(start.path):
        given = merged(start, given)
    try:
        return replace(resolve(given, start), output=folder), start
    except (KeyError, TypeError, AttributeError) as error:  # config and recipe may hold values of any type
        raise CheckpointError(f"{start.path}: damaged, or of another version ({error!r:.300})") from None


@contextlib.contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Raise CheckpointError, which names the file, for what it should not hold: torch raises errors of many kinds."""
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = error if isinstance(error, ValueError) else f"damaged, or of another version ({error!r:.300})"
        raise CheckpointError(f"{path}: {text}") from None


def output_folder(given: dict) -> Path:
    """Choose where this run writes: without --output, into the next numbered folder that holds no run, or into the last
    that does with --resume auto."""
    resumed = given.get("resume")
    if "output" in given:
        return Path(given["output"])
    if resumed in trained():  # it lies in the package, where nothing is written
        return Path("runs", resumed)
    if resumed not in (None, "auto"):
        return Path(resumed).parent
    config = resolve_names(given, from_weights(given) if "init_from" in given else None)
    folders = [Path("runs", f"{config.model}-{config.data}")]
    while holds_run(folders[-1]):
        folders.append(Path(f"{folders[0]}-{len(folders) + 1}"))
    return folders[-2:][0] if resumed == "auto" else folders[-1]


def holds_run(folder: Path) -> bool:
    return any((folder / file).exists() for file in ("last.pt", "previous.pt", "best.pt", "metrics.csv"))


def claim_folder(given: dict, resources: contextlib.ExitStack) -> Path:
    """Return the output folder. To train, lock it before anything in it is read, and remove the temporary files of a
    killed run. Raises ValueError if it holds another run."""
    folder, resumed = output_folder(given), given.get("resume")
    if given.get("dry_run"):
        return folder
    if not given.get("eval_only"):
        try:
            resources.enter_context(checkpoint.lock(folder))
        except OSError as error:
            raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from None
        for left in folder.glob("*.????????.tmp"):
            left.unlink(missing_ok=True)
    if holds_run(folder) and resumed != "auto" and not (resumed and Path(resumed).parent == folder):
        raise ValueError(f"{folder} holds a run already: resume it with --resume auto, or choose another folder")
    return folder


def find_start(given: dict, folder: Path) -> Start | None:
    """Return the checkpoint of --resume, else the weights of --init-from; None for random weights."""
    state, path, damaged = None, given.get("resume"), ""
    if path == "auto":
        state, path, damaged = checkpoint.load_latest(folder)
    elif path:
        state = checkpoint.load_run(path)
    if state is None:
        return from_weights(given) if "init_from" in given else None
    config = {name: value for name, value in state["config"].items() if name != "num_classes"}
    return Start(Path(path), state, state["name"], config, kept_recipe(state["recipe"]),
                 state["flags"].get("recipe") or "", resumes=True, damaged=damaged,
                 asked=tuple(given.get("fields", ())))


def from_weights(given: dict) -> Start:
    """Return the start of --init-from. Raises ValueError for a missing file, and for an unknown model."""
    path = given["init_from"]
    if not located(path).exists():
        raise ValueError(f"--init-from {path}: no such file, nor a trained model ({', '.join(trained())})")
    source = recognise(path)
    if not source and "model" not in given:
        raise ValueError(f"{path}: no checkpoint of train.py, and no released weights of ViG, Pyramid ViG, SViG or"
                         " GKGNet whose size is known by their shapes; name the model with --model")
    name, kept = source.get("name", ""), source.get("recipe")
    recipe = kept_recipe(kept) if kept else get_recipe(PAPERS.get(family_of(name), "vig"))
    recipe = replace(recipe, eval_crop=source.get("eval_crop") or recipe.eval_crop)
    return Start(Path(path), source, name, source.get("config", {}), recipe, "finetune", resumes=False,
                 found=source.get("said", "weights"))


def merged(start: Start, now: dict) -> dict:
    """Return what was given to the run of a checkpoint, and what is given now instead or in addition. Raises
    CheckpointError for a flag of another version."""
    data, then = start.state["flags"].get("data"), start.state["given"]
    if unknown := [name for name in then or () if name not in OPTIONS | RECIPE_FLAGS]:
        raise CheckpointError(f"{start.path}: of another version, it was given {unknown[0]!r}, which is no flag now")
    if then is None:  # weights of the package keep no more
        then = {"model": start.name, "fields": start.config, "seed": start.state["flags"].get("seed", 0),
                "multi_label": start.state.get("multi_label", False)}
    left_out = {"compile"} if now.get("eval_only") else set()  # one pass is over before a compiler is done
    if now.get("data", data) != data or "data_dir" in now and str(data).startswith("shapes"):
        left_out |= {"data", "data_dir"}
    both = {name: value for name, value in then.items() if name not in left_out} | now
    fields = (then.get("fields") or {}) | now.get("fields", {})
    return both | ({"fields": fields} if fields else {})


def compare(run: Run) -> list[str]:
    """Return what differs from the run of the checkpoint: model, flags, recipe. Raises CheckpointError, which names the
    field, for what cannot change. An evaluation may change all but classes, seed and what nobody set of the model."""
    config, state, path, changes = run.config, run.start.state, run.start.path, []
    model, flags = {"model": config.model} | as_now(config.model, asdict(run.model.config)), config.flags()
    parts = [({"model": state["name"]} | state["config"], model, run.start.asked if config.eval_only else ()),
             (state["flags"], flags, set(flags) - {"seed"} if config.eval_only else MAY_CHANGE)]  # it splits a folder
    if not config.eval_only:
        parts.append((asdict(run.start.recipe), asdict(config.recipe), MAY_CHANGE))
    for then, now, free in parts:
        for name, value in now.items():
            if (was := then.get(name, value)) == value:
                continue
            if name not in free:
                raise CheckpointError(f"{path}: trained with {name}={was}, and this run has {name}={value}; give the"
                                      " flags it was trained with, or choose another checkpoint")
            was, value = (f"{part:.6g}" if isinstance(part, float) else part for part in (was, value))
            changes.append(f"{name} {was} → {value}")
    if state["classes"] != run.data.classes:
        theirs, ours = next(pair for pair in zip_longest(state["classes"], run.data.classes) if pair[0] != pair[1])
        raise CheckpointError(f"{path}: trained for other classes: where it has {theirs!r}, the data has {ours!r}")
    return changes


def restore(run: Run) -> None:
    """Load a checkpoint: to resume, weights, optimiser and position; to evaluate, weights. Notes what differs. Raises
    CheckpointError for what does not fit."""
    start = run.start
    with content_of(start.path):
        if not run.config.eval_only and not (start.state["given"] is not None and "training" in start.state):
            raise ValueError("has the weights to use only, or is of an earlier version; resume from last.pt, give"
                             " --eval-only, or start another run from it by --init-from")
        changes = compare(run)
        if run.config.eval_only:
            load_weights(run.evaluated, start)
            run.notes["weights"] = str(start.path)
        else:
            changes += load_training(run, start)
            steps = f" and {plural(run.first_step, 'step')}" if run.first_step else ""
            run.notes["resumed"] = f"after epoch {run.epoch}{steps} of {start.path}"
    if start.damaged:
        run.notes["warning"] = f"{start.damaged}; resumed from {start.path}, the one before it"
        if run.config.writes and run.processes.is_first:  # else it would replace the good previous.pt
            (run.config.output / "last.pt").replace(run.config.output / "damaged.pt")
    if changes:
        run.notes["changed"] = "; ".join(changes)


def load_training(run: Run, start: Start) -> list[str]:
    """Load the state of a run and its position. Returns a warning if the images are others than before. Raises
    ValueError for what does not fit, such as the middle of an epoch that would have other steps or other images."""
    state = start.state
    if basenames(state["anchors"]) != basenames(run.task.anchor_names):
        raise ValueError("its anchors are other images; resume with the same data and seed")
    run.evaluated.load_state_dict(state["model"])
    run.restore(state["training"])
    steps, in_epoch = len(run.batches), state["step"] - state["epoch"] * state["steps"]
    if not 0 <= in_epoch <= state["steps"]:
        raise ValueError(f"damaged, step {state['step']} is not in epoch {state['epoch'] + 1}")
    if in_epoch and steps != state["steps"]:
        raise ValueError(f"from the middle of an epoch of {state['steps']} steps, and this run's have {steps}; resume"
                         " with the same data and batch size")
    run.epoch, run.step, run.first_step = state["epoch"], state["epoch"] * steps + in_epoch, in_epoch
    run.best = {name: type(value)(state["best"][name]) for name, value in run.best.items()}
    if (was := state["data"] or run.seen) == run.seen:
        return []
    counts = ", ".join(f"{split} {was[split][0]} → {now[0]}" for split, now in run.seen.items())
    if in_epoch:
        raise ValueError(f"from the middle of an epoch, and its images are not those of now ({counts}); resume with the"
                         " same data, or from an epoch's end")
    return [f"warning: the images are not those of the checkpoint's run ({counts})"]


def basenames(names: Iterable[str]) -> list[str]:
    """Return names of images without their folders, which may be others, or of Windows, when a run is resumed."""
    return [ntpath.basename(name) for name in names]


def load_weights(model: nn.Module, start: Start) -> None:
    """Load weights for an evaluation, maybe with another graph: weights of the checkpoint's constructors, which the
    model's do not have, are left out, and a random graph is then the one that this model drew. Raises ValueError for
    weights that do not fit."""
    wanted = model.state_dict()
    drawn = {key: value for key, value in wanted.items() if key.endswith("_extra_state")}
    weights = drawn | {key: value for key, value in start.state["model"].items()
                       if key in wanted or ".constructor." not in key}
    if problems := misfit(wanted, weights):
        advice = f"; choose a value of {' and '.join(start.asked)} that changes no weight" if start.asked else ""
        raise ValueError(f"its weights do not fit this model; {problems}{advice}")
    model.load_state_dict(weights)
