"""Batched k-means, without gradient: a partition of every image's nodes (ClusterViG section IV-A).

    V^1, ..., V^κ = argmin Σ_i Σ_{v ∈ V^i} ‖x_v − μ_i‖²

Lloyd's algorithm: assign every node to its nearest centroid, set every centroid to the mean of its nodes, repeat.

    symbol   variable     shape
    X        x            (B, N, C)
    κ        k
    V^i      labels       (B, N) int64, 0 to k − 1; each of them occurs
    μ_i      centroids    (B, k, C)
"""

import random

import torch
from torch import Tensor

from .distance import full_precision, mean_node, squared_distance
from .membership import membership, partition_mean
from .plain import fast_form


@torch.no_grad()
def kmeans(x: Tensor, k: int, iters: int = 20, init: str | Tensor = "random",
           generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Partition nodes (B, N, C) into k: return labels (B, N) int64 and the mean of each partition, (B, k, C).

    iters: the number of rounds. Once no label changes, further ones change nothing.
    init: "random" (k nodes), "k-means++" (Arthur and Vassilvitskii, 2007), or centroids, (k, C) or (B, k, C).
    generator: of the CPU, by default torch's global one. All images share its draws, so that an image's result does not
    depend on the rest of the batch.

    No partition is ever empty: an empty one restarts from the node that is farthest from its own centroid. NaN features
    get valid labels too. Distances are in float32 or better, between nodes whose mean is subtracted. Raises ValueError
    unless 1 ≤ k ≤ N, iters ≥ 1 and `init` is known.
    """
    batch, num_nodes, channels = x.shape
    if not 1 <= k <= num_nodes or iters < 1:
        raise ValueError(f"k-means of {num_nodes} nodes with k={k}, iters={iters}: needs both ≥ 1, k ≤ {num_nodes}")
    with torch.autocast(x.device.type, enabled=False):
        x = full_precision(x)
        mean = mean_node(x)
        x = x - mean  # the same distances, without cancellation
        if isinstance(init, Tensor):
            centroids = init.to(x).expand(batch, k, channels) - mean
        elif init == "random":
            centroids = pick(x, torch.randperm(num_nodes, generator=generator)[:k])  # (B, k, C)
        elif init == "k-means++":
            centroids = _plus_plus(x, k, generator)
        else:
            raise ValueError(f"init={init!r}: choose random, k-means++, or give the centroids")
        labels, centroids = lloyd(x, centroids, iters)
        return labels, centroids + mean


@fast_form("rounds")
def lloyd(x: Tensor, centroids: Tensor, iters: int) -> tuple[Tensor, Tensor]:
    """Return labels (B, N) and centroids (B, k, C) after `iters` rounds from the given centroids."""
    for _ in range(iters):
        labels = refilled(squared_distance(x, centroids))
        centroids = partition_mean(x, membership(labels, centroids.shape[1]))
    return labels, centroids


def refilled(distance: Tensor) -> Tensor:
    """Return the nearest centroid of each node, given distances (B, N, k): labels (B, N), each occurring."""
    labels = distance.argmin(-1)
    own = distance.nan_to_num(torch.finfo(distance.dtype).max).gather(2, labels[..., None])[..., 0]  # (B, N)
    for i in range(distance.shape[2]):  # the node nearest to its centroid stays: no other partition gets empty
        mine = labels == i
        nearest = torch.where(mine, own, torch.inf).argmin(1, keepdim=True)  # (B, 1)
        own = torch.where(mine.any(1, keepdim=True), own.scatter(1, nearest, -torch.inf), own)
    for i in range(distance.shape[2]):  # an empty partition gets the node that is farthest from its own centroid
        empty, farthest = ~(labels == i).any(1, keepdim=True), own.argmax(1, keepdim=True)  # (B, 1)
        labels = torch.where(empty, labels.scatter(1, farthest, i), labels)
        own = torch.where(empty, own.scatter(1, farthest, -torch.inf), own)
    return labels


def _plus_plus(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """Draw centroids (B, k, C) one after the other: each a node, likelier the farther it is from those before."""
    draws = torch.rand(k, generator=generator).tolist()
    chosen = x[:, [int(draws[0] * x.shape[1])]]  # (B, 1, C)
    for draw in draws[1:]:
        nearest = squared_distance(x, chosen).amin(-1).clamp(min=0)  # (B, N)
        share = nearest.cumsum(1) / nearest.sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        node = (share <= draw).sum(1).clamp(max=x.shape[1] - 1)  # (B,): the first node whose share exceeds the draw
        chosen = torch.cat([chosen, x.gather(1, node[:, None, None].expand(-1, 1, x.shape[2]))], 1)
    return chosen


def fixed_start(num_nodes: int, k: int) -> tuple[int, ...]:
    """Return k distinct random nodes, the same in every call: where k-means starts in evaluation."""
    if k > num_nodes:
        raise ValueError(f"{k} partitions of {num_nodes} nodes: choose at most {num_nodes}")
    return tuple(random.Random(0).sample(range(num_nodes), k))


if not hasattr(torch.compiler, "is_exporting"):  # torch 2.6 cannot record how Python draws; there for one image size
    fixed_start = torch.compiler.assume_constant_result(fixed_start)


def pick(x: Tensor, nodes: Tensor | tuple[int, ...]) -> Tensor:
    """Return the nodes with these k indices: (B, N, C) to (B, k, C), without waiting for a GPU."""
    return x[:, torch.as_tensor(nodes).to(x.device, non_blocking=True)]
