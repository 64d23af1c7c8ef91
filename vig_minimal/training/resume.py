"""How a run begins: with random weights, with those of --init-from, or where a checkpoint left it (--resume).

A checkpoint keeps what was given to its run and what that came to. To go on is to resolve once more: what was given
then and what is given now, from the checkpoint. Then `compare` goes through all fields: one that differs and may not
change is refused, the others are said. --eval-only begins in the same way, and may change what it likes.
"""

import contextlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ..atomic_files import CheckpointError
from ..models.registry import as_now, recognise
from ..models.released import misfit
from ..trained_files import located, trained
from . import checkpoint
from .config import STAYS, RunConfig, family_of, flag_fields
from .distributed import Processes
from .engine import Run
from .recipes import PAPERS, Recipe, flags, get_recipe, kept_recipe
from .resolve import DENSE, resolve, resolve_names

# fields of the recipe with which a run can go on; the batch only from an epoch's end
RECIPE_MAY_CHANGE = ("epochs", "batch_size", "accumulation", "lr", "schedule", "warmup_lr", "min_lr", "warmup_epochs",
                     "cooldown_epochs", "decay_epochs", "clip_grad")


@dataclass(frozen=True)
class Start:
    """The file that a run begins from."""

    path: Path
    state: dict              # what it holds
    name: str                # of its model; "" if that is not known
    config: dict             # fields of its model's config, as far as they are known, without num_classes
    recipe: Recipe           # it was trained with the crop, mean and std of this one
    recipe_name: str         # the recipe to take unless another one is given; "" for none
    goes_on: bool            # with that run, by --resume; or the start of another one, by --init-from
    said: str = ""           # how the model was found
    damaged: str = ""        # why this is previous.pt and not last.pt
    asked: Sequence[str] = ()  # fields of the model that are given now

    def of(self, config: RunConfig) -> "Start | None":
        """This start as choices of `config` follow from it: None for a model of another family, as GKGNet from Pyramid
        ViG, which takes the weights alone."""
        if self.goes_on:
            return self
        if not self.name or family_of(config.model or self.name) != family_of(self.name):
            return None
        if config.task in DENSE:  # the classifier becomes the backbone; a detector's κ follows the new grid
            body = {name: value for name, value in self.config.items()
                    if name != "clusters" or config.task == "segmentation"}
            return replace(self, config={"body": tuple(body.items())}, recipe_name="")
        return self


def begin(given: dict, processes: Processes, resources: contextlib.ExitStack
          ) -> tuple[RunConfig, Start | None, list[str]]:
    """Choose and lock the output folder, find what the run begins from, and resolve its config; the third is what
    changes in a run that goes on. Raises ValueError for what cannot work."""
    folder = Path(processes.from_first(output_folder, given))
    if not (given.get("eval_only") or given.get("dry_run")):
        processes.from_first(take_folder, folder, given, resources)
    return processes.together(settle, given, folder)


def settle(given: dict, folder: Path) -> tuple[RunConfig, Start | None, list[str]]:
    """The part of `begin` that every process does by itself."""
    start = find_start(given, folder)
    if start is None or not start.goes_on:
        return replace(resolve(given, start), output=folder), start, []
    config = replace(resolve(merged(start, given), start), output=folder)
    return config, start, compare(config, start)


def output_folder(given: dict) -> str:
    """Choose where this run writes, never over another run: without --output, the next free number is taken."""
    auto = given.get("resume") == "auto"
    if given.get("resume") in trained():  # it lies in the package, where nothing is written
        return str(given.get("output", Path("runs", given["resume"])))
    resumed = Path(given["resume"]).parent if "resume" in given and not auto else None
    if "output" in given or resumed:
        folder = Path(given.get("output", resumed))
        if holds_run(folder) and not auto and folder != resumed and not given.get("dry_run"):
            raise ValueError(f"{folder} holds a run already: go on with it by --resume auto, or choose another folder")
        return str(folder)
    config = resolve_names(given, from_weights(given) if "init_from" in given else None)
    number, folder = 1, Path("runs", name := f"{config.model}-{config.data}")
    while holds_run(folder):
        number, latest, folder = number + 1, folder, Path("runs", f"{name}-{number + 1}")
    return str(latest if auto and number > 1 else folder)


