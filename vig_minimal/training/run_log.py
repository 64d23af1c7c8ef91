"""What a run says and writes: its first lines, a line and a row of metrics.csv for each epoch, config.json."""

import contextlib
import copy
import csv
import json
import math
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import torch

from ..data.data_recipe import DataRecipe
from ..data.datasets import Data, label_counts
from ..data.loading import FileNote, StoredImages
from ..files import CheckpointError, replacing
from ..models.cost import count_macs, count_parameters, saved_bytes
from .checkpoint import load_latest
from .engine import Run
from .recipes import Recipe

AMP_NAMES = {None: "float32", "bf16": "bfloat16", "fp16": "float16 with a scaled loss"}
FEW = 10  # names of files that are printed; all are in the output folder


def describe(run: Run, model: str, recipe_name: str, data: Data, splits: dict, steps: int) -> dict[str, str]:
    """The first lines: heading to text, everything that a person would want to know before waiting for it.

    model: its name and how it was chosen. splits: training and validation pictures. steps: of an epoch.
    """
    recipe, processes, config = run.recipe, run.processes, run.model.config
    spare = copy.deepcopy(run.evaluated)  # measuring moves running statistics
    run.task.begin_evaluation(spare)
    run.task.begin_epoch(spare, 0)
    share = recipe.batch_size // (processes.world * recipe.accumulation)
    images = torch.rand(2, 3, *config.img_size, device=processes.device)
    parameters, macs = count_parameters(spare), count_macs(spare, images)
    with run.autocast():
        kept = saved_bytes(spare.train(), images)
        if run.task.anchor_names:  # they go through the backbone once a step, however many images there are
            more = saved_bytes(spare, images.repeat(2, 1, 1, 1))
            kept = max(0.0, 2 * more - kept)
    copies = 4 if run.average is None else 5  # weights, gradients, AdamW's two moments, moving average
    memory = 4 * copies * parameters + kept * share
    where = {name: "in memory" if isinstance(part, StoredImages) else "read as needed" for name, part in splits.items()}
    threads = f", {torch.get_num_threads()} threads" if processes.device.type == "cpu" else ""
    elsewhere = ("epochs", "batch_size", "accumulation", "lr", "size")
    settings = {name: value for name, value in asdict(recipe).items() if name not in elsewhere}
    settings = {name: settings[name] for name in sorted(settings, key=DataRecipe.__dataclass_fields__.__contains__)}
    grid = f" in patches of {config.patch}: {config.grid[0]}×{config.grid[1]} nodes" if hasattr(config, "patch") else ""
    return {
        "model": f"{model}: {parameters:,} parameters, {macs / 1e9:.3f} GMACs an image",
        "grid": f"{config.img_size[0]}×{config.img_size[1]} pixels{grid}",
        "data": f"{data.name}: {len(data.classes)} classes, "
                + ", ".join(f"{len(splits[name]):,} {name} images ({where[name]})" for name in splits),
        "recipe": f"{recipe_name}: {recipe.epochs} epochs of {steps} steps, "
                  + ", ".join(f"{name} {_short(value)}" for name, value in settings.items()),
        "batch": f"{recipe.batch_size} images a step (global) = {share} a process × {processes.world} processes ×"
                 f" {recipe.accumulation} {'part' if recipe.accumulation == 1 else 'parts'} (accumulation),"
                 f" learning rate {recipe.lr:g}",
        "memory": f"about {memory / 2**20:,.0f} MiB a process: {4 * copies * parameters / 2**20:,.0f} for weights,"
                  f" gradients and averages, {kept / 2**20:.1f} for each image of the backward pass",
        "device": f"{processes.device}{threads}, {AMP_NAMES[run.amp]}, torch {torch.__version__}",
    }


def paragraph(heading: str, text: str) -> str:
    """A heading and its text beside it, in lines that fit a terminal."""
    return textwrap.fill(f"{heading:8}{text}", 120, subsequent_indent=" " * 8, break_long_words=False)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_config(path: Path, run: Run, model_name: str, recipe_name: str, data: Data) -> None:
    """config.json: what would be needed to do the same again."""
    config = {"command": sys.argv, "model": model_name, "config": asdict(run.model.config), "recipe_name": recipe_name,
              "recipe": asdict(run.recipe),
              "data": {"name": data.name, "classes": data.classes, "train": len(data.train), "val": len(data.val)},
              "seed": run.seed, "amp": run.amp, "processes": run.processes.world, "torch": torch.__version__}
    with replacing(path, "w") as file:
        json.dump(config, file, indent=2)


def metrics_row(epoch: int, run: Run, trained: dict[str, float], scores: dict[str, float],
                neighbours: list[float]) -> dict:
    """A row of metrics.csv. Before training (epoch 0) what only training gives is empty."""
    # what a loss is the sum of, if it is one
    names = run.task.loss_names if len(run.task.loss_names) > 1 else ()
    parts = {f"train_{name}": trained.get(f"loss_{name}", "") for name in names}
    trained = {name: "" if math.isnan(value) else value for name, value in trained.items()}
    return {"epoch": epoch, "step": run.step, "lr": trained.get("lr", ""), "train_loss": trained.get("loss", ""),
            **parts, "skipped": trained.get("skipped", ""), **{f"val_{name}": value for name, value in scores.items()},
            "images_per_s": trained.get("images_per_s", ""),
            **{f"neighbours_{layer}": value for layer, value in enumerate(neighbours)}}


