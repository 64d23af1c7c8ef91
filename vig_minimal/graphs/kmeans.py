"""Batched k-means, without gradient: a partition of every image's nodes (ClusterViG section IV-A).

    V^1, ..., V^κ = argmin Σ_i Σ_{v ∈ V^i} ‖x_v − μ_i‖²

Lloyd's algorithm: assign every node to its nearest centroid, set every centroid to the mean of its nodes, repeat.

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

from .distance import full_precision, mean_node, squared_distance
from .graph import is_compiled, may_branch


@torch.no_grad()
def kmeans(x: Tensor, k: int, iters: int = 20, init: str | Tensor = "random",
           generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Partition nodes (B, N, C) into k: return labels (B, N) int64 and the mean of each partition, (B, k, C).

    iters: the largest number of rounds; k-means ends earlier once no label changes.
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
        labels, centroids = (_lloyd_uncompiled if is_compiled() else _lloyd)(x, centroids, iters)
        return labels, centroids + mean


def _lloyd(x: Tensor, centroids: Tensor, iters: int) -> tuple[Tensor, Tensor]:
    """Return labels (B, N) and centroids (B, k, C) after at most `iters` rounds from the given centroids."""
    labels, x2 = None, x.square().sum(-1, keepdim=True)  # ‖x_v‖², once for all rounds
    for _ in range(iters):
        # ‖x_v − μ_i‖² = ‖x_v‖² − 2 x_v·μ_i + ‖μ_i‖²
        length = centroids.square().sum(-1)[:, None]  # ‖μ_i‖²: (B, 1, k)
        distance = torch.baddbmm(length, x, centroids.transpose(1, 2), alpha=-2) + x2  # (B, N, k)
        new, member = _assign(distance)
        # further rounds do not change an image that has converged
        if labels is not None and may_branch(x) and torch.equal(new, labels):
            break
        labels, centroids = new, partition_mean(x, member)
    return labels, centroids


@torch.library.custom_op("vig_minimal::lloyd", mutates_args=())
def _lloyd_uncompiled(x: Tensor, centroids: Tensor, iters: int) -> tuple[Tensor, Tensor]:
    """Do `_lloyd` as an operation that torch.compile calls and does not look into: 20 rounds in each of 12 blocks, one
    after the other, took it more than seven minutes."""
    return _lloyd(x, centroids, iters)


@_lloyd_uncompiled.register_fake
def _(x, centroids, iters):
    """Return tensors of the same shapes and types, for the compiler."""
    return x.new_empty(x.shape[:2], dtype=torch.int64), x.new_empty(centroids.shape)


def partition_mean(x: Tensor, member: Tensor) -> Tensor:
    """Return z_i, the mean of the nodes of each partition: (B, N, C) and `membership` (B, N, k) to (B, k, C), with
    gradient."""
    member = member.to(x.dtype)
    return (member / member.sum(1, keepdim=True).clamp(min=1)).transpose(-2, -1) @ x


def membership(labels: Tensor, k: int) -> Tensor:
    """Return which node is in which partition: labels (B, N) to (B, N, k), bool."""
    return labels[..., None] == torch.arange(k, device=labels.device)


def _assign(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centroid of each node, given distances (B, N, k): labels (B, N), and their `membership`.

    Each empty partition gets one of the nodes farthest from their own centroids. The nearest node of each partition is
    never moved, so that no other gets empty.
    """
    num_nodes, k = distance.shape[1:]
    labels = distance.argmin(-1)
    member = membership(labels, k)
    empty = ~member.any(1)  # (B, k)
    if k == 1 or (may_branch(distance) and not empty.any()):
        return labels, member
    distance = distance.nan_to_num(torch.finfo(distance.dtype).max)  # less than the ∞ of nodes that are no members
    own = distance.gather(2, labels[..., None])[..., 0]  # (B, N): to the node's own centroid
    nearest = distance.masked_fill(~member, torch.inf).argmin(1)  # (B, k)
    movable = own.scatter_reduce(1, nearest, torch.where(empty, torch.inf, -torch.inf).to(own), "amin")  # −∞ stays
    farthest = movable.topk(k - 1).indices  # (B, k − 1)
    rank = (empty.long().cumsum(1) - 1).clamp(0, k - 2)  # the r-th empty partition gets the r-th farthest node
    moved = torch.where(empty, farthest.gather(1, rank), num_nodes)  # (B, k) nodes; N stands for none
    padded = F.pad(labels, (0, 1))  # (B, N + 1)
    labels = padded.scatter(1, moved, torch.arange(k, device=labels.device).expand_as(moved))[:, :num_nodes]
    return labels, membership(labels, k)


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
    """Return the nodes of these k numbers: (B, N, C) to (B, k, C). No one waits for a GPU to take the numbers."""
    return x[:, torch.as_tensor(nodes).to(x.device, non_blocking=True)]
