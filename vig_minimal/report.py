"""What a run says and writes: its first lines, a line and a row of metrics.csv for each epoch, config.json."""

import copy
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from .checkpoint import replacing
from .data import Data, Stored
from .engine import Run
from .measure import count_macs, count_parameters, saved_bytes


def describe(run: Run, model: str, recipe_name: str, data: Data, splits: dict, steps: int) -> dict[str, str]:
    """The first lines: heading to text, everything that a person would want to know before waiting for it.

    model: its name and how it was chosen. splits: training and validation pictures. steps: of an epoch.
    """
    recipe, processes, config = run.recipe, run.processes, run.model.config
    spare, share = copy.deepcopy(run.model), recipe.batch_size // processes.world  # measuring moves running statistics
    images = torch.rand(2, 3, *config.img_size, device=processes.device)
    parameters, macs = count_parameters(spare), count_macs(spare, images)
    with run.autocast():
        kept = saved_bytes(spare.train(), images)
    copies = 4 if run.average is None else 5  # weights, gradients, AdamW's two moments, moving average
    memory = 4 * copies * parameters + kept * share
    where = {name: "in memory" if isinstance(part, Stored) else "decoded as needed" for name, part in splits.items()}
    threads = f", {torch.get_num_threads()} threads" if processes.device.type == "cpu" else ""
    elsewhere = ("epochs", "batch_size", "lr", "size")
    settings = {name: value for name, value in asdict(recipe).items() if name not in elsewhere}
    return {
        "model": f"{model}: {parameters:,} parameters, {macs / 1e9:.3f} GMACs an image",
        "grid": f"{config.img_size[0]}×{config.img_size[1]} pixels in patches of {config.patch}:"
                f" {config.grid[0]}×{config.grid[1]} nodes",
        "data": f"{data.name}: {len(data.classes)} classes, "
                + ", ".join(f"{len(splits[name]):,} {name} images ({where[name]})" for name in splits),
        "recipe": f"{recipe_name}: {recipe.epochs} epochs of {steps} steps, "
                  + ", ".join(f"{name} {_short(value)}" for name, value in settings.items()),
        "batch": f"{recipe.batch_size} images a step (global) = {share} a process × {processes.world} processes,"
                 f" learning rate {recipe.lr:g}",
        "memory": f"about {memory / 2**20:,.0f} MiB a process: {4 * copies * parameters / 2**20:,.0f} for weights,"
                  f" gradients and averages, {kept / 2**20:.1f} for each image of the backward pass",
        "device": f"{processes.device}{threads}, {'bfloat16' if run.amp else 'float32'}, torch {torch.__version__}",
    }


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + " ".join(f"{part:g}" for part in value) + ")"
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
    return {"epoch": epoch, "step": run.step, "lr": trained.get("lr", ""), "train_loss": trained.get("loss", ""),
            **{f"val_{name}": value for name, value in scores.items()}, "images_per_s": trained.get("images_per_s", ""),
            **{f"neighbours_{layer}": value for layer, value in enumerate(neighbours)}}


def line(row: dict, epochs: int) -> str:
    """The line of an epoch."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name, text in (("train_loss", "loss {:.3f}"), ("val_loss", "val loss {:.3f}"), ("val_top1", "top-1 {:5.2f} %"),
                       ("val_top5", "top-5 {:5.2f} %"), ("images_per_s", "{:.0f} images/s"), ("lr", "lr {:.1e}")):
        if row[name] != "":
            parts.append(text.format(row[name]))
    neighbours = [f"{value:.1f}" for name, value in row.items() if name.startswith("neighbours_")]
    return "  ".join([*parts, "neighbours " + " ".join(neighbours)])


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
