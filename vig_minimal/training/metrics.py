"""Metrics that stream: each is fed batch by batch and computed once, over the images of all processes.

TopK is for data with one label an image; MultiLabel, and the functions that it calls, for several (GKGNet section 4);
DetectionScores for objects; SegmentationScores for a class of every pixel:

    symbol     variable     shape
    s          scores       (images, classes): probabilities
    y          targets      (images, classes): 1, 0, or −1 for unknown; unknown entries count nowhere
    C                       number of classes with a positive; the others have no AP or recall and are in no mean
    N_c^p      predicted    (C,): images in which class c is predicted
    N_c^g      positives    (C,): images that show class c
    N_c^t      right        (C,): images that show class c, and in which it is predicted
"""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.coco_voc import OBJECT_SIZES
from ..data.masks import edges_of_array, run_lengths
from ..graphs.distance import full_precision
from .coco_ap import coco_ap
from .distributed import Processes


class TopK:
    """Cross-entropy and top-1 accuracy in percent; with more than five classes top-5 too.

    A label is in the top k if fewer than k classes come before it, by score and, of equal scores, by number: a network
    with the same logit for all classes is right for the first one alone.
    """

    def __init__(self):
        self.sums = torch.zeros(5, dtype=torch.float64)  # images, with more than 5 classes, loss, right in top 1, top 5
        self.pairs = torch.zeros(2, 0, dtype=torch.int64)  # of each image its label, and the class it was taken for

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,) int64."""
        logits, count = logits.float(), float(len(labels))
        own, number = logits.gather(1, labels[:, None]), torch.arange(logits.shape[1], device=logits.device)
        before = ~(logits <= own) | (logits == own) & (number < labels[:, None])  # (B, classes); NaN is never right
        rank = before.sum(1)  # (B,), 0 is the highest
        loss = F.cross_entropy(logits, labels, reduction="sum")
        batch = torch.stack([loss, (rank < 1).sum(), (rank < 5).sum()]).cpu().double()
        self.sums += torch.cat([torch.tensor([count, count * (logits.shape[1] > 5)]), batch])
        predicted = torch.where(rank < 1, labels, logits.argmax(1))
        self.pairs = torch.cat([self.pairs, torch.stack([labels, predicted]).cpu()], 1)

    def compute(self, processes: Processes) -> dict[str, float]:
        """Return `loss`, `top1`, maybe `top5`; `pairs` become those of all processes. Every process must call this."""
        self.pairs = torch.cat(processes.gather(self.pairs), 1)
        count, many, loss, top1, top5 = processes.sum(self.sums).tolist()
        return {"loss": loss / count, "top1": 100 * top1 / count} | ({"top5": 100 * top5 / count} if many else {})


def average_precision(scores: Tensor, targets: Tensor) -> list[float | None]:
    """Return the average precision (AP) of each class in percent, None for a class without positives.

    AP_c is the mean over its positives i of N(y = 1 and s ≥ s_i) / N(s ≥ s_i), the precision at the score of i. The
    order of equal scores does not matter. NaN counts as below all scores. Raises ValueError as `multilabel_metrics`.
    """
    scores, targets = _checked(scores, targets)
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    result = []
    for s, y in zip(scores.T, targets.T, strict=True):
        # among sorted −s, searchsorted(−s_i, right=True) is the number of scores ≥ s_i
        everyone, positives = (-s[y >= 0]).sort().values, (-s[y == 1]).sort().values
        right = torch.searchsorted(positives, positives, right=True)
        chosen = torch.searchsorted(everyone, positives, right=True)
        result.append(100 * (right.double() / chosen).mean().item() if len(positives) else None)
    return result


def precision_and_recall(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    """Return CP, CR, CF1, OP, OR, OF1 in percent. predicted: (images, classes) bool.

    CP = 1/C Σ_c N_c^t / N_c^p,   CR = 1/C Σ_c N_c^t / N_c^g,   OP = Σ N_c^t / Σ N_c^p,   OR = Σ N_c^t / Σ N_c^g,
    CF1 = 2 CP CR / (CP + CR),   OF1 = 2 OP OR / (OP + OR). The precision of a class that is never predicted is 0.
    Source: GKGNet section 4; equals the released evaluation where every class has a positive and every target is known
    (there an unknown one counts as a no).
    """
    right = (predicted & (targets == 1)).sum(0).double()  # (classes,), as the next two
    chosen = (predicted & (targets >= 0)).sum(0).double()
    positives = (targets == 1).sum(0).double()
    shown = positives > 0
    # GKGNet section 4: CP, CR
    cp = _share(right[shown], chosen[shown]).sum() / max(shown.sum(), 1)
    cr = _share(right[shown], positives[shown]).sum() / max(shown.sum(), 1)
    # GKGNet section 4: OP, OR
    op, or_ = _share(right.sum(), chosen.sum()), _share(right.sum(), positives.sum())
    # GKGNet section 4: CF1, OF1
    cf1, of1 = _share(2 * cp * cr, cp + cr), _share(2 * op * or_, op + or_)
    values = {"CP": cp, "CR": cr, "CF1": cf1, "OP": op, "OR": or_, "OF1": of1}
    return {name: 100 * value.item() for name, value in values.items()}


def multilabel_metrics(scores: Tensor, targets: Tensor, threshold: float = 0.5,
                       top3_threshold: float | None = None) -> dict[str, float]:
    """Return mAP, CP, CR, CF1, OP, OR, OF1 and CP_top3, …, OF1_top3, in percent.

    scores, targets: (images, classes), tensors or arrays. A class is predicted if its score is at least `threshold`;
    for top3, if it is one of the image's three highest (of equal scores the first classes) and at least
    `top3_threshold`, where given, as in the released evaluation on COCO. A warning names the classes without positives;
    if all are, all values are 0. Raises ValueError for different shapes and for targets other than 1, 0 and −1.
    """
    scores, targets = _checked(scores, targets)
    aps = average_precision(scores, targets)
    if missing := [c for c, ap in enumerate(aps) if ap is None]:
        warnings.warn(f"no image shows these of the {len(aps)} classes, so they are in no mean:"
                      f" {', '.join(map(str, missing))}", stacklevel=2)
    return _summary(aps, scores, targets, threshold, top3_threshold)


def map_by_size(scores: Tensor, targets: Tensor, sizes: Tensor) -> dict[str, float | None]:
    """Return mAP in percent of small, medium and large objects (GKGNet Table 6), None for a size without positives.

    sizes: (images, classes), index into OBJECT_SIZES of each positive; ignored elsewhere. In the mAP of one size,
    positives of the other sizes are unknown and all negatives count. Which size a label has when its objects differ
    is the caller's choice; the paper does not specify it.
    """
    scores, targets = _checked(scores, targets)
    result = {}
    for size, name in enumerate(OBJECT_SIZES):
        other = (targets == 1) & (torch.as_tensor(sizes) != size)
        aps = average_precision(scores, targets.masked_fill(other, -1))
        result[name] = None if all(ap is None for ap in aps) else _mean(aps)
    return result


class MultiLabel:
    """`multilabel_metrics`, with AP by class and, where sizes are given, by object size.

    classes: their names. loss: of all logits and targets, to be among the scores. After `compute`, `per_class` is AP in
    percent by name, None for a class without positives.
    """

    def __init__(self, classes: Sequence[str] | None = None, threshold: float = 0.5,
                 top3_threshold: float | None = None, loss: Callable[[Tensor, Tensor], Tensor] | None = None):
        self.classes, self.threshold, self.top3_threshold, self.loss = classes, threshold, top3_threshold, loss
        self.batches: list[tuple[Tensor, ...]] = []  # every score is kept, since AP needs them all
        self.per_class: dict[str, float | None] = {}

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch. logits: (B, classes). targets: (B, classes) or, with sizes (see `map_by_size`), (B, 2, classes).
        """
        targets, *sizes = targets.unbind(1) if targets.ndim == 3 else (targets,)
        logits, targets = _checked(logits, targets)
        if self.classes is not None and len(self.classes) != logits.shape[1]:
            raise ValueError(f"scores of {logits.shape[1]} classes, names of {len(self.classes)}")
        self.batches.append(tuple(part.detach().cpu() for part in (logits, targets, *sizes)))

    def compute(self, processes: Processes) -> dict[str, float]:
        """Return the metrics, with sizes also mAP_small, …. Every process must call this."""
        mine = [torch.cat(parts) for parts in zip(*self.batches, strict=True)]
        everyone = [parts for parts in processes.gather(mine) if parts]  # without processes that had no image
        logits, targets, *sizes = [torch.cat(parts) for parts in zip(*everyone, strict=True)]
        scores = logits.double().sigmoid()  # in float32 all above 17 would become 1, and equal
        aps = average_precision(scores, targets)
        self.per_class = dict(zip(self.classes or map(str, range(len(aps))), aps, strict=True))
        result = {"loss": self.loss(logits, targets).item()} if self.loss else {}
        result |= _summary(aps, scores, targets, self.threshold, self.top3_threshold)
        by_size = map_by_size(scores, targets, *sizes) if sizes else {}
        return result | {f"mAP_{size}": value for size, value in by_size.items() if value is not None}


