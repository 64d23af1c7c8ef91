"""What a run prints and writes: first lines, a line and a row of metrics.csv for each epoch, config.json."""

import contextlib
import csv
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..atomic_files import replacing
from ..data.datasets import Data, label_counts
from ..data.loading import FileNote
from ..models.checks import plural
from ..streams import unheard
from .checkpoint import save_graphs
from .endings import fill
from .engine import Run
from .recipes import Recipe
from .settings import Settings

try:
    import resource
except ImportError:  # not on Windows
    resource = None

KEPT = 4  # images whose graphs --every keeps
FEW = 10  # names that are printed; the rest are in the output folder


class RunLog:
    """What a run prints, and metrics.csv, config.json and its other tables. The first process alone prints and writes.

    steps: of an epoch.
    """

    def __init__(self, settings: Settings, data: Data, run: Run, steps: int):
        self.settings, self.data, self.run, self.steps = settings, data, run, steps
        self.is_first = run.processes.is_first
        self.told: set[str] = set()  # image files that were named already
        self.events, self.probe = None, None
        self.start = time.perf_counter()

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

    def bar(self, text: str, total: int) -> tqdm:
        """Return a progress bar that counts images; hidden where nobody watches a terminal."""
        return tqdm(total=total, desc=text, unit="images", leave=False,
                    disable=not self.is_first or not sys.stderr.isatty())

    def begin(self, heading: dict[str, str]) -> None:
        """Say what will happen, heading to text, and what looks wrong about the data and the last checkpoint."""
        for name, text in heading.items():
            self.say(f"{name:8}{text}", indent=" " * 8)
        self.say(*warnings(self.data))
        if self.settings.damaged:
            self.say(f"warning: {self.settings.damaged}; going on from {self.settings.resumed}, the one before it")

    def open(self, val_batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Write config.json, and drop rows of metrics.csv that will be written again."""
        if not self.is_first:
            return
        folder, run, settings = self.settings.folder, self.run, self.settings
        self.probe = next(iter(val_batches))[0]  # the images whose graphs are counted
        if settings.flags.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
                self.events = SummaryWriter(str(folder))
            except ImportError:
                self.say("--tensorboard: no event files are written, since the package tensorboard is not installed")
        data = {"name": self.data.name, "classes": self.data.classes, "train": len(self.data.train),
                "val": len(self.data.val), "remarks": list(self.data.remarks)}
        config = {"command": sys.argv, "model": settings.model, "config": asdict(run.model.config),
                  "recipe_name": settings.recipe_name, "recipe": asdict(run.recipe), "data": data, "seed": run.seed,
                  "amp": run.amp, "processes": run.processes.world, "torch": torch.__version__}
        with replacing(folder / "config.json", "w") as file:
            json.dump(config, file, indent=2)
        if not keep_rows(folder / "metrics.csv", run.epoch if settings.state else -1):
            self.say(f"warning: {folder / 'metrics.csv'} is damaged; it is kept as {folder / 'damaged.csv'}")

    def row(self, trained: dict[str, float], scores: dict[str, float]) -> dict:
        """Write and return the row of metrics.csv of the epoch that is done."""
        row = metrics_row(self.run, trained, scores, mean_neighbours(self.run.evaluated, self.probe))
        append_row(self.settings.folder / "metrics.csv", row)
        if self.settings.flags.every and self.run.epoch % self.settings.flags.every == 0:
            about = {"name": self.settings.model, "classes": self.data.classes, "multi_label": self.data.multi_label,
                     "epoch": self.run.epoch, "mean": self.run.recipe.mean, "std": self.run.recipe.std}
            save_graphs(self.settings.folder / f"graphs-{self.run.epoch:03d}.pt", self.run.evaluated,
                        self.probe[:KEPT], about)
        for name, value in row.items() if self.events else ():
            if value != "" and name not in ("epoch", "step"):
                self.events.add_scalar(name, value, self.run.epoch)
        if self.events:
            self.events.flush()
        return row

    def best(self) -> None:
        """Write the average precision of each class at the best epoch, where the task has one."""
        if aps := getattr(self.run.task.last, "per_class", None):
            with replacing(self.settings.folder / "per_class_ap.csv", "w") as file:
                rows = ((name, "" if ap is None else f"{ap:.4f}") for name, ap in aps.items())
                csv.writer(file).writerows([("class", "AP"), *rows])

    def epoch(self, row: dict, scores: dict[str, float], notes: dict[str, list[FileNote]]) -> None:
        """Say how the epoch went, which files were replaced or converted for the first time, and what looks wrong."""
        self.say(line(row, self.run.recipe.epochs, self.run.task.lines))
        for split, of_split in notes.items():
            new = [note for note in {note.name: note for note in of_split}.values() if note.name not in self.told]
            self.told.update(note.name for note in new)
            self.say(*file_notes(new, split, self.settings.folder / "bad_images.tsv"))
        if warning := suspicious(scores, self.run.epoch):
            self.say(warning)

    def evaluation(self, scores: dict[str, float], notes: dict[str, list[FileNote]]) -> None:
        """Say the scores of --eval-only, and which files were converted."""
        self.say(*file_notes(notes["validation"], "validation"))
        self.say("  ".join(f"{name} {value:.3f}" for name, value in scores.items()), *self._per_class())

    def stopped(self) -> None:
        """Say where a signal ended the run."""
        run = self.run
        bad = f", the last {plural(run.bad_in_a_row, 'step')} not finite and not saved" if run.bad_in_a_row else ""
        self.say(f"ended by a signal after step {run.step - run.epoch * self.steps} of epoch {run.epoch + 1}{bad};"
                 f" --resume auto goes on from {self.settings.folder / 'last.pt'}")

    def end(self, images: int, seconds: float) -> None:
        """Say the best epoch and what it took. images, seconds: of training alone."""
        speed = f", {images / seconds:.0f} images/s in training" if images else ""
        self.say(*self._per_class(), f"{self.best_score()}; this took {duration(time.perf_counter() - self.start)}"
                                     f"{speed}; everything is in {self.settings.folder}")

    def best_score(self) -> str:
        """Return the best epoch and its score, in words."""
        run, task = self.run, self.run.task
        return f"best {task.key_name} {run.best[task.key]:.2f} % at epoch {run.best['epoch']} of {run.recipe.epochs}"

    def _per_class(self) -> list[str]:
        aps = getattr(self.run.task.last, "per_class", None)
        return per_class(aps) if aps else []


def metrics_row(run: Run, trained: dict[str, float], scores: dict[str, float], neighbours: list[float]) -> dict:
    """Return a row of metrics.csv. Before training (epoch 0), the columns of training are empty."""
    names = run.task.loss_names if len(run.task.loss_names) > 1 else ()
    terms = {f"train_{name}": trained.get(f"loss_{name}", "") for name in names}
    trained = {name: "" if math.isnan(value) else value for name, value in trained.items()}
    return {"epoch": run.epoch, "step": run.step, "lr": trained.get("lr", ""), "train_loss": trained.get("loss", ""),
            **terms, "skipped": trained.get("skipped", ""), **{f"val_{name}": value for name, value in scores.items()},
            "images_per_s": trained.get("images_per_s", ""),
            **{f"neighbours_{layer}": value for layer, value in enumerate(neighbours)}}


@torch.no_grad()
def mean_neighbours(model: nn.Module, images: Tensor) -> list[float]:
    """Return the mean number of neighbours per node in every layer's graph of these images (LRGC Figure 5)."""
    model.eval()
    if not hasattr(model.config, "graph") and model.config.aggregation == "none":
        return []
    _, graphs = model.forward(images, return_graphs=True)  # not the compiled __call__, which returns no graphs
    return [float(graph.degree().float().mean()) for graph in graphs]


def line(row: dict, epochs: int, scores: dict[str, str]) -> str:
    """Return the line of an epoch. scores: columns of the task's metric, with the format of each."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    texts = {"train_loss": "loss {:.3f}", "val_loss": "val loss {:.3f}", **scores, "images_per_s": "{:.0f} images/s",
             "lr": "lr {:.1e}"}
    for name, text in texts.items():
        if row.get(name, "") != "":
            parts.append(text.format(row[name]))
    if row["skipped"]:
        parts.append(f"{plural(row['skipped'], 'step')} skipped, whose loss or gradient was not finite")
    neighbours = [f"{value:.1f}" for name, value in row.items() if name.startswith("neighbours_")]
    return "  ".join([*parts, "neighbours " + " ".join(neighbours)])


def first_loss(loss: float, chance: float, guess: str) -> str:
    """Return the loss of the first step beside that of a guess. If they are far apart, something is wrong already."""
    wrong = "" if chance / 2 < loss < 2 * chance else "; far from it: check labels, learning rate and normalisation"
    return f"first step: loss {loss:.3f}, and {guess} = {chance:.3f}{wrong}"


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
        if counts and 0 in counts:
            missing = [name for name, count in zip(data.classes, counts) if count == 0]
            lines.append(f"warning: no {split} image of {plural(len(missing), 'class')}: {', '.join(missing[:FEW])}"
                         + (" and more" if len(missing) > FEW else ""))
    return lines


def suspicious(scores: dict[str, float], epoch: int) -> str | None:
    """Warn if top-1 is exactly 0 or 100 % after training."""
    if epoch > 0 and scores.get("top1") in (0.0, 100.0):
        return (f"warning: top-1 is exactly {scores['top1']:.0f} %: check that the validation images are sorted into"
                " classes as the training images are")
    return None


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


def estimate(step_seconds: float, steps: int, evaluation_seconds: float, recipe: Recipe, device: torch.device) -> str:
    """Estimate the time of a whole run, evaluations included, and its memory. steps: of an epoch."""
    training, evaluation = recipe.epochs * steps * step_seconds, (recipe.epochs + 1) * evaluation_seconds
    peak, what = 0, "memory"
    if device.type == "cuda":
        peak, what = torch.cuda.max_memory_allocated(device), "GPU memory"
    elif resource:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (f"dry run: a step takes {step_seconds:.3g} s ({recipe.batch_size / step_seconds:.0f} images/s), an"
            f" evaluation about {duration(evaluation_seconds)}; {plural(recipe.epochs, 'epoch')} of"
            f" {plural(steps, 'step')} would take about {duration(training + evaluation)}, with"
            f" {peak / 2**20:,.0f} MiB of {what} a process")


def duration(seconds: float) -> str:
    """Format seconds as '2 h 5 min', '3 min 20 s' or '4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if seconds >= 10 else f"{seconds:.2g} s"


def append_row(path: Path, row: dict) -> None:
    """Append a row to metrics.csv. What the row has first gets a new column, and what it lacks stays empty: COCO's
    figures of small objects are there only if an image shows one, and a run may go on with other data."""
    header, rows = [], []
    if path.exists():
        with open(path, newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    names = [*header, *(name for name in row if name not in header)]
    if names != header:
        empty = [""] * (len(names) - len(header))
        with replacing(path, "w") as file:
            csv.writer(file).writerows([names, *([*was, *empty] for was in rows)])
    with open(path, "a", newline="") as file:
        csv.DictWriter(file, names).writerow(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})


def keep_rows(path: Path, last_epoch: int) -> bool:
    """Drop the rows after that epoch: the run that goes on from there writes them again. A file that is no table of
    epochs becomes damaged.csv; returns False then."""
    if not path.exists():
        return True
    try:
        with open(path, newline="") as file:
            header, *rows = list(csv.reader(file)) or [["epoch"]]
        # a crash may have cut a row short
        rows = [row for row in rows if len(row) == len(header) and int(row[0]) <= last_epoch]
        if header[:1] != ["epoch"]:
            raise ValueError
    except (ValueError, csv.Error):
        path.replace(path.with_name("damaged.csv"))
        return False
    if not rows:
        path.unlink()
        return True
    with replacing(path, "w") as file:
        csv.writer(file).writerows([header, *rows])
    return True
