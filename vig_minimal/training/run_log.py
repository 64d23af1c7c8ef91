"""What a run prints and writes: first lines, a line and a row of metrics.csv for each epoch, config.json, tables."""

import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.datasets import Data, label_counts
from ..data.loading import FileNote, StoredImages
from ..atomic_files import replacing
from ..models.checks import plural
from ..models.cost import count_macs, count_parameters, peak_memory, saved_bytes_per_image
from ..streams import Progress, duration, unheard
from .checkpoint import save_graphs
from .endings import fill
from .config import family_of
from .engine import Run, mean_neighbours
from .recipes import used

KEPT = 4  # images whose graphs --every keeps
FEW = 10  # names that are printed; the rest are in the output folder
AMP_NAMES = {None: "float32", "bf16": "bfloat16", "fp16": "float16 with a scaled loss"}


class RunLog:
    """What a run prints, and its tables in the output folder. The first process alone prints and writes."""

    def __init__(self, run: Run):
        self.run, self.folder, self.is_first = run, run.config.output, run.processes.is_first
        self.told: set[str] = set()  # image files that were named already
        self.rows: list[dict] = []    # of metrics.csv
        self.events, self.probe, self.start = None, None, time.perf_counter()

    def say(self, *lines: str, indent: str = "  ") -> None:
        """Print lines above any progress bar, wrapped with an indent."""
        if not self.is_first:
            return
        try:
            for line in lines:
                # names of files need not be UTF-8
                tqdm.write(fill(line, indent).encode(errors="backslashreplace").decode())
            sys.stdout.flush()
        except BrokenPipeError:  # as of `train.py | head`: the run continues
            unheard()

    def progress(self, text: str, steps: int, images: int, step: int | None = None) -> Progress:
        """Return the progress of so many steps and images. step: of training, those done before; see `Progress`."""
        run = self.run
        return Progress(text, steps, images, self.say, step, run.recipe.epochs, run.config.log_every, self.is_first)

    def begin(self, heading: dict[str, str]) -> None:
        """Print the first lines, heading to text, and warnings about the data."""
        for name, text in heading.items():
            self.say(f"{name:8}{text}", indent=" " * 8)
        self.say(*warnings(self.run.data))

    def open(self) -> None:
        """Write config.json, and the rows of metrics.csv so far."""
        if not self.is_first:
            return
        run, config = self.run, self.run.config
        self.probe = run.task.probe(next(iter(run.val_batches))[0])  # the images whose graphs are counted
        if config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
                self.events = SummaryWriter(str(self.folder))
            except ImportError:
                self.say("--tensorboard: no event files are written, since the package tensorboard is not installed")
        data = {"name": run.data.name, "classes": run.data.classes, "train": len(run.data.train),
                "val": len(run.data.val), "remarks": list(run.data.remarks)}
        about = {"command": sys.argv, "model": config.model, "config": asdict(run.model.config),
                 "recipe_name": config.recipe_name, "recipe": asdict(run.recipe), "data": data, "seed": config.seed,
                 "amp": config.amp, "processes": run.processes.world, "torch": torch.__version__}
        with replacing(self.folder / "config.json", "w") as file:
            json.dump(about, file, indent=2)
        self.rows = list(run.history)
        if self.rows:
            write_table(self.folder / "metrics.csv", self.rows)

    def row(self, trained: dict[str, float], scores: dict[str, float]) -> dict:
        """Add the epoch's row to the run's history, write metrics.csv, and return the row. The history keeps no times:
        the checkpoint of a resumed run is that of an uninterrupted one."""
        run, config = self.run, self.run.config
        train = {name if name in ("lr", "images_per_s") else f"train_{name.removeprefix('loss_')}": value
                 for name, value in trained.items()}
        row = {"epoch": run.epoch, "step": run.step} | train
        row |= {f"val_{name}": value for name, value in scores.items()}
        row |= {f"neighbours_{i}": value for i, value in enumerate(mean_neighbours(run.evaluated, self.probe))}
        run.history.append({name: value for name, value in row.items() if name != "images_per_s"})
        self.rows.append(row)
        write_table(self.folder / "metrics.csv", self.rows)
        if config.every and run.epoch % config.every == 0:
            about = {"name": config.model, "classes": run.data.classes, "multi_label": run.data.multi_label,
                     "epoch": run.epoch, "mean": run.recipe.mean, "std": run.recipe.std}
            save_graphs(self.folder / f"graphs-{run.epoch:03d}.pt", run.evaluated, self.probe[:KEPT], about)
        for name, value in row.items() if self.events else ():
            if name not in ("epoch", "step"):
                self.events.add_scalar(name, value, run.epoch)
        if self.events:
            self.events.flush()
        return row

    def best(self) -> None:
        """Write the score of each class at the best epoch, where the task has one: per_class_ap.csv, per_class_iou.csv.
        """
        score = self.run.task.class_score
        if values := getattr(self.run.task.last, "per_class", None):
            write_table(self.folder / f"per_class_{score.lower()}.csv",
                        [{"class": name, score: "" if value is None else f"{value:.4f}"}
                         for name, value in values.items()])

    def epoch(self, row: dict, scores: dict[str, float], notes: dict[str, list[FileNote]]) -> None:
        """Print the epoch's line, the files replaced or converted for the first time, and warnings."""
        self.say(line(row, self.run.recipe.epochs, self.run.task.lines))
        for split, of_split in notes.items():
            new = [note for note in {note.name: note for note in of_split}.values() if note.name not in self.told]
            self.told.update(note.name for note in new)
            self.say(*(file_notes(new, split, self.folder / "bad_images.tsv") if new else ()))
        self.say(*suspicious(scores, self.run.epoch))

    def evaluation(self, scores: dict[str, float], notes: dict[str, list[FileNote]]) -> None:
        """Print the scores of --eval-only, and which files were converted."""
        texts = {"val_loss": "loss {:.3f}", **self.run.task.lines}
        self.say(*file_notes(notes["validation"], "validation"))
        self.say("  ".join(texts.get(f"val_{name}", f"{name} {{:5.2f}} %").format(value)
                           for name, value in scores.items()), *self._per_class())

    def stopped(self) -> None:
        """Print where a signal ended the run."""
        run = self.run
        self.say(f"ended by a signal after step {run.step - run.epoch * len(run.batches)} of epoch {run.epoch + 1};"
                 f" --resume auto resumes from {self.folder / 'last.pt'}")

    def end(self, images: int, seconds: float) -> None:
        """Print the best epoch and the time taken. images, seconds: of training alone."""
        speed = f", {images / seconds:.0f} images/s in training" if images else ""
        self.say(*self._per_class(), f"{self.best_score()}; this took {duration(time.perf_counter() - self.start)}"
                                     f"{speed}; everything is in {self.folder}")

    def best_score(self) -> str:
        """Return the best epoch and its score, in words."""
        run, task = self.run, self.run.task
        return f"best {task.key_name} {run.best[task.key]:.2f} % at epoch {run.best['epoch']} of {run.recipe.epochs}"

    def _per_class(self) -> list[str]:
        values = getattr(self.run.task.last, "per_class", None)
        return per_class(values, self.run.task.class_score) if values else []


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """Write rows as a table, atomically. A column is there if a row has it: epoch 0 has no training, and COCO's figures
    of small objects need an image that shows one."""
    names = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    with replacing(path, "w") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                        for row in rows)


