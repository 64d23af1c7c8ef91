"""Drawing with Pillow: patches of an image in colours, sheets of captioned panels, colours, smooth lines."""

import contextlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

FONT = ImageFont.load_default(13)
LINE = 17  # height of a line of text, in pixels
GAP = 8  # between panels, and around them
FINE = 3  # what `enlarged` draws is this much larger
# Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow, which is pale on white; 3 more
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#8c564b", "#b8a800")
RAMP = ("#4b1d91", "#2f6fb2", "#2ea36f", "#e8a500")  # from dark to light, for more curves than that

Box = tuple[int, int, int, int]  # left, top, right and bottom pixel, all four inside


def colours(number: int) -> list[str]:
    """Different colours: those of the palette, or where it has too few, evenly along the ramp."""
    if number <= len(PALETTE):
        return list(PALETTE[:number])
    where, stops = np.linspace(0, len(RAMP) - 1, number), np.array([ImageColor.getrgb(colour) for colour in RAMP])
    channels = [np.interp(where, range(len(RAMP)), channel) for channel in stops.T]  # red, green, blue: (number,) each
    return ["rgb({:.0f},{:.0f},{:.0f})".format(*colour) for colour in zip(*channels, strict=True)]


@contextlib.contextmanager
def enlarged(page: Image.Image, left: int, top: int, width: int, height: int) -> Iterator[ImageDraw.ImageDraw]:
    """Draw on a box of the page FINE times as large, then average it down: edges are smooth, and nothing leaves it."""
    box = left, top, left + width, top + height
    large = page.crop(box).resize((width * FINE, height * FINE), Image.Resampling.NEAREST)
    yield ImageDraw.Draw(large)
    page.paste(large.reduce(FINE), box)


def picture(image: Tensor, side: int = 0) -> Image.Image:
    """A uint8 tensor (3, H, W) as a picture, enlarged by a whole factor to a shorter side of about `side` pixels."""
    result = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    factor = max(1, round(side / min(result.size)))
    return result.resize((result.width * factor, result.height * factor), Image.Resampling.NEAREST)


def patch_box(panel: Image.Image, grid: tuple[int, int], row: int, column: int, side: int = 1) -> Box:
    """The pixels of a patch of a grid of (rows, columns), or of a square of side × side patches, cut off at the edge;
    row, column: counted in squares."""
    height, width = panel.height / grid[0], panel.width / grid[1]
    bottom, right = min((row + 1) * side, grid[0]), min((column + 1) * side, grid[1])
    return (round(column * side * width), round(row * side * height), round(right * width) - 1,
            round(bottom * height) - 1)


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
