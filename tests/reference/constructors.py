"""What each constructor of a model of two blocks has to return: its double loop, with the constants as numbers.

Nothing here is imported from `vig_minimal`, nor read off the constructor, but for what a model learns or draws once.
The numbers are those of the papers and their released code, on four grids: of sides that K divides and does not divide,
oblong ones, and 14 x 14, that of 224 pixels.
"""

import random
from typing import NamedTuple

import torch
from torch import Tensor

from . import adaptvig, clustervig, gkgnet, places, vig


class Numbers(NamedTuple):
    """Of a grid: k of the two blocks; w and s of window k-NN in the second block; K of MGC; hyperedges of the two."""

    k: tuple[int, int]
    window: int
    shift: int
    mgc: int
    hyperedges: tuple[int, int]


GRIDS = {
    (3, 5): Numbers((3, 6), 2, 1, 1, (3, 6)),
    (9, 10): Numbers((4, 8), 5, 2, 2, (22, 44)),   # k doubles; half of the shorter side, rounded up; half of that, down
    (6, 15): Numbers((2, 4), 3, 1, 1, (22, 44)),   # K: 2/7 of the shorter side, at least 1; a quarter of the nodes
    (14, 14): Numbers((9, 18), 7, 3, 4, (25, 50)),  # the papers' own: WiGNet's w = 7, MobileViGv2's K = 4
}
HOPS, GROUPS, CLUSTERS = 2, 2, 4
ROUNDS_OF_C_MEANS, LEAST_MEMBERSHIP, ROUNDS_OF_K_MEANS = 20, 0.01, 20
QUANTILES = 0.89, 0.86  # SViG: q_0 - l delta


class Expected(NamedTuple):
    """The adjacency of one image, (N, M) or, of groups, (G, N, M), and the least and the largest degree there may be.
    """

    adj: Tensor
    least: int
    most: int


def table(sources: list, num_sources: int) -> Tensor:
    """(N, M) bool: rows are targets."""
    return torch.tensor([[j in mine for j in range(num_sources)] for mine in sources])


def start(num_nodes: int, count: int) -> list[int]:
    """The nodes where k-means and C-means begin in evaluation: drawn once, by Python's generator with seed 0."""
    return random.Random(0).sample(range(num_nodes), count)


def lloyd(x: Tensor, centroids: list[Tensor], rounds: int) -> list[int]:
    """k-means: the nearest centroid of every node, every centroid the mean of its nodes, in turns."""
    labels = []
    for _ in range(rounds):
        labels = []
        for node in x:
            far = [float((node - centroid).square().sum()) for centroid in centroids]
            labels.append(far.index(min(far)))
        members = [[x[n] for n in range(len(x)) if labels[n] == c] for c in range(len(centroids))]
        assert all(members), "an empty partition: restarts are tested elsewhere"
        centroids = [sum(nodes) / len(nodes) for nodes in members]
    return labels


def knn(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    k = GRIDS[grid].k[block]
    return Expected(table(vig.nearest(x, x, k), len(x)), k, k)


def group_knn(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    k = GRIDS[grid].k[block]
    groups = gkgnet.group_knn(x, x, k, GROUPS)
    return Expected(torch.stack([table(group, len(x)) for group in groups]), k, GROUPS * k)


def cluster_knn(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    k, sources = GRIDS[grid].k[block], {}
    # the features themselves, not their directions, are partitioned
    labels = lloyd(x, [x[n] for n in start(len(x), CLUSTERS)], ROUNDS_OF_K_MEANS)
    for partition in range(CLUSTERS):
        sources |= clustervig.nearest_in(x, [n for n in range(len(x)) if labels[n] == partition], k)
    return Expected(table([sources[n] for n in range(len(x))], len(x)), 1, k)


def threshold(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(vig.svig_threshold(x, QUANTILES[block]), 0, len(x))


def lrgc(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    parameters = module.key.weight, module.key.bias, module.query.weight, module.query.bias, module.tau
    return Expected(vig.lrgc_attention(x, *parameters).T, 0, len(x))  # the paper's rows are sources


def window_knn(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    numbers = GRIDS[grid]
    sources = places.window_knn(x, *grid, numbers.k[block], numbers.window, block * numbers.shift)
    return Expected(table(sources, len(x)), 1, max(3, numbers.k[block]))


def hypergraph(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    x = x.detach()
    centres = list(x[start(len(x), GRIDS[grid].hyperedges[block])])
    membership = torch.tensor(places.fuzzy_c_means(x, centres, ROUNDS_OF_C_MEANS))
    return Expected(membership > LEAST_MEMBERSHIP, 1, len(x))


def svga(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    degree = 1 + (grid[0] - 1) // HOPS + (grid[1] - 1) // HOPS
    return Expected(table(places.svga(*grid, HOPS), len(x)), degree, degree)


def mgc(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(table(places.mgc(*grid, GRIDS[grid].mgc), len(x)), 5, 5)


def dagc(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(table(places.dagc(x.detach(), *grid, HOPS), len(x)), 1, svga(x, grid, block, module).most)


def lsgc(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    # steps of 1 where the side is 3, of 1 and 3 where it is 5 or 6, of 1, 3 and 7 from 9 to 15; both ways may meet
    degree = 1 + sum({3: 2, 5: 4, 6: 3, 9: 6, 10: 4, 14: 5, 15: 6}[side] for side in grid)
    return Expected(table(places.lsgc(*grid, HOPS), len(x)), degree, degree)


def surroundings(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(table(places.surroundings(*grid), len(x)), 4, 9)


def drawn(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    """Itself and the k - 1 other nodes with the largest hash of the kept seed and the pair, by Python's integers."""
    n, k, seed = len(x), GRIDS[grid].k[block], int(module.get_extra_state())

    def chance(i: int, j: int) -> int:
        number = i * n + j + seed
        for shift, factor in ((16, 0x7feb352d), (15, 0x846ca68b), (16, 1)):
            number = (number ^ number >> shift) * factor % 2**32
        return number

    sources = [{i, *sorted((j for j in range(n) if j != i), key=lambda j: -chance(i, j))[:k - 1]} for i in range(n)]
    return Expected(table(sources, n), k, k)


def full(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(torch.ones(len(x), len(x), dtype=torch.bool), len(x), len(x))


def alone(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(torch.eye(len(x), dtype=torch.bool), 1, 1)


def adaptive(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    hops = {(3, 5): 1, (9, 10): 1, (6, 15): 1, (14, 14): 2}[grid]  # a seventh of the shorter side, at least 1
    far = sum(len(bin(side)) - 3 for side in grid)
    return Expected(adaptvig.adaptive(x, *grid, hops, module.temperature), 2, 2 + far)


def detail(x: Tensor, grid: tuple[int, int], block: int, module) -> Expected:
    return Expected(table(places.detail(x, *grid, GRIDS[grid].k[block]), len(x)), 1, len(x))


EXPECTED = {"knn": knn, "group_knn": group_knn, "threshold": threshold, "lrgc": lrgc, "cluster_knn": cluster_knn,
            "window_knn": window_knn, "hypergraph": hypergraph, "svga": svga, "mgc": mgc, "dagc": dagc, "lsgc": lsgc,
            "grid": surroundings, "random": drawn, "full": full, "none": alone,
            "adaptive": adaptive, "detail": detail}