def holds_run(folder: Path) -> bool:
    return any((folder / file).exists() for file in ("last.pt", "previous.pt", "best.pt", "metrics.csv"))


def take_folder(folder: Path, given: dict, resources: contextlib.ExitStack) -> None:
    """Lock the output folder before anything in it is read, and remove what a run that was killed was writing."""
    try:
        resources.enter_context(checkpoint.lock(folder))
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); name another folder with --output"
                         ) from None
    if holds_run(folder) and "resume" not in given:
        raise ValueError(f"{folder}: another run wrote there while this one began; start it again")
    for left in folder.glob("*.????????.tmp"):
        left.unlink(missing_ok=True)


def find_start(given: dict, folder: Path) -> Start | None:
    """Return what the run begins from: the checkpoint of --resume, else the weights of --init-from; None for random
    weights."""
    path, damaged = given.get("resume"), ""
    state = None if path in (None, "auto") else checkpoint.load_run(path)
    if path == "auto":
        state, path, damaged = checkpoint.load_latest(folder)
    if state is None:
        return from_weights(given) if "init_from" in given else None
    config = {name: value for name, value in state["config"].items() if name != "num_classes"}
    return Start(Path(path), state, state["name"], config, kept_recipe(state["recipe"]),
                 state.get("flags", {}).get("recipe") or "", goes_on=True, damaged=damaged,
                 asked=tuple(given.get("fields", ())))


def from_weights(given: dict) -> Start:
    """Return what --init-from holds. Raises ValueError for a file that is not there, or of a model that nobody knows.
    """
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
    return Start(Path(path), source, name, source.get("config", {}), recipe, "finetune", goes_on=False,
                 said=source.get("said", "weights"))


def merged(start: Start, now: dict) -> dict:
    """Return what was given to the run of a checkpoint, and what is given now instead or in addition. Raises
    CheckpointError for a flag of another version."""
    state = start.state
    kept, then = state.get("flags", {}), state.get("given")
    if unknown := [name for name in then or () if name not in flag_fields() | flags()]:
        raise CheckpointError(f"{start.path}: of another version, it was given {unknown[0]!r}, which is no flag now")
    if then is None:  # of an earlier version, which kept what it came to alone
        fields = {name: value for name, value in state["config"].items() if name != "num_classes"}
        then = {name: value for name, value in kept.items() if name in flag_fields() and value is not None} | {
            "model": state["name"], "multi_label": state.get("multi_label", False), "fields": fields,
            "recipe_name": kept.get("recipe") or "vig", **{name: state["recipe"][name] for name in flags()
                                                            if name in state["recipe"]}}
    other_data = now.get("data", kept.get("data")) != kept.get("data")
    left_out = {"compile"} if now.get("eval_only") else set()  # one pass is over before a compiler is done
    if other_data or "data_dir" in now and str(kept.get("data")).startswith("shapes"):
        left_out |= {"data", "data_dir"}
    both = {name: value for name, value in then.items() if name not in left_out} | now
    fields = (then.get("fields") or {}) | now.get("fields", {})
    return both | ({"fields": fields} if fields else {})


def compare(config: RunConfig, start: Start) -> list[str]:
    """Return what differs from the run of a checkpoint in flags and recipe. Raises ValueError, which names it, for what
    cannot change; in an evaluation all can."""
    changes, then, now = [], start.state.get("flags", {}), config.kept()
    for name, field in flag_fields().items():
        was, value = (None if kept.get(name) is False else kept.get(name) for kept in (then, now))
        if name not in now or name not in then or was == value:
            continue
        flag, was = "--" + name.replace("_", "-"), "none" if was is None else was
        if field.metadata["kept"] == STAYS and not config.eval_only:
            raise ValueError(f"{flag} {value}: the run of {start.path} has {was}, and cannot change it; leave it out")
        changes.append(f"{flag} {was} → {value}")
    for name, was in asdict(start.recipe).items() if not config.eval_only else ():
        if (value := getattr(config.recipe, name)) == was:
            continue
        if name not in RECIPE_MAY_CHANGE:
            raise ValueError(f"{start.path}: trained with {name}={was}, and this run has {name}={value}; leave it out")
        was, value = (f"{part:.6g}" if isinstance(part, float) else part for part in (was, value))
        changes.append(f"{name} {was} → {value}")
    return changes


