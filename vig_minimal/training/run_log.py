"""What a run prints and writes: first lines, a line and a row of metrics.csv for each epoch, config.json, tables."""

import copy
import csv
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from ..data.datasets import Data, label_counts
from ..data.loading import FileNote, StoredImages
from ..atomic_files import replacing
from ..models.checks import plural
from ..models.cost import count_macs, count_parameters, peak_memory, saved_bytes_per_image
from ..streams import Progress, duration, unheard
from .checkpoint import save_graphs
from .endings import fill
from .engine import Run, mean_neighbours
from .recipes import used
from .resume import Start

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
        """Print lines, above any progress bar; what does not fit into one goes on below, indented."""
        if not self.is_first:
            return
        try:
            for line in lines:
                # names of files need not be UTF-8
                tqdm.write(fill(line, indent).encode(errors="backslashreplace").decode())
            sys.stdout.flush()
        except BrokenPipeError:  # as of `train.py | head`: the run goes on, and its files hold all of this
            unheard()

    def progress(self, text: str, steps: int, images: int, step: int | None = None) -> Progress:
        """Return the progress of so many steps and images. step: of training, those done before; see `Progress`."""
        run = self.run
        return Progress(text, steps, images, self.say, step, run.recipe.epochs, run.config.log_every, self.is_first)

    def begin(self, heading: dict[str, str]) -> None:
        """Say what will happen, heading to text, and what looks wrong about the data."""
        for name, text in heading.items():
            self.say(f"{name:8}{text}", indent=" " * 8)
        self.say(*warnings(self.run.data))

    def open(self) -> None:
        """Write config.json, and metrics.csv as far as the run has come."""
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
        """Add the row of the epoch that is done to the run's history, write metrics.csv, and return the row. The history
        keeps no times: the checkpoint of a run that was cut off is that of one that was not."""
        run, config = self.run, self.run.config
        row = metrics_row(run, trained, scores, mean_neighbours(run.evaluated, self.probe))
        run.history.append({name: value for name, value in row.items() if name != "images_per_s"})
        self.rows.append(row)
        write_table(self.folder / "metrics.csv", self.rows)
        if config.every and run.epoch % config.every == 0:
            about = {"name": config.model, "classes": run.data.classes, "multi_label": run.data.multi_label,
                     "epoch": run.epoch, "mean": run.recipe.mean, "std": run.recipe.std}
            save_graphs(self.folder / f"graphs-{run.epoch:03d}.pt", run.evaluated, self.probe[:KEPT], about)
        for name, value in row.items() if self.events else ():
            if value != "" and name not in ("epoch", "step"):
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
        """Say how the epoch went, which files were replaced or converted for the first time, and what looks wrong."""
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
        """Say where a signal ended the run."""
        run = self.run
        self.say(f"ended by a signal after step {run.step - run.epoch * len(run.batches)} of epoch {run.epoch + 1};"
                 f" --resume auto goes on from {self.folder / 'last.pt'}")

    def end(self, images: int, seconds: float) -> None:
        """Say the best epoch and what it took. images, seconds: of training alone."""
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


def metrics_row(run: Run, trained: dict[str, float], scores: dict[str, float], neighbours: list[float]) -> dict:
    """Return a row of metrics.csv. Before training (epoch 0), the columns of training are empty."""
    names = run.task.loss_names if len(run.task.loss_names) > 1 else ()
    terms = {f"train_{name}": trained.get(f"loss_{name}", "") for name in names}
    trained = {name: "" if math.isnan(value) else value for name, value in trained.items()}
    return {"epoch": run.epoch, "step": run.step, "lr": trained.get("lr", ""), "train_loss": trained.get("loss", ""),
            **terms, **{f"val_{name}": value for name, value in scores.items()},
            "images_per_s": trained.get("images_per_s", ""),
            **{f"neighbours_{layer}": value for layer, value in enumerate(neighbours)}}


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """Write rows as a table, at once. A column is there if a row has it: COCO's figures of small objects are there only
    if an image shows one, and a run may go on with other data."""
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
        if row.get(name, "") != "":
            parts.append(text.format(row[name]))
    neighbours = [f"{value:.1f}" for name, value in row.items() if name.startswith("neighbours_")]
    return "  ".join([*parts, "neighbours " + " ".join(neighbours)])


