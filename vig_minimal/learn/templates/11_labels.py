"""Lesson 11: labels are nodes too.

A target need not be a patch. In GKGNet every label, as "dog" or "ball", is a node with learnt
features, and reads from the patches that are like it. Nobody says where the dog is; the edges find
it. And since a small ball shows in few patches and a large dog in many, the number of sources
should differ. Group k-NN cuts the channels into G slices, and each slice looks for its own k
nearest among the same slices of the patches: from k to G·k different sources in all.

CNN2GNN goes one step further up: the node is a whole image. It reads from anchors, one training
image for each class, and from proxies, learnt vectors that stand for classes; from all of each, by
attention.

    GKGNet Eq. 1:    D'_ig = max({D_ig − Ŝ_kg | k ∈ [1, K]})
    CNN2GNN Algorithm 1:    g_1, g_2 = W_1 g, W_2 g
                            g_sum[ij] = g^i + g^j  ∀ g^i, g^j ∈ g_1, g_2
                            e = aᵀ · LeakyReLU(g_sum);    α = Softmax(e);    z_out = α · g_2

We take Ŝ − D in Eq. 1, as the authors' code does and as lesson 5 has it. In Algorithm 1, g are
image, proxies and anchors; the target goes through W_1, sources through W_2. "We apply Softmax
separately over the anchor and proxy indices", so that each sum to 1; and the image's own edge has
the weight 1: z_out also gets W_2 of the image. The slope of LeakyReLU is 0.2.

(GKGNet continues as in lesson 6: Eq. 2 joins D and D', and Eq. 3 gives every label its score, Y =
Sigmoid(Y_xp + Y_xl), from the patches and from the label node.)

Symbols: D = d labels, S = s patches, Ŝ the chosen ones, g a group, G groups; B images, L labels, N
patches, C, F features.
"""

import torch
from torch import Tensor

from vig_minimal.learn.answers import earlier

unit, squared_distances, max_relative = earlier(__file__, "unit", "squared_distances", "max_relative")


def group_nearest(d: Tensor, s: Tensor, k: int, groups: int) -> Tensor:
    """The k nearest patches of each label in each group, nearest first: labels (B, L, C) and patches (B, N, C) to
    (B, G, L, k), whole numbers below N. Group g has channels g·C/G to (g + 1)·C/G − 1; slices are compared by cosine.

    With d = [[[1, 0, 0, 1]]], s = [[[1, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]]], k = 1 and two groups: [[[[0]], [[1]]]].
    """
    raise NotImplementedError("not written yet")


def read_patches(d: Tensor, s: Tensor, index: Tensor) -> Tensor:
    """Eq. 1 as max(Ŝ − D): labels (B, L, C), patches (B, N, C) and index (B, G, L, k) to (B, L, C), group after group.

    With d, s and index of the example above: [[[0, 0, 0, 0]]]; with the index [[[[2]], [[0]]]]: [[[-1, 1, 1, -1]]].
    """
    raise NotImplementedError("not written yet")


def read_proxies(x: Tensor, anchors: Tensor, proxies: Tensor, w1: Tensor, w2: Tensor, a: Tensor) -> Tensor:
    """z_out of Algorithm 1: images (B, F), anchors (A, F), proxies (P, F), matrices (F, F) and a (F,) to (B, F).

    With w1 = w2 = [[1]], a = [0], the image [[1]], anchors [[2], [4]] and proxies [[10]]: [[14]], 3 + 10 + 1.
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    label = show.patches()[:, 27:28]  # as if a label had learnt what this patch shows
    index = group_nearest(label, show.patches(), 6, 2)  # (1, 2, 1, 6)
    show.sources(index.transpose(1, 2).flatten(2), "11_labels.png", target=None)  # of both groups
