"""Confusion matrix of `train.py --eval-only`, over images, or pixels in segmentation, that have one label each."""

import csv
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..atomic_files import replacing
from ..training.engine import Run
from ..training.run_log import RunLog, per_class
from .panels import FONT, sheet, shorten

SIDE = 360  # of a matrix, in pixels
NAMES = 84  # room for the names of classes
MOST_NAMED = 24  # classes that are named along an axis; of more, every second, third, …
WRITTEN = 28  # side of a cell in which its number has room
PAIRS = 5  # confused pairs that are printed


def confusion(pairs: Tensor, classes: int) -> Tensor:
    """Return the confusion matrix: entry (i, j) counts images of class i that are predicted as class j. pairs:
    (2, images), see `metrics.TopK`."""
    return torch.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).view(classes, classes)


def in_words(matrix: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the accuracy of every class and the most frequent confusions, as lines of text."""
    shown = matrix.sum(1)
    accuracy = [100 * right / count if count else None for right, count in zip(matrix.diag().tolist(), shown.tolist())]
    wrong = matrix - matrix.diag().diag()
    counts, order = wrong.flatten().topk(min(PAIRS, wrong.numel()))
    pairs = [f"{classes[i]} for {classes[j]} ({count} of {shown[i]})" for count, (i, j) in
             zip(counts.tolist(), (divmod(place, len(classes)) for place in order.tolist())) if count]
    return [*per_class(dict(zip(classes, accuracy, strict=True)), "accuracy"),
            f"most frequent confusions: {', '.join(pairs) or 'none'}"]


def draw_matrix(matrix: Tensor, classes: Sequence[str], written: str = "") -> Image.Image:
    """Draw a matrix: white cells at 0, dark ones at its largest value, the names of classes at both axes.

    written: the format of the numbers in the cells, which are left out where they have no room.
    """
    cells = (matrix / matrix.max().clamp(min=1e-12)).numpy()[..., None]
    pixels = (1 - cells) * 255 + cells * np.array([0, 60, 120])
    cell = max(1, SIDE // len(classes))
    heat = Image.fromarray(pixels.astype(np.uint8)).resize(2 * (cell * len(classes),), Image.Resampling.NEAREST)
    page = Image.new("RGB", (heat.width + NAMES, heat.height + NAMES), "white")
    page.paste(heat, (NAMES, NAMES))
    sideways = Image.new("RGB", (NAMES, heat.width), "white")  # the columns' names, the last on top; rotated below
    every = -(-len(classes) // MOST_NAMED)
    for i, name in list(enumerate(classes))[::every]:
        text, middle = shorten(name, FONT, NAMES - 8), round((i + 0.5) * cell)
        ImageDraw.Draw(page).text((NAMES - 4, NAMES + middle), text, "black", FONT, anchor="rm")
        ImageDraw.Draw(sideways).text((NAMES - 4, heat.width - 1 - middle), text, "black", FONT, anchor="rm")
    page.paste(sideways.rotate(-90, expand=True), (NAMES, 0))
    for i, j in matrix.nonzero().tolist() if written and cell >= WRITTEN else ():
        place = NAMES + round((j + 0.5) * cell), NAMES + round((i + 0.5) * cell)
        colour = "white" if cells[i, j] > 0.5 else "black"
        ImageDraw.Draw(page).text(place, written.format(matrix[i, j]), colour, FONT, anchor="mm")
    ImageDraw.Draw(page).rectangle((NAMES, NAMES, page.width - 1, page.height - 1), outline="#777777")
    return page


def report(run: Run, log: RunLog) -> None:
    """Print accuracies and confused pairs of the last evaluation, and write the matrix as a table and a picture; on the
    first process, for data with one label per image or, in segmentation, per pixel."""
    classes, config, last = run.data.classes, run.config, run.metric
    if not (hasattr(last, "pairs") or hasattr(last, "confusion")) or not run.processes.is_first:
        return
    matrix = last.confusion.long() if hasattr(last, "confusion") else confusion(last.pairs, len(classes))
    log.say(*in_words(matrix, classes))
    split = "" if config.eval_split == "val" else "-train"
    part = "validation" if config.eval_split == "val" else "training"
    was = run.start.state.get("data", {}).get(part)
    if run.start.asked or was not in (None, run.seen[part]):
        split += "-changed"  # the matrix of the run's own model and data stays
    paths = [config.output / f"confusion{split}.{kind}" for kind in ("csv", "png")]
    percent = 100 * matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    title = f"{config.model}, {run.start.path}\npercent; rows: true class, columns: prediction"
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        with replacing(paths[0], "w") as file:
            csv.writer(file).writerows([["class", *classes], *([name, *row] for name, row in
                                                               zip(classes, matrix.tolist(), strict=True))])
        with replacing(paths[1]) as file:
            sheet([draw_matrix(percent, classes, "{:.0f}")], [""], 1, title).save(file, "PNG")
    except OSError as error:
        return log.say(f"warning: the confusion matrix is not written ({error}); name a folder with --output")
    log.say(f"wrote {paths[0]} (rows: true classes, columns: predictions) and {paths[1]}")
