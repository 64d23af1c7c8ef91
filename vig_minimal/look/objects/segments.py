"""Output of a segmentation network: the pixels of each class, their picture, and the mask as a file."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ...data.augment import normalise
from ...models.layers import evaluating
from ...models.segmentation import Segmenter
from ..panels import FONT, LINE, colours, picture, sheet, tint

SIDE = 300  # about the shorter side of a drawn image in pixels, where the image is smaller
SHARE = 0.5  # of a class's colour in its pixels
SWATCH = 12  # side of a square of the legend


class Region(NamedTuple):
    """A class that an image shows: its name, the share of the image's pixels, and these pixels (H, W) bool."""

    name: str
    share: float
    mask: Tensor


@torch.no_grad()
def segment(model: Segmenter, images: Sequence[Tensor]) -> list[list[Region]]:
    """Return the classes that each uint8 image (3, H, W) shows, the largest first. Images are computed one by one."""
    device, result = next(model.parameters()).device, []
    with evaluating(model):
        for image in images:
            inputs = normalise(image[None].to(device), model.transform.mean, model.transform.std)
            found = model(inputs)[0].argmax(0).cpu()  # (H, W)
            counts = found.flatten().bincount(minlength=len(model.classes))
            order = [label for label in counts.argsort(descending=True, stable=True).tolist() if counts[label] > 0]
            result.append([Region(model.classes[label], counts[label].item() / found.numel(), found == label)
                           for label in order])
    return result


def draw_regions(image: Tensor, regions: Sequence[Region], classes: Sequence[str]) -> Image.Image:
    """Draw a uint8 image (3, H, W) beside itself under the colours of its classes, with their names and shares. The
    first class, mostly the background, has no colour."""
    plain = picture(image, SIDE)
    page, legend, palette = plain, [], colours(len(classes) - 1)
    for region in regions:
        label = classes.index(region.name)
        if label > 0:
            page = tint(page, SHARE * region.mask.float().numpy(), palette[label - 1])
        legend.append((palette[label - 1] if label > 0 else "white", f"{region.name} {100 * region.share:.1f} %"))
    return sheet([plain, page, _legend(legend, page.height)], ["", "", ""], 3)


def _legend(entries: Sequence[tuple[str, str]], height: int) -> Image.Image:
    """Draw a square of each colour with its text beside it, as many as there is room for."""
    width = SWATCH + 8 + max((round(FONT.getlength(text)) for _, text in entries), default=0)
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for row, (colour, text) in enumerate(entries[:height // LINE]):
        draw.rectangle((0, row * LINE + 2, SWATCH, row * LINE + 2 + SWATCH), fill=colour, outline="#777777")
        draw.text((SWATCH + 6, row * LINE), text, "black", FONT)
    return page


def mask_image(regions: Sequence[Region], classes: Sequence[str]) -> Image.Image:
    """Return the class number of every pixel as a picture with a palette, as `data.segmentation.read_mask` reads it."""
    numbers = sum(classes.index(region.name) * region.mask for region in regions).to(torch.uint8)
    result = Image.new("P", numbers.shape[::-1])
    result.putdata(numbers.flatten().tolist())
    palette = np.zeros((256, 3), np.uint8)
    palette[1:len(classes)] = [ImageColor.getrgb(colour) for colour in colours(len(classes) - 1)]
    result.putpalette(palette.flatten().tolist())
    return result
