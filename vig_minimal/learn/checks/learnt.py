"""Lesson 8: LRGC's learnt graph."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...constructors.lrgc import LRGC, alpha_of
from ...graphs import aggregate
from ...graphs.graph import Graph
from ..task import Task, draw
from .nearest import FOUR


def scores(h: Tensor, w_key: Tensor, w_query: Tensor) -> Tensor:
    layers = SimpleNamespace(key=lambda h: F.linear(h, w_key), query=lambda h: F.linear(h, w_query), tau=h)
    return LRGC.scores(layers, h)


def soft_threshold(score: Tensor, tau: Tensor) -> Tensor:
    return alpha_of(score, tau)


def strongest(x: Tensor, alpha: Tensor) -> Tensor:
    return aggregate.max_relative(x, Graph(alpha.shape[2], weights=alpha))


def relative(x: Tensor) -> Tensor:
    """x_i - x_j at [b, j, i]."""
    return x[:, None] - x[:, :, None]


def matrices(seed: int, width: int) -> tuple[Tensor, Tensor]:
    return draw(seed, width, width), draw(seed + 1, width, width)


HIDDEN = [(FOUR, *matrices(1, 2)), (draw(3, 3, 6, 4), *matrices(4, 4)), (draw(6, 2, 5, 3), *matrices(7, 3))]
SCORES = [(draw(9, 1, 4, 4) * 2, torch.tensor(-1.0).double()), (draw(10, 3, 6, 6) * 3, torch.tensor(0.4).double()),
          (draw(11, 2, 5, 5), torch.tensor(-1.0).double())]
ALPHAS = [(FOUR, soft_threshold(*SCORES[0])), (draw(12, 3, 6, 4), soft_threshold(*SCORES[1])),
          (draw(13, 2, 5, 3), soft_threshold(SCORES[2][0].abs(), SCORES[2][1]))]

TASKS = [
    Task("scores", scores, "(B, N, N): row j is target v_j, column i is source v_i", HIDDEN, [
        ("Rows and columns are exchanged: the target v_j, whose query it is, stands in row j.",
         lambda h, w_key, w_query: scores(h, w_key, w_query).mT),
        ("Divided by the root of the width, as attention in Transformers; Eq. 2 has the plain product.",
         lambda h, w_key, w_query: scores(h, w_key, w_query) / h.shape[2] ** 0.5),
        ("A softmax makes each row add up to 1, so that no edge can be cut without strengthening others. Eq. 2 has"
         " none.",
         lambda h, w_key, w_query: scores(h, w_key, w_query).softmax(2)),
        ("h W where the paper has W h: for rows of nodes that is h @ W.T.",
         lambda h, w_key, w_query: (h @ w_query) @ (h @ w_key).mT),
        ("Keys with keys: one of the two is the query.",
         lambda h, w_key, w_query: (h @ w_key.mT) @ (h @ w_key.mT).mT),
    ], ["constructors.lrgc.LRGC.scores"], gradient=(0, 1, 2)),
    Task("soft_threshold", soft_threshold, "(B, N, N), 0 is no edge", SCORES, [
        ("tau was subtracted without its sigmoid: sigma(score) lies between 0 and 1, and tau may be anything.",
         lambda score, tau: torch.tanh(torch.relu(torch.sigmoid(score) - tau))),
        ("The scores need a sigmoid too: without one their differences may be of any size.",
         lambda score, tau: torch.tanh(torch.relu(score - torch.sigmoid(tau)))),
        ("The sigmoid of the difference is never 0, so that no edge is ever cut.",
         lambda score, tau: torch.tanh(torch.relu(torch.sigmoid(score - tau)))),
        ("Below the threshold edges have negative weights; they should have none.",
         lambda score, tau: torch.tanh(torch.sigmoid(score) - torch.sigmoid(tau))),
        ("Is the tanh missing?", lambda score, tau: torch.relu(torch.sigmoid(score) - torch.sigmoid(tau))),
        ("A hard threshold: what is kept does not know how near it was to being cut, and tau gets no gradient. Subtract"
         " before you cut.",
         lambda score, tau: torch.tanh(torch.where(score > tau, torch.sigmoid(score), 0.0))),
        ("tau would never be learnt. Was it turned into a plain number?",
         lambda score, tau: soft_threshold(score, tau.detach())),
    ], ["constructors.lrgc.alpha_of"], gradient=(0, 1)),
    Task("strongest", strongest, "(B, N, D)", ALPHAS, [
        ("The maximum runs over the edges alone. In LRGC it runs over all i, and an edge that was cut carries 0.",
         lambda x, alpha: (alpha[..., None] * relative(x)).masked_fill(alpha[..., None] == 0, -torch.inf).amax(2)
         .masked_fill((alpha == 0).all(2)[..., None], 0)),
        ("The difference is the wrong way round: the source x_i minus the target x_j.",
         lambda x, alpha: (alpha[..., None] * -relative(x)).amax(2)),
        ("Rows and columns of alpha are exchanged: row j holds the weights of target j.",
         lambda x, alpha: strongest(x, alpha.mT)),
        ("alpha only marks where edges are; it should scale each message before the maximum is taken.",
         lambda x, alpha: ((alpha != 0)[..., None] * relative(x)).amax(2)),
        ("This is the weighted sum, as attention has it; Eq. 5 has the maximum.",
         lambda x, alpha: (alpha[..., None] * relative(x)).sum(2)),
        ("The source itself is weighted, not its difference to the target.",
         lambda x, alpha: (alpha[..., None] * x[:, None]).amax(2)),
        ("Without a gradient of alpha, keys, queries and tau would never be learnt.",
         lambda x, alpha: strongest(x, alpha.detach())),
    ], ["graphs.aggregate.maximum"], gradient=(0, 1)),
]

HINTS = {
    "scores": (
        "key = h @ w_key.T and query = h @ w_query.T are (B, N, D). Which of the two must give the rows of the"
        " product?",
        "For tensors with a batch, x.mT transposes the last two dimensions.",
    ),
    "soft_threshold": (
        "Eq. 3 from the inside: sigmoid of both, difference, relu, tanh.",
        "Where a gradient is missing: float(tau), tau.item(), detach and torch.tensor(tau) cut tau off.",
    ),
    "strongest": (
        "strongest is max_relative of lesson 5 with a product in place of the mask: 0 belongs to the maximum here.",
    ),
}
