"""Lesson 12: a graph of one's own. There is no right one; there are rules that every graph keeps."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..task import Open, draw
from . import matrix, nearest

GRID = 3, 4
NODES = draw(1, 3, 12, 5) * torch.tensor([1.0, 3.0, 0.3])[:, None, None]


def my_graph(nodes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches beside a patch that are more like it than the mean: an example."""
    places = torch.cartesian_prod(*map(torch.arange, grid)).to(nodes)
    near = torch.cdist(places, places, p=torch.inf) < 1.5
    distance = nearest.of(nodes)
    return near & (distance <= distance.mean((1, 2), keepdim=True))


def edges(function: Callable) -> Tensor:
    """Where the graph has edges."""
    return function(NODES.clone(), GRID) != 0


def equal(function: Callable, *graphs: Tensor) -> bool:
    return any(torch.equal(edges(function), graph.expand(3, -1, -1)) for graph in graphs)


def shape_is_wrong(function: Callable) -> bool:
    return tuple(function(NODES.clone(), GRID).shape) != (3, 12, 12)


def companions(seed: int) -> list[Tensor]:
    """Batches (3, 12, 5) of one image and two that differ from it: in size, and in how alike their nodes are."""
    image, small, large, noise = draw(seed, 4, 12, 5)
    alike = large[:1] + 0.01 * noise  # all nodes in nearly one direction
    opposite = alike * torch.tensor([1.0, -1.0]).repeat(6)[:, None]  # half of them turned round
    return [torch.stack(batch) for batch in ((image, 0.01 * small, 100 * large), (image, alike, 0.01 * alike),
                                             (image, opposite, 100 * opposite))]


def changes_with_batch(function: Callable) -> bool:
    for batch in (NODES, *(batch for seed in (3, 4, 5) for batch in companions(seed))):
        alone = torch.cat([function(image.clone(), GRID) for image in batch.split(1)])
        if not torch.allclose(function(batch.clone(), GRID).double(), alone.double(), 1e-6, 1e-9):
            return True
    return False


def another_size(function: Callable) -> bool:
    return tuple(function(draw(2, 2, 30, 8), (5, 6)).shape) != (2, 30, 30)


RULES = [
    ("It returns None; does it end with a return?", lambda f: f(NODES.clone(), GRID) is None),
    ("It should return one tensor, the adjacency matrix.", lambda f: not isinstance(f(NODES.clone(), GRID), Tensor)),
    ("These look like the numbers of the sources. Lesson 2's adjacency makes a matrix of them.",
     lambda f: f(NODES.clone(), GRID).dtype == torch.int64 and f(NODES.clone(), GRID).shape[:2] == (3, 12)
     and shape_is_wrong(f)),
    ("One graph for all images, (N, N): give every image its own, (B, N, N). expand does that without a copy.",
     lambda f: tuple(f(NODES.clone(), GRID).shape) == (12, 12)),
    ("For nodes (3, 12, 5) on a grid (3, 4) its shape should be (3, 12, 12): images, targets, sources.",
     shape_is_wrong),
    ("It has NaNs or infinite weights.", lambda f: not f(NODES.clone(), GRID).double().isfinite().all()),
    ("Two calls with the same image give two graphs. Draw once, outside, or from a generator with a fixed seed.",
     lambda f: not torch.equal(f(NODES.clone(), GRID), f(NODES.clone(), GRID))),
    ("An image's graph changes with the others in its batch: is a mean, a maximum or an order taken over dimension 0?",
     changes_with_batch),
    ("No target has a source: every message is 0, and the table has `none` for that.", lambda f: not edges(f).any()),
    ("That is `none`: every node reads from itself alone.", lambda f: equal(f, torch.eye(12, dtype=torch.bool))),
    ("That is the complete graph, with nothing chosen; weights that are never 0 come to the same. What could be left"
     " out?",
     lambda f: equal(f, torch.ones(12, 12, dtype=torch.bool))),
    ("That is k-NN, which the table has already. Change one thing about it.",
     lambda f: equal(f, *(matrix.adjacency(nearest.nearest(NODES, k), 12) for k in range(2, 12)))),
    ("It works on the grid (3, 4) alone: for nodes (2, 30, 8) on (5, 6) its shape should be (2, 30, 30).",
     another_size),
]

TASKS = [Open("my_graph", my_graph, RULES, ["constructors.controls.Surroundings"])]

HINTS = {
    "my_graph": (
        "Two sources of ideas: what patches show (nodes), and where they are (grid). Lesson 1's places has the"
        " second.",
        "Masks can be joined: near & alike, near | alike. What does each lose, what does it gain?",
        "Ideas: k nearest, but not next door; the row and the column of a patch; the nearest of each quarter of the"
        " image; edges that run both ways only; a threshold that grows with the distance on the grid.",
    ),
}
