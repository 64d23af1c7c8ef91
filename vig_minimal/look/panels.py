"""PreparedImages with Pillow: coloured patches of an image, frames, sheets of captioned panels; axes and curves."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

FONT = ImageFont.load_default(13)
LINE = 17  # height of a line of text, in pixels
GAP = 8  # between panels, and around them
FINE = 3  # curves are drawn this much larger and averaged down, which smooths their edges
# Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow, which is pale on white
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RAMP = ("#4b1d91", "#2f6fb2", "#2ea36f", "#e8a500")  # from dark to light, for more curves than that


def picture(image: Tensor, side: int = 0) -> Image.Image:
    """A uint8 tensor (3, H, W) as a picture, enlarged by a whole factor to a shorter side of about `side` pixels."""
    result = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    factor = max(1, round(side / min(result.size)))
    return result.resize((result.width * factor, result.height * factor), Image.Resampling.NEAREST)


def patch_box(panel: Image.Image, grid: tuple[int, int], row: int, column: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel, all four inside, of one patch of a grid of (rows, columns)."""
    height, width = panel.height / grid[0], panel.width / grid[1]
    return round(column * width), round(row * height), round((column + 1) * width) - 1, round((row + 1) * height) - 1


def tint(panel: Image.Image, share: np.ndarray, colour: str) -> Image.Image:
    """A copy with a colour mixed into its patches: share (rows, columns), 0 is none of it, 1 is all colour."""
    pixels = np.asarray(panel, np.float32)
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) * share.shape[0] // height, np.arange(width) * share.shape[1] // width
    share = share[rows[:, None], columns][..., None]  # (height, width, 1)
    mixed = (1 - share) * pixels + share * np.array(ImageColor.getrgb(colour))
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def outline(panel: Image.Image, box: tuple[float, float, float, float], colour: str, width: int = 2) -> None:
    """A frame just inside the box (left, top, right and bottom pixel), drawn on the panel itself."""
    ImageDraw.Draw(panel).rectangle(box, outline=colour, width=width)


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


def ticks(low: float, high: float, most: int = 8, least: float = 0.0) -> list[float]:
    """The multiples in [low, high] of the smallest 1, 2 or 5 times a power of ten that is at least `least` and makes
    no more than `most` steps of the way."""
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


def colours(number: int) -> list[str]:
    """Different colours: those of the palette, or where it has too few, evenly along the ramp."""
    if number <= len(PALETTE):
        return list(PALETTE[:number])
    where, stops = np.linspace(0, len(RAMP) - 1, number), np.array([ImageColor.getrgb(colour) for colour in RAMP])
    channels = [np.interp(where, range(len(RAMP)), channel) for channel in stops.T]  # red, green, blue: (number,) each
    return ["rgb({:.0f},{:.0f},{:.0f})".format(*colour) for colour in zip(*channels, strict=True)]


def curve(page: Image.Image, box: tuple[int, int, int, int], path: list[tuple[float, float]], colour: str,
          dashed: bool = False, sharers: int = 1, turn: int = 0) -> None:
    """A line with markers at its points, smooth, cut off at a box (left, top, width, height) of the page.

    path: pixels (x, y) of the box; a y that is NaN is a gap. Markers that would touch one another are left out; those
    of dashed lines are hollow. Where several curves are the very same, each of the `sharers` draws only every so many
    dashes and markers, from its `turn` on, so that all their colours show.
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


def pieces(path: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points between gaps, which have a y that is not finite: lists in which a line joins each to the next."""
    result = [[]]
    for point in path:
        if math.isfinite(point[1]):
            result[-1].append(point)
        else:
            result.append([])
    return [piece for piece in result if piece]


def dashes(path: list[tuple[float, float]], length: float, period: float, start: float) -> list[list]:
    """The parts of a path that begin at `start`, `start + period`, … along it and are `length` long."""
    x, y = np.array(path).T
    along = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])  # way from the first point to each
    result = []
    for begin in np.arange(start, along[-1], period):
        stops = [begin, *along[(along > begin) & (along < begin + length)], min(begin + length, along[-1])]
        result.append(list(zip(np.interp(stops, along, x), np.interp(stops, along, y), strict=True)))
    return result


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, without so many of its last letters as do not fit into `width` pixels."""
    kept = text
    while kept and font.getlength(kept if kept == text else kept + "…") > width:
        kept = kept[:-1]
    return text if kept == text else kept + "…"


def sheet(panels: list[Image.Image], captions: list[str], columns: int, title: str = "") -> Image.Image:
    """Panels row by row on white, each with its caption below it, under a title; texts may have many lines or none."""
    columns = min(columns, len(panels))
    width, height = max(panel.width for panel in panels), max(panel.height for panel in panels)
    width = max(width, *(_text_size(caption)[0] for caption in captions))
    height += max(_text_size(caption)[1] for caption in captions)
    title_width, top = _text_size(title)
    result = Image.new("RGB", (max(columns * (width + GAP), title_width + GAP) + GAP,
                               top + -(-len(panels) // columns) * (height + GAP) + GAP), "white")
    _write(result, GAP, GAP // 2, title)
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        x, y = GAP + i % columns * (width + GAP), GAP + top + i // columns * (height + GAP)
        result.paste(panel, (x, y))
        _write(result, x, y + panel.height, caption)
    return result


def _text_size(text: str) -> tuple[int, int]:
    lines = text.splitlines()
    return max([int(FONT.getlength(line)) + 1 for line in lines], default=0), LINE * len(lines)


def _write(panel: Image.Image, x: int, y: int, text: str) -> None:
    for i, line in enumerate(text.splitlines()):
        ImageDraw.Draw(panel).text((x, y + i * LINE), line, "black", FONT)
