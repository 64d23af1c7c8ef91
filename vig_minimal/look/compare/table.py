"""Output of a comparison: a table of its variants (Markdown), one of all cells (CSV), and a picture."""

import csv
import io
import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from ...models.checks import plural
from ..chart import FAINT, HEIGHT, INK, LEFT, TOP, WIDTH, Axis, Chart, Series, draw_page, ticks
from ..panels import FONT, LINE, colours
from .cells import Cell, Variant

NOTE = 90  # characters of a line below the picture
Box = tuple[float, float, float, float]  # left, top, right, bottom

# key of a result -> heading of its column, how it is printed, what it is
COLUMNS = {"parameters": ("parameters", "{:,.0f}", "trainable parameters"),
           "gmacs": ("GMACs", "{:.3f}", "10⁹ multiply-adds per image"),
           "eval_ms": ("eval ms", "{:.1f}", "milliseconds per image in evaluation, median of the seeds"),
           "eval_ratio": ("eval / floor", "{:.2f}", "eval ms relative to the same network without a graph"),
           "train_ms": ("train ms", "{:.1f}", "milliseconds per image, forward and backward, median of the seeds"),
           "train_ratio": ("train / floor", "{:.2f}", "train ms relative to the same network without a graph"),
           "mb_kept": ("MB kept", "{:.1f}", "MB per image that are kept for the backward pass"),
           "degree": ("degree", "{:.1f}", "mean number of sources per node, itself included"),
           "length": ("edge length", "{:.2f}", "mean distance between target and source, in patches"),
           "homophily": ("homophily", "{:.2f}", "share of the edges into an object that come from the same object"),
           "overlap": ("overlap", "{:.2f}", "edges shared with the first block's graph, of the edges in either"),
           "diversity": ("diversity", "{:.2f}", "‖X − mean over patches‖ / ‖X‖ of the last features")}
TIMES = ("eval_ms", "eval_ratio", "train_ms", "train_ratio")
DISTURBED = "\\* measured while other work took the cores"
MOST_WAITING = 0.1  # share of the timing in which a thread waited for a core that other work had


class Row(NamedTuple):
    """A variant's figures over its finished seeds; NaN where too few are finished."""

    variant: Variant
    seeds: int
    mean: float
    deviation: float   # of the seeds, unbiased
    difference: float  # to the baseline, over the seeds that both have
    error: float       # standard error of that difference, in pairs
    figures: dict[str, float]
    disturbed: bool    # all of its times were measured beside other work


def rows_of(cells: Sequence[Cell], baseline: Variant) -> list[Row]:
    """Return a row for each variant, in the order of the cells."""
    results = {cell: result for cell in cells if (result := cell.read())}
    score = {variant: {cell.seed: result["score"] for cell, result in results.items() if cell.variant == variant}
             for variant in dict.fromkeys(cell.variant for cell in cells)}
    rows = []
    for variant, own in score.items():
        pairs = [own[seed] - score[baseline][seed] for seed in own if seed in score[baseline]]
        of = [result for cell, result in results.items() if cell.variant == variant]
        quiet = [result for result in of if result.get("waited", 0) <= MOST_WAITING]
        figures = {key: statistics.median(result[key] for result in quiet or of) if key in TIMES else
                   _mean([result[key] for result in of]) for key in COLUMNS if of}
        rows.append(Row(variant, len(own), _mean(list(own.values())), _deviation(list(own.values())), _mean(pairs),
                        _deviation(pairs) / math.sqrt(max(1, len(pairs))), figures, bool(of) and not quiet))
    return rows


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def markdown(cells: Sequence[Cell], baseline: Variant, about: str, command: str) -> str:
    """Return the table between what was trained and the command, and the meaning of its columns and the cells that are
    missing."""
    rows = rows_of(cells, baseline)
    results = [result for cell in cells if (result := cell.read())]
    name, total = (results[0]["score_name"] if results else "score"), len({cell.seed for cell in cells})
    known = [key for key in COLUMNS if any(math.isfinite(row.figures.get(key, math.nan)) for row in rows)]
    heading = ["variant", "seeds", name, f"− {baseline.name}", *(COLUMNS[key][0] for key in known)]
    lines = [" | ".join(heading)]
    for row in rows:
        difference = "" if row.variant == baseline else _with_error(row.difference, row.error, "{:+.2f}")
        figures = [_text(row.figures.get(key, math.nan), COLUMNS[key][1]) + "\\*" * (row.disturbed and key in TIMES)
                   for key in known]
        lines.append(" | ".join([row.variant.name, f"{row.seeds} of {total}", _with_error(row.mean, row.deviation),
                                 (difference or "–").replace("-", "−"), *figures]))
    missing = [f"{cell.variant.name} (seed {cell.seed})" for cell in cells if not cell.result.exists()]
    lines = [f"| {line} |" for line in lines]
    meanings = {"seeds": "finished runs", name: "of the last epoch, mean ± standard deviation over the seeds",
                heading[3]: f"difference to {baseline.name}, ± its standard error, in pairs of the same seed",
                **{COLUMNS[key][0]: COLUMNS[key][2] for key in known}}
    shown = " \\\n    ".join(textwrap.wrap(command, 114, break_long_words=False, break_on_hyphens=False))
    parts = [f"{about}\n\n```sh\n{shown}\n```",
             "\n".join([lines[0], "|---|" + "---:|" * (len(heading) - 1), *lines[1:]]),
             "\n".join(f"* {name}: {meaning}" for name, meaning in meanings.items())]
    if any(row.disturbed for row in rows):
        parts.append(DISTURBED)
    if missing:
        parts.append(textwrap.fill(f"Missing: {', '.join(missing)}.", 120))
    return "\n\n".join(parts) + "\n"


