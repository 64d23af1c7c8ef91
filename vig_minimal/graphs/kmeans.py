"""Batched k-means: the partition of every image's nodes, for a whole batch at once (ClusterViG section IV-A).

    V^1, ..., V^κ = argmin Σ_i Σ_{v ∈ V^i} ‖x_v − μ_i‖²

Lloyd's two steps in turns: every node goes to its nearest centroid, every centroid to the mean of its nodes. Neither
makes the sum larger. Without gradient; distances in float32 or better, also under autocast.

    symbol   variable     shape
    X        x            (B, N, C)
    κ        k
    V^i      labels       (B, N) int64, 0 to k − 1; every one of them occurs
    μ_i      centroids    (B, k, C)
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from .distance import full_precision, squared_distance


@torch.no_grad()
def kmeans(x: Tensor, k: int, iters: int = 20, init: str | Tensor = "random",
           generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Partition nodes (B, N, C) into k: labels (B, N) int64, and the mean of each partition, (B, k, C).

    init: "random" (k nodes), "k-means++" (each next one far from those before: Arthur and Vassilvitskii, 2007), or the
    centroids to start from, (k, C) or (B, k, C). generator: on the CPU; the same seed gives the same result, and what
    is drawn is the same for all images, so that an image's result does not depend on what else is in the batch.
    At most `iters` rounds; it ends when no label changes. No partition is ever empty: the node farthest from its
    centroid founds it anew. Features that are not numbers give some partition like that, and end.

    Raises ValueError for k < 1, iters < 1, fewer nodes than k, or an unknown init.
    """
    batch, num_nodes, channels = x.shape
    if not 1 <= k <= num_nodes or iters < 1:
        raise ValueError(f"k-means of {num_nodes} nodes with k={k} and iters={iters}: k from 1 to {num_nodes}, iters at"
                         " least 1")
    with torch.autocast(x.device.type, enabled=False):
        x = full_precision(x)
        if isinstance(init, Tensor):
            centroids = init.to(x).expand(batch, k, channels)
        elif init == "random":
            centroids = x[:, torch.randperm(num_nodes, generator=generator)[:k].to(x.device)]  # (B, k, C)
        elif init == "k-means++":
            centroids = _plus_plus(x, k, generator)
        else:
            raise ValueError(f"init={init!r}: choose random, k-means++, or give the centroids")
        labels, x2 = None, x.square().sum(-1, keepdim=True)  # ‖x_v‖², once for all rounds
        for _ in range(iters):
            # ‖x_v − μ_i‖² = ‖x_v‖² − 2 x_v·μ_i + ‖μ_i‖²
            distance = torch.baddbmm(centroids.square().sum(-1)[:, None], x, centroids.mT, alpha=-2) + x2  # (B, N, k)
            new = _without_empty(distance.argmin(-1), distance)
            # a compiler sees all rounds; an image that has converged does not change in them
            if labels is not None and not torch.compiler.is_compiling() and torch.equal(new, labels):
                break
            labels = new
            centroids = partition_mean(x, labels, k)
    return labels, centroids


def partition_mean(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """z_i, the mean of the nodes of each partition, with gradient to x: (B, N, C) and labels (B, N) to (B, k, C)."""
    member = F.one_hot(labels, k).to(x.dtype)  # (B, N, k)
    return (member / member.sum(1, keepdim=True).clamp(min=1)).mT @ x


def _without_empty(labels: Tensor, distance: Tensor) -> Tensor:
    """Labels (B, N) in which the nodes farthest from their centroids, (B, N, k) away, found the empty partitions anew.

    The nearest node of each partition stays, so that none becomes empty by it.
    """
    num_nodes, k = distance.shape[1:]
    member = F.one_hot(labels, k).bool()  # (B, N, k)
    empty = ~member.any(1)  # (B, k)
    if k == 1 or (not torch.compiler.is_compiling() and not empty.any()):
        return labels
    distance = distance.nan_to_num(torch.finfo(distance.dtype).max)  # below the ∞ of those that are no members
    own = distance.gather(2, labels[..., None])[..., 0]  # (B, N): to the node's own centroid
    nearest = distance.masked_fill(~member, torch.inf).argmin(1)  # (B, k)
    stays = torch.where(empty, torch.inf, -torch.inf).to(own)
    movable = own.scatter_reduce(1, nearest, stays, "amin")  # −∞ for those that stay
    farthest = movable.topk(k - 1).indices  # (B, k − 1)
    turn = (empty.cumsum(1) - 1).clamp(0, k - 2)  # the r-th empty partition takes the r-th farthest node
    founder = torch.where(empty, farthest.gather(1, turn), num_nodes)  # (B, k); N is nobody
    longer = F.pad(labels, (0, 1))  # (B, N + 1)
    return longer.scatter(1, founder, torch.arange(k, device=labels.device).expand_as(founder))[:, :num_nodes]


def _plus_plus(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """Centroids (B, k, C): one node at random, then each next one with a probability that grows with its squared
    distance from the nearest of those before. Each draw needs the ones before it, hence a loop over k."""
    draws = torch.rand(k, generator=generator).tolist()
    chosen = x[:, [int(draws[0] * x.shape[1])]]  # (B, 1, C)
    for draw in draws[1:]:
        nearest = squared_distance(x, chosen).amin(-1).clamp(min=0)  # (B, N)
        share = nearest.cumsum(1) / nearest.sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        node = (share <= draw).sum(1).clamp(max=x.shape[1] - 1)  # (B,): the first whose share reaches past the draw
        chosen = torch.cat([chosen, x.gather(1, node[:, None, None].expand(-1, 1, x.shape[2]))], 1)
    return chosen


def fixed_start(num_nodes: int, k: int) -> tuple[int, ...]:
    """k of the nodes at random, the same ones in every call: where k-means starts in evaluation.

    Raises ValueError for fewer nodes than k.
    """
    if k > num_nodes:
        raise ValueError(f"{k} partitions of {num_nodes} nodes: choose at most {num_nodes}")
    return tuple(random.Random(0).sample(range(num_nodes), k))
