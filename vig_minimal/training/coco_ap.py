"""COCO's average precision of detections, for boxes and for masks: `coco_ap`, with all rules in the order they apply.

    1  Pair      detections with objects of the same image and category. A pair's IoU is intersection / union; with a
                 crowd region, which many detections may lie in, it is intersection / area of the detection.
    2  Cut       to the `maxDets` = 1, 10 or 100 highest scores of each image and category. Of equal scores the one that
                 was given first stays first.
    3  Ignore    crowd regions, and objects outside the range of areas (small: up to 32² pixels, medium: up to 96²,
                 large: the rest): they need not be found, and finding them is no fault.
    4  Match     at each threshold t = 0.50, 0.55, …, 0.95 alone. The detections take turns, highest score first. Each
                 takes, of the objects that are free and have IoU ≥ t, one that counts if there is one, else an ignored
                 one; of these the one of the highest IoU, of equal ones the last. A crowd region stays free.
                 A detection is right if its object counts. It is left out if its object is ignored, or if it has none
                 and its own area is outside the range. Otherwise it is wrong.
    5  Rank      the detections of all images by score. Of equal scores, that of the lower image id comes first.
    6  Precision = right / (right + wrong) and recall = right / objects among the n first, for every n. Precision at
                 recall r is the highest at any recall ≥ r, and 0 where r is never reached. AP is its mean over 101
                 points r = 0, 0.01, …, 1; AR is the recall among all.
    7  Mean      over thresholds and over categories. A category without an object that counts is in no mean.

    figure                 thresholds        areas                   maxDets
    AP, AP50, AP75         all, 0.5, 0.75    all                     100
    APs, APm, APl          all               small, medium, large    100
    AR1, AR10, AR100       all               all                     1, 10, 100
    ARs, ARm, ARl          all               small, medium, large    100
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.masks import area as mask_area
from ..data.masks import edges_of

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETS = (1, 10, 100)
AREAS = {"": (0, 1e5**2), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e5**2)}  # both ends included
LOWEST, HIGHEST = np.array(list(AREAS.values())).T[..., None]  # (areas, 1) each


class Matched(NamedTuple):
    """Match the detections of one image and category (step 4), highest score first."""

    scores: np.ndarray    # (D,)
    right: np.ndarray     # (areas, thresholds, D) bool
    left_out: np.ndarray  # (areas, thresholds, D) bool
    objects: np.ndarray   # (areas,): how many count


def coco_ap(ground_truth: dict, detections: Sequence[dict], kind: str = "bbox") -> dict:
    """Return COCO's twelve figures as shares, by the names above, and `per_category`: AP by category id.

    ground_truth: the content of an instances file: images, annotations and categories. detections: in COCO's result
    format, image_id, category_id, score, and bbox [left, top, width, height] or segmentation (see `data.masks`). kind:
    "bbox" or "segm". A figure is None where no object counts. Raises ValueError for another kind, a detection of an
    image or category that is not in the ground truth, and a malformed mask.
    """
    if kind not in ("bbox", "segm"):
        raise ValueError(f"kind={kind!r}: choose bbox or segm")
    images = {image["id"]: image for image in ground_truth["images"]}
    categories = sorted(category["id"] for category in ground_truth["categories"])
    groups = defaultdict(lambda: ([], []))  # (category, image) -> objects, detections
    for which, entries in enumerate((ground_truth["annotations"], detections)):
        for entry in entries:
            groups[entry["category_id"], entry["image_id"]][which].append(entry)
    known = set(categories)
    if unknown := [key for key in groups if key[0] not in known or key[1] not in images]:
        raise ValueError(f"category {unknown[0][0]} in image {unknown[0][1]}: the ground truth does not list them both")
    matched = defaultdict(list)
    for category, image in sorted(groups):  # by image id, see 5
        matched[category].append(_match(*groups[category, image], images[image], kind))
    # (categories, areas, thresholds, maxDets), NaN where no object counts
    precision, recall = np.moveaxis([_ranked(matched[category]) for category in categories], 1, 0)

    def mean(values: np.ndarray) -> float | None:
        return None if np.isnan(values).all() else float(np.nanmean(values))

    figures = {"AP": precision[:, 0, :, 2], "AP50": precision[:, 0, 0, 2], "AP75": precision[:, 0, 5, 2]}
    figures |= {f"AP{name}": precision[:, a, :, 2] for a, name in enumerate(AREAS) if name}
    figures |= {f"AR{most}": recall[:, 0, :, m] for m, most in enumerate(MAX_DETS)}
    figures |= {f"AR{name}": recall[:, a, :, 2] for a, name in enumerate(AREAS) if name}
    per_category = {category: mean(values) for category, values in zip(categories, precision[:, 0, :, 2])}
    return {name: mean(values) for name, values in figures.items()} | {"per_category": per_category}


def _match(objects: list[dict], detections: list[dict], image: dict, kind: str) -> Matched:
    """Steps 1 to 4 for one image and category."""
    detections = sorted(detections, key=lambda entry: -entry["score"])[:max(MAX_DETS)]  # stable: equal ones stay
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in objects], bool)  # (G,)
    areas = np.array([entry["area"] for entry in objects], np.float64)  # (G,)
    counts = (LOWEST <= areas) & (areas <= HIGHEST) & ~crowd  # (areas, G)
    if kind == "bbox":
        own, iou = _box_iou(*(np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
                              for entries in (detections, objects)), crowd)
    else:
        own, iou = _mask_iou(*([edges_of(entry["segmentation"], image["height"], image["width"]) for entry in entries]
                               for entries in (detections, objects)), crowd)
    shape = len(AREAS), len(THRESHOLDS), len(detections)
    right, left_out = np.zeros(shape, bool), np.zeros(shape, bool)
    left_out[:] = ((own < LOWEST) | (own > HIGHEST))[:, None]
    number, taken = np.arange(len(objects)), np.zeros((*shape[:2], len(objects)), bool)
    for d in np.flatnonzero((iou >= THRESHOLDS[0]).any(1)):
        # the higher the better: by IoU, of equal ones the last, and all that count above all that do not
        worth = iou[d].argsort(kind="stable").argsort() + len(objects) * counts  # (areas, G)
        allowed = ~(taken & ~crowd) & (iou[d] >= THRESHOLDS[:, None])  # (areas, thresholds, G)
        worth = np.where(allowed, worth[:, None], -1)
        best, found = worth.argmax(2), worth.max(2) >= 0  # (areas, thresholds)
        good = np.take_along_axis(counts, best, 1)
        right[..., d] = found & good
        left_out[..., d] = np.where(found, ~good, left_out[..., d])
        taken |= found[..., None] & (best[..., None] == number)
    return Matched(np.array([entry["score"] for entry in detections], np.float64), right, left_out, counts.sum(1))


def _box_iou(detections: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (D,) of the detections, and IoU (D, G) of boxes [left, top, width, height], (D, 4) and (G, 4)."""
    own, theirs = detections[:, 2] * detections[:, 3], objects[:, 2] * objects[:, 3]
    first = np.maximum(detections[:, None, :2], objects[:, :2])  # (D, G, 2): left and top of what they share
    last = np.minimum((detections[:, :2] + detections[:, 2:])[:, None], objects[:, :2] + objects[:, 2:])
    width, height = np.moveaxis(np.maximum(last - first, 0), 2, 0)
    return own, _share(width * height, own, theirs, crowd)


