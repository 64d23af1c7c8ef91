"""Lesson 12: your own graph.

You have seen five ways to decide who reads from whom: the nearest, the nearest with gaps, all above
a threshold, all above a learnt threshold, the nearest in a partition. None is the last word. On
small images a random graph is hard to beat, and in some tables a 3 × 3 grid wins: `docs/results.md`
has them. So try your own idea, and measure it against three graphs that everybody should beat, or
explain why not:

    none      every node reads from itself alone
    random    itself and 8 to 17 others, drawn once for each block
    knn       ViG's, with k from 9 to 18 over the blocks

A constructor gets nodes and the size of their grid, and returns a graph. It keeps these rules: rows
are targets; the graph of an image does not depend on the other images of its batch; the same image
gives the same graph in every call; it works for any grid; somebody reads from somebody. Weights are
allowed: `max` then runs over all sources, and a source without an edge counts 0, as in lesson 8.

Symbols: nodes (B, N, C), grid (rows, columns) with N = rows · columns; node r · columns + c is the
patch in row r, column c.
"""

import torch
from torch import Tensor

from vig_minimal.learn.answers import earlier

places, adjacency, unit, squared_distances, nearest = earlier(
    __file__, "places", "adjacency", "unit", "squared_distances", "nearest")


def my_graph(nodes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The adjacency of your graph: (B, N, C) to (B, N, N), bool or weights; rows are targets.

    To begin with, take two rules and join them: `near & alike`, where `near` comes from places(grid) and `alike` from
    the squared distances of unit features.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import race, show
    show.sources(my_graph(show.patches(), (8, 8)), "12_own.png")
    race.race(my_graph)  # trains four networks on 2,000 scenes for 3 epochs each: some minutes
