"""Lesson 7: SViG's similarity threshold."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from ...constructors.similarity_threshold import SimilarityThreshold
from ..task import Task, draw
from . import nearest
from .nearest import FOUR


def similarity(x: Tensor) -> Tensor:
    return -nearest.of(x)


def standardise(s: Tensor) -> Tensor:
    return (s - s.mean((1, 2), keepdim=True)) / s.std((1, 2), keepdim=True)


def threshold_graph(x: Tensor, q: float) -> Tensor:
    return SimilarityThreshold(q)(x).adj()


def where_above(x: Tensor, least: float) -> Tensor:
    return standardise(similarity(x)) > least


def phi_inverse(q: float) -> float:
    return NormalDist().inv_cdf(q)


SIMILAR = [(similarity(FOUR),), (draw(1, 3, 5, 5),), (draw(2, 2, 7, 7) * draw(3, 2, 1, 1) * 4 + 2,)]

TASKS = [
    Task("similarity", similarity, "(B, N, N)", [(x,) for x in nearest.NODES], [
        ("This is a distance, large where nodes differ. A similarity is large where they are alike.",
         lambda x: nearest.of(x)),
        ("The features as they are: where are the unit features?",
         lambda x: -nearest.squared_distances(x, x)),
        ("The distance was not squared.", lambda x: -nearest.of(x).clamp(min=0).sqrt()),
        ("Cosines: the same order, but SViG's s is -|x_i - x_j|^2 of unit features, 2 cos - 2.",
         lambda x: nearest.unit(x) @ nearest.unit(x).mT),
    ], ["constructors.similarity_threshold.SimilarityThreshold.scores"]),
    Task("standardise", standardise, "(B, N, N)", SIMILAR, [
        ("The biased standard deviation: SViG divides by N^2 - 1, not by N^2, as torch does by itself.",
         lambda s: (s - s.mean((1, 2), keepdim=True)) / s.std((1, 2), keepdim=True, correction=0)),
        ("Each row was standardised by itself. Mean and deviation are taken over all N^2 pairs of an image.",
         lambda s: (s - s.mean(2, keepdim=True)) / s.std(2, keepdim=True)),
        ("One mean and one deviation for the whole batch: the graph of an image would depend on the other images.",
         lambda s: (s - s.mean()) / s.std()),
        ("The mean is subtracted, but nothing is divided.", lambda s: s - s.mean((1, 2), keepdim=True)),
        ("Divided by the variance, not by its root.",
         lambda s: (s - s.mean((1, 2), keepdim=True)) / s.var((1, 2), keepdim=True)),
        ("Divided by the deviation of each row; the mean is right, of the whole image.",
         lambda s: (s - s.mean((1, 2), keepdim=True)) / s.std(2, keepdim=True)),
    ], ["constructors.similarity_threshold.SimilarityThreshold.scores"]),
    Task("threshold_graph", threshold_graph, "(B, N, N) bool", [(FOUR, 0.6), (draw(4, 3, 9, 4), 0.89),
                                                                (draw(5, 2, 12, 3), 0.4), (draw(6, 1, 12, 3), 0.75)], [
        ("z was compared with q itself. q is a share of the pairs; which z has that share below it?",
         lambda x, q: where_above(x, q)),
        ("These are the pairs that are least alike: the edges should be where z is above.",
         lambda x, q: ~where_above(x, phi_inverse(q))),
        ("Phi where its inverse belongs: Phi takes a z and gives a share, and here a share is given.",
         lambda x, q: where_above(x, NormalDist().cdf(q))),
        ("s was compared, not yet standardised.",
         lambda x, q: similarity(x) > phi_inverse(q)),
        *[("This keeps a share 1 - q of the pairs exactly. SViG's threshold is that of the normal distribution, so that"
           " an image decides itself how many edges it has.", wrong)
          for wrong in (lambda x, q: similarity(x) > similarity(x).flatten(1).quantile(q, dim=1)[:, None, None],
                        lambda x, q: similarity(x) > similarity(x).quantile(q, dim=2, keepdim=True),  # of each row
                        lambda x, q: where_above(x, standardise(similarity(x)).quantile(q)),  # of the whole batch
                        lambda x, q: similarity(x) > similarity(x).quantile(q))],
        ("Phi^-1(1 - q): the higher q is, the fewer edges there should be.",
         lambda x, q: where_above(x, phi_inverse(1 - q))),
        ("An inverse of erf, not of Phi: Phi(z) = (1 + erf(z / sqrt(2))) / 2.",
         lambda x, q: where_above(x, phi_inverse(q) / math.sqrt(2))),
    ], ["constructors.similarity_threshold.SimilarityThreshold.forward"]),
]

HINTS = {
    "similarity": (
        "Lesson 3 has all that similarity needs: the squared distances of the unit features, with a minus.",
    ),
    "standardise": (
        "s.mean((1, 2), keepdim=True) is (B, 1, 1), one number for each image. torch's std is unbiased unless told"
        " otherwise.",
    ),
    "threshold_graph": (
        "statistics.NormalDist().inv_cdf(q) is the inverse of the normal distribution function. torch.special.ndtri"
        " is too.",
        "threshold_graph is one comparison: standardise(similarity(x)) with that number.",
    ),
}
