"""Slow oracles of the constructors that know where a node is, and of hypergraphs: one image (N, C), Python loops.

Each returns the sources of every node as a list of sets, or of dicts: node (r, c) of an H x W grid is number r W + c.
"""

import math

import torch
from torch import Tensor


def svga(height: int, width: int, hops: int) -> list[set[int]]:
    """MobileViG: roll the image by K, 2K, ... rows while that is below H, and by as many columns below W."""
    sources = []
    for r in range(height):
        for c in range(width):
            mine, m = {r * width + c}, 1
            while m * hops < height or m * hops < width:
                if m * hops < height:
                    mine.add((r - m * hops) % height * width + c)
                if m * hops < width:
                    mine.add(r * width + (c - m * hops) % width)
                m += 1
            sources.append(mine)
    return sources


def mgc(height: int, width: int, hops: int) -> list[set[int]]:
    """MobileViGv2: K up, down, left and right."""
    return [{r * width + c, (r + hops) % height * width + c, (r - hops) % height * width + c,
             r * width + (c + hops) % width, r * width + (c - hops) % width}
            for r in range(height) for c in range(width)]


def lsgc(height: int, width: int, hops: int) -> list[set[int]]:
    """LogViG: steps K - 1, K^2 - 1, ... both ways, as many as a side has bits, less one; beyond the side: itself."""
    sources = []
    for r in range(height):
        for c in range(width):
            mine = {r * width + c}
            for i in range(1, len(bin(height)) - 2):
                step = hops ** i - 1
                if step < height:
                    mine |= {(r + step) % height * width + c, (r - step) % height * width + c}
            for i in range(1, len(bin(width)) - 2):
                step = hops ** i - 1
                if step < width:
                    mine |= {r * width + (c + step) % width, r * width + (c - step) % width}
            sources.append(mine)
    return sources


def manhattan(a: Tensor, b: Tensor) -> float:
    """The L1 distance."""
    return sum(abs(float(p) - float(q)) for p, q in zip(a, b))


def dagc(x: Tensor, height: int, width: int, hops: int) -> list[set[int]]:
    """GreedyViG: of SVGA's sources those with an L1 distance below mean - deviation over the half-rolled image."""
    spread = []
    for r in range(height):
        for c in range(width):
            # a roll by -s moves what is at r + s to r; -s = floor(-H/2), so s = ceil(H/2)
            there = (r + math.ceil(height / 2)) % height * width + (c + math.ceil(width / 2)) % width
            spread.append(manhattan(x[r * width + c], x[there]))
    mean = sum(spread) / len(spread)
    deviation = math.sqrt(sum((d - mean) ** 2 for d in spread) / max(1, len(spread) - 1))
    return [{j for j in mine if j == i or manhattan(x[i], x[j]) < mean - deviation}
            for i, mine in enumerate(svga(height, width, hops))]


def window_knn(x: Tensor, height: int, width: int, k: int, window: int, shift: int) -> list[set[int]]:
    """WiGNet: the k nearest unit vectors among the nodes with the same window; fewer in smaller windows."""
    tall, wide = min(window, height), min(window, width)
    unit = [node / torch.linalg.vector_norm(node) for node in x]
    sources = []
    for r in range(height):
        for c in range(width):
            mine = [a * width + b for a in range(height) for b in range(width)
                    if math.floor((a - shift) / tall) == math.floor((r - shift) / tall)
                    and math.floor((b - shift) / wide) == math.floor((c - shift) / wide)]
            count = k
            if len(mine) < tall * wide:
                count = max(math.floor(k * len(mine) / (tall * wide)), 3)
            i = r * width + c
            mine.sort(key=lambda j: -1.0 if j == i else float((unit[i] - unit[j]).square().sum()))
            sources.append(set(mine[:count]))
    return sources


def fuzzy_c_means(x: Tensor, centres: Tensor, rounds: int) -> list[list[float]]:
    """u_ne = 1 / sum_f (|x_n - c_e|^2 / |x_n - c_f|^2), c_e = sum_n u_ne^2 x_n / sum_n u_ne^2, in turns."""
    def memberships() -> list[list[float]]:
        rows = []
        for node in x:
            distance = [float((node - centre).square().sum()) for centre in centres]
            if min(distance) == 0:  # at a centre
                rows.append([float(d == 0) / distance.count(0) for d in distance])
            else:
                rows.append([1 / sum(d / other for other in distance) for d in distance])
        return rows

    u = memberships()
    for _ in range(rounds):
        centres = [sum(u[n][e] ** 2 * x[n] for n in range(len(x))) / sum(u[n][e] ** 2 for n in range(len(x)))
                   for e in range(len(centres))]
        u = memberships()
    return u


def hypergraph_message(x: Tensor, member: Tensor) -> Tensor:
    """ViHGNN: the mean over a node's hyperedges of the mean over a hyperedge's nodes. member: (N, E) bool."""
    nodes, hyperedges = member.shape
    features = {}
    for e in range(hyperedges):
        inside = [x[n] for n in range(nodes) if member[n, e]]
        if inside:
            features[e] = sum(inside) / len(inside)
    return torch.stack([sum(features[e] for e in range(hyperedges) if member[n, e])
                        / max(1, sum(bool(member[n, e]) for e in range(hyperedges))) for n in range(nodes)])


def surroundings(height: int, width: int) -> list[set[int]]:
    """The 3 x 3 nodes around a node, as far as they exist."""
    return [{a * width + b for a in range(r - 1, r + 2) for b in range(c - 1, c + 2)
             if 0 <= a < height and 0 <= b < width} for r in range(height) for c in range(width)]


def bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """An image (C, H, W) at another size: each pixel from the two rows and two columns around its own middle."""
    def around(place: int, side: int, other: int) -> tuple[int, int, float]:
        middle = max(0.0, (place + 0.5) * side / other - 0.5)
        first = min(int(middle), side - 1)
        return first, min(first + 1, side - 1), middle - first

    result = torch.empty(len(image), height, width, dtype=image.dtype)
    for r in range(height):
        top, bottom, down = around(r, image.shape[1], height)
        for c in range(width):
            left, right, across = around(c, image.shape[2], width)
            upper = (1 - across) * image[:, top, left] + across * image[:, top, right]
            lower = (1 - across) * image[:, bottom, left] + across * image[:, bottom, right]
            result[:, r, c] = (1 - down) * upper + down * lower
    return result


def detail(x: Tensor, height: int, width: int, k: int) -> list[set[int]]:
    """IPG: a node's share of all N k neighbours is its share of the detail that halving the image loses; at least 1.

    They are the ones with the largest cosine, itself first, then of equal ones the first.
    """
    image = x.T.reshape(-1, height, width)
    smooth = bilinear(bilinear(image, max(1, height // 2), max(1, width // 2)), height, width)
    lost = [sum(abs(float(value)) for value in image[:, r, c] - smooth[:, r, c])
            for r in range(height) for c in range(width)]
    unit = [node / torch.linalg.vector_norm(node) for node in x]
    sources = []
    for i in range(len(x)):
        budget = round(min(max(len(x) * k * lost[i] / sum(lost), 1), len(x)))
        order = sorted(range(len(x)), key=lambda j: -2.0 if j == i else -float((unit[i] * unit[j]).sum()))
        sources.append(set(order[:budget]))
    return sources