def first_loss(loss: float, chance: float, formula: str) -> str:
    """Return the loss of the first step beside the chance level. If they are far apart, something is wrong already."""
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


def describe(run: Run, start: Start | None, given_model: str | None) -> dict[str, str]:
    """Return the first lines, heading to text. given_model: as a person named it, maybe by its family alone."""
    config, data, processes, recipe = run.config, run.data, run.processes, run.recipe
    model, name = run.model.config, config.model
    if given_model == config.model.rpartition("_")[0]:
        name += f" (family {given_model}, size of the recipe {config.recipe_name})"
    parameters, macs, kept = costs(run)
    grid = f" in patches of {model.patch}: {model.grid[0]}×{model.grid[1]} nodes" if hasattr(model, "patch") else ""
    sources = {split: batches.loader.dataset for split, batches in
               (("training", run.batches), ("validation", run.val_batches)) if batches is not None}
    where = {True: "in memory", False: "read as needed"}
    counts = [f"{plural(len(images), f'{split} image')} ({where[isinstance(images, StoredImages)]})"
              for split, images in sources.items()]
    steps = f" of {plural(len(run.batches), 'step')}" if run.batches else ""
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if processes.device.type == "cpu" else ""
    lines = {
        "model": f"{name}: {parameters:,} parameters, {macs / 1e9:.3f} GMACs an image",
        "grid": f"{model.img_size[0]}×{model.img_size[1]} pixels{grid}",
        "data": "; ".join([f"{data.name}: {plural(len(data.classes), 'class')}, {', '.join(counts)}", *data.remarks]),
        "recipe": f"{config.recipe_name}: {plural(recipe.epochs, 'epoch')}{steps}, "
                  + ", ".join(f"{field} {value}" for field, value in used(recipe, model, data.multi_label).items()),
    }
    if not config.eval_only:
        share = recipe.batch_size // (processes.world * recipe.accumulation)
        copies = 3 if run.average is None else 4  # of gradients, AdamW's two moments, moving average
        lines["batch"] = (f"{plural(recipe.batch_size, 'image')} a step (global) = {share} a process ×"
                          f" {plural(processes.world, 'process')} × {plural(recipe.accumulation, 'part')}"
                          f" (accumulation), learning rate {recipe.lr:g}")
        memory = peak_memory(processes.device) + 4 * copies * parameters + kept * share
        if not config.dry_run:  # which measures it
            lines["memory"] = (f"about {memory / 2**20:,.0f} MiB a process, {kept / 2**20:.1f} of them for each of its"
                               f" {plural(share, 'image')}")
    lines["device"] = f"{processes.device}{threads}, {AMP_NAMES[config.amp]}, torch {torch.__version__}"
    lines["output"] = "none: a dry run" if config.dry_run else str(config.output)
    if config.eval_only:
        several = data.multi_label or config.task == "detection"
        lines["output"] = (f"{'none' if several else f'confusion matrix in {config.output}'}: evaluates {start.path}")
    elif start is not None and start.goes_on:
        steps = f" and {run.first_step} steps" if run.first_step else ""
        lines["output"] += f", going on after epoch {run.epoch}{steps} of {start.path}"
    return lines | run.remarks


def costs(run: Run) -> tuple[int, float, float]:
    """Return parameters, multiply-adds of an image, and bytes that each image keeps for the backward pass."""
    network, task = copy.deepcopy(run.evaluated), copy.copy(run.task)  # measuring moves statistics, a task remembers
    task.begin_evaluation(network)
    task.begin_epoch(network, 0)
    noise, kept = torch.rand(2, 3, *network.config.img_size, device=run.processes.device), 0.0
    with run.autocast():
        macs = count_macs(network, noise)
        if not run.config.eval_only:
            network.train()
            kept = saved_bytes_per_image(network, noise,
                                         lambda images: task.outputs(network, images, task.blank(images)))
    return count_parameters(network), macs, kept
