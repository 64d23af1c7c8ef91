"""Lesson 9: one round of k-means, empty partitions, k-NN inside partitions."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...constructors.cluster_knn import cluster_graph
from ...graphs.kmeans import kmeans
from ...graphs.membership import membership, partition_mean
from ..task import Task, draw
from . import nearest
from .nearest import FOUR


def assign(x: Tensor, centroids: Tensor) -> Tensor:
    return kmeans(x, centroids.shape[1], iters=1, init=centroids)[0]


def means(x: Tensor, labels: Tensor, k: int) -> Tensor:
    return partition_mean(x, membership(labels, k))


def nearest_inside(x: Tensor, labels: Tensor, k: int) -> Tensor:
    return cluster_graph(x, labels, int(labels.max()) + 1, k).adj()


def distances(x: Tensor, centroids: Tensor) -> Tensor:
    return nearest.squared_distances(x, centroids)


def filled(x: Tensor, centroids: Tensor, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The nearest centroids, but an empty partition gets the node that `choose` finds from distances (N, k)."""
    d, k = distances(x, centroids), centroids.shape[1]
    labels = d.argmin(2)
    for b, row in enumerate(labels):
        for empty in set(range(k)) - set(row.tolist()):
            labels[b, choose(d[b], empty)] = empty
    return labels


def within(x: Tensor, allowed: Tensor, k: int) -> Tensor:
    """The k nearest among the allowed, fewer where there are fewer."""
    return nearest_of(nearest.of(x), allowed, k)


def nearest_of(distance: Tensor, allowed: Tensor, k: int) -> Tensor:
    """As `within`, of distances (B, N, N)."""
    return filled_up(distance.masked_fill(~allowed, torch.inf), k) & allowed


def filled_up(distance: Tensor, k: int) -> Tensor:
    """The k smallest distances of each row, also where fewer are allowed."""
    return marked(distance.topk(min(k, distance.shape[2]), largest=False).indices, k)


def marked(index: Tensor, k: int) -> Tensor:
    """The first k of each row of an index, as (B, N, N) bool."""
    empty = torch.zeros(*index.shape[:2], index.shape[1], dtype=torch.bool)
    return empty.scatter_(2, index[..., :k], True)


def same(labels: Tensor) -> Tensor:
    return labels[:, :, None] == labels[:, None]


apart = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [4.0, 0.5], [9.0, 1.0]]], dtype=torch.float64)
far = torch.tensor([50.0, 0.0])[:, None, None]
STARTS = [(apart, apart[:, [1, 2]] * 0.9), (draw(1, 2, 9, 3), draw(2, 2, 3, 3)), (draw(3, 2, 7, 2), draw(4, 2, 2, 2)),
          (draw(7, 2, 8, 3), torch.cat([draw(8, 2, 2, 3), draw(9, 2, 1, 3) + 50], 1)),  # partition 2 is empty
          (draw(7, 2, 8, 3), torch.cat([draw(9, 2, 1, 3) + far, draw(8, 2, 2, 3)], 1))]  # 0 is, in the first image
LABELS = [torch.tensor([[0, 0, 1, 0]]), *(assign(*start) for start in STARTS[1:3])]
PARTS = [(torch.cat([FOUR, FOUR.flip(2)], 1), torch.tensor([[0, 0, 1, 0, 1, 1, 0, 1]]), 2),
         (draw(11, 2, 9, 4), torch.tensor([[0, 0, 1, 0, 2, 0, 0, 2, 0], [1, 1, 1, 0, 2, 2, 2, 2, 0]]), 3),
         (draw(12, 1, 6, 3), torch.tensor([[0, 1, 0, 1, 0, 1]]), 1)]

