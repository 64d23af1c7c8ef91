"""Charts of curves: axes with round ticks, lines with markers and gaps, legends, a page of several charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .panels import FINE, FONT, LINE, enlarged, shorten

HEADING, TITLE = ImageFont.load_default(15), ImageFont.load_default(18)
INK, FAINT, GRID = "#222222", "#777777", "#e4e4e4"
WIDTH, HEIGHT = 520, 280  # of the box in which curves are drawn, in pixels
LEFT, TOP, RIGHT, BOTTOM = 72, 44, 16, 52  # around it: labels, a heading, room, labels and the name of the x axis
DASH = 10 * FINE  # length of a dash and the gap after it

Points = list[tuple[float, float]]  # of a curve; a gap has a y that is NaN


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, linear or logarithmic, with marks at some of them."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def pixel(self, value: float, length: int) -> float:
        """Where a value lies on `length` pixels: `low` on pixel 0, `high` on the last one."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) * (length - 1)


@dataclass(frozen=True)
class Series:
    """A curve: its name, its points and its looks. Where the line is dashed, the markers are hollow."""

    name: str
    points: Points
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves that share axes, and the entries of the legend below. The heading names the y axis."""

    heading: str
    x_name: str
    x: Axis
    y: Axis
    curves: list[Series]
    legend: list[Series]
    note: str = ""  # at the upper right


def ticks(low: float, high: float, most: int = 8, least: float = 0.0) -> list[float]:
    """Multiples of a step in [low, high]. The step is the smallest 1, 2 or 5 times a power of ten that is at least
    `least` and fits at most `most` times between low and high."""
    power = math.floor(math.log10(max((high - low) / most, least)))
    steps = [float(f"{factor}e{power}") for factor in (1, 2, 5, 10)]
    step = next(step for step in steps if step * most >= (high - low) * (1 - 1e-9) and step >= least)
    return [float(f"{i * step:.12g}") for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; where they are fewer than three, also 2 and 5 times these, else multiples of a step."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        marks = [mark for power in powers for factor in factors if low <= (mark := float(f"{factor}e{power}")) <= high]
        if len(marks) >= 3:
            return marks
    return [mark for mark in ticks(low, high) if mark > 0]


def label(mark: float) -> str:
    """A tick as text: 0.5, 20, 1e-5, 2e6."""
    return f"{mark:g}".replace("e-0", "e-").replace("e+0", "e")


def draw_page(title: str, charts: list[Chart], legend: Sequence[Series] = ()) -> Image.Image:
    """Draw charts, two beside each other, under the title and the legend of them all."""
    across, entries = min(2, len(charts)), len(legend) + sum(len(chart.legend) for chart in charts)
    width, height = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    page = Image.new("RGB", (across * width, 60 + len(charts) * height + entries * (LINE + 2)), "white")
    ImageDraw.Draw(page).text((16, 14), shorten(title, TITLE, page.width - 32), INK, TITLE)
    top = 44 + draw_legend(page, 16, 44, legend, page.width - 32)
    for i in range(0, len(charts), across):
        row = enumerate(charts[i:i + across])
        top += height + max(draw_chart(page, LEFT + j * width, top + TOP, chart) for j, chart in row)
    return page.crop((0, 0, page.width, top + 8))


def draw_chart(page: Image.Image, left: int, top: int, chart: Chart) -> int:
    """Draw a chart with the box of its curves at (left, top), and return the height of the legend below.

    A value above the axis leaves a gap. Equal curves take turns, dash by dash, so that all their colours show.
    """
    draw, x, y, right, bottom = ImageDraw.Draw(page), chart.x, chart.y, left + WIDTH - 1, top + HEIGHT - 1
    for mark in y.ticks:
        row = bottom - round(y.pixel(mark, HEIGHT))
        draw.line((left, row, right, row), GRID)
        draw.text((left - 8, row), label(mark), INK, FONT, anchor="rm")
    for mark in x.ticks:
        column = left + round(x.pixel(mark, WIDTH))
        draw.line((column, top, column, bottom), GRID)
        draw.text((column, bottom + 8), label(mark), INK, FONT, anchor="mt")
    draw.line((left, top, left, bottom, right, bottom), FAINT)
    draw.text((right, bottom + 26), chart.x_name + " (log scale)" * x.log, INK, FONT, anchor="rt")
    draw.text((left, top - 12), chart.heading + " (log scale)" * y.log, INK, HEADING, anchor="ls")
    draw.text((right, top - 12), chart.note, FAINT, FONT, anchor="rs")
    with enlarged(page, left, top, WIDTH, HEIGHT) as box:
        for s in sorted(chart.curves, key=lambda s: -len(s.points)):  # a longer curve must not hide a shorter one
            same = [other for other in chart.curves if repr(other.points) == repr(s.points)]
            path = [(x.pixel(where, WIDTH), HEIGHT - 1 - y.pixel(value, HEIGHT) if value <= y.high else math.nan)
                    for where, value in s.points]
            draw_curve(box, path, s, len(same), same.index(s))
    return draw_legend(page, left, bottom + BOTTOM, chart.legend)


def draw_legend(page: Image.Image, left: int, top: int, entries: Sequence[Series], width: int = WIDTH) -> int:
    """Write names beside samples of their lines, in as many columns as fit into `width`. Returns the height."""
    names = [shorten(entry.name, FONT, width - 44) for entry in entries]
    step = 44 + round(max(map(FONT.getlength, names), default=0))
    across = (width + 14) // step
    for i, (entry, name) in enumerate(zip(entries, names, strict=True)):
        x, y = left + i % across * step, top + i // across * (LINE + 2)
        with enlarged(page, x, y, 25, LINE) as box:
            draw_curve(box, [(-20, LINE // 2), (12, LINE // 2), (44, LINE // 2)], entry)  # the middle marker shows
        ImageDraw.Draw(page).text((x + 30, y + LINE // 2), name, INK, FONT, anchor="lm")
    return -(-len(entries) // across) * (LINE + 2)


def draw_curve(box: ImageDraw.ImageDraw, path: Points, series: Series, sharers: int = 1, turn: int = 0) -> None:
    """Draw a line with markers at its points on a box of `enlarged`. path: the points as pixels before enlarging.

    Markers that would touch one another are left out. Of `sharers` equal curves each draws every sharers-th dash and
    marker, from number `turn` on.
    """
    def dot(centre: tuple[float, float], radius: float, fill: str) -> None:
        (x, y), r = centre, radius
        box.ellipse((x - r, y - r, x + r, y + r), fill, series.colour, FINE)

    for finite, points in groupby(path, key=lambda point: math.isfinite(point[1])):
        if not finite:
            continue
        x, y = (np.array(list(points)).T + 0.5) * FINE - 0.5
        along = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])  # way from the first point to each
        pen = np.arange(0, along[-1] + 1, 2)
        pen = pen[(pen // DASH % sharers == turn) & (pen % DASH <= (0.6 if series.dashed else 1) * DASH)]
        for centre in zip(np.interp(pen, along, x), np.interp(pen, along, y)):
            dot(centre, FINE - 0.5, series.colour)
        crowded = x[-1] - x[0] < 10 * FINE * (len(x) - 1)
        markers = list(zip(x, y))
        for centre in [] if crowded else markers[turn::sharers] or markers:
            dot(centre, 3 * FINE + 1, "white" if series.dashed else series.colour)
