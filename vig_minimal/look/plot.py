"""Curves of one or several runs over epochs, in one picture: loss, accuracy, mean neighbours per node, learning rate.

    python -m vig_minimal plot runs/lrgc_nano-shapes
    python -m vig_minimal plot runs/vig_nano-shapes runs/lrgc_nano-shapes --out curves.png

Reads metrics.csv of each run's folder, and config.json for the title. A value that is empty, infinite or not a number
leaves a gap.
"""

import argparse
import contextlib
import csv
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..files import replacing
from .panels import FONT, LINE, PALETTE, Axis, colours, curve, labels, shorten, ticks

WIDTH, HEIGHT = 520, 280  # of the box in which curves are drawn, in pixels
LEFT, TOP, RIGHT, BOTTOM = 72, 44, 16, 52  # around it: labels, a heading, room, labels and the word «epoch»
HEADING, TITLE = ImageFont.load_default(15), ImageFont.load_default(18)
INK, FAINT, GRID = "#222222", "#777777", "#e4e4e4"

Points = list[tuple[float, float]]  # epoch and value; a gap is NaN
Rows = dict[float, dict[str, float]]  # epoch to column to value, finite numbers alone


@dataclass(frozen=True)
class Series:
    """A curve: its name, its points and its looks. Where the line is dashed, the markers are hollow."""

    name: str
    points: Points
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves that share axes, and the entries of the legend below."""

    heading: str
    series: list[Series]
    legend: list[Series]
    kind: str = ""  # "loss": the axis need not reach a huge value of epoch 0; "rate": it may be logarithmic


def epoch_axis(series: list[Series]) -> Axis:
    """The epochs of all curves, with a little room on both sides."""
    epochs = [epoch for s in series for epoch, _ in s.points]
    room = 0.02 * (max(epochs) - min(epochs)) or 0.5
    low, high = min(epochs) - room, max(epochs) + room
    return Axis(low, high, ticks(low, high, 10, least=1))


def value_axis(series: list[Series], kind: str) -> Axis:
    """The values of all curves, with a little room; not a huge loss before training, which would flatten them."""
    points = [point for s in series for point in s.points if math.isfinite(point[1])]
    later = [value for epoch, value in points if epoch >= 1]
    values = [value for epoch, value in points
              if kind != "loss" or epoch >= 1 or not later or value <= 2 * max(later)]
    low, high = min(values), max(values)
    if kind == "rate" and 0 < 100 * low <= high:
        low, high = low / 1.3, high * 1.3
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        return Axis(low, high, [float(f"1e{power}") for power in powers], log=True)
    if high - low <= 1e-6 * abs(high):  # a single level, which is shown above 0
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    room = 0.04 * (high - low)
    return Axis(low - room, high + room, ticks(low - room, high + room))


def draw_panel(page: Image.Image, left: int, top: int, panel: Panel) -> int:
    """Draw axes, curves and legend, with the box of the curves at (left, top); the height of the legend."""
    draw, x, y = ImageDraw.Draw(page), epoch_axis(panel.series), value_axis(panel.series, panel.kind)
    right, bottom = left + WIDTH - 1, top + HEIGHT - 1
    for mark, text in zip(y.ticks, labels(y.ticks, y.log), strict=True):
        row = bottom - round(y.pixel(mark, HEIGHT))
        draw.line((left, row, right, row), GRID)
        draw.text((left - 8, row), text, INK, FONT, anchor="rm")
    for mark, text in zip(x.ticks, labels(x.ticks), strict=True):
        column = left + round(x.pixel(mark, WIDTH))
        draw.line((column, top, column, bottom), GRID)
        draw.text((column, bottom + 8), text, INK, FONT, anchor="mt")
    draw.line((left, top, left, bottom, right, bottom), FAINT)
    draw.text((right, bottom + 26), "epoch", INK, FONT, anchor="rt")
    draw.text((left, top - 12), panel.heading + (" (log scale)" if y.log else ""), INK, HEADING, anchor="ls")
    if beyond := {value for s in panel.series for _, value in s.points if value > y.high}:
        text = " to ".join(f"{value:,.4g}" for value in sorted({min(beyond), max(beyond)}))
        draw.text((right, top - 12), f"epoch 0, beyond the axis: {text}", FAINT, FONT, anchor="rs")
    for s in sorted(panel.series, key=lambda s: -len(s.points)):  # a longer run must not hide a shorter one
        same = [other for other in panel.series if repr(other.points) == repr(s.points)]
        path = [(x.pixel(epoch, WIDTH), HEIGHT - 1 - y.pixel(value, HEIGHT) if value <= y.high else math.nan)
                for epoch, value in s.points]
        curve(page, (left, top, WIDTH, HEIGHT), path, s.colour, s.dashed, len(same), same.index(s))
    return draw_legend(page, left, bottom + BOTTOM, panel.legend)


def draw_legend(page: Image.Image, left: int, top: int, entries: list[Series], width: int = WIDTH) -> int:
    """Write names beside samples of their lines, in columns, as many as fit into `width`; the height of all rows."""
    names = [shorten(entry.name, FONT, width - 44) for entry in entries]
    step = 44 + round(max(map(FONT.getlength, names), default=0))
    across = (width + 14) // step
    for i, (entry, name) in enumerate(zip(entries, names, strict=True)):
        x, y = left + i % across * step, top + i // across * (LINE + 2)
        sample = [(-20, LINE // 2), (12, LINE // 2), (44, LINE // 2)]  # of its three markers one is in the box
        curve(page, (x, y, 25, LINE), sample, entry.colour, entry.dashed)
        ImageDraw.Draw(page).text((x + 30, y + LINE // 2), name, INK, FONT, anchor="lm")
    return -(-len(entries) // across) * (LINE + 2)


def points(rows: Rows, columns: list[str]) -> Points:
    """(epoch, mean over these columns) of every row; NaN where one of them has no value."""
    return [(epoch, sum(row.get(column, math.nan) for column in columns) / len(columns) if columns else math.nan)
            for epoch, row in rows.items()]


def panels_of(runs: dict[str, Rows]) -> list[Panel]:
    """What there is to draw: of one run its losses and every layer, of several runs a colour for each."""
    loss, score, neighbours, rate, scores = [], [], [], [], {}
    for (name, rows), colour in zip(runs.items(), colours(len(runs)), strict=True):
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        layers = sorted((c for c in columns if c.startswith("neighbours_")), key=lambda c: (len(c), c))
        measure = [c for c in ("val_top1", "val_mAP", *columns)
                   if c in columns and c.startswith("val_") and "loss" not in c][:1]
        scores |= dict.fromkeys({"val_top1": "top-1"}.get(c, c.removeprefix("val_")) for c in measure)
        loss += [Series("training", points(rows, ["train_loss"]), colour, dashed=True),
                 Series("validation", points(rows, ["val_loss"]), colour if len(runs) > 1 else PALETTE[1])]
        score.append(Series(name, points(rows, measure), colour))
        rate.append(Series(name, points(rows, ["lr"]), colour))
        neighbours.append(Series(name, points(rows, layers), colour))
    if len(runs) == 1:
        neighbours = [Series(f"layer {layer.removeprefix('neighbours_')}", points(rows, [layer]), colour)
                      for layer, colour in zip(layers, colours(len(layers)), strict=True)]
    terms = [c for c in columns if c.startswith("train_") and c != "train_loss"] if len(runs) == 1 else []
    parts = [Series(c.removeprefix("train_"), points(rows, [c]), colour)
             for c, colour in zip(terms, colours(len(terms)), strict=True)]
    kinds = loss if len(runs) == 1 else [Series(s.name, [], FAINT, s.dashed) for s in loss[:2]]
    of_layers = " per node" + (", mean of all layers" if len(runs) > 1 else "")
    panels = [Panel("loss", loss, kinds, "loss"), Panel(f"validation {' / '.join(scores)} (%)", score, []),
              Panel("mean neighbours" + of_layers, neighbours, neighbours if len(runs) == 1 else []),
              Panel("learning rate", rate, [], "rate"), Panel("terms of the training loss", parts, parts, "loss")]
    return [panel for panel in panels if any(math.isfinite(value) for s in panel.series for _, value in s.points)]


def draw(runs: dict[str, Rows], title: str) -> Image.Image:
    """All panels, two beside each other, under the title and, for several runs, the legend of their colours."""
    panels = panels_of(runs)
    if not panels:
        raise ValueError("no loss, accuracy, neighbours or learning rate in metrics.csv, so there is nothing to draw")
    step, across = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM), min(2, len(panels))
    entries = [Series(name, [], colour) for name, colour in zip(runs, colours(len(runs)), strict=True)]
    page = Image.new("RGB", (across * step[0], 1024 + 20 * (len(runs) + sum(len(p.legend) for p in panels))), "white")
    ImageDraw.Draw(page).text((16, 14), shorten(title, TITLE, page.width - 32), INK, TITLE)
    top = 44 + (draw_legend(page, 16, 44, entries, page.width - 32) if len(runs) > 1 else 0)
    for i in range(0, len(panels), across):
        row = enumerate(panels[i:i + across])
        top += step[1] + max(draw_panel(page, LEFT + j * step[0], top + TOP, panel) for j, panel in row)
    return page.crop((0, 0, page.width, top + 8))


def read_run(folder: Path) -> Rows:
    """The rows of a run's metrics.csv, by epoch. Raises ValueError, with one sentence, for what cannot be used.

    A row that was cut short by a crash does not count; of two rows of one epoch the later one does.
    """
    path, rows = folder / "metrics.csv", {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (FileNotFoundError, NotADirectoryError):
        what = "there is no metrics.csv in it" if folder.is_dir() else "no such folder"
        raise ValueError(f"{folder}: {what}; give the folder of a run of train.py") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    for line in lines:
        row = {column: value for column, text in zip(header, line) if math.isfinite(value := number(text))}
        if "epoch" in row and len(line) >= len(header):
            rows[row["epoch"]] = row
    if not rows:
        raise ValueError(f"{path}: there is no row with an epoch in it (yet)")
    return dict(sorted(rows.items()))


def number(text: str) -> float:
    """The number in a cell, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def run_names(folders: list[Path]) -> list[str]:
    """Each folder's own name, with as many of the folders above it as it takes to tell the runs apart."""
    def name(folder: Path, parts: int) -> str:
        return "/".join(folder.parts[-parts:])
    return [next(name(folder, parts) for parts in range(1, len(folder.parts) + 1)
                 if sum(name(folder, parts) == name(other, parts) for other in folders) == 1) for folder in folders]