def _text(value: float, how: str) -> str:
    return how.format(value) if math.isfinite(value) else "–"


def _with_error(value: float, error: float, how: str = "{:.2f}") -> str:
    return _text(value, how) + (f" ± {error:.2f}" if math.isfinite(error) else "")


def as_csv(cells: Sequence[Cell]) -> str:
    """Return one line for each finished cell, with all that was measured."""
    results = [{"variant": cell.variant.name, "seed": cell.seed} | result for cell in cells if (result := cell.read())]
    text = io.StringIO()
    names = dict.fromkeys(["variant", "seed", *(key for result in results for key in result)])
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in result.items()}
                     for result in results)
    return text.getvalue()


def picture(cells: Sequence[Cell], baseline: Variant, model: str, notes: Sequence[str]) -> Image.Image:
    """Draw the score against the time in evaluation as a ratio to the floor; notes are written below."""
    rows = [row for row in rows_of(cells, baseline) if row.seeds]
    name = next(result["score_name"] for cell in cells if (result := cell.read()))
    spread = [0.0 if math.isnan(row.deviation) else row.deviation for row in rows]
    x = _axis([row.figures["eval_ratio"] for row in rows])
    y = _axis([row.mean + way * by for row, by in zip(rows, spread) for way in (-1, 1)])
    curves, dots = [], []
    for row, by, colour in zip(rows, spread, colours(len(rows)), strict=True):
        at = row.figures["eval_ratio"]
        curves.append(Series(row.variant.name, [(at, row.mean - by), (at, row.mean), (at, row.mean + by)], colour))
        dots.append(Series(row.variant.name, [(at, row.mean)], colour))
    seeds = len({cell.seed for cell in cells})
    title = f"{name.capitalize()} against time: {plural(len(rows), 'variant')} of {model}, {plural(seeds, 'seed')}"
    page = draw_page(title, [Chart(
        name, "time in evaluation / the same network without a graph", x, y, [*curves, *dots], [])])
    places = {dot.name: (LEFT + x.pixel(at, WIDTH), 44 + TOP + HEIGHT - 1 - y.pixel(score, HEIGHT))
              for dot in dots for at, score in dot.points}
    bars = [by / (y.high - y.low) * HEIGHT for by in spread]
    drawn = [(across - wide, down - high, across + wide, down + high)
             for (across, down), bar in zip(places.values(), bars) for wide, high in ((5, 5), (2, bar))]
    draw = ImageDraw.Draw(page)
    for name, (left, top, right, bottom) in boxes_of_names(page.width, places, drawn).items():
        (across, down), middle = places[name], (top + bottom) / 2
        if abs(middle - down) > LINE:  # a line leads to its place
            draw.line((across, down, left if left > across else right, middle), FAINT)
        draw.text((left, top), name, INK, FONT)
    notes = [*notes, "A bar is ± the standard deviation over the seeds. Times are medians of the seeds"
             + ", some measured while other work took the cores." * any(row.disturbed for row in rows)]
    return _with_notes(page, [line for note in notes for line in textwrap.wrap(note, NOTE)])


def _with_notes(page: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Return the page with lines of text below."""
    longer = Image.new("RGB", (page.width, page.height + LINE * len(lines) + 8), "white")
    longer.paste(page)
    for number, line in enumerate(lines):
        ImageDraw.Draw(longer).text((16, page.height + LINE * number), line, FAINT, FONT)
    return longer


def boxes_of_names(width: int, places: dict[str, tuple[float, float]], drawn: Sequence[Box]) -> dict[str, Box]:
    """Return where to write each name: beside its place, or as near as it goes without hiding another name or what is
    drawn."""
    boxes = {}
    for name, (across, down) in sorted(places.items(), key=lambda item: item[1]):
        wide = FONT.getlength(name)
        free = [(left, top, left + wide, top + LINE) for away in range(0, HEIGHT, 2) for way in (1, -1)
                for left in (across + 8, across - 8 - wide)
                if LEFT - 8 < left < width - wide
                and 44 + TOP < (top := down + way * away - LINE / 2) < 44 + TOP + HEIGHT - LINE]
        beside = (across + 8, down - LINE / 2, across + 8 + wide, down + LINE / 2)  # where nothing else is left
        boxes[name] = next((box for box in free if not any(overlap(box, other) for other in (*drawn, *boxes.values()))),
                           beside)
    return boxes


def overlap(a: Box, b: Box) -> bool:
    """Return whether two boxes (left, top, right, bottom) have pixels in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _axis(values: Sequence[float]) -> Axis:
    room = 0.06 * (max(values) - min(values)) or 0.5
    low, high = min(values) - room, max(values) + room
    return Axis(low, high, ticks(low, high))
