"""Slow, obvious oracles of detection: COCO's average precision, one detection and one pixel at a time.

Masks are lists of rows of 0 and 1. Nothing here is imported from `vig_minimal`.
"""

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
RANGES = {"": (0, 10**10), "s": (0, 32 * 32), "m": (32 * 32, 96 * 96), "l": (96 * 96, 10**10)}


def iou_of_boxes(first, second, crowd: bool) -> float:
    """IoU of [left, top, width, height]; with a crowd region the share of the first that lies in it."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    own, other = first[2] * first[3], second[2] * second[3]
    return common / own if crowd else common / (own + other - common)


def iou_of_masks(first, second, crowd: bool) -> float:
    """The same for masks, counted pixel by pixel."""
    common = own = either = 0
    for row, other_row in zip(first, second):
        for a, b in zip(row, other_row):
            common += a and b
            own += a
            either += a or b
    whole = own if crowd else either
    return common / whole if whole else 0.0


def text_of(counts):
    """COCO's text of run lengths: from the fourth on the difference to the last but one, in groups of five bits, the
    lowest first, as characters from "0" on; 32 says that more follow, which stop once the rest is the sign alone."""
    text = ""
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        while True:
            five, number = number % 32, number // 32  # rounds down: a negative number ends as −1
            ends = number == (-1 if five >= 16 else 0)
            text += chr(48 + five + (0 if ends else 32))
            if ends:
                break
    return text


def decode(counts, height: int, width: int):
    """Rows of 0 and 1 from run lengths, which go down column after column and begin with 0."""
    rows = [[0] * width for _ in range(height)]
    place, value = 0, 0
    for count in counts:
        for _ in range(count):
            rows[place % height][place // height] = value
            place += 1
        value = 1 - value
    return rows


def average_precision(images, categories, objects, detections, kind, threshold, area_range, most):
    """Mean over categories of (AP, final recall) at one threshold, range of areas and number of detections; None
    where no object counts. objects, detections: dicts with image, category, box, mask (rows), area, crowd, score."""
    lowest, highest = RANGES[area_range]
    aps, recalls = [], []
    for category in categories:
        ranking, total = [], 0  # (score, right) of those that are not left out
        for image in sorted(images):
            here = [o for o in objects if o["image"] == image and o["category"] == category]
            ignored = [o["crowd"] or not lowest <= o["area"] <= highest for o in here]
            total += ignored.count(False)
            found = [d for d in detections if d["image"] == image and d["category"] == category]
            found = sorted(found, key=lambda d: d["score"], reverse=True)[:100]
            free = [True] * len(here)
            for place, detection in enumerate(found):
                choice = None
                for wanted in (False, True):  # first among those that count, then among the ignored
                    best = threshold
                    for g, thing in enumerate(here):
                        if ignored[g] != wanted or not (free[g] or thing["crowd"]):
                            continue
                        overlap = (iou_of_boxes(detection["box"], thing["box"], thing["crowd"]) if kind == "bbox"
                                   else iou_of_masks(detection["mask"], thing["mask"], thing["crowd"]))
                        if overlap >= best:
                            best, choice = overlap, g
                    if choice is not None:
                        break
                if choice is not None:
                    free[choice] = False
                    left_out = ignored[choice]
                else:
                    area = (detection["box"][2] * detection["box"][3] if kind == "bbox"
                            else sum(map(sum, detection["mask"])))
                    left_out = not lowest <= area <= highest
                if place < most and not left_out:
                    ranking.append((detection["score"], choice is not None))
        if total == 0:
            continue
        ranking.sort(key=lambda entry: entry[0], reverse=True)  # keeps the order of equal scores
        curve, right = [], 0  # (recall, precision)
        for n, (_, is_right) in enumerate(ranking, start=1):
            right += is_right
            curve.append((right / total, right / n))
        points = []
        for r in range(101):
            points.append(max((p for recall, p in curve if recall >= r / 100), default=0.0))
        aps.append(sum(points) / 101)
        recalls.append(right / total)
    return (sum(aps) / len(aps), sum(recalls) / len(recalls)) if aps else (None, None)


def inside_polygon(x: float, y: float, corners) -> bool:
    """Whether a point is inside a polygon [(x, y), …]: a ray to the right crosses its sides an odd number of times."""
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]]):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside
