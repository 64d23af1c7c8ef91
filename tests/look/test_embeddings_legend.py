"""The legend of CNN2GNN's embeddings: a mark for each kind, a colour for each class."""

import numpy as np
import torch
from PIL import ImageColor

from vig_minimal.look.attention import draw_embeddings, legend_of
from vig_minimal.look.panels import colours


def found(picture) -> set[tuple[int, ...]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


def test_every_mark_and_every_colour_is_in_the_legend():
    entries = legend_of(["cat", "dog", "owl"])
    assert [text for _, text in entries] == ["images", "anchors", "proxies", "cat", "dog", "owl"]
    dot, cross, triangle, *classes = [np.asarray(swatch, int) for swatch, _ in entries]
    for swatch, colour in zip(classes, colours(3), strict=True):
        assert ImageColor.getrgb(colour) in found(swatch)
    middle = len(dot) // 2
    assert not any(np.array_equal(a, b) for a, b in ((dot, cross), (cross, triangle), (dot, triangle)))
    assert (dot[1, 1] == 255).all() and (cross[2, 2] < 255).any() and (cross[middle, 1] == 255).all()
    assert (triangle[-2, middle] < 255).any() and (triangle[2, 2] == 255).all()


def test_marks_are_those_of_the_picture():
    """Three points far apart: an image, an anchor and a proxy of different classes."""
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    page = np.asarray(draw_embeddings(places, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), 3))
    for x, y, number in ((12, 12, 0), (348, 12, 1), (12, 348, 2)):
        near = found(page[max(0, y - 9):y + 9, max(0, x - 9):x + 9])
        assert ImageColor.getrgb(colours(3)[number]) in near