TASKS = [
    Task("assign", assign, "(B, N) integers, from 0 to k - 1; each of them occurs", STARTS, [
        ("A partition stays empty: its mean would be 0 divided by 0. Which node is served worst by its own centroid?",
         lambda x, centroids: distances(x, centroids).argmin(2)),
        ("The empty partition took the node nearest to its centroid. It should start anew, with the node that is"
         " farthest"
         " from its own centroid.",
         lambda x, centroids: filled(x, centroids, lambda d, empty: d[:, empty].argmin())),
        ("The empty partition took a node that its own centroid serves well: the farthest should go.",
         lambda x, centroids: filled(x, centroids, lambda d, empty: d.amin(1).argmin())),
        ("Each centroid's farthest nodes: argmax where argmin belongs?",
         lambda x, centroids: distances(x, centroids).argmax(2)),
        ("Nodes and centroids were normalised first; k-means compares them as they are.",
         lambda x, centroids: assign(nearest.unit(x), nearest.unit(centroids))),
        ("The centroid with the largest product, which favours long ones; the nearest is meant.",
         lambda x, centroids: (x @ centroids.mT).argmax(2)),
    ], ["graphs.kmeans.kmeans"]),
    Task("means", means, "(B, k, C)",
         [(apart, LABELS[0], 2), (STARTS[1][0], LABELS[1], 3), (STARTS[2][0], LABELS[2], 2)], [
        ("These are sums: divide by the number of members.",
         lambda x, labels, k: membership(labels, k).to(x).mT @ x),
        ("Divided by all N nodes. The mean of a partition is over its members.",
         lambda x, labels, k: membership(labels, k).to(x).mT @ x / x.shape[1]),
        ("Every partition has the mean of the whole image: where do the labels come in?",
         lambda x, labels, k: x.mean(1, keepdim=True).expand(-1, k, -1)),
        ("The members of the first image count in all others too: labels differ from image to image.",
         lambda x, labels, k: means(x, labels[:1].expand_as(labels), k)),
        ("Lesson 10 reads these means, and learns through them: what cut them off from x?",
         lambda x, labels, k: means(x, labels, k).detach()),
    ], ["graphs.membership.partition_mean"], gradient=(0,)),
    Task("nearest_inside", nearest_inside, "(B, N, N) bool", PARTS, [
        ("Neighbours in other partitions: only those with the same label may be found.",
         lambda x, labels, k: within(x, torch.ones_like(same(labels)), k)),
        ("The k nearest of the whole image, reduced to those in the partition: first narrow down, then"
         " choose"
         " k.",
         lambda x, labels, k: within(x, torch.ones_like(same(labels)), k) & same(labels)),
        *[("A partition with fewer than k nodes reached into others to have k. It uses what it has.", wrong)
          for wrong in (lambda x, labels, k: filled_up(nearest.of(x).add(100.0 * ~same(labels)), k),
                        lambda x, labels, k: filled_up(nearest.of(x).masked_fill(~same(labels), torch.inf), k),
                        lambda x, labels, k: marked(nearest.of(x).masked_fill(~same(labels), torch.inf).argsort(2), k),
                        lambda x, labels, k: marked(nearest.of(x).masked_fill(~same(labels), 1e9).argsort(2), k))],
        ("All nodes of the partition, not the k nearest.", lambda x, labels, k: same(labels)),
        ("The partitions are the wrong way round: a node reads from all but its own.",
         lambda x, labels, k: within(x, ~same(labels), k)),
        ("The node itself was left out; it is one of the k.",
         lambda x, labels, k: within(x, same(labels) & ~torch.eye(x.shape[1], dtype=torch.bool), k)),
        *[("The features as they are: where are the unit features?", wrong)
          for wrong in (lambda x, labels, k: nearest_of(nearest.squared_distances(x, x), same(labels), k),
                        lambda x, labels, k: nearest_of(-x @ x.mT, same(labels), k))],
        *[("The features as they are, and a partition with fewer than k nodes reached into others: two things to"
           " mend.", wrong)
          for wrong in (lambda x, labels, k: filled_up(nearest.squared_distances(x, x).masked_fill(
                            ~same(labels), torch.inf), k),
                        lambda x, labels, k: marked(nearest.squared_distances(x, x).masked_fill(
                            ~same(labels), torch.inf).argsort(2), k))],
    ], ["constructors.cluster_knn.nearest_inside", "constructors.cluster_knn.cluster_graph"]),
]

HINTS = {
    "assign": (
        "squared_distances of lesson 3 between nodes and centroids is (B, N, k); argmin over the last dimension is"
        " the label.",
        "Empty: a label that occurs in no node of an image. A loop over images and labels is fine; so is"
        " (labels[..., None] == arange(k)).any(1).",
        "How far each node is from its own centroid: the smallest of its k distances, amin. Its argmax is the one"
        " that moves.",
    ),
    "means": (
        "member = labels[..., None] == torch.arange(k) is (B, N, k). member.to(x.dtype).mT @ x adds up the members.",
    ),
    "nearest_inside": (
        "labels[:, :, None] == labels[:, None] is (B, N, N): who may read from whom. Give all other pairs an"
        " infinite distance, take topk, and drop what is infinite.",
    ),
}
