"""Drawing with Pillow: patches of an image in colours, frames, sheets of captioned panels, charts of curves."""

import math
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

FONT, HEADING = ImageFont.load_default(13), ImageFont.load_default(15)
LINE = 17  # height of a line of text, in pixels
GAP = 8  # between panels, and around them
INK, FAINT, GRID = "#222222", "#777777", "#e4e4e4"
WIDTH, HEIGHT = 520, 280  # of the box in which curves are drawn, in pixels
LEFT, TOP, RIGHT, BOTTOM = 72, 44, 16, 52  # around it: labels, a heading, room, labels and the name of the x axis
CHART = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM  # width and height of a chart, without its legend
FINE = 3  # curves are drawn this much larger and averaged down, which smooths their edges
# Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow, which is pale on white
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RAMP = ("#4b1d91", "#2f6fb2", "#2ea36f", "#e8a500")  # from dark to light, for more curves than that

Box = tuple[int, int, int, int]  # left, top, right and bottom pixel, all four inside
Points = list[tuple[float, float]]  # of a curve; a gap has a y that is NaN


def colours(number: int) -> list[str]:
    """Different colours: those of the palette, or where it has too few, evenly along the ramp."""
    if number <= len(PALETTE):
        return list(PALETTE[:number])
    where, stops = np.linspace(0, len(RAMP) - 1, number), np.array([ImageColor.getrgb(colour) for colour in RAMP])
    channels = [np.interp(where, range(len(RAMP)), channel) for channel in stops.T]  # red, green, blue: (number,) each
    return ["rgb({:.0f},{:.0f},{:.0f})".format(*colour) for colour in zip(*channels, strict=True)]


# ---- panels: an image, some of its patches coloured ----------------------------------------------------------------


def picture(image: Tensor, side: int = 0) -> Image.Image:
    """A uint8 tensor (3, H, W) as a picture, enlarged by a whole factor to a shorter side of about `side` pixels."""
    result = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    factor = max(1, round(side / min(result.size)))
    return result.resize((result.width * factor, result.height * factor), Image.Resampling.NEAREST)


def patch_box(panel: Image.Image, grid: tuple[int, int], row: int, column: int) -> Box:
    """The pixels of one patch of a grid of (rows, columns)."""
    height, width = panel.height / grid[0], panel.width / grid[1]
    return round(column * width), round(row * height), round((column + 1) * width) - 1, round((row + 1) * height) - 1


