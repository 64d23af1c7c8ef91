"""Lesson 9: partitions.

k nearest neighbours compare every node with every other: twice as many nodes, four times the work.
ClusterViG first sorts the nodes into κ partitions of similar nodes, then looks for neighbours
inside each: where all are alike, the nearest are there. The partitions come from k-means: give
every node to its nearest centroid, move each centroid to the mean of its nodes, and repeat, at most
20 times. You write one round.

A centroid that is nearest to no node has no mean. It must not stay so: its partition gets the node
that is farthest from its own centroid, the one that is served worst.

    ClusterViG Algorithm 1:    line 3:  {(V^i, X_i)} ← partition(V, X)
                               line 5:  G^i(V^i, E^i) ← k-NN(V^i, X_i, K)
                               line 8:  z_i ← (1 / |V^i|) 1ᵀ X_i

k-means chooses by plain distances, k-NN by unit features, as in lesson 3. Labels carry no gradient;
means do.

Symbols: x nodes, V^i partition i, z_i its mean, κ partitions (k where it counts them), K
neighbours; B, N, C as ever.
"""

import torch
from torch import Tensor

from vig_minimal.learn.answers import earlier

unit, squared_distances = earlier(__file__, "unit", "squared_distances")


def assign(x: Tensor, centroids: Tensor) -> Tensor:
    """The partition of every node, the number of its nearest centroid: nodes (B, N, C), centroids (B, k, C) to (B, N).

    If an image has a partition without nodes, then the node that is farthest from its own centroid goes there. (Here no
    image has more than one, and that node is never the last of its own partition.)
    Nodes [[[0], [1], [4], [9]]] with centroids [[[1], [5]]]: [[0, 0, 1, 1]]. With [[[4], [99]]]: [[0, 0, 0, 1]].
    """
    raise NotImplementedError("not written yet")


def means(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """The mean of each partition: nodes (B, N, C) and labels (B, N) to (B, k, C), with gradient.

    Nodes [[[0], [1], [4], [9]]] with labels [[0, 0, 1, 0]] and k = 2: [[[3.3333], [4]]].
    """
    raise NotImplementedError("not written yet")


def nearest_inside(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """The graph: each node's k nearest in its own partition, by unit features, itself among them; all of it where it
    has fewer than k. (B, N, C) and (B, N) to (B, N, N) bool.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    x, centroids = show.patches(), show.patches()[:, [0, 18, 27, 45]]
    for _ in range(20):
        labels = assign(x, centroids)
        centroids = means(x, labels, 4)
    show.partitions(labels, "09_partitions.png")
    show.sources(nearest_inside(x, labels, 9), "09_inside.png")
