"""Lesson 5: max-relative aggregation and its gradient."""

import torch
from torch import Tensor

from ...graphs import aggregate
from ...graphs.graph import Graph
from ..task import Task, draw, edges
from .nearest import FOUR


def max_relative(x: Tensor, y: Tensor, adj: Tensor) -> Tensor:
    return aggregate.max_relative(x, Graph(adj.shape[2], weights=adj, sources=y))


def max_relative_gradient(x: Tensor, y: Tensor, adj: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(max_relative(x, y, adj), (x, y), grad)


def differences(x: Tensor, y: Tensor) -> Tensor:
    """y_j - x_i: (B, N, M, C)."""
    return y[:, None] - x[:, :, None]


def over_edges(messages: Tensor, adj: Tensor, fill: float = -torch.inf) -> Tensor:
    """The maximum over edges alone, 0 without one."""
    best = messages.masked_fill(~adj[..., None], fill).amax(2)
    return best.masked_fill(~adj.any(2)[..., None], 0)


def exchanged(x: Tensor, y: Tensor, adj: Tensor) -> Tensor:
    return max_relative(x, y, adj.mT) if adj.shape[1] == adj.shape[2] else differences(x, y).masked_fill(
        ~adj.mT[..., None], 0).amax(2)  # raises: the shapes do not fit


def winners(x: Tensor, y: Tensor, adj: Tensor) -> Tensor:
    """1 where source j gives target i its maximum in that channel: (B, N, M, C)."""
    messages = differences(x, y).masked_fill(~adj[..., None], -torch.inf)
    best = torch.nn.functional.one_hot(messages.argmax(2), adj.shape[2]).transpose(2, 3)
    return best.to(x.dtype) * adj.any(2)[:, :, None, None]


def gradient_by(won: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """What arrives at x and at y if `won` (B, N, M, C) tells where the gradient goes."""
    to_edges = won * grad[:, :, None]
    return -to_edges.sum(2), to_edges.sum(1)


def lonely(x: Tensor, y: Tensor, adj: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient as if a target without sources had source 0 for its winner."""
    best = differences(x, y).masked_fill(~adj[..., None], -torch.inf).argmax(2)  # (B, N, C)
    return gradient_by(torch.nn.functional.one_hot(best, adj.shape[2]).transpose(2, 3), grad)


def last_one_only(x: Tensor, y: Tensor, adj: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    won = winners(x, y, adj)
    grad_y = torch.zeros_like(y)
    for i in range(x.shape[1]):
        grad_y = torch.where(won[:, i] > 0, grad[:, i, None].expand_as(grad_y), grad_y)
    return gradient_by(won, grad)[0], grad_y


four = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)[None]
CASES = [(FOUR, FOUR, four), (draw(1, 2, 5, 3), draw(2, 2, 7, 3), edges(3, 2, 5, 7, share=0.4)),
         (draw(4, 3, 6, 2), draw(5, 3, 2, 2), edges(6, 3, 6, 2)),
         (draw(7, 1, 8, 4), draw(8, 1, 8, 4), edges(9, 1, 8, 8))]

TASKS = [
    Task("max_relative", max_relative, "(B, N, C)", CASES, [
        ("The maximum runs over zeros too, those of the edges that are missing: a target whose sources are all smaller"
         " then gets 0. What number can never win a maximum?",
         lambda x, y, adj: (differences(x, y) * adj[..., None]).amax(2)),
        ("The difference is taken the wrong way round: what the source has more than the target, y_j - x_i.",
         lambda x, y, adj: over_edges(-differences(x, y), adj)),
        ("Rows and columns of the graph are exchanged: row i holds the sources of target i.", exchanged),
        ("A target without sources is -inf; it should be 0.",
         lambda x, y, adj: differences(x, y).masked_fill(~adj[..., None], -torch.inf).amax(2)),
        ("This is the largest source itself. The message is how much larger it is than the target.",
         lambda x, y, adj: over_edges(y[:, None].expand(-1, x.shape[1], -1, -1), adj)),
        ("A target without sources got -x_i: it should get 0. (The largest source minus the target is right"
         " elsewhere.)",
         lambda x, y, adj: y[:, None].masked_fill(~adj[..., None], -torch.inf).amax(2).masked_fill(
             ~adj.any(2)[..., None], 0) - x),
        ("This is the mean of the differences, and should be the largest.",
         lambda x, y, adj: (differences(x, y) * adj[..., None]).sum(2) / adj.sum(2)[..., None].clamp(min=1)),
        ("This is the smallest difference, not the largest.",
         lambda x, y, adj: -over_edges(-differences(x, y), adj)),
        ("Was detach, .data, numpy or no_grad used?",
         lambda x, y, adj: max_relative(x, y, adj).detach()),
    ], ["graphs.aggregate.maximum"], gradient=(0, 1)),
    Task("max_relative_gradient", max_relative_gradient, "two tensors, of x (B, N, C) and of y (B, M, C)",
         [(*case, draw(10 + i, *case[0].shape)) for i, case in enumerate(CASES)], [
        ("All sources of a target get its gradient. A maximum passes it to one of them, in every channel.",
         lambda x, y, adj, grad: gradient_by(adj[..., None].to(x.dtype).expand(-1, -1, -1, x.shape[2]), grad)),
        ("A source that wins for several targets gets all their gradients, added. Here the last one overwrote the"
         " rest.",
         last_one_only),
        ("The target's sign: the message is y_j - x_i, so what x_i gets is negative.",
         lambda *given: (-max_relative_gradient(*given)[0], max_relative_gradient(*given)[1])),
        *[("A target without sources has a maximum of 0 that depends on nothing. It has no winner: no gradient.", wrong)
          for wrong in (lambda x, y, adj, grad: (-grad, max_relative_gradient(x, y, adj, grad)[1]), lonely,
                        lambda *given: (max_relative_gradient(*given)[0], lonely(*given)[1]))],
        ("The two came in the wrong order: first that of x, then that of y.",
         lambda x, y, adj, grad: max_relative_gradient(x, y, adj, grad)[::-1]),
    ], ["graphs.aggregate.maximum"]),
]

HINTS = {
    "max_relative": (
        "All messages: y[:, None] - x[:, :, None] is (B, N, M, C). Where there is no edge, put -inf, then take the"
        " maximum over the sources: masked_fill and amax.",
        "Targets without sources: adj.any(2) is (B, N). torch.where or masked_fill puts the 0.",
        "Whoever is subtracted for all sources of a target alike may be subtracted after the maximum. But mind the"
        " targets without sources.",
    ),
    "max_relative_gradient": (
        "The gradient: argmax gives the winner of each target and channel. Each winner gets the gradient of its"
        " target, scatter_add_ adds them up. The target gets the same with a minus.",
    ),
}
