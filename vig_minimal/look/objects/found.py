"""Objects that a detector finds, and their picture: boxes, masks, names and scores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ...data.augment import normalise
from ...graphs.graph import Graph
from ...models.detection import Detector
from ...models.layers import evaluating
from ..panels import FONT, LINE, PALETTE, picture, tint

SIDE = 400  # about the shorter side of a drawn image in pixels, where the image is smaller
PALE = 0.45  # share of a mask's colour in its pixels


class Found(NamedTuple):
    """An object: name of its class, score from 0 to 1, box (left, top, right, bottom) in pixels of the image, and mask
    (H, W) bool."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Tensor


@torch.no_grad()
def detect(model: Detector, images: Sequence[Tensor], threshold: float = 0.5,
           return_graphs: bool = False) -> list[list[Found]] | tuple[list[list[Found]], list[Graph]]:
    """Return the objects of each uint8 image (3, H, W) with at least that score, the highest first. Images are computed
    one by one: a large one takes more than a GiB. return_graphs: also the first image's graph in every block."""
    device, result = next(model.parameters()).device, []
    inputs = [normalise(image[None].to(device), model.transform.mean, model.transform.std) for image in images]
    with evaluating(model):
        graphs = model(inputs[0], return_graphs=True)[1] if return_graphs else []
        for image in inputs:
            [answer] = model(image)
            chosen = (answer["scores"] >= threshold).cpu()
            labels, scores, boxes, masks = (answer[name].cpu()[chosen]
                                            for name in ("labels", "scores", "boxes", "masks"))
            result.append([Found(model.classes[label - 1], score, tuple(box), mask) for label, score, box, mask in
                           zip(labels.tolist(), scores.tolist(), boxes.tolist(), masks[:, 0] >= 0.5)])
    return (result, graphs) if return_graphs else result


def draw_found(image: Tensor, found: Sequence[Found], classes: Sequence[str], factor: float = 0) -> Image.Image:
    """Draw the objects on a uint8 image (3, H, W): a colour for each class, names and scores where they hide least.
    factor: by which the image is scaled; by default, small images are enlarged."""
    page = picture(image, 0 if factor else SIDE)
    if factor:
        page = page.resize([max(1, round(factor * side)) for side in page.size])
    factor = page.width / image.shape[2]
    colours = [PALETTE[classes.index(one.name) % len(PALETTE)] for one in found]
    for one, colour in list(zip(found, colours))[::-1]:  # the highest score on top
        page = tint(page, PALE * one.mask.float().numpy(), colour)
    draw, taken = ImageDraw.Draw(page), []
    boxes = [[round(factor * side) for side in one.box] for one in found]
    for (left, top, right, bottom), colour in zip(boxes, colours):
        box = left, top, max(left, right - 1), max(top, bottom - 1)
        draw.rectangle(box, outline="white", width=4)
        draw.rectangle(box, outline=colour, width=3)
    for one, (left, top, right, bottom), colour in zip(found, boxes, colours):
        text = f"{one.name} {one.score:.2f}"
        width = int(FONT.getlength(text)) + 6
        x = max(0, min(left, page.width - width))
        places = [max(0, min(y, page.height - LINE)) for y in (top - LINE, bottom, top, bottom - LINE)]
        places += range(top, page.height - LINE, LINE)
        y = next((y for y in places if not any(x < b and a < x + width and y < d and c < y + LINE
                                               for a, c, b, d in taken)), places[0])
        taken.append((x, y, x + width, y + LINE))
        draw.rectangle((x, y, x + width - 1, y + LINE - 1), fill=colour)
        bright = np.dot(ImageColor.getrgb(colour), (0.299, 0.587, 0.114)) > 140
        draw.text((x + 3, y), text, "black" if bright else "white", FONT)
    return page
