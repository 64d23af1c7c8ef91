"""Rounds of k-means (defined in graphs/kmeans.py) and of fuzzy C-means (constructors/hypergraph.py), each one operation
to torch.compile. Those of k-means end once no label changes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distance import mean_node, squared_distance
from ..membership import membership, partition_mean
from .compiler import may_branch, opaque_if_compiled


def _alike(x, centroids, iters):
    """Return tensors of the shapes and types that `lloyd` returns."""
    return x.new_empty(x.shape[:2], dtype=torch.int64), x.new_empty(centroids.shape)


@opaque_if_compiled("lloyd", _alike)
def lloyd(x: Tensor, centroids: Tensor, iters: int) -> tuple[Tensor, Tensor]:
    """Do `kmeans.lloyd`. As 20 rounds in each of 12 blocks, one after the other, it took torch.compile more than seven
    minutes."""
    labels, x2 = None, x.square().sum(-1, keepdim=True)  # ‖x_v‖², once for all rounds
    for _ in range(iters):
        # ‖x_v − μ_i‖² = ‖x_v‖² − 2 x_v·μ_i + ‖μ_i‖²
        length = centroids.square().sum(-1)[:, None]  # ‖μ_i‖²: (B, 1, k)
        distance = torch.baddbmm(length, x, centroids.transpose(1, 2), alpha=-2) + x2  # (B, N, k)
        new, member = assign(distance)
        # further rounds do not change an image that has converged
        if labels is not None and may_branch(x) and torch.equal(new, labels):
            break
        labels, centroids = new, partition_mean(x, member)
    return labels, centroids


def assign(distance: Tensor) -> tuple[Tensor, Tensor]:
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


def _memberships(x, centre, rounds):
    """Return a tensor of the shape and type that `fuzzy_c_means` returns."""
    return x.new_empty(*x.shape[:2], centre.shape[1])


@opaque_if_compiled("fuzzy_c_means", _memberships)
@torch.no_grad()
def fuzzy_c_means(x: Tensor, centre: Tensor, rounds: int) -> Tensor:
    """Do `constructors.hypergraph.fuzzy_c_means`."""
    mean = mean_node(x)
    x, centre = x - mean, centre - mean
    for last in range(rounds + 1):
        distance = squared_distance(x, centre).clamp(min=torch.finfo(x.dtype).tiny)  # (B, N, E)
        near = distance.amin(-1, keepdim=True) / distance
        membership = near / near.sum(-1, keepdim=True)
        if last < rounds:
            weight = membership.square()
            centre = weight.mT @ x / weight.sum(1)[..., None]  # (B, E, C)
    return membership
