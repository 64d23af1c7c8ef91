"""Pictures with Pillow: coloured patches of an image, frames, and sheets of captioned panels."""

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

FONT = ImageFont.load_default(13)
LINE = 17  # height of a line of text, in pixels
GAP = 8  # between panels, and around them


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
