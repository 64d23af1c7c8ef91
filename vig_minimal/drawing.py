"""Pictures with Pillow: marks on the patches of an image, and sheets of captioned panels."""

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

FONT = ImageFont.load_default(13)
LINE = 17  # height of a caption's line in pixels


def picture(image: Tensor, side: int = 0) -> Image.Image:
    """A uint8 tensor (3, H, W) as a picture, enlarged by a whole factor until its shorter side has at least `side` pixels."""
    result = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    factor = max(1, -(-side // min(result.size)))
    return result.resize((result.width * factor, result.height * factor), Image.Resampling.NEAREST)


def patch_box(picture: Image.Image, grid: tuple[int, int], row: int, column: int) -> tuple[int, int, int, int]:
    """The pixels left, top, right, bottom (both ends included) of a patch; `grid` is the number of rows and columns."""
    height, width = picture.height / grid[0], picture.width / grid[1]
    left, top = round(column * width), round(row * height)
    return left, top, round((column + 1) * width) - 1, round((row + 1) * height) - 1


def tint(picture: Image.Image, strength: np.ndarray, colour: str, dim: float = 0.0) -> Image.Image:
    """A copy with every patch coloured by `strength` (rows, columns) in [0, 1]: 0 not at all, 1 with most of the colour.

    dim: how much darker patches of strength 0 become, in [0, 1].
    """
    pixels = np.asarray(picture, np.float32) / 255
    height, width = pixels.shape[:2]
    rows = np.arange(height) * strength.shape[0] // height
    columns = np.arange(width) * strength.shape[1] // width
    share = strength[np.ix_(rows, columns)][..., None].astype(np.float32)  # (height, width, 1)
    target = np.asarray(ImageColor.getrgb(colour), np.float32) / 255
    pixels = pixels * np.where(share > 0, 1, 1 - dim) * (1 - 0.75 * share) + target * 0.75 * share
    return Image.fromarray((255 * pixels + 0.5).astype(np.uint8))


def outline(picture: Image.Image, box: tuple[float, float, float, float], colour: str, width: int = 2) -> None:
    """A frame inside the box (left, top, right, bottom, both ends included), drawn on the picture itself."""
    ImageDraw.Draw(picture).rectangle(box, outline=colour, width=width)


def sheet(panels: list[Image.Image], captions: list[str], columns: int, title: str = "") -> Image.Image:
    """The panels row by row on white, each with its caption (of one or more lines) below it, all under the title's lines."""
    gap = 8
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(panel.width for panel in panels)
    width = max([width] + [int(draw.textlength(line, FONT)) + 1 for text in captions for line in text.split("\n")])
    height = max(panel.height for panel in panels)
    text = LINE * max(caption.count("\n") + 1 for caption in captions)
    head = LINE * (title.count("\n") + 1) if title else 0
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    total = max([columns * (width + gap)] + [int(draw.textlength(line, FONT)) + 1 + gap for line in title.split("\n")])
    result = Image.new("RGB", (gap + total, gap + head + rows * (height + text + gap)), "white")
    draw = ImageDraw.Draw(result)
    draw.multiline_text((gap, gap // 2), title, "black", FONT, spacing=LINE - 13)
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left, top = gap + i % columns * (width + gap), gap + head + i // columns * (height + text + gap)
        result.paste(panel, (left, top))
        draw.multiline_text((left, top + panel.height + 1), caption, "black", FONT, spacing=LINE - 13)
    return result
