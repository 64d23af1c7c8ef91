"""Lesson 2: the adjacency matrix, degrees, the mean of the sources."""

import torch
from torch import Tensor

from ...graphs.aggregate import aggregate_mean
from ...graphs.graph import Graph
from ..task import Task, draw, edges


def adjacency(index: Tensor, num_sources: int) -> Tensor:
    return Graph(num_sources, index=index).adj()


def degree(adj: Tensor) -> Tensor:
    return Graph(adj.shape[2], weights=adj).degree()


def mean_of_sources(adj: Tensor, x: Tensor) -> Tensor:
    return aggregate_mean(x, Graph(adj.shape[2], weights=adj))


def counts(index: Tensor, num_sources: int) -> Tensor:
    return torch.nn.functional.one_hot(index, num_sources).sum(2)


def rows_are_sources(index: Tensor, num_sources: int) -> Tensor:
    batch, num_targets, _ = index.shape
    adj = torch.zeros(batch, max(num_sources, num_targets), num_targets, dtype=torch.bool)
    return adj.scatter_(1, index.mT, True)[:, :num_sources]


def one_list_for_all(index: Tensor, num_sources: int) -> Tensor:
    adj = torch.zeros(*index.shape[:2], num_sources, dtype=torch.bool)
    adj[:, :, index[0].flatten()] = True
    return adj


def mean_by_columns(adj: Tensor, x: Tensor, by: int, least: int = 0) -> Tensor:
    """The mean with rows and columns exchanged; divided by the degrees of rows, by=2, or of columns, by=1."""
    return adj.mT.to(x) @ x / (adj != 0).sum(by)[..., None].clamp(min=least)


four = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 0]], dtype=torch.bool)[None]
weighted = draw(4, 2, 3, 5) * edges(5, 2, 3, 5)
x = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [5.0, -2.0], [7.0, 4.0]]], dtype=torch.float64)
GRAPHS = [four, edges(1, 2, 5, 5), edges(2, 3, 4, 6, share=0.3), edges(3, 1, 6, 2)]
INDEX = [torch.tensor([[[0, 1], [2, 1], [0, 3], [3, 3]]]), torch.tensor([[[4, 0], [2, 2]], [[1, 0], [3, 4]]])]
INDEX += [edges(seed, 2, 5, 7).double().add(draw(seed, 2, 5, 7)).topk(3).indices for seed in (6, 7)]

TASKS = [
    Task("adjacency", adjacency, "(B, N, M) bool, rows are targets", list(zip(INDEX, (4, 5, 7, 8), strict=True)), [
        ("Rows and columns are exchanged. Row i belongs to target i and marks the sources it reads from.",
         rows_are_sources),
        ("A source that is listed twice is still one edge: an entry is True or False, not a count.", counts),
        ("A source that is listed twice is still one edge, and here it vanished: is something added, or flipped,"
         " twice?",
         lambda index, num_sources: counts(index, num_sources) == 1),
        ("Every row has every source of the image: keep for each target its own list.", one_list_for_all),
        ("Right, but as numbers. An edge is there or not: return bool.",
         lambda index, num_sources: adjacency(index, num_sources).double()),
    ], ["graphs.graph.Graph.adj"]),
    Task("degree", degree, "(B, N) integers", [(adj,) for adj in (*GRAPHS, weighted)], [
        ("This counts the targets of each source. A target's sources stand in its row.",
         lambda adj: (adj != 0).sum(1)),
        ("With weights, this adds them up. A degree counts the edges, whatever their weight.",
         lambda adj: adj.sum(2)),
        ("With weights, negative ones are edges too: only 0 is no edge.", lambda adj: (adj > 0).sum(2)),
        ("This is one number for a whole image, the mean over its nodes.",
         lambda adj: (adj != 0).sum(2).double().mean(1)),
    ], ["graphs.graph.Graph.degree"]),
    Task("mean_of_sources", mean_of_sources, "(B, N, C)", list(zip(GRAPHS, [x, draw(8, 2, 5, 3), draw(9, 3, 6, 2),
                                                                         draw(10, 1, 2, 4)], strict=True)), [
        ("This is the sum of the sources. How many are there in each row?", lambda adj, x: adj.double() @ x),
        ("This divides by all nodes, not by those that are sources of the target.",
         lambda adj, x: adj.double() @ x / adj.shape[2]),
        ("A target without sources became NaN (0 divided by 0); it should be 0.",
         lambda adj, x: adj.double() @ x / adj.sum(2, keepdim=True)),
        ("Each source's share is divided by the number of its own targets (columns); the mean is over a row.",
         lambda adj, x: (adj / adj.sum(1, keepdim=True).clamp(min=1)).double() @ x),
        *[("Rows and columns are exchanged. Row i belongs to target i: which nodes should it add up?", wrong)
          for wrong in (lambda adj, x: mean_by_columns(adj, x, 2), lambda adj, x: mean_by_columns(adj, x, 2, 1),
                        lambda adj, x: mean_by_columns(adj, x, 1), lambda adj, x: mean_by_columns(adj, x, 1, 1))],
        ("The target was counted as a source of its own. It is one only where adj[i, i] is True.",
         lambda adj, x: (adj.double() @ x + torch.nn.functional.pad(x, (0, 0, 0, max(0, adj.shape[1] - x.shape[1])))
                         [:, :adj.shape[1]]) / (adj.sum(2, keepdim=True) + 1)),
    ], ["graphs.aggregate.aggregate_mean"], gradient=(1,)),
]

HINTS = {
    "adjacency": (
        "Begin with zeros of shape (B, N, M) and set True in row i at the places that index[b, i] names. scatter_"
        " does that along the last dimension; a loop does it too.",
    ),
    "degree": (
        "A comparison gives bools: adj != 0. Their sum along the last dimension counts a row.",
    ),
    "mean_of_sources": (
        "adj @ x multiplies each row with the nodes: where adj is 1 they are added, where it is 0 they are not. adj"
        " must have the type of x: adj.to(x.dtype).",
        "Divide by the degree, kept as (B, N, 1); a degree of 0 may be counted as 1, since its sum is 0 anyway:"
        " clamp(min=1).",
    ),
}
