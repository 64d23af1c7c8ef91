"""What a run prints and writes: first lines, a line and a row of metrics.csv for each epoch, config.json, tables."""

import csv
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ..atomic_files import replacing
from ..data.datasets import Data, label_counts
from ..data.loading import FileNote
from ..models.checks import plural
from ..models.cost import count_macs, count_parameters
from ..streams import Progress, duration, unheard
from .checkpoint import save_graphs
from .config import family_of
from .engine import Run, mean_neighbours
from .recipes import used

KEPT = 4  # images whose graphs --every keeps
FEW = 10  # names that are printed; the rest are in the output folder
AMP_NAMES = {None: "float32", "bf16": "bfloat16", "fp16": "float16 with a scaled loss"}


class RunLog:
    """What a run prints, and its tables in the output folder. The first process alone prints and writes."""

    def __init__(self, run: Run):
        self.run, self.folder, self.start = run, run.config.output, time.perf_counter()
        self.told: set[str] = set()  # image files that were named already

    def say(self, *lines: str, indent: str = "  ") -> None:
        """Print lines above any progress bar, wrapped with an indent."""
        if not self.run.processes.is_first:
            return
        try:
            for line in lines:
                tqdm.write(fill(line, indent))
            sys.stdout.flush()
        except BrokenPipeError:  # as of `train.py | head`: the run continues
            unheard()

    def progress(self, text: str, steps: int, images: int, step: int | None = None) -> Progress:
        """Return the progress of so many steps and images. step: of training, those done before; see `Progress`."""
        run = self.run
        return Progress(text, steps, images, self.say, step, run.recipe.epochs, run.config.log_every,
                        run.processes.is_first)

    def begin(self, heading: dict[str, str]) -> None:
        """Print the first lines, heading to text, and warnings about the data."""
        for name, text in heading.items():
            self.say(f"{name:8}{text}", indent=" " * 8)
        self.say(*warnings(self.run.data))

    def open(self) -> None:
        """Write config.json, and choose the images whose graphs are counted."""
        if self.run.processes.is_first:
            self.probe = self.run.task.probe(next(iter(self.run.val_batches))[0])
            about = {"command": sys.argv, "torch": torch.__version__, "processes": self.run.processes.world}
            with replacing(self.folder / "config.json", "w") as file:
                json.dump(about | self.run.about(), file, indent=2)

    def row(self, trained: dict[str, float], scores: dict[str, float]) -> None:
        """Add the epoch's row to the run's history, and write metrics.csv from it. No times are in it: the history of a
        resumed run is that of an uninterrupted one."""
        run, every = self.run, self.run.config.every
        row = {"epoch": run.epoch, "step": run.step} | trained
        row |= {f"val_{name}": value for name, value in scores.items()}
        row |= {f"neighbours_{i}": value for i, value in enumerate(mean_neighbours(run.evaluated, self.probe))}
        run.history.append(row)
        write_table(self.folder / "metrics.csv", run.history)
        if every and run.epoch % every == 0:
            save_graphs(self.folder / f"graphs-{run.epoch:03d}.pt", run.evaluated, self.probe[:KEPT],
                        run.about() | {"epoch": run.epoch})

    def best(self) -> None:
        """Write the score of each class at the best epoch, where the task has one: per_class_ap.csv, per_class_iou.csv.
        """
        score, values = self.run.task.class_score, self.run.per_class
        if values:
            write_table(self.folder / f"per_class_{score.lower()}.csv",
                        [{"class": name, score: value} for name, value in values.items()])

    def epoch(self, speed: float, notes: dict[str, list[FileNote]]) -> None:
        """Print the epoch's line, and the files replaced or converted for the first time. speed: images a second."""
        row = self.run.history[-1] | ({"speed": speed} if speed else {})
        self.say(line(row, self.run.recipe.epochs, self.run.task.lines))
        for split, of_split in notes.items():
            new = [note for note in {note.name: note for note in of_split}.values() if note.name not in self.told]
            self.told.update(note.name for note in new)
            self.say(*(file_notes(new, split, self.folder / "bad_images.tsv") if new else ()))

    def evaluation(self, scores: dict[str, float], notes: dict[str, list[FileNote]]) -> None:
        """Print the scores of --eval-only, and which files were converted."""
        task, texts = self.run.task, {"val_loss": "loss {:.3f}", **self.run.task.lines}
        self.say(*file_notes(notes["validation"], "validation"))
        self.say("  ".join(texts.get(f"val_{name}", f"{name} {{:5.2f}} %").format(value)
                           for name, value in scores.items()))
        if self.run.per_class:
            self.say(*per_class(self.run.per_class, task.class_score))

    def stopped(self) -> None:
        """Print where a signal ended the run."""
        run = self.run
        self.say(f"ended by a signal after step {run.step - run.epoch * len(run.batches)} of epoch {run.epoch + 1};"
                 f" --resume auto resumes from {self.folder / 'last.pt'}")

    def end(self) -> None:
        """Print the best epoch and the time taken."""
        if self.run.per_class:
            self.say(*per_class(self.run.per_class, self.run.task.class_score))
        self.say(f"{self.best_score()}; this took {duration(time.perf_counter() - self.start)}; everything is in"
                 f" {self.folder}")

    def best_score(self) -> str:
        """Return the best epoch and its score, in words."""
        run, task = self.run, self.run.task
        return f"best {task.key_name} {run.best[task.key]:.2f} % at epoch {run.best['epoch']} of {run.recipe.epochs}"


