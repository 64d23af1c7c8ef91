"""Lesson 12: graphs that depend on the other images of their batch, and graphs that do not."""

import pytest
import tensors
import torch

from vig_minimal.learn.check import check
from vig_minimal.learn.lessons import LESSONS


def near(grid):
    at = tensors.places(grid)
    return (at[:, None] - at).abs().amax(-1) < 2


def distances(nodes):
    return tensors.squared_distances(tensors.unit(nodes), tensors.unit(nodes))


OF_THE_BATCH = [
    lambda nodes, grid, d: near(grid) & (d < d.mean()),
    lambda nodes, grid, d: near(grid) & (d < d.median()),
    lambda nodes, grid, d: near(grid) & (d < d.mean(0)),
    lambda nodes, grid, d: d < 0.5 * d.max(),
    lambda nodes, grid, d: (d - d.mean()) / d.std() < -0.5,
    lambda nodes, grid, d: torch.exp(-d / d.mean()),
    lambda nodes, grid, d: torch.cdist(nodes, nodes) < nodes.std(),
    lambda nodes, grid, d: near(grid) & (nodes.norm(dim=2, keepdim=True) > nodes.norm(dim=2).mean()),
]
OF_AN_IMAGE = [
    lambda nodes, grid, d: near(grid) & (d < d.mean((1, 2), keepdim=True)),
    lambda nodes, grid, d: near(grid) | (d < 0.5 * d.amax((1, 2), keepdim=True)),
    lambda nodes, grid, d: torch.exp(-d / d.mean((1, 2), keepdim=True)) * near(grid),
    lambda nodes, grid, d: near(grid) | tensors.adjacency(tensors.nearest(nodes, 3), nodes.shape[1]),
    lambda nodes, grid, d: (torch.cdist(nodes, nodes) < nodes.std((1, 2), keepdim=True)) | near(grid),
]


@pytest.mark.parametrize("graph", OF_THE_BATCH)
def test_a_graph_that_depends_on_its_batch_is_told_so(graph):
    report = check(LESSONS[11], {"my_graph": lambda nodes, grid: graph(nodes, grid, distances(nodes))})
    assert not report.done
    assert "An image's graph changes with the others in its batch" in " ".join(report.text.split()), report.text


@pytest.mark.parametrize("graph", OF_AN_IMAGE)
def test_a_graph_that_depends_on_its_image_alone_passes(graph):
    report = check(LESSONS[11], {"my_graph": lambda nodes, grid: graph(nodes, grid, distances(nodes))})
    assert report.done, report.text


@pytest.mark.parametrize("fails_on, words", [
    ((3, 4), "Called as my_graph(nodes (3, 12, 5), grid=(3, 4)), it raises an error in line"),
    ((5, 6), "Called as my_graph(nodes (2, 30, 8), grid=(5, 6)), it raises an error in line"),
])
def test_an_error_says_what_the_function_was_called_with(fails_on, words):
    def my_graph(nodes, grid):
        if grid == fails_on:
            raise ValueError("no")
        return near(grid).expand(len(nodes), -1, -1)

    report = check(LESSONS[11], {"my_graph": my_graph})
    assert not report.done and words in " ".join(report.text.split()), report.text
