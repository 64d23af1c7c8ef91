"""Draw loss, accuracy, mean neighbours per node and learning rate of one or several runs over epochs, in one picture.

Reads metrics.csv of each run's folder, and config.json for the title. A value that is empty, infinite or not a number
leaves a gap.
"""

import contextlib
import csv
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from . import panels
from .command import Parser, save_picture
from .panels import LEFT, TOP, Axis, Points, Series, colours, draw_chart, draw_legend, shorten, ticks

TITLE = ImageFont.load_default(18)

Rows = dict[float, dict[str, float]]  # epoch to column to value, finite numbers alone


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
    """Draw a panel with the box of its curves at (left, top). Returns the height of its legend."""
    y = value_axis(panel.series, panel.kind)
    if beyond := {value for s in panel.series for _, value in s.points if value > y.high}:
        text = "epoch 0, beyond the axis: " + " to ".join(f"{v:,.4g}" for v in sorted({min(beyond), max(beyond)}))
        ImageDraw.Draw(page).text((left + panels.WIDTH - 1, top - 12), text, panels.FAINT, panels.FONT, anchor="rs")
    return draw_chart(page, left, top, epoch_axis(panel.series), y, ("epoch", panel.heading), panel.series,
                      panel.legend)


def points(rows: Rows, columns: list[str]) -> Points:
    """(epoch, mean over these columns) of every row; NaN where one of them has no value."""
    return [(epoch, sum(row.get(column, math.nan) for column in columns) / len(columns) if columns else math.nan)
            for epoch, row in rows.items()]


def panels_of(runs: dict[str, Rows]) -> list[Panel]:
    """The panels that have values: of one run its losses and every layer, of several runs a colour for each."""
    loss, score, neighbours, rate, scores, alone = [], [], [], [], {}, len(runs) == 1
    for (name, rows), colour in zip(runs.items(), colours(len(runs)), strict=True):
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        layers = sorted((c for c in columns if c.startswith("neighbours_")), key=lambda c: (len(c), c))
        measure = [c for c in ("val_top1", "val_mAP", *columns)
                   if c in columns and c.startswith("val_") and "loss" not in c][:1]
        scores |= dict.fromkeys({"val_top1": "top-1"}.get(c, c.removeprefix("val_")) for c in measure)
        loss += [Series("training", points(rows, ["train_loss"]), colour, dashed=True),
                 Series("validation", points(rows, ["val_loss"]), panels.PALETTE[1] if alone else colour)]
        score.append(Series(name, points(rows, measure), colour))
        rate.append(Series(name, points(rows, ["lr"]), colour))
        neighbours.append(Series(name, points(rows, layers), colour))
    per_layer, terms, kinds = [], [], [Series(s.name, [], panels.FAINT, s.dashed) for s in loss[:2]]
    if alone:
        neighbours = per_layer = _series(rows, layers, "neighbours_", "layer ")
        terms = _series(rows, [c for c in columns if c.startswith("train_") and c != "train_loss"], "train_")
    found = [Panel("loss", loss, loss if alone else kinds, "loss"),
             Panel(f"validation {' / '.join(scores)} (%)", score, []),
             Panel("mean neighbours per node" + ("" if alone else ", mean of all layers"), neighbours, per_layer),
             Panel("learning rate", rate, [], "rate"), Panel("terms of the training loss", terms, terms, "loss")]
    return [panel for panel in found if any(math.isfinite(value) for s in panel.series for _, value in s.points)]


def _series(rows: Rows, columns: list[str], prefix: str, name: str = "") -> list[Series]:
    return [Series(name + column.removeprefix(prefix), points(rows, [column]), colour)
            for column, colour in zip(columns, colours(len(columns)), strict=True)]


def draw(runs: dict[str, Rows], title: str) -> Image.Image:
    """All panels, two beside each other, under the title and, for several runs, the legend of their colours."""
    found = panels_of(runs)
    if not found:
        raise ValueError("no loss, accuracy, neighbours or learning rate in metrics.csv, so there is nothing to draw")
    (width, height), across = panels.CHART, min(2, len(found))
    entries = [Series(name, [], colour) for name, colour in zip(runs, colours(len(runs)), strict=True)]
    page = Image.new("RGB", (across * width, 1024 + 20 * (len(runs) + sum(len(p.legend) for p in found))), "white")
    ImageDraw.Draw(page).text((16, 14), shorten(title, TITLE, page.width - 32), panels.INK, TITLE)
    top = 44 + (draw_legend(page, 16, 44, entries, page.width - 32) if len(runs) > 1 else 0)
    for i in range(0, len(found), across):
        row = enumerate(found[i:i + across])
        top += height + max(draw_panel(page, LEFT + j * width, top + TOP, panel) for j, panel in row)
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
        row = {column: value for column, text in zip(header, line) if math.isfinite(value := _number(text))}
        if "epoch" in row and len(line) >= len(header):
            rows[row["epoch"]] = row
    if not rows:
        raise ValueError(f"{path}: there is no row with an epoch in it (yet)")
    return dict(sorted(rows.items()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def run_names(folders: list[Path]) -> list[str]:
    """Each folder's own name, preceded by as many parent folders as it takes to tell the runs apart."""
    def name(folder: Path, parts: int) -> str:
        return "/".join(folder.parts[-parts:])
    return [next(name(folder, parts) for parts in range(1, len(folder.parts) + 1)
                 if sum(name(folder, parts) == name(other, parts) for other in folders) == 1) for folder in folders]


def title_of(folders: list[Path]) -> str:
    """Model, data and recipe of the runs, from config.json where that can be read, else the names of the runs."""
    configs, names = [], run_names(folders)
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the curves are worth drawing all the same
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            configs.append((config["model"], config["data"]["name"], config["recipe_name"]))
    if not configs:
        return ", ".join(names)
    parts = [", ".join(dict.fromkeys(map(str, values))) for values in zip(*configs, strict=True)]  # each value once
    return (f"{names[0]}: " if len(names) == 1 else "") + "{} on {}, recipe {}".format(*parts)


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal plot`."""
    parser = Parser("plot", __doc__, "runs/vig_nano-shapes runs/lrgc_nano-shapes --out curves.png")
    parser.add_argument("runs", metavar="DIR", nargs="+", help="the folder of a run, where train.py wrote metrics.csv")
    parser.add_out("curves.png")
    args = parser.parse_args(argv)
    with parser.errors_in_one_sentence():
        folders = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in args.runs))
        page = draw(dict(zip(run_names(folders), map(read_run, folders), strict=True)), title_of(folders))
        save_picture(page, args.out)
    print(f"wrote {args.out}")
