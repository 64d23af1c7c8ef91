"""Metrics that stream: fed batch by batch, summed over processes, computed once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import Processes


class TopK:
    """Cross-entropy and top-1 and top-5 accuracy in percent, over all images that it was fed.

    A label is in the top k if fewer than k classes have a higher score. With fewer than five classes top-5 is 100 %.
    """

    def __init__(self):
        self.sums = torch.zeros(4, dtype=torch.float64)  # images, loss, right in the first 1 and in the first 5

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """logits: (B, classes). labels: (B,) int64."""
        logits = logits.float()
        rank = (~(logits <= logits.gather(1, labels[:, None]))).sum(1)  # (B,), 0 is the highest; NaNs are never right
        loss = F.cross_entropy(logits, labels, reduction="sum")
        batch = torch.stack([loss, (rank < 1).sum(), (rank < 5).sum()]).cpu().double()
        self.sums += torch.cat([torch.tensor([float(len(labels))]), batch])

    def compute(self, processes: Processes) -> dict[str, float]:
        """`loss`, `top1` and `top5` over the images of all processes, each of which must call this."""
        count, loss, top1, top5 = processes.sum(self.sums).tolist()
        return {"loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}