def line(row: dict, epochs: int, scores: dict[str, str]) -> str:
    """Return the line of an epoch. scores: columns of the task's metric, with the format of each."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    texts = {"train_loss": "loss {:.3f}", "val_loss": "val loss {:.3f}", **scores, "images_per_s": "{:.0f} images/s",
             "lr": "lr {:.1e}"}
    for name, text in texts.items():
        if name in row:
            parts.append(text.format(row[name]))
    neighbours = [f"{value:.1f}" for name, value in row.items() if name.startswith("neighbours_")]
    return "  ".join([*parts, "neighbours " + " ".join(neighbours)])


def first_loss(loss: float, chance: float, formula: str) -> str:
    """Return the loss of the first step beside the chance level: far apart, they show a mistake."""
    wrong = "" if chance / 2 < loss < 2 * chance else "; far from it: check labels, learning rate and normalisation"
    return f"first step: loss {loss:.3f}, chance level {chance:.3f} ({formula}){wrong}"


def per_class(values: dict[str, float | None], what: str = "AP") -> list[str]:
    """Return lines on the average precision, or another score, of each class: of all if they are few, else of the
    lowest and highest."""
    known = sorted((value, name) for name, value in values.items() if value is not None)
    said = [f"{name} {value:.1f}" for value, name in known]
    if len(said) > 2 * FEW:
        said = [*said[:FEW], "…", *said[-FEW:]]
    lines = [f"{what} of classes in percent: {', '.join(said)}"]
    if missing := [name for name, value in values.items() if value is None]:
        lines.append(f"no {what}, and in no mean, since no image shows them: {', '.join(missing)}")
    return lines


def warnings(data: Data) -> list[str]:
    """Warn of classes that have no image in one of the splits."""
    lines = []
    for split, source in (("training", data.train), ("validation", data.val)):
        counts = label_counts(source, len(data.classes))
        if counts and any(counts) and 0 in counts:
            missing = [name for name, count in zip(data.classes, counts) if count == 0]
            lines.append(f"warning: no {split} image of {plural(len(missing), 'class')}: {', '.join(missing[:FEW])}"
                         + (" and more" if len(missing) > FEW else ""))
    return lines


def suspicious(scores: dict[str, float], epoch: int) -> list[str]:
    """Warn if top-1 is exactly 0 or 100 % after training."""
    exact = epoch > 0 and scores.get("top1") in (0.0, 100.0)
    return [f"warning: top-1 is exactly {scores['top1']:.0f} %: check that the validation images are sorted into"
            " classes as the training images are"] if exact else []


def file_notes(notes: list[FileNote], split: str, path: Path | None = None) -> list[str]:
    """Append all notes to a file, and return lines on the images that were replaced or converted to RGB."""
    lines = []
    if notes and path:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, "excel-tab", lineterminator="\n").writerows(
                (note.name, "replaced" if note.broken else "converted", note.text) for note in notes)
    for broken, what in ((True, "that cannot be read, replaced by others"), (False, "converted to RGB")):
        some = [f"{note.name} ({note.text})" for note in notes if note.broken == broken]
        if some:
            more = f", and {len(some) - FEW} more" + f" in {path}" * bool(path) if len(some) > FEW else ""
            lines.append(f"{plural(len(some), f'{split} image')} {what}: {', '.join(some[:FEW])}{more}")
    return lines


def describe(run: Run) -> dict[str, str]:
    """Return the first lines, heading to text."""
    config, data, processes, recipe, model = run.config, run.data, run.processes, run.recipe, run.model.config
    run.task.begin_evaluation(run.evaluated)
    noise = torch.rand(2, 3, *model.img_size, device=processes.device)
    parameters, macs = count_parameters(run.model), count_macs(run.evaluated, noise)
    asked = config.given.get("model") == family_of(config.model)
    of_family = f" (family {family_of(config.model)}, size of the recipe {config.recipe_name})" if asked else ""
    grid = f" in patches of {model.patch}: {model.grid[0]}×{model.grid[1]} nodes" if hasattr(model, "patch") else ""
    counts = [f"{plural(len(batches.loader.dataset), f'{split} image')} "
              + ("(in memory)" if isinstance(batches.loader.dataset, StoredImages) else "(read as needed)")
              for split, batches in (("training", run.batches), ("validation", run.val_batches)) if batches]
    steps = f" of {plural(len(run.batches), 'step')}" if run.batches else ""
    values = [f"{field} {value}" for field, value in used(recipe, model, data.multi_label).items()]
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if processes.device.type == "cpu" else ""
    lines = {
        "model": f"{config.model}{of_family}: {parameters:,} parameters, {macs / 1e9:.3f} GMACs an image",
        "grid": f"{model.img_size[0]}×{model.img_size[1]} pixels{grid}",
        "data": "; ".join([f"{data.name}: {plural(len(data.classes), 'class')}, {', '.join(counts)}", *data.remarks]),
        "recipe": f"{config.recipe_name}: {', '.join([plural(recipe.epochs, 'epoch') + steps, *values])}",
        **(batch_and_memory(run, parameters, noise) if run.batches else {}),
        "device": f"{processes.device}{threads}, {AMP_NAMES[config.amp]}, torch {torch.__version__}",
        "output": "none: a dry run" if config.dry_run else str(config.output)}
    if config.eval_only:
        table = "none" if data.multi_label or config.task == "detection" else f"confusion matrix in {config.output}"
        lines["output"] = f"{table}: evaluates {run.start.path}"
    elif run.start and run.start.resumes:
        steps = f" and {plural(run.first_step, 'step')}" if run.first_step else ""
        lines["output"] += f", resumed after epoch {run.epoch}{steps} of {run.start.path}"
    if run.start and run.start.damaged:
        lines["warning"] = f"{run.start.damaged}; resumed from {run.start.path}, the one before it"
    if run.remark:
        lines["epochs"] = run.remark
    if run.changes:
        lines["changed"] = "; ".join(run.changes)
    if run.new_parts is not None:
        lines["start"] = (f"from {config.init_from}: {run.start.found}; new: {', '.join(run.new_parts) or 'nothing'}"
                          + "; all else is frozen" * config.freeze)
    return lines


def batch_and_memory(run: Run, parameters: int, images: Tensor) -> dict[str, str]:
    """Return the lines on the batch and, unless a dry run measures it, on the memory of a training step."""
    recipe, world = run.recipe, run.processes.world
    share = recipe.batch_size // (world * recipe.accumulation)
    lines = {"batch": f"{plural(recipe.batch_size, 'image')} a step (global) = {share} a process ×"
                      f" {plural(world, 'process')} × {plural(recipe.accumulation, 'part')} (accumulation), learning"
                      f" rate {recipe.lr:g}"}
    if run.config.dry_run:
        return lines
    run.task.begin_epoch(run.model, 0)
    with run.autocast():
        kept = saved_bytes_per_image(run.model, images, lambda model, images: run.task.outputs(
            model, images, run.task.blank(images)))
    copies = 3 if run.average is None else 4  # of gradients, AdamW's two moments, moving average
    memory = peak_memory(run.processes.device) + 4 * copies * parameters + kept * share
    return lines | {"memory": f"about {memory / 2**20:,.0f} MiB a process, {kept / 2**20:.1f} of them for each of its"
                              f" {plural(share, 'image')}"}
