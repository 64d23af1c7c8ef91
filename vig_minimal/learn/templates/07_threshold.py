"""Lesson 7: a threshold instead of k.

k is the same for a patch of sky, which has fifty like it, and for the one patch with the eye, which
has none. SViG lets the image decide: an edge wherever two patches are similar enough. What is
enough? Similarities have another range in every layer and image, so they are standardised first: z
= 0 is the mean pair of this image, z = 1 is one standard deviation above it. Then one number is
compared with all of them.

That number comes from a share q. If z were normally distributed, a share q of all pairs would lie
below Φ⁻¹(q), the inverse of the normal distribution function Φ: q = 0.89 keeps about 11 % of the
pairs. Real similarities are not normal, so the number of edges differs from image to image, and
that is what is wanted. q falls from block to block, by δ: deeper blocks read from more.

    SViG:    s_ij = −‖x̂_i − x̂_j‖²,    z_ij = (s_ij − mean(s)) / std(s),    an edge where z_ij > Φ⁻¹(q)

Mean and standard deviation are over all N² entries of one image; std is the unbiased one, which
divides by N² − 1.

Symbols: x̂ unit features, s similarity, z standardised similarity, q quantile, Φ the normal
distribution function.
"""

import torch
from torch import Tensor

from vig_minimal.learn.answers import earlier

unit, squared_distances = earlier(__file__, "unit", "squared_distances")


def similarity(x: Tensor) -> Tensor:
    """s: nodes (B, N, C) to (B, N, N), 0 on the diagonal and down to −4 for nodes of opposite directions.

    similarity([[[2, 0], [1, 0], [0, 3], [-1, 0]]]) has the first row [0, 0, -2, -4].
    """
    raise NotImplementedError("not written yet")


def standardise(s: Tensor) -> Tensor:
    """z: (B, N, N) to (B, N, N). In every image the mean of all entries is 0 and their unbiased variance is 1."""
    raise NotImplementedError("not written yet")


def threshold_graph(x: Tensor, q: float) -> Tensor:
    """The graph: nodes (B, N, C) to (B, N, N) bool. q lies between 0 and 1.

    Φ⁻¹ of 0.5 is 0, of 0.89 it is 1.2265.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    graph = threshold_graph(show.patches(), 0.75)
    show.sources(graph, "07_threshold.png")
    show.heat(graph.sum(2), "07_degree.png")  # how many sources each patch has: many on the ground, few on the shape
