"""Lesson 4: dilation, and the schedules of k and d over the blocks."""

from torch import Tensor

from ...constructors import schedules
from ...constructors.knn import KNN
from ..task import Task, draw
from .nearest import FOUR
from .nearest import nearest as sorted_nearest


def dilated(x: Tensor, k: int, d: int) -> Tensor:
    return KNN(k, d)(x).index


def neighbours(k: int, depth: int) -> list[int]:
    return [schedules.neighbours(k, depth, l, 2 * k) for l in range(depth)]


def dilations(k: int, depth: int, num_nodes: int) -> list[int]:
    return [schedules.dilation(k, depth, l, num_nodes) for l in range(depth)]


def within(x: Tensor, k: int, d: int) -> Tensor:
    return sorted_nearest(x, k * d)


SCHEDULES = [(9, 12), (9, 16), (3, 6), (4, 8)]

TASKS = [
    Task("dilated", dilated, "(B, N, k) integers",
         [(FOUR, 2, 2), (draw(1, 2, 12, 3), 3, 4), (draw(2, 1, 9, 5), 4, 2), (draw(3, 3, 6, 2), 3, 1),
          (draw(4, 2, 13, 3), 2, 5)], [
        ("Every d-th of the k nearest leaves fewer than k. How many must be found so that every d-th of them are k?",
         lambda x, k, d: sorted_nearest(x, k)[..., ::d]),
        ("These are the k nearest, as without dilation.", lambda x, k, d: sorted_nearest(x, k)),
        ("These are the farthest k of the k*d nearest. Dilation keeps near ones too, with gaps between them.",
         lambda x, k, d: within(x, k, d)[..., -k:]),
        ("The right gaps, but the first of the list was skipped: the node itself should stay.",
         lambda x, k, d: within(x, k, d)[..., d - 1::d]),
        ("All k*d are still there: every d-th is to be kept.", within),
    ], ["constructors.knn.dilated", "constructors.knn.nearest_sources"]),
    Task("neighbours", neighbours, "depth whole numbers, from k to 2k", SCHEDULES, [
        ("It never arrives at 2k: block 0 has k and the last block, number depth - 1, has 2k.",
         lambda k, depth: [k + k * l // depth for l in range(depth)]),
        ("Rounded to the nearest whole number; int() of the papers' code rounds down.",
         lambda k, depth: [int(k + k * l / (depth - 1) + 0.5) for l in range(depth)]),
        ("From 0 to k; it should start at k.", lambda k, depth: [k * l // (depth - 1) for l in range(depth)]),
        ("The first block is not left at k: blocks count from 0.",
         lambda k, depth: [k + k * (l + 1) // depth for l in range(depth)]),
    ], ["constructors.schedules.neighbours"]),
    Task("dilations", dilations, "depth whole numbers",
         [(9, 12, 196), (9, 16, 196), (9, 12, 49), (2, 20, 16), (4, 20, 12)], [
        ("d grows without end: 2k*d neighbours must be found among the nodes that there are.",
         lambda k, depth, num_nodes: [l // 4 + 1 for l in range(depth)]),
        ("The limit lets k*d neighbours be found; in the last block there are 2k.",
         lambda k, depth, num_nodes: [min(l // 4 + 1, num_nodes // k) for l in range(depth)]),
        ("d grows in every block; it should stay for four.",
         lambda k, depth, num_nodes: [min(l + 1, num_nodes // (2 * k)) for l in range(depth)]),
        ("d starts again at 1 after every four blocks: is it a remainder where a quotient should be?",
         lambda k, depth, num_nodes: [min(l % 4 + 1, num_nodes // (2 * k)) for l in range(depth)]),
        ("d starts at 0, and every 0-th neighbour is none: the first four blocks have d = 1.",
         lambda k, depth, num_nodes: [min(l // 4, num_nodes // (2 * k)) for l in range(depth)]),
    ], ["constructors.schedules.dilation"]),
]

HINTS = {
    "dilated": (
        "Lesson 3 sorts neighbours from near to far. Ask it for k*d of them.",
        "A slice may have a step: index[..., ::d] begins with the first.",
    ),
    "neighbours": (
        "Block l of `depth` blocks is the part l / (depth - 1) of the way from k to 2k.",
        "int(), //, and a tensor's .long() all round down positive numbers.",
    ),
    "dilations": (
        "The blocks go in fours, l // 4; of two bounds min takes the smaller.",
    ),
}
