"""Masks as COCO writes them, polygons or run lengths, and as arrays.

COCO counts pixels column by column: p = column · height + row. Here a mask is its `edges`: the sorted positions p at
which it changes, so that its pixels are those from edges[0] up to edges[1], from edges[2] up to edges[3], … This is
short, whatever the size of the image, and areas and intersections follow from it exactly.
"""

from collections.abc import Sequence

import numpy as np

FARTHEST = 1e5  # pixels that a polygon's point may lie from the image's corner
FINE = 5  # COCO draws a polygon's outline on a grid this many times finer than the pixels


def edges_of(segmentation: dict | Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Return the edges of an annotation's `segmentation`, or of a detection's: (2n,) int64.

    Polygons [[x, y, x, y, …], …], whose union counts, or run lengths {"size": [height, width], "counts": […]},
    which begin with pixels outside; as a list or in COCO's text. Raises ValueError for anything else and for another
    size.
    """
    if not isinstance(segmentation, dict):
        check_polygons(segmentation)
        return _union([_outline(np.asarray(polygon, np.float64).reshape(-1, 2), height, width)
                       for polygon in segmentation])
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = run_lengths_of_text(counts)
    whole = isinstance(counts, np.ndarray) or isinstance(counts, list) and all(
        type(count) is int and 0 <= count <= height * width for count in counts)
    ends = np.cumsum(counts if whole else [], dtype=np.int64)
    if size not in ([height, width], (height, width)) or len(ends) == 0 or ends[-1] != height * width or (
            ends[0] < 0 or (ends[1:] < ends[:-1]).any()):
        raise ValueError(f"run lengths of size {size} that cover {ends[-1] if len(ends) else 0} pixels: this image has"
                         f" {height}×{width} = {height * width}")
    return ends[:len(ends) // 2 * 2]


def run_lengths_of_text(text: str | bytes) -> list[int]:
    """Return the run lengths that COCO's tools write as text.

    A character less 48 is six bits: five of the number, the lowest first, and 32 where the number continues. The
    highest of all is its sign. From the fourth run on, each is what it differs by from the last but one.
    """
    counts, number, shift = [], 0, 0
    for bits in (text.encode(errors="replace") if isinstance(text, str) else text):
        bits -= 48
        if not 0 <= bits < 64 or shift > 50:
            raise ValueError("a mask's counts are a text that is no run lengths")
        number, shift = number | (bits & 31) << shift, shift + 5
        if not bits & 32:
            number -= (bits & 16) << shift - 4
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number, shift = 0, 0
    if shift:
        raise ValueError("a mask's counts are a text that is cut short")
    return counts


def check_polygons(polygons: Sequence[Sequence[float]]) -> None:
    """Raise ValueError unless these are one or more polygons of three or more points, with coordinates that can be."""
    if not isinstance(polygons, (list, tuple)) or not polygons or not all(
            isinstance(polygon, (list, tuple)) and len(polygon) >= 6 and len(polygon) % 2 == 0
            and all(type(value) in (int, float) and -FARTHEST < value < FARTHEST for value in polygon)
            for polygon in polygons):
        raise ValueError("a mask is a list of polygons of at least three points [x, y, x, y, x, y], or run lengths")


def _outline(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the edges of one polygon (n, 2), as COCO's own tools draw it.

    Each side is drawn on the fine grid, one point a step along its longer axis. Where it passes the middle of a column
    of pixels, inside and outside change for all pixels from there on.
    """
    corner = np.trunc(FINE * points + 0.5).astype(np.int64)
    side = np.stack([corner, np.roll(corner, -1, 0)], 1)  # (n, its two ends, x and y)
    length = np.abs(side[:, 1] - side[:, 0])
    steep = length[:, 0] < length[:, 1]
    along = np.where(steep[:, None], side[..., 1], side[..., 0])  # (n, 2): the coordinate that steps
    across = np.where(steep[:, None], side[..., 0], side[..., 1])
    low = along.argmin(1)[:, None]  # each side is drawn from the end where that coordinate is lower
    steps = length.max(1)
    ends = (along, low), (across, low), (across, 1 - low)
    start, begin, end = (np.take_along_axis(*pair, 1)[:, 0] for pair in ends)
    slope = (end - begin) / np.maximum(steps, 1)

    owner = np.repeat(np.arange(len(side)), steps + 1)  # of each point: its side
    t = np.arange(len(owner)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    first, second = start[owner] + t, np.trunc(begin[owner] + slope[owner] * t + 0.5).astype(np.int64)
    x, y = np.where(steep[owner], second, first), np.where(steep[owner], first, second)

    # column c has its middle between 5c + 2 and 5c + 3 of the fine grid
    left, upper = np.minimum(x[1:], x[:-1]), np.minimum(y[1:], y[:-1])
    crosses = (owner[1:] == owner[:-1]) & (x[1:] != x[:-1]) & (left % FINE == 2)
    column, row = left[crosses] // FINE, np.clip((upper[crosses] + 2) // FINE, 0, height)
    inside = (column >= 0) & (column < width)
    return np.sort(column[inside] * height + row[inside])


def _union(parts: list[np.ndarray]) -> np.ndarray:
    """Return the edges of the union of masks."""
    if len(parts) == 1:
        return parts[0]
    position = np.concatenate(parts)
    order = position.argsort(kind="stable")
    step = np.concatenate([np.resize([1, -1], len(part)) for part in parts])[order]
    covers = np.cumsum(step)  # how many masks cover the pixels after this edge
    return position[order][(covers == 0) | ((covers == 1) & (step == 1))]


def edges_of_array(mask: np.ndarray) -> np.ndarray:
    """Return the edges of a mask (height, width), bool."""
    flat = np.concatenate([[False], mask.T.reshape(-1), [False]])
    return np.flatnonzero(flat[1:] != flat[:-1])


def array_of(edges: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mask (height, width), bool."""
    changes = np.bincount(edges, minlength=height * width + 1)[:-1]
    return (np.cumsum(changes) % 2).astype(bool).reshape(width, height).T


def run_lengths(edges: np.ndarray, height: int, width: int) -> dict:
    """Return COCO's run lengths: {"size": [height, width], "counts": (n,) pixels outside, inside, outside, …}."""
    counts = np.diff(edges, prepend=0, append=height * width)
    return {"size": [height, width], "counts": counts.astype(np.int32)}


def area(edges: np.ndarray) -> int:
    """Return the number of pixels."""
    return int((edges[1::2] - edges[::2]).sum())
