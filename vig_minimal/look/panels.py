"""Drawing with Pillow: patches of an image in colours, sheets of captioned panels, legends, colours, smooth lines."""

import contextlib
from collections.abc import Iterator, Sequence

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
SOURCE, OUTLINE = "#ff8a1f", "#b8410b"  # of the patches that a node reads from
WEIGHTS = ("#fffbd0", "#ffd15c", "#ff9a1f", "#e8500a")  # from the lightest edge to the heaviest one
PALE, STRONG = 0.3, 0.55  # share of that colour in a patch: for the lightest edge and without weights; for the heaviest
SWATCH = 12  # height of a square of a legend, in pixels

Box = tuple[int, int, int, int]  # left, top, right and bottom pixel, all four inside


def colours(number: int) -> list[str]:
    """Return different colours: those of the palette or, where it has too few, evenly along the ramp."""
    if number <= len(PALETTE):
        return list(PALETTE[:number])
    return ["rgb({:.0f},{:.0f},{:.0f})".format(*colour) for colour in shades(RAMP, np.linspace(0, 1, number))]


def shades(ramp: Sequence[str], share: np.ndarray) -> np.ndarray:
    """Return the colours at these shares of a ramp, (…) to (…, 3): 0 is its first colour, 1 its last one."""
    stops = np.array([ImageColor.getrgb(colour) for colour in ramp], float)  # (colours, 3)
    return np.stack([np.interp(share, np.linspace(0, 1, len(ramp)), channel) for channel in stops.T], -1)


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


def tint(panel: Image.Image, share: np.ndarray, colour: str | np.ndarray) -> Image.Image:
    """Return a copy with a colour mixed into its patches, or with a colour for each patch (rows, columns, 3); share
    (rows, columns): 0 is none of it, 1 is all colour."""
    pixels, at = np.asarray(panel, np.float32), _patch_of_pixels(panel, share.shape)
    colour = np.array(ImageColor.getrgb(colour)) if isinstance(colour, str) else colour[at]
    share = share[at][..., None]  # (height, width, 1)
    return Image.fromarray(((1 - share) * pixels + share * colour + 0.5).astype(np.uint8))


def _patch_of_pixels(panel: Image.Image, grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return row (height, 1) and column (width,) of the patch in which each pixel lies."""
    return (np.arange(panel.height) * grid[0] // panel.height)[:, None], np.arange(panel.width) * grid[1] // panel.width


def draw_sources(panel: Image.Image, weights: Tensor, heaviest: float | None = None) -> Image.Image:
    """Return a copy with an outline around the patches that one target reads from; weights: (rows, columns), its row of
    the adjacency. heaviest: their colours show weights from 0 to this; None: all have one colour."""
    weights = weights.float().abs().cpu().numpy()
    read = weights > 0
    share = weights / heaviest if heaviest else read
    colour = shades(WEIGHTS, share) if heaviest else SOURCE
    pixels = np.array(tint(panel, read * (PALE + (STRONG - PALE) * share * bool(heaviest)), colour))
    inside = read[_patch_of_pixels(panel, read.shape)]
    for width, ink in ((3, "white"), (2, OUTLINE)):  # along the inner edge
        pixels[inside & ~_shrunk(inside, width)] = ImageColor.getrgb(ink)
    return Image.fromarray(pixels)


def _shrunk(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a mask (height, width) that are at least that far from all others, and from the border."""
    for axis in (0, 1):
        padded = np.pad(mask, [(width, width) if side == axis else (0, 0) for side in (0, 1)])
        mask = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1, axis).all(-1)
    return mask


def square(colour: str, edge: str = "#777777", line: int = 1) -> Image.Image:
    """Return a swatch for a legend; line: width of its edge."""
    swatch = Image.new("RGB", (SWATCH, SWATCH), colour)
    ImageDraw.Draw(swatch).rectangle((0, 0, SWATCH - 1, SWATCH - 1), outline=edge, width=line)
    return swatch


def ramp(scale: Sequence[str] = WEIGHTS) -> Image.Image:
    """Return the colours of a scale, from the lowest on the left to the highest on the right, for a legend."""
    row = shades(scale, np.linspace(0, 1, 6 * SWATCH)).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (SWATCH, *row.shape)).copy())


def legend(entries: Sequence[tuple[Image.Image, str]], width: int) -> Image.Image:
    """Return swatches with their texts beside them, in lines of at most `width` pixels (more where one is wider)."""
    places, x, y = [], 0, 0
    for swatch, text in entries:
        length = swatch.width + 6 + int(FONT.getlength(text)) + 1
        if x and x + length > width:
            x, y = 0, y + LINE
        places.append((x, y, length))
        x += length + 2 * GAP
    size = max((x + length for x, _, length in places), default=0), y + LINE if places else 0
    page = Image.new("RGB", size, "white")
    for (x, y, _), (swatch, text) in zip(places, entries):
        page.paste(swatch, (x, y + (LINE - swatch.height) // 2))
        ImageDraw.Draw(page).text((x + swatch.width + 6, y), text, "black", FONT)
    return page


def sheet(panels: list[Image.Image], captions: list[str], columns: int, title: str = "",
          entries: Sequence[tuple[Image.Image, str]] = ()) -> Image.Image:
    """Return panels row by row on white, each with its caption below it, under a title and a legend of these entries;
    texts may have many lines or none."""
    columns = min(columns, len(panels))
    sizes = [_text_size(caption) for caption in captions]
    width = max(*(panel.width for panel in panels), *(size[0] for size in sizes))
    height = max(panel.height for panel in panels) + max(size[1] for size in sizes)
    title_width, title_height = _text_size(title)
    key = legend(entries, max(columns * (width + GAP) - GAP, title_width))
    top = title_height + key.height
    result = Image.new("RGB", (max(columns * (width + GAP), title_width + GAP, key.width + GAP) + GAP,
                               top + -(-len(panels) // columns) * (height + GAP) + GAP), "white")
    texts = [(GAP, GAP // 2, title)]
    result.paste(key, (GAP, GAP // 2 + title_height))
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
