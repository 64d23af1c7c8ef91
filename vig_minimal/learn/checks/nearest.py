"""Lesson 3: k nearest neighbours of unit features."""

import torch
from torch import Tensor

from ...constructors.knn import KNN
from ...graphs import distance
from ..task import Task, draw


def unit(x: Tensor) -> Tensor:
    return distance.unit(x)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return distance.squared_distance(x, y)


def nearest(x: Tensor, k: int) -> Tensor:
    return KNN(k)(x).index


def of(x: Tensor) -> Tensor:
    """Squared distances of unit features."""
    return squared_distances(unit(x), unit(x))


FOUR = torch.tensor([[[1.0, 0.2], [3.0, 2.5], [-0.2, 1.0], [-4.0, -0.4]]], dtype=torch.float64)
lengths = draw(3, 2, 7, 1).abs() * 5 + 0.1
zero = draw(4, 1, 3, 4) * torch.tensor([1.0, 0.0, 1.0])[:, None]
NODES = [FOUR, draw(1, 3, 6, 4), draw(2, 2, 7, 3) * lengths]

TASKS = [
    Task("unit", unit, "(B, N, C)", [(x,) for x in (*NODES, zero)], [
        ("Each column was divided: the length of a node is taken over its own C numbers.",
         lambda x: torch.nn.functional.normalize(x, dim=1)),
        ("All nodes were divided by one number, the length of the whole batch.", lambda x: x / x.norm()),
        ("Divided by the sum of absolute values. The length of a vector is the root of the sum of its squares.",
         lambda x: torch.nn.functional.normalize(x, p=1, dim=-1)),
        ("Divided by the squared length: is a square root missing?",
         lambda x: x / x.square().sum(-1, keepdim=True).clamp(min=1e-12)),
        ("A node of zeros became NaN; it has no direction and stays zero.", lambda x: x / x.norm(dim=-1, keepdim=True)),
    ], ["graphs.distance.unit"], gradient=()),
    Task("squared_distances", squared_distances, "(B, N, M), rows are targets x",
         [(FOUR, FOUR), (draw(5, 2, 3, 4), draw(6, 2, 5, 4)), (draw(7, 1, 6, 2), draw(8, 1, 2, 2))], [
        ("These are distances, not yet their squares.", torch.cdist),
        ("Rows and columns are exchanged: rows are the targets x.", lambda x, y: squared_distances(y, x)),
        ("(a - b)^2 is a^2 - 2ab + b^2: is a factor missing?",
         lambda x, y: x.square().sum(-1)[:, :, None] - x @ y.mT + y.square().sum(-1)[:, None]),
        ("The mean over the channels; a distance adds them up.",
         lambda x, y: squared_distances(x, y) / x.shape[2]),
        ("These are the products x_i . y_j, large where nodes are alike. A distance is 0 there.",
         lambda x, y: x @ y.mT),
    ], ["graphs.distance.squared_distance"]),
    Task("nearest", nearest, "(B, N, k) integers, nearest first",
         [(FOUR, 2), (NODES[1], 3), (NODES[2], 1), (NODES[2], 4), (NODES[1], 6)], [
        ("Long nodes and short ones are compared as they are: where are the unit features?",
         lambda x, k: squared_distances(x, x).topk(k, largest=False).indices),
        ("The node itself was left out. It is its own nearest neighbour, at distance 0, and one of the k.",
         lambda x, k: of(x).topk(min(k + 1, x.shape[1]), largest=False).indices[..., 1:]),
        ("These are the farthest nodes: topk takes the largest unless it is told otherwise.",
         lambda x, k: of(x).topk(k).indices),
        ("The node itself stands last; it is nearest of all, and comes first.",
         lambda x, k: of(x).topk(k, largest=False).indices.roll(-1, -1)),
        ("The k are right, but the nearest should come first.",
         lambda x, k: nearest(x, k).flip(-1)),
        ("The k are right, but they are sorted by their numbers; the nearest should come first.",
         lambda x, k: nearest(x, k).sort(-1).values),
        ("The largest products of the features as they are: a long node is then near to all. Where are the unit"
         " features?",
         lambda x, k: (x @ x.mT).topk(k).indices),
    ], ["constructors.knn.nearest_sources"]),
]

HINTS = {
    "unit": (
        "x.norm(dim=-1, keepdim=True) is (B, N, 1), the length of each node. torch.nn.functional.normalize also"
        " takes care of zeros.",
    ),
    "squared_distances": (
        "x[:, :, None] - y[:, None] is (B, N, M, C), all differences. Without that much memory: the lengths and x @"
        " y.mT.",
    ),
    "nearest": (
        "distance.topk(k, largest=False) returns values and indices of the k smallest in each row, smallest first.",
        "nearest is topk of the squared distances between unit(x) and unit(x). Self comes out first by itself.",
    ),
}
