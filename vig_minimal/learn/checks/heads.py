"""Lesson 6: interleaving, heads as groups, and a whole Grapher."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import convs
from ..task import Task, draw
from . import difference, matrix, nearest
from .nearest import FOUR


def interleave(x: Tensor, m: Tensor) -> Tensor:
    return convs.interleave(x, m)


def in_heads(x: Tensor, weight: Tensor) -> Tensor:
    heads, _, out = weight.shape
    return F.conv1d(x.mT, weight.mT.reshape(heads * out, -1, 1), groups=heads).mT


def messages(h: Tensor, k: int, near: Tensor | None = None) -> Tensor:
    """x'': max-relative over the k nearest of h, or of the nodes `near`."""
    return difference.max_relative(h, h, matrix.adjacency(nearest.nearest(h if near is None else near, k), h.shape[1]))


def grapher(x: Tensor, w_in: Tensor, w_update: Tensor, w_out: Tensor, k: int, act: Callable = F.gelu,
            join: Callable = interleave) -> Tensor:
    # LRGC Eq. 5 with the k nearest for its graph
    h = x @ w_in
    return act(in_heads(join(h, messages(h, k)), w_update)) @ w_out + x


def strided(x: Tensor, weight: Tensor) -> Tensor:
    """Head h sees channels h, h + heads, h + 2 heads, ..."""
    return torch.einsum("bnch,hcd->bnhd", x.unflatten(-1, (-1, len(weight))), weight).flatten(2)


def weights(seed: int, channels: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """W_in (C, C), W_update (heads, 2C/heads, 2C/heads), W_out (2C, C)."""
    per_head = 2 * channels // heads
    return (draw(seed, channels, channels), draw(seed + 1, heads, per_head, per_head),
            draw(seed + 2, 2 * channels, channels) / 4)


PAIRS = [(FOUR, FOUR * 10), (draw(1, 2, 3, 4), draw(2, 2, 3, 4)), (draw(3, 3, 5, 1), draw(4, 3, 5, 1))]
GRAPHERS = [(FOUR, *weights(5, 2, 2), 2), (draw(8, 2, 7, 4), *weights(9, 4, 4), 3),
            (draw(12, 3, 6, 6), *weights(13, 6, 2), 4)]

TASKS = [
    Task("interleave", interleave, "(B, N, 2C): x0, m0, x1, m1 and so on", PAIRS, [
        ("Concatenated: first all of x, then all of m. With 4 heads two would see nothing but x. In between, please.",
         lambda x, m: torch.cat([x, m], -1)),
        ("m comes first in every pair; x should.", lambda x, m: interleave(m, x)),
        ("Nodes were interleaved, not channels: N should stay and C double.",
         lambda x, m: torch.stack([x, m], 2).flatten(1, 2)),
        ("The right pairs, but apart: (B, N, C, 2). Merge the last two dimensions.",
         lambda x, m: torch.stack([x, m], -1)),
        ("x and m were added. Both should still be there, so that the update can tell them apart.",
         lambda x, m: torch.cat([x + m, x + m], -1)),
    ], ["models.convs.interleave"], gradient=(0, 1)),
    Task("in_heads", in_heads, "(B, N, heads * outputs)",
         [(draw(20, 1, 4, 4), draw(21, 2, 2, 2)), (draw(22, 2, 5, 8), draw(23, 4, 2, 3)),
          (draw(24, 2, 3, 6), draw(25, 2, 3, 1)), (draw(26, 1, 3, 4), draw(27, 1, 4, 4))], [
        ("Each head took every heads-th channel. Head 0 sees the first slice of neighbouring channels, head 1 the"
         " next.",
         strided),
        ("All heads used the weights of the first; each has its own.",
         lambda x, weight: in_heads(x, weight[:1].expand_as(weight))),
        ("The heads were added up. Their outputs stand side by side.",
         lambda x, weight: in_heads(x, weight).unflatten(-1, (len(weight), -1)).sum(2)),
        ("The outputs of the heads are mixed: first all of head 0, then all of head 1.",
         lambda x, weight: in_heads(x, weight).unflatten(-1, (len(weight), -1)).mT.flatten(2)),
        ("The matrices of the heads were transposed: each slice is a row, of as many channels as weight[h] has rows.",
         lambda x, weight: torch.cat([part @ matrix.T for part, matrix in zip(
             x.unflatten(-1, (len(weight), -1)).unbind(2), weight, strict=True)], -1)),
        ("The heads met their slices in the reverse order.",
         lambda x, weight: in_heads(x.unflatten(-1, (len(weight), -1)).flip(2).flatten(2), weight)),
    ], ["models.convs.mlp", "models.layers.conv_bn"], gradient=(0, 1)),
    Task("grapher", lambda x, w_in, w_update, w_out, k: grapher(x, w_in, w_update, w_out, k), "(B, N, C)", GRAPHERS, [
        ("Is the residual missing? The last line of Eq. 5 adds what came in.",
         lambda x, *w: grapher(x, *w) - x),
        ("The residual adds x' = x W_in; Eq. 5 adds x, as it came in.",
         lambda x, w_in, *w: grapher(x, w_in, *w) - x + x @ w_in),
        ("The graph and its messages were made of x. They are made of x' = x W_in.",
         lambda x, w_in, w_update, w_out, k: F.gelu(in_heads(interleave(x @ w_in, messages(x, k)), w_update)) @ w_out
         + x),
        ("The messages are of x', but x said who is near: of which features is the graph made?",
         lambda x, *w: grapher(x, *w, join=lambda h, m: interleave(h, messages(h, w[3], x)))),
        ("Between W_update and W_out stands a GELU.",
         lambda *given: grapher(*given, act=lambda x: x)),
        ("A ReLU where the papers have a GELU.",
         lambda *given: grapher(*given, act=F.relu)),
        ("x' and x'' were concatenated, not interleaved.",
         lambda *given: grapher(*given, join=lambda h, m: torch.cat([h, m], -1))),
        ("x itself went into the update beside x''; Eq. 5 has x' = x W_in there.",
         lambda x, *w: grapher(x, *w, join=lambda h, m: interleave(x, m))),
    ], ["models.vig.Grapher.forward"], gradient=(0, 1, 2, 3)),
]

HINTS = {
    "interleave": (
        "torch.stack with dim=-1 makes pairs (B, N, C, 2). Flattened, they are x0, m0, x1, m1, ...",
    ),
    "in_heads": (
        "x.unflatten(-1, (heads, -1)) is (B, N, heads, C / heads), the slice of each head.",
        "torch.einsum('bnhc,hcd->bnhd', slices, weight) multiplies each head's slice with its own weights. A loop"
        " over heads and torch.cat do the same.",
    ),
    "grapher": (
        "grapher is Eq. 5 line by line: h = x @ w_in; nearest, adjacency, max_relative of h; interleave(h, m);"
        " in_heads; gelu; @ w_out; + x.",
    ),
}
