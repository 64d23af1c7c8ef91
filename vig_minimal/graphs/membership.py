"""Partitions of the nodes: their membership matrix and their means."""

import torch
from torch import Tensor


def membership(labels: Tensor, k: int) -> Tensor:
    """Return the membership matrix of labels (B, N): (B, N, k), bool."""
    return labels[..., None] == torch.arange(k, device=labels.device)


def partition_mean(x: Tensor, member: Tensor) -> Tensor:
    """Return z_i, the mean of each partition, with gradient: (B, N, C) and `membership` (B, N, k) to (B, k, C)."""
    member = member.to(x.dtype)
    return (member / member.sum(1, keepdim=True).clamp(min=1)).mT @ x
