"""Draw loss, accuracy, mean neighbours per node and learning rate of one or several runs over epochs, in one picture.

Reads metrics.csv of each run's folder, and config.json for the title. A value that is empty, infinite or not a number
leaves a gap.
"""

import contextlib
import csv
import json
import math
import os
from pathlib import Path

from PIL import Image

from .chart import FAINT, Axis, Chart, Points, Series, draw_page, log_ticks, ticks
from .command import Parser, save_picture
from .panels import PALETTE, colours

Rows = dict[float, dict[str, float]]  # epoch to column to value, finite numbers alone


def epoch_axis(series: list[Series]) -> Axis:
    """The epochs of all curves, with a little room on both sides."""
    epochs = [epoch for s in series for epoch, _ in s.points]
    room = 0.02 * (max(epochs) - min(epochs)) or 0.5
    low, high = min(epochs) - room, max(epochs) + room
    return Axis(low, high, ticks(low, high, 10, least=1))


def value_axis(series: list[Series], kind: str = "") -> Axis:
    """The values of all curves, with a little room.

    kind: a "loss" leaves out a huge value of epoch 0, which would flatten the rest; a "rate" over decades is drawn on a
    logarithmic axis.
    """
    points = [point for s in series for point in s.points if math.isfinite(point[1])]
    later = [value for epoch, value in points if epoch >= 1]
    values = [value for epoch, value in points
              if kind != "loss" or epoch >= 1 or not later or value <= 2 * max(later)]
    low, high = min(values), max(values)
    if kind == "rate" and 0 < 100 * low <= high:
        low, high = low / 1.3, high * 1.3
        return Axis(low, high, log_ticks(low, high), log=True)
    if high - low <= 1e-6 * abs(high):  # a single level, which is shown above 0
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    room = 0.04 * (high - low)
    return Axis(low - room, high + room, ticks(low - room, high + room))


def chart(heading: str, series: list[Series], legend: list[Series], kind: str = "") -> Chart:
    """A chart over epochs; what lies beyond its axis is noted. kind: see `value_axis`."""
    y = value_axis(series, kind)
    beyond = sorted({value for s in series for _, value in s.points if value > y.high})
    ends = " to ".join(f"{value:,.4g}" for value in dict.fromkeys(beyond[:1] + beyond[-1:]))
    note = f"epoch 0, beyond the axis: {ends}" if ends else ""
    return Chart(heading, "epoch", epoch_axis(series), y, series, legend, note)


def points(rows: Rows, columns: list[str]) -> Points:
    """(epoch, mean over these columns) of every row; NaN where one of them has no value."""
    return [(epoch, sum(row.get(column, math.nan) for column in columns) / len(columns) if columns else math.nan)
            for epoch, row in rows.items()]


def charts_of(runs: dict[str, Rows]) -> list[Chart]:
    """The charts that have values: of one run its losses and every layer, of several runs a colour for each."""
    loss, score, neighbours, rate, scores, alone = [], [], [], [], {}, len(runs) == 1
    for (name, rows), colour in zip(runs.items(), colours(len(runs)), strict=True):
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        layers = sorted((c for c in columns if c.startswith("neighbours_")), key=lambda c: (len(c), c))
        measure = [c for c in ("val_top1", "val_mAP", *columns)
                   if c in columns and c.startswith("val_") and "loss" not in c][:1]
        scores |= dict.fromkeys({"val_top1": "top-1"}.get(c, c.removeprefix("val_")) for c in measure)
        loss += [Series("training", points(rows, ["train_loss"]), colour, dashed=True),
                 Series("validation", points(rows, ["val_loss"]), PALETTE[1] if alone else colour)]
        score.append(Series(name, points(rows, measure), colour))
        rate.append(Series(name, points(rows, ["lr"]), colour))
        neighbours.append(Series(name, points(rows, layers), colour))
    per_layer, terms, kinds = [], [], [Series(s.name, [], FAINT, s.dashed) for s in loss[:2]]
    if alone:
        neighbours = per_layer = _series(rows, layers, "neighbours_", "layer ")
        terms = _series(rows, [c for c in columns if c.startswith("train_") and c != "train_loss"], "train_")
    found = [("loss", loss, loss if alone else kinds, "loss"),
             (f"validation {' / '.join(scores)} (%)", score, []),
             ("mean neighbours per node" + ("" if alone else ", mean of all layers"), neighbours, per_layer),
             ("learning rate", rate, [], "rate"), ("terms of the training loss", terms, terms, "loss")]
    return [chart(heading, series, *more) for heading, series, *more in found
            if any(math.isfinite(value) for s in series for _, value in s.points)]


def _series(rows: Rows, columns: list[str], prefix: str, name: str = "") -> list[Series]:
    return [Series(name + column.removeprefix(prefix), points(rows, [column]), colour)
            for column, colour in zip(columns, colours(len(columns)), strict=True)]


def draw(runs: dict[str, Rows], title: str) -> Image.Image:
    """All charts under the title and, for several runs, the legend of their colours."""
    charts = charts_of(runs)
    if not charts:
        raise ValueError("no loss, accuracy, neighbours or learning rate in metrics.csv, so there is nothing to draw")
    entries = [Series(name, [], colour) for name, colour in zip(runs, colours(len(runs)), strict=True)]
    return draw_page(title, charts, entries if len(runs) > 1 else [])


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
    """Each folder's path from the nearest folder that holds all runs: for one run, its own name."""
    common = os.path.commonpath([folder.parent for folder in folders])
    return [str(folder.relative_to(common)) for folder in folders]


def title_of(folders: list[Path]) -> str:
    """Model, data and recipe of the runs, from config.json where that can be read, else the names of the runs."""
    configs, names = [], run_names(folders)
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the curves are worth drawing all the same
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            configs.append((config["name"], config["flags"]["data"], config["flags"]["recipe"]))
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
