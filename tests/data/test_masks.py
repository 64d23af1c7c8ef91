"""Masks as polygons, run lengths and arrays, against pixel-by-pixel loops."""

import math
import random

import numpy as np
import pytest

from reference import detection as reference
from vig_minimal.data.masks import area, array_of, edges_of, edges_of_array, run_lengths, run_lengths_of_text


def test_arrays_and_run_lengths_are_the_same_masks():
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 5)) < 0.5, np.zeros((7, 5), bool), np.ones((7, 5), bool), rng.random((1, 9)) < 0.3]
    for mask in masks:
        edges = edges_of_array(mask)
        coded = run_lengths(edges, *mask.shape)
        assert sum(coded["counts"]) == mask.size and area(edges) == mask.sum()
        assert np.array_equal(reference.decode(coded["counts"], *mask.shape), mask)
        assert np.array_equal(edges_of(coded, *mask.shape), edges)
        assert np.array_equal(array_of(edges, *mask.shape), mask)


def test_run_lengths_as_text():
    assert run_lengths_of_text("Ph0") == [768] and run_lengths_of_text(b"52") == [5, 2]
    rng = np.random.default_rng(1)
    for _ in range(200):
        counts = [int(count) for count in rng.integers(0, 4 ** rng.integers(1, 10), rng.integers(1, 12))]
        assert run_lengths_of_text(reference.text_of(counts)) == counts
    mask = rng.random((24, 31)) < 0.3
    edges = edges_of_array(mask)
    coded = {"size": [24, 31], "counts": reference.text_of(run_lengths(edges, 24, 31)["counts"].tolist())}
    assert np.array_equal(edges_of(coded, 24, 31), edges)
    assert np.array_equal(edges_of(coded | {"counts": coded["counts"].encode()}, 24, 31), edges)


def star(draw, x, y, radius):
    """A polygon with an outline that goes in and out around (x, y), some corners outside the image."""
    points = [(x + r * math.cos(a), y + r * math.sin(a))
              for a, r in ((2 * math.pi * i / 9, draw.uniform(0.5, 1) * radius) for i in range(9))]
    return [coordinate for point in points for coordinate in point]


@pytest.mark.parametrize("seed", range(4))
def test_a_polygon_covers_the_pixels_whose_middle_it_holds(seed):
    # COCO rounds the outline to a fifth of a pixel, so middles this close to it may fall on either side
    draw, height, width = random.Random(seed), 24, 31
    polygons = [star(draw, 12, 10, 11), star(draw, 22, 16, 13)]
    ours = array_of(edges_of(polygons, height, width), height, width)
    near = 0
    for row in range(height):
        for column in range(width):
            inside = {any(reference.inside_polygon(column + 0.5 + dx, row + 0.5 + dy, list(zip(p[::2], p[1::2])))
                          for p in polygons) for dx in (-0.3, 0, 0.3) for dy in (-0.3, 0, 0.3)}
            if len(inside) == 1:
                assert ours[row, column] == inside.pop(), (row, column)
            else:
                near += 1
    assert 0 < near < 0.5 * ours.size and ours.any() and not ours.all()


def test_polygons_unite_where_they_overlap():
    square, inner, beside = [2, 2, 10, 2, 10, 10, 2, 10], [4, 4, 6, 4, 6, 6, 4, 6], [10, 2, 12, 2, 12, 10, 10, 10]
    mask = array_of(edges_of([square, inner, beside], 14, 15), 14, 15)
    assert mask[2:10, 2:12].all() and mask.sum() == 80
    assert np.array_equal(mask, array_of(edges_of([square, square, beside], 14, 15), 14, 15))


def test_a_polygon_outside_the_image_and_one_of_no_area_cover_nothing():
    assert area(edges_of([[40, 2, 50, 2, 50, 9]], 14, 15)) == 0
    assert area(edges_of([[3, 3, 3, 3, 3, 3]], 14, 15)) == 0
    assert array_of(edges_of([[-5, -5, 50, -5, 50, 50, -5, 50]], 14, 15), 14, 15).all()