def tint(panel: Image.Image, share: np.ndarray, colour: str) -> Image.Image:
    """A copy with a colour mixed into its patches; share (rows, columns): 0 is none of it, 1 is all colour."""
    pixels = np.asarray(panel, np.float32)
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) * share.shape[0] // height, np.arange(width) * share.shape[1] // width
    share = share[rows[:, None], columns][..., None]  # (height, width, 1)
    mixed = (1 - share) * pixels + share * np.array(ImageColor.getrgb(colour))
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def sheet(panels: list[Image.Image], captions: list[str], columns: int, title: str = "") -> Image.Image:
    """Panels row by row on white, each with its caption below it, under a title; texts may have many lines or none."""
    columns = min(columns, len(panels))
    sizes = [_text_size(caption) for caption in captions]
    width = max(*(panel.width for panel in panels), *(size[0] for size in sizes))
    height = max(panel.height for panel in panels) + max(size[1] for size in sizes)
    title_width, top = _text_size(title)
    result = Image.new("RGB", (max(columns * (width + GAP), title_width + GAP) + GAP,
                               top + -(-len(panels) // columns) * (height + GAP) + GAP), "white")
    texts = [(GAP, GAP // 2, title)]
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        x, y = GAP + i % columns * (width + GAP), GAP + top + i // columns * (height + GAP)
        result.paste(panel, (x, y))
        texts.append((x, y + panel.height, caption))
    for x, y, text in texts:
        for i, line in enumerate(text.splitlines()):
            ImageDraw.Draw(result).text((x, y + i * LINE), line, "black", FONT)
    return result


def _text_size(text: str) -> tuple[int, int]:
    lines = text.splitlines()
    return max([int(FONT.getlength(line)) + 1 for line in lines], default=0), LINE * len(lines)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its end replaced by … where it is longer than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


# ---- charts: axes, curves, a legend --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, linear or logarithmic, with marks at some of them."""

    low: float
    high: float
    ticks: list[float]
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


def ticks(low: float, high: float, most: int = 8, least: float = 0.0) -> list[float]:
    """Multiples of a step in [low, high]. The step is the smallest 1, 2 or 5 times a power of ten that is at least
    `least` and fits at most `most` times between low and high."""
    power = math.floor(math.log10(max((high - low) / most, least)))
    steps = [float(f"{factor}e{power}") for factor in (1, 2, 5, 10)]
    step = next(step for step in steps if step * most >= (high - low) * (1 - 1e-9) and step >= least)
    return [float(f"{i * step:.12g}") for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def labels(marks: list[float], log: bool = False) -> list[str]:
    """Ticks as text: all with as many decimals as their step needs, or as 2e-5 where that would be many digits."""
    step = min((b - a for a, b in pairwise(marks)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if not log and decimals <= 4 and max(map(abs, marks), default=0) < 1e5:
        return [f"{mark:.{decimals}f}" for mark in marks]
    parts = [f"{mark:.6e}".split("e") for mark in marks]
    return [f"{float(mantissa):g}e{int(power)}" if float(mantissa) else "0" for mantissa, power in parts]


def draw_chart(page: Image.Image, left: int, top: int, x: Axis, y: Axis, names: tuple[str, str],
               curves: list[Series], legend: list[Series]) -> int:
    """Draw axes, curves and the legend below them, the box of the curves at (left, top). Returns the legend's height.

    names: of the axes x and y. A value above the axis leaves a gap. Curves that are the same take turns, dash by dash,
    so that all their colours show.
    """
    draw, right, bottom = ImageDraw.Draw(page), left + WIDTH - 1, top + HEIGHT - 1
    for mark, text in zip(y.ticks, labels(y.ticks, y.log and y.low < 0.1), strict=True):  # 1e-4, but 20 and 50
        row = bottom - round(y.pixel(mark, HEIGHT))
        draw.line((left, row, right, row), GRID)
        draw.text((left - 8, row), text, INK, FONT, anchor="rm")
    for mark, text in zip(x.ticks, labels(x.ticks), strict=True):
        column = left + round(x.pixel(mark, WIDTH))
        draw.line((column, top, column, bottom), GRID)
        draw.text((column, bottom + 8), text, INK, FONT, anchor="mt")
    draw.line((left, top, left, bottom, right, bottom), FAINT)
    below, above = (name + " (log scale)" * axis.log for name, axis in zip(names, (x, y)))
    draw.text((right, bottom + 26), below, INK, FONT, anchor="rt")
    draw.text((left, top - 12), above, INK, HEADING, anchor="ls")
    for s in sorted(curves, key=lambda s: -len(s.points)):  # a longer curve must not hide a shorter one
        same = [other for other in curves if repr(other.points) == repr(s.points)]
        path = [(x.pixel(where, WIDTH), HEIGHT - 1 - y.pixel(value, HEIGHT) if value <= y.high else math.nan)
                for where, value in s.points]
        curve(page, (left, top, WIDTH, HEIGHT), path, s.colour, s.dashed, len(same), same.index(s))
    return draw_legend(page, left, bottom + BOTTOM, legend)


def draw_legend(page: Image.Image, left: int, top: int, entries: list[Series], width: int = WIDTH) -> int:
    """Write names beside samples of their lines, in as many columns as fit into `width`. Returns the height."""
    names = [shorten(entry.name, FONT, width - 44) for entry in entries]
    step = 44 + round(max(map(FONT.getlength, names), default=0))
    across = (width + 14) // step
    for i, (entry, name) in enumerate(zip(entries, names, strict=True)):
        x, y = left + i % across * step, top + i // across * (LINE + 2)
        sample = [(-20, LINE // 2), (12, LINE // 2), (44, LINE // 2)]  # only the middle marker is in the box
        curve(page, (x, y, 25, LINE), sample, entry.colour, entry.dashed)
        ImageDraw.Draw(page).text((x + 30, y + LINE // 2), name, INK, FONT, anchor="lm")
    return -(-len(entries) // across) * (LINE + 2)


def curve(page: Image.Image, box: tuple[int, int, int, int], path: Points, colour: str, dashed: bool = False,
          sharers: int = 1, turn: int = 0) -> None:
    """Draw a smooth line with markers at its points, cut off at a box (left, top, width, height) of the page.

    path: pixels (x, y) of the box. Markers that would touch one another are left out; those of dashed lines are hollow.
    Of `sharers` equal curves, each draws every sharers-th dash and marker, from number `turn` on.
    """
    mask = Image.new("L", (box[2] * FINE, box[3] * FINE))
    draw, dash, radius = ImageDraw.Draw(mask), 10 * FINE, 3 * FINE + 1
    whole, length = sharers == 1 and not dashed, 0.6 * dash if dashed else dash
    parts = [[tuple(round((p + 0.5) * FINE - 0.5) for p in point) for point in part] for part in pieces(path)]
    for part in parts:
        for line in [part] if whole else dashes(part, length, sharers * dash, turn * dash):
            draw.line(line if len(line) > 1 else 2 * line, 255, 2 * FINE, joint="curve")
    for part in parts:
        crowded = part[-1][0] - part[0][0] < 3 * radius * (len(part) - 1)
        for x, y in [] if crowded else part[turn::sharers] or part:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), 0 if dashed else 255, 255, FINE + 1)
    page.paste(ImageColor.getrgb(colour), box[:2], mask.reduce(FINE))


def pieces(path: Points) -> list[Points]:
    """The runs of points between gaps; a line joins each point of a run to the next."""
    return [list(run) for finite, run in groupby(path, key=lambda point: math.isfinite(point[1])) if finite]


def dashes(path: Points, length: float, period: float, start: float) -> list[Points]:
    """The parts of a path that begin at `start`, `start + period`, … along it and are `length` long."""
    x, y = np.array(path).T
    along = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])  # way from the first point to each
    result = []
    for begin in np.arange(start, along[-1], period):
        stops = [begin, *along[(along > begin) & (along < begin + length)], min(begin + length, along[-1])]
        result.append(list(zip(np.interp(stops, along, x), np.interp(stops, along, y), strict=True)))
    return result