def _checked(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    scores, targets = torch.as_tensor(scores), torch.as_tensor(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {tuple(scores.shape)} with targets {tuple(targets.shape)}: multi-label metrics take"
                         " (images, classes) of both")
    if not ((targets == 0) | (targets == 1) | (targets == -1)).all():
        raise ValueError("multi-label targets must be 1, 0, or -1 where unknown")
    return full_precision(scores), targets.to(torch.int8)


def _summary(aps: list[float | None], scores: Tensor, targets: Tensor, threshold: float,
             top3_threshold: float | None) -> dict[str, float]:
    known = (targets >= 0) & ~scores.isnan()
    highest = scores.masked_fill(~known, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :3]
    top3 = torch.zeros_like(known).scatter(1, highest, True) & known  # (images, classes) bool
    if top3_threshold is not None:
        top3 &= scores >= top3_threshold
    of_top3 = {f"{name}_top3": value for name, value in precision_and_recall(top3, targets).items()}
    return {"mAP": _mean(aps)} | precision_and_recall(scores >= threshold, targets) | of_top3


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, 0 where whole is 0."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)


def _mean(aps: list[float | None]) -> float:
    known = [ap for ap in aps if ap is not None]
    return sum(known) / max(len(known), 1)


class DetectionScores:
    """COCO's twelve figures in percent, of boxes by their names and of masks as mask_AP, mask_AP50, …

    After `compute`, `per_class` is the AP of boxes by class in percent, None for a class without objects.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        self.images, self.objects, self.found = [], [], []  # as in an instances file and in COCO's result format
        self.per_class: dict[str, float | None] = {}

    def update(self, outputs: Sequence[dict[str, Tensor]], targets: Sequence[dict]) -> None:
        """Add a batch: what the detector returns for its images, and their targets."""
        for found, target in zip(outputs, targets, strict=True):
            image, (height, width) = int(target["image_id"]), target["masks"].shape[1:]
            self.images.append({"id": image, "height": height, "width": width})
            self.objects += [entry | {"area": area, "iscrowd": crowd} for entry, area, crowd in zip(
                _entries(image, target, target["masks"] > 0), target["area"].tolist(), target["iscrowd"].tolist())]
            self.found += [entry | {"score": score} for entry, score in zip(
                _entries(image, found, found["masks"][:, 0] >= 0.5), found["scores"].tolist())]

    def compute(self, processes: Processes) -> dict[str, float]:
        """Return the figures that have a value. Every process must call this."""
        parts = processes.gather((self.images, self.objects, self.found))
        boxes, masks = processes.from_first(self._figures, *map(lambda lists: sum(lists, []), zip(*parts)))
        aps = boxes.pop("per_category")
        self.per_class = {name: _percent(aps[label]) for label, name in enumerate(self.classes, start=1)}
        del masks["per_category"]
        named = boxes | {f"mask_{name}": value for name, value in masks.items()}
        return {name: _percent(value) for name, value in named.items() if value is not None} | {
            "AP": _percent(boxes["AP"]) or 0.0}

    def _figures(self, images: list, objects: list, found: list) -> tuple[dict, dict]:
        categories = [{"id": label} for label in range(1, len(self.classes) + 1)]
        truth = {"images": images, "annotations": objects, "categories": categories}
        return coco_ap(truth, found, "bbox"), coco_ap(truth, found, "segm")


def segmentation_metrics(confusion: Tensor) -> dict[str, float | list[float | None]]:
    """Return `mIoU`, `accuracy` and `IoU` of each class, in percent, of (n, n) counts of pixels; rows are the truth.

    IoU_c = n_cc / (Σ_p n_cp + Σ_t n_tc − n_cc), the pixels where class c is both true and predicted among those where
    it is either. A class that is in neither has no IoU (None) and is not in the mean. accuracy = Σ_c n_cc / Σ n.
    Raises ValueError unless the counts are a square of numbers from 0 on.
    """
    confusion = torch.as_tensor(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or (confusion < 0).any():
        raise ValueError(f"counts of shape {tuple(confusion.shape)}: segmentation metrics take (n, n), from 0 on")
    confusion = confusion.double()
    both = confusion.diagonal()  # (n,)
    either = confusion.sum(0) + confusion.sum(1) - both
    ious = [100 * iou if n > 0 else None for iou, n in zip((both / either).tolist(), either.tolist())]
    return {"mIoU": _mean(ious), "accuracy": 100 * _share(both.sum(), confusion.sum()).item(), "IoU": ious}


class SegmentationScores:
    """`segmentation_metrics` over all images. After `compute`, `confusion` is that of all processes, and `per_class` is
    the IoU of each class in percent by name, None for a class that is in no image and in no prediction."""

    def __init__(self, classes: Sequence[str], unknown: int = 255):
        self.classes, self.unknown = classes, unknown
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.float64)  # counts are exact up to 2^53
        self.per_class: dict[str, float | None] = {}

    def update(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Add a batch: the predicted and the true classes (H, W) of each image. Unknown pixels count nowhere."""
        for predicted, truth in zip(outputs, targets, strict=True):
            known = truth != self.unknown
            pairs = truth[known] * len(self.classes) + predicted[known]
            counts = torch.bincount(pairs, minlength=len(self.classes)**2)
            self.confusion += counts.view_as(self.confusion).cpu()

    def compute(self, processes: Processes) -> dict[str, float]:
        """Return `mIoU` and `accuracy`. Every process must call this."""
        self.confusion = processes.sum(self.confusion)
        scores = segmentation_metrics(self.confusion)
        self.per_class = dict(zip(self.classes, scores.pop("IoU"), strict=True))
        return scores


def _entries(image: int, objects: dict[str, Tensor], masks: Tensor) -> list[dict]:
    """Return COCO's entries of one image's objects, whose masks are (n, H, W) bool."""
    boxes = torch.cat([objects["boxes"][:, :2], objects["boxes"][:, 2:] - objects["boxes"][:, :2]], 1)
    return [{"image_id": image, "category_id": label, "bbox": box,
             "segmentation": run_lengths(edges_of_array(mask), *mask.shape)}
            for label, box, mask in zip(objects["labels"].tolist(), boxes.tolist(), masks.cpu().numpy())]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
