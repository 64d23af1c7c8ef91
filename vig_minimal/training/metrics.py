"""Metrics that stream: fed batch by batch, brought together over processes, computed once.

Of single-label data: TopK. Of multi-label data: MultiLabel, and the plain functions that it calls (GKGNet section 4):

    symbol     variable     shape
    s          scores       (images, classes): probabilities
    y          targets      (images, classes): 1, 0, and -1 where unknown, which is as if the entry were not there
    C                       classes that have a positive: the others have no AP and no recall, and are in no mean
    N_c^p      predicted    (C,): images in which class c is predicted
    N_c^g      positives    (C,): images that show class c
    N_c^t      right        (C,): both
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.coco_voc import OBJECT_SIZES
from ..graphs.distance import full_precision
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


def average_precision(scores: Tensor, targets: Tensor) -> list[float | None]:
    """AP of each class in percent, None for a class without positives. scores, targets: (images, classes).

    AP_c = mean over the positives i of N(y = 1 and s ≥ s_i) / N(s ≥ s_i): the precision at each positive's own
    score, so that the order of equal scores does not matter. A score that is not a number is below all others.
    Raises ValueError as `multilabel_metrics`.
    """
    scores, targets = _checked(scores, targets)
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    result = []
    for s, y in zip(scores.T, targets.T, strict=True):
        # searchsorted counts what is not above: of -s, the scores that are not below
        everyone, positives = (-s[y >= 0]).sort().values, (-s[y == 1]).sort().values
        right = torch.searchsorted(positives, positives, right=True)
        chosen = torch.searchsorted(everyone, positives, right=True)
        result.append(100 * (right.double() / chosen).mean().item() if len(positives) else None)
    return result


def precision_and_recall(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    """CP, CR, CF1, OP, OR, OF1 in percent of predictions (images, classes) bool; 0 where nothing is predicted.

    CP = 1/C Σ_c N_c^t / N_c^p,   CR = 1/C Σ_c N_c^t / N_c^g,   OP = Σ N_c^t / Σ N_c^p,   OR = Σ N_c^t / Σ N_c^g,
    CF1 = 2 CP CR / (CP + CR),   OF1 = 2 OP OR / (OP + OR). A class that is shown and never predicted has precision 0.
    Source: GKGNet section 4; where every class has a positive, equal to the released evaluation.
    """
    right = (predicted & (targets == 1)).sum(0).double()  # (classes,), as the next two
    chosen = (predicted & (targets >= 0)).sum(0).double()
    positives = (targets == 1).sum(0).double()
    shown = positives > 0
    # GKGNet section 4: CP, CR
    cp = _share(right[shown], chosen[shown]).sum() / max(shown.sum(), 1)
    cr = _share(right[shown], positives[shown]).sum() / max(shown.sum(), 1)
    # GKGNet section 4: OP, OR
    overall_precision, overall_recall = _share(right.sum(), chosen.sum()), _share(right.sum(), positives.sum())
    # GKGNet section 4: CF1, OF1
    cf1 = _share(2 * cp * cr, cp + cr)
    of1 = _share(2 * overall_precision * overall_recall, overall_precision + overall_recall)
    values = cp, cr, cf1, overall_precision, overall_recall, of1
    names = "CP", "CR", "CF1", "OP", "OR", "OF1"
    return {name: 100 * value.item() for name, value in zip(names, values, strict=True)}


def multilabel_metrics(scores: Tensor, targets: Tensor, threshold: float = 0.5,
                       top3_threshold: float | None = None) -> dict[str, float]:
    """mAP, CP, CR, CF1, OP, OR, OF1 and CP_top3 ... OF1_top3, in percent.

    scores, targets: (images, classes), tensors or arrays. Predicted are scores of at least `threshold`; for top3 the
    three highest of an image whatever they are (of equal ones the first classes), or with `top3_threshold` those of
    them that reach it, as in the released evaluation on COCO. A warning names the classes without positives; if no
    class has any, all is 0. Raises ValueError for unlike shapes and for targets other than 1, 0 and -1.
    """
    scores, targets = _checked(scores, targets)
    aps = average_precision(scores, targets)
    if missing := [c for c, ap in enumerate(aps) if ap is None]:
        warnings.warn(f"no image is known to show these of the {len(aps)} classes, which are in no mean:"
                      f" {', '.join(map(str, missing))}", stacklevel=2)
    return _summary(aps, scores, targets, threshold, top3_threshold)


def map_by_size(scores: Tensor, targets: Tensor, sizes: Tensor) -> dict[str, float | None]:
    """mAP in percent of small, medium and large objects (GKGNet, Table 6), None for a size without positives.

    sizes: (images, classes), the size class of each positive, read nowhere else. For a size, positives of the other
    sizes are unknown, and negatives stay. The paper does not say which size a label has whose objects differ: that is
    for the caller to say.
    """
    scores, targets = _checked(scores, targets)
    result = {}
    for size, name in enumerate(OBJECT_SIZES):
        other = (targets == 1) & (torch.as_tensor(sizes) != size)
        aps = average_precision(scores, targets.masked_fill(other, -1))
        result[name] = None if all(ap is None for ap in aps) else _mean(aps)
    return result


class MultiLabel:
    """`multilabel_metrics` over all images that it was fed, and AP by class and by object size.

    classes: their names. After `compute`, `per_class` is AP in percent by name, None for a class without positives, and
    `without_positives` names those.
    """

    def __init__(self, classes: Sequence[str] | None = None, threshold: float = 0.5,
                 top3_threshold: float | None = None):
        self.classes, self.threshold, self.top3_threshold = classes, threshold, top3_threshold
        self.batches: list[tuple[Tensor, ...]] = []  # AP is of the whole: every score is kept
        self.per_class: dict[str, float | None] = {}

    def update(self, logits: Tensor, targets: Tensor, sizes: Tensor | None = None) -> None:
        """logits, targets, sizes: (B, classes); sizes, if any, with every batch: see `map_by_size`."""
        logits, targets = _checked(logits, targets)
        if self.classes is not None and len(self.classes) != logits.shape[1]:
            raise ValueError(f"scores of {logits.shape[1]} classes, names of {len(self.classes)}")
        batch = (logits, targets) if sizes is None else (logits, targets, sizes)
        self.batches.append(tuple(part.detach().cpu() for part in batch))

    def compute(self, processes: Processes) -> dict[str, float]:
        """The metrics over the images of all processes, each of which must call this; with sizes also mAP_small, ..."""
        mine = [torch.cat(parts) for parts in zip(*self.batches, strict=True)]
        everyone = [parts for parts in processes.gather(mine) if parts]  # a process may have had no image
        logits, targets, *sizes = [torch.cat(parts) for parts in zip(*everyone, strict=True)]
        scores = logits.double().sigmoid()  # in float32 everything above 17 would be 1, and equal
        aps = average_precision(scores, targets)
        names = map(str, range(len(aps))) if self.classes is None else self.classes
        self.per_class = dict(zip(names, aps, strict=True))
        result = _summary(aps, scores, targets, self.threshold, self.top3_threshold)
        by_size = map_by_size(scores, targets, *sizes) if sizes else {}
        return result | {f"mAP_{size}": value for size, value in by_size.items() if value is not None}

    @property
    def without_positives(self) -> list[str]:
        """Names of the classes that are in no mean, since no image is known to show them."""
        return [name for name, ap in self.per_class.items() if ap is None]


def _checked(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    scores, targets = torch.as_tensor(scores), torch.as_tensor(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {tuple(scores.shape)} with targets {tuple(targets.shape)}: multi-label metrics take"
                         " (images, classes) of both")
    if not ((targets == 0) | (targets == 1) | (targets == -1)).all():
        raise ValueError("multi-label targets other than 1, 0, and -1 where unknown")
    return full_precision(scores), targets.to(torch.int8)


def _summary(aps: list[float | None], scores: Tensor, targets: Tensor, threshold: float,
             top3_threshold: float | None) -> dict[str, float]:
    top3 = _three_highest(scores, targets)
    if top3_threshold is not None:
        top3 &= scores >= top3_threshold
    at_three = {f"{name}_top3": value for name, value in precision_and_recall(top3, targets).items()}
    return {"mAP": _mean(aps)} | precision_and_recall(scores >= threshold, targets) | at_three


def _three_highest(scores: Tensor, targets: Tensor) -> Tensor:
    """(images, classes) bool: the three highest scores of every image, of those whose target is known."""
    eligible = (targets >= 0) & ~scores.isnan()
    order = scores.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :3]
    return torch.zeros_like(eligible).scatter(1, order, True) & eligible


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where there is no whole."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)


def _mean(aps: list[float | None]) -> float:
    known = [ap for ap in aps if ap is not None]
    return sum(known) / max(len(known), 1)
