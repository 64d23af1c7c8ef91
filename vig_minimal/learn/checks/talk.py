"""Lesson 10: GATv2 over centroids, and what nodes get of it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...graphs.gatv2 import GATv2
from ...graphs.membership import membership
from ...models.convs import interleave
from ..task import Task, draw


def gatv2(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The package's layer with these weights: z' and alpha (B, k, k, 1)."""
    layer = GATv2(z.shape[2], len(a)).to(z)
    zero = torch.zeros_like(a)
    parameters = {"lin_l.weight": w_left, "lin_r.weight": w_right, "att": a[None, None], "bias": zero,
                  "lin_l.bias": zero, "lin_r.bias": zero}
    return torch.func.functional_call(layer, parameters, (z,), {"return_attention": True})


def attention(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    return gatv2(z, w_left, w_right, a)[1][..., 0]


def global_update(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    return gatv2(z, w_left, w_right, a)[0]


def join(x: Tensor, m: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    return interleave(x, m, of_node(z, labels))


def of_node(z: Tensor, labels: Tensor) -> Tensor:
    """z' of each node's partition: (B, N, C)."""
    return membership(labels, z.shape[1]).to(z.dtype) @ z


def logits(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor, slope: float = 0.2) -> Tensor:
    """(B, k, k), rows are targets i."""
    return F.leaky_relu((z @ w_right.mT)[:, :, None] + (z @ w_left.mT)[:, None], slope) @ a


def weights(seed: int, width: int, out: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw(seed, out, width), draw(seed + 1, out, width), draw(seed + 2, out)


CASES = [(draw(1, 1, 4, 2), *weights(2, 2, 2)), (draw(5, 3, 5, 3), *weights(6, 3, 4)),
         (draw(9, 2, 1, 2), *weights(10, 2, 3)), (draw(13, 2, 6, 4), *weights(14, 4, 4))]
JOINS = [(draw(20, 1, 4, 2), draw(21, 1, 4, 2), draw(22, 1, 2, 2), torch.tensor([[0, 1, 1, 0]])),
         (draw(23, 2, 5, 3), draw(24, 2, 5, 3), draw(25, 2, 3, 3), torch.tensor([[0, 1, 2, 0, 0], [2, 2, 1, 0, 1]]))]

TASKS = [
    Task("attention", attention, "(B, k, k): row i is target i, column j is source j", CASES, [
        ("The softmax ran over the targets: each row, all that one target reads, should add up to 1.",
         lambda *given: logits(*given).softmax(1)),
        ("Rows and columns are exchanged: LIN_R is of the target i, whose row it is, LIN_L of the source j.",
         lambda *given: attention(*given).mT),
        ("LIN_L and LIN_R are exchanged: the target i goes through LIN_R.",
         lambda z, w_left, w_right, a: attention(z, w_right, w_left, a)),
        ("LeakyReLU after the product with a, as in the first GAT: then every target ranks the sources alike. In"
         " GATv2 it"
         " comes before.",
         lambda z, w_left, w_right, a: F.leaky_relu(logits(z, w_left, w_right, a, 1.0), 0.2).softmax(2)),
        ("Without its LeakyReLU, what the target adds is the same for all sources, and the softmax cancels it.",
         lambda z, w_left, w_right, a: logits(z, w_left, w_right, a, 1.0).softmax(2)),
        ("torch's LeakyReLU has a slope of 0.01; GATv2's is 0.2.",
         lambda z, w_left, w_right, a: logits(z, w_left, w_right, a, 0.01).softmax(2)),
        ("Not yet a softmax: weights should be positive and add up to 1.", logits),
        ("One softmax over all pairs: each target has its own.",
         lambda *given: logits(*given).flatten(1).softmax(1).view_as(logits(*given))),
    ], ["graphs.gatv2.GATv2.forward"], gradient=(0, 1, 2, 3)),
    Task("global_update", global_update, "(B, k, C')", CASES, [
        ("The sources were projected by LIN_R; Eq. 2 sums LIN_L(z_j).",
         lambda z, w_left, w_right, a: attention(z, w_left, w_right, a) @ (z @ w_right.mT)),
        ("The other way round: target i reads from all j, so its row of alpha weighs them.",
         lambda z, w_left, w_right, a: attention(z, w_left, w_right, a).mT @ (z @ w_left.mT)),
        ("z was added: Eq. 2 has no residual.",
         lambda z, w_left, w_right, a: global_update(z, w_left, w_right, a)
         + (z if len(a) == z.shape[2] else torch.zeros(()).to(z))),
        ("The plain mean of all LIN_L(z_j): where is alpha?",
         lambda z, w_left, w_right, a: (z @ w_left.mT).mean(1, keepdim=True).expand(-1, z.shape[1], -1)),
        ("A target does not read from itself here; the global graph is complete with self-loops.",
         lambda z, w_left, w_right, a: attention(z, w_left, w_right, a).masked_fill(
             torch.eye(z.shape[1], dtype=torch.bool), 0) @ (z @ w_left.mT)),
    ], ["graphs.gatv2.GATv2.forward"], gradient=(0, 1, 2, 3)),
    Task("join", join, "(B, N, 3C): x0, m0, z0, x1, m1, z1 and so on", JOINS, [
        ("Concatenated: with 4 heads the last would see nothing but z'. Interleave the three.",
         lambda x, m, z, labels: torch.cat([x, m, of_node(z, labels)], -1)),
        ("The order is x, z', m; it should be x, m, z'.",
         lambda x, m, z, labels: interleave(x, of_node(z, labels), m)),
        ("All nodes of the batch look into the partitions of the first image.",
         lambda x, m, z, labels: join(x, m, z[:1].expand_as(z), labels)),
        ("The labels of the first image were used for all images; each has its own.",
         lambda x, m, z, labels: join(x, m, z, labels[:1].expand_as(labels))),
        ("Every node got the mean of all z'; it should get that of its own partition.",
         lambda x, m, z, labels: interleave(x, m, z.mean(1, keepdim=True).expand_as(x))),
        ("x and m were interleaved, and z' follows behind: the three take turns.",
         lambda x, m, z, labels: torch.cat([interleave(x, m), of_node(z, labels)], -1)),
    ], ["models.clustervig.DEGC.forward", "models.convs.MRConv.forward"], gradient=(0, 1, 2)),
]

HINTS = {
    "attention": (
        "right = z @ w_right.T and left = z @ w_left.T are (B, k, C'). right[:, :, None] + left[:, None] is (B, k,"
        " k, C'): row i has target i and all sources.",
        "After the LeakyReLU (slope 0.2), @ a takes the product with a: (B, k, k). softmax(2) is over the sources.",
    ),
    "global_update": (
        "global_update is one matrix product: attention @ left.",
    ),
    "join": (
        "z' of each node: z[b, labels[b]] in a loop, gather, or the membership (B, N, k) of lesson 9 @ z.",
        "join is lesson 6's interleave with three: torch.stack([x, m, z], -1).flatten(2).",
    ),
}