def check_same(state: dict, path: str | Path, name: str, config: dict, classes: list[str],
               free: Sequence[str] = ()) -> list[str]:
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


def restore(run: Run, start: Start) -> list[str]:
    """Take over what a checkpoint holds: to go on, weights, optimiser and place; to evaluate, weights. Returns what
    differs. Raises CheckpointError for what does not fit."""
    state, path, evaluates = start.state, start.path, run.config.eval_only
    free = start.asked if evaluates else ()
    config = as_now(run.config.model, asdict(run.model.config))
    changes = check_same(state, path, run.config.model, config, run.data.classes, free)
    try:
        if evaluates:
            take_weights(run.evaluated, state["model"], free)
            return changes
        run.evaluated.load_state_dict(state["model"])
        if in_their_folder(state.get("anchors", [])) != in_their_folder(run.task.anchor_names):
            raise ValueError("its anchors are other images; go on with the same data and seed")
        if "training" not in state:
            raise ValueError("holds the weights to use only; go on from last.pt, or give --eval-only")
        if "given" not in state:
            raise ValueError("of an earlier version, which kept neither what was given nor the rows of metrics.csv:"
                             " evaluate it, or start another run from its weights by --init-from")
        checkpoint.check_training(state, path, run.task.key, run.optimiser)
        run.restore(state["training"])
        run.best = state["best"]
        changes += place(run, state)
        if start.damaged:
            run.remarks["warning"] = f"{start.damaged}; going on from {path}, the one before it"
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds for states that do not fit
        raise CheckpointError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    return changes


def place(run: Run, state: dict) -> list[str]:
    """Set where the run goes on: epochs and steps done. Returns a warning if its images are others than before. Raises
    ValueError in the middle of an epoch that would have other steps or other images."""
    steps, in_epoch = len(run.batches), state["step"] - state["epoch"] * state["steps"]
    if not 0 <= in_epoch <= state["steps"]:
        raise ValueError(f"damaged, step {state['step']} is not in epoch {state['epoch'] + 1}")
    if in_epoch and steps != state["steps"]:
        raise ValueError(f"from the middle of an epoch of {state['steps']} steps, and this run's have {steps}; go on"
                         " with the same data and batch size")
    run.epoch, run.step, run.first_step = state["epoch"], state["epoch"] * steps + in_epoch, in_epoch
    if (was := state.get("data", run.seen)) == run.seen:
        return []
    counts = ", ".join(f"{split} {was.get(split, '?')[0]} → {now[0]}" for split, now in run.seen.items())
    if in_epoch:
        raise ValueError(f"from the middle of an epoch, and its images are not those of now ({counts}); go on with the"
                         " same data, or from an epoch's end")
    return [f"warning: the images are not those of the checkpoint's run ({counts})"]


def take_weights(model: nn.Module, weights: dict[str, Tensor], changed: Sequence[str]) -> None:
    """Load weights for an evaluation, maybe with another graph: weights of the checkpoint's constructors, which the
    model's do not have, are left out, and a random graph is then the one that this model drew. Raises ValueError for
    weights that do not fit. changed: fields of --set."""
    wanted = model.state_dict()
    drawn = {key: value for key, value in wanted.items() if key.endswith("_extra_state")}
    weights = drawn | {key: value for key, value in weights.items() if key in wanted or ".constructor." not in key}
    if problems := misfit(wanted, weights):
        advice = f"; choose a value of {' and '.join(changed)} that changes no weight" if changed else ""
        raise ValueError(f"its weights do not fit this model; {problems}{advice}")
    model.load_state_dict(weights)


def in_their_folder(names: Sequence[str]) -> list[str]:
    """Return the names of images without their common folder, which may be another one, or of Windows, on resuming."""
    names = [(os.path.abspath(name) if os.sep in name else name).replace("\\", "/") for name in names]
    root = posixpath.commonpath([min(names), max(names)]) if names else ""
    return [name.removeprefix(root) for name in names]