def fill(text: str, indent: str = "  ") -> str:
    """Break a line between words for the terminal, or at 80 columns."""
    width = max(40, min(120, shutil.get_terminal_size((80, 24)).columns))
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


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
    texts = {"train_loss": "loss {:.3f}", "val_loss": "val loss {:.3f}", **scores, "speed": "{:.0f} images/s",
             "lr": "lr {:.1e}"}
    parts = [text.format(row[name]) for name, text in texts.items() if name in row]
    neighbours = " ".join(f"{value:.1f}" for name, value in row.items() if name.startswith("neighbours_"))
    return "  ".join([f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}", *parts, f"neighbours {neighbours}"])


def first_loss(loss: float, chance: float, formula: str) -> str:
    """Return the loss of the first step beside the chance level: far above it, there is a mistake."""
    wrong = "; far above it: check labels, learning rate and normalisation" if loss > 2 * chance else ""
    return f"first step: loss {loss:.3f}, chance level {chance:.3f} ({formula}){wrong}"


def per_class(values: dict[str, float | None], what: str) -> list[str]:
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
    config, data, recipe, processes, model = run.config, run.data, run.recipe, run.processes, run.model.config
    run.task.begin_evaluation(run.evaluated)
    macs = count_macs(run.evaluated, torch.rand(1, 3, *model.img_size, device=processes.device))
    family = family_of(config.model)
    asked = f" (family {family}, size of the recipe {config.recipe_name})" * (config.given.get("model") == family)
    grid = f" in patches of {model.patch}: {model.grid[0]}×{model.grid[1]} nodes" if hasattr(model, "patch") else ""
    images = [plural(len(batches.loader.dataset), f"{split} image")
              for split, batches in (("training", run.batches), ("validation", run.val_batches)) if batches]
    lines = {
        "model": f"{config.model}{asked}: {count_parameters(run.model):,} parameters, {macs / 1e9:.3f} GMACs an image",
        "grid": f"{model.img_size[0]}×{model.img_size[1]} pixels{grid}",
        "data": "; ".join([f"{data.name}: {plural(len(data.classes), 'class')}, {', '.join(images)}", *data.remarks])}
    if run.batches:
        share = recipe.batch_size // (processes.world * recipe.accumulation)
        values = [f"{name} {value}" for name, value in used(recipe, model, data.multi_label).items()]
        epochs = f"{plural(recipe.epochs, 'epoch')} of {plural(len(run.batches), 'step')}"
        lines["recipe"] = f"{config.recipe_name}: {', '.join([epochs, *values])}"
        lines["batch"] = (f"{plural(recipe.batch_size, 'image')} a step (global) = {share} a process ×"
                          f" {plural(processes.world, 'process')} × {plural(recipe.accumulation, 'part')}"
                          f" (accumulation), learning rate {recipe.lr:g}")
    lines["device"] = (f"{processes.device}, {plural(torch.get_num_threads(), 'thread')}, {AMP_NAMES[config.amp]},"
                       f" torch {torch.__version__}")
    lines["output"] = "none: a dry run" if config.dry_run else str(config.output)
    return lines | run.notes