def line(row: dict, epochs: int, scores: dict[str, str]) -> str:
    """The line of an epoch. scores: the columns of the task's metric that it says, and how."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    texts = {"train_loss": "loss {:.3f}", "val_loss": "val loss {:.3f}", **scores, "images_per_s": "{:.0f} images/s",
             "lr": "lr {:.1e}"}
    for name, text in texts.items():
        if row.get(name, "") != "":
            parts.append(text.format(row[name]))
    if row["skipped"]:
        parts.append(f"{row['skipped']} steps skipped, whose loss was not finite")
    neighbours = [f"{value:.1f}" for name, value in row.items() if name.startswith("neighbours_")]
    return "  ".join([*parts, "neighbours " + " ".join(neighbours)])


def first_loss(loss: float, chance: float, guess: str) -> str:
    """The loss of the first step beside that of a guess: far from it, something is wrong before it begins."""
    wrong = "" if chance / 2 < loss < 2 * chance else "; far from it: check labels, learning rate and normalisation"
    return f"first step: loss {loss:.3f}, and {guess} = {chance:.3f}{wrong}"


def per_class(aps: dict[str, float | None]) -> list[str]:
    """Lines about the average precision of each class: all of them if they are few, else the lowest and highest."""
    known = sorted((ap, name) for name, ap in aps.items() if ap is not None)
    said = [f"{name} {ap:.1f}" for ap, name in known]
    if len(said) > 2 * FEW:
        said = [*said[:FEW], "…", *said[-FEW:]]
    lines = [f"AP of classes in percent: {', '.join(said)}"]
    if missing := [name for name, ap in aps.items() if ap is None]:
        lines.append(f"{len(missing)} classes that no image shows have no AP and are in no mean: {', '.join(missing)}")
    return lines


def write_per_class(path: Path, aps: dict[str, float | None]) -> None:
    """A CSV file of the average precision of each class in percent, empty where no image shows it."""
    with replacing(path, "w") as file:
        csv.writer(file).writerows([("class", "AP"), *((name, "" if ap is None else f"{ap:.4f}")
                                                       for name, ap in aps.items())])


def warnings(data: Data) -> list[str]:
    """What looks wrong about the data: classes that one of the splits has no image of."""
    lines = []
    for split, source in (("training", data.train), ("validation", data.val)):
        counts = label_counts(source, len(data.classes))
        if counts and 0 in counts:
            missing = [name for name, count in zip(data.classes, counts) if count == 0]
            lines.append(f"warning: no {split} image of {len(missing)} classes: {', '.join(missing[:FEW])}"
                         + (" and more" if len(missing) > FEW else ""))
    return lines


def suspicious(scores: dict[str, float], epoch: int) -> str | None:
    """A warning if an accuracy after training is what it never is."""
    if epoch > 0 and scores.get("top1") in (0.0, 100.0):
        return (f"warning: top-1 is exactly {scores['top1']:.0f} %: check that the validation images are sorted into"
                " classes as the training images are")
    return None


def file_notes(notes: list[FileNote], path: Path) -> list[str]:
    """Lines about files that were replaced, and about those that were not RGB; all of them are added to a file."""
    with open(path, "a") as file:
        for note in notes:
            print(note.name, "replaced" if note.broken else "converted", note.text, sep="\t", file=file)
    lines = []
    for broken, what in ((True, "cannot be read and are replaced by others"), (False, "are converted to RGB")):
        some = [f"{note.name} ({note.text})" for note in notes if note.broken == broken]
        if some:
            more = f", and {len(some) - FEW} more in {path}" if len(some) > FEW else ""
            lines.append(f"{len(some)} training images {what}: {', '.join(some[:FEW])}{more}")
    return lines


def last_good(folder: Path) -> str:
    """Which checkpoint there is to go on from."""
    try:
        state, path, _ = load_latest(folder)
    except CheckpointError as error:
        return str(error)
    if state is None:
        return "no checkpoint was written yet"
    return (f"the last good checkpoint is {path}, of epoch {state['epoch']} and step {state['step']} in all:"
            " go on from it with --resume auto")


def event_writer(folder: Path, wanted: bool):
    """A writer of TensorBoard's event files; None if not wanted or the package is not there."""
    if wanted:
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter
            return SummaryWriter(str(folder))
    return None


def write_events(writer, row: dict) -> None:
    """A row of metrics.csv as events."""
    if writer is not None:
        for name, value in row.items():
            if value != "" and name not in ("epoch", "step"):
                writer.add_scalar(name, value, row["epoch"])
        writer.flush()


def estimate(step_seconds: float, steps: int, evaluation_seconds: float, recipe: Recipe, device: torch.device) -> str:
    """What a whole run would take: `steps` an epoch, and an evaluation before the first and after each epoch."""
    training, evaluation = recipe.epochs * steps * step_seconds, (recipe.epochs + 1) * evaluation_seconds
    if device.type == "cuda":
        peak, what = torch.cuda.max_memory_allocated(device), "GPU memory"
    else:
        peak, what = _peak_memory(), "memory"
    return (f"dry run: a step takes {step_seconds:.3g} s ({recipe.batch_size / step_seconds:.0f} images/s), an"
            f" evaluation about {duration(evaluation_seconds)}; {recipe.epochs} epochs of {steps} steps would take"
            f" about {duration(training + evaluation)}, with {peak / 2**20:,.0f} MiB of {what} a process")


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def duration(seconds: float) -> str:
    """As '2 h 5 min', '3 min 20 s' or '4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if seconds >= 10 else f"{seconds:.2g} s"


def append_row(path: Path, row: dict) -> None:
    """Add a row to metrics.csv, below a header if it is the first."""
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})


def keep_rows(path: Path, last_epoch: int) -> None:
    """Drop the rows after that epoch, which a run that goes on from there will write again."""
    if not path.exists():
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    # a row that was cut short by a crash has no epoch that counts
    rows = [row for row in rows if len(row) == len(header) and int(row[0]) <= last_epoch]
    with replacing(path, "w") as file:
        csv.writer(file).writerows([header, *rows] if header else [])