def _mask_iou(detections: list, objects: list, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (D,) of the detections, and IoU (D, G) of masks, given as edges (`data.masks`)."""
    own, theirs = (np.array([mask_area(edges) for edges in masks], np.float64) for masks in (detections, objects))
    every = np.concatenate([*detections, []])  # edges of all detections, two by two the ends of a run
    owner = np.repeat(np.arange(len(detections)), [len(edges) // 2 for edges in detections])
    common = np.zeros((len(detections), len(objects)))
    for g, edges in enumerate(objects if len(every) else []):
        # pixels of the object before each of its edges; between two edges all are or none is, so this is linear there
        before = np.cumsum(np.diff(edges, prepend=0) * (np.arange(len(edges)) % 2))
        inside = np.interp(every, edges, before) if len(edges) else np.zeros(len(every))
        common[:, g] = np.bincount(owner, inside[1::2] - inside[::2], len(detections))
    return own, _share(common, own, theirs, crowd)


def _share(common: np.ndarray, own: np.ndarray, theirs: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    whole = np.where(crowd, own[:, None], own[:, None] + theirs - common)
    return common / np.where(common > 0, whole, 1)


def _ranked(matched: list[Matched]) -> np.ndarray:
    """Steps 5 and 6 for one category: AP and AR, (2, areas, thresholds, maxDets); NaN where no object counts."""
    result = np.full((2, len(AREAS), len(THRESHOLDS), len(MAX_DETS)), np.nan)
    total = sum(part.objects for part in matched) if matched else np.zeros(len(AREAS))
    for m, most in enumerate(MAX_DETS):
        scores = np.concatenate([part.scores[:most] for part in matched]) if matched else []
        order = np.argsort(-scores, kind="stable") if len(scores) else []
        for a in np.flatnonzero(total):
            right, left_out = (np.concatenate([getattr(part, name)[a, :, :most] for part in matched], 1)[:, order]
                               for name in ("right", "left_out"))
            hits, faults = right.cumsum(1), (~right & ~left_out).cumsum(1)  # among the n first
            recall = hits / total[a]
            precision = hits / np.maximum(hits + faults, 1)
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # the highest from here on
            for t in range(len(THRESHOLDS)):
                place = np.searchsorted(recall[t], RECALLS)  # the first n of recall ≥ r
                result[0, a, t, m] = np.append(precision[t], 0)[place].mean()
                result[1, a, t, m] = recall[t, -1] if recall.shape[1] else 0
    return result