def title_of(folders: list[Path]) -> str:
    """Model, data and recipe of the runs that have a config.json which says so, else their names."""
    configs = []
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the curves are worth drawing all the same
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            configs.append((config["model"], config["data"]["name"], config["recipe_name"]))
    parts = [", ".join(dict.fromkeys(map(str, values))) for values in zip(*configs, strict=True)]  # each value once
    names = run_names(folders)
    if not parts:
        return ", ".join(names)
    return (f"{names[0]}: " if len(names) == 1 else "") + "{} on {}, recipe {}".format(*parts)


def main(argv: list[str] | None = None) -> None:
    """The command; see `python -m vig_minimal plot --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m vig_minimal plot", description="Draw loss, accuracy, neighbours and learning rate over epochs.",
        epilog="example: python -m vig_minimal plot runs/vig_nano-shapes runs/lrgc_nano-shapes --out curves.png")
    parser.error = fail
    parser.add_argument("runs", metavar="DIR", nargs="+", help="the folder of a run, where train.py wrote metrics.csv")
    parser.add_argument("--out", metavar="FILE", default="curves.png", help="the PNG to write (default curves.png)")
    args = parser.parse_args(argv)
    try:
        if Path(args.out).suffix.lower() != ".png":
            raise ValueError(f"--out {args.out}: the picture is a PNG; give a name that ends in .png")
        folders = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in args.runs))
        page = draw(dict(zip(run_names(folders), map(read_run, folders), strict=True)), title_of(folders))
        with replacing(args.out) as file:
            page.save(file, "PNG")
    except OSError as error:
        fail(f"{args.out}: cannot be written ({error.strerror or error})")
    except ValueError as error:
        fail(str(error))
    print(f"wrote {args.out}")


def fail(message: str) -> None:
    """Say in one sentence what is wrong, and end with code 2."""
    print(f"plot: error: {message}", file=sys.stderr)
    sys.exit(2)
