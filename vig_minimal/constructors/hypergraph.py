"""Hypergraph: nodes read from each other through hyperedges, found by fuzzy C-means (ViHGNN, Han et al., 2023).

A hyperedge joins any number of nodes. It is a node of its own in two bipartite graphs, nodes → hyperedges → nodes:

    h_e = mean of x_j over the nodes j of hyperedge e        E targets, N sources
    m_i = mean of h_e over the hyperedges e of node i        N targets, E sources

    symbol    variable            shape
    E         hyperedges          as many for every image
    c_e       centre              (B, E, C): Σ_n u_ne² x_n / Σ_n u_ne²
    u_ne      membership          (B, N, E): 1 / ‖x_n − c_e‖², divided by its sum over e (fuzzifier 2)
    member    graph.member        (B, N, E), bool: u_ne > 0.01
    m_i       graph.sources       (B, N, C), with gradient

With fewer than 100 hyperedges every node is in one, since its largest membership is at least 1/E.

Differs from the released code: there centres begin as means of random memberships and rounds are 15, here they begin
at E nodes (random ones in training, always the same in evaluation) and rounds are 20; where any node of a batch has no
membership above 0.1, its threshold becomes 0.5 for all; its means count the last node in place of padding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..graphs.aggregate import aggregate_mean
from ..graphs.distance import full_precision, mean_node, squared_distance
from ..graphs.graph import Graph
from ..graphs.kmeans import fixed_start, pick
from ..graphs.plain import fast_form
from .schedules import at


@dataclass(frozen=True, repr=False)
class HyperedgeGraph(Graph):
    """Every node has one source, the message m_i that reaches it through its hyperedges: `sources` (B, N, C).

    `union()`, and so `degree()`, `edges()` and `statistics()`, describe who reads from whom through any hyperedge.
    """

    member: Tensor | None = None  # (B, N, E) bool: node i is in hyperedge e

    def again(self, nodes: Tensor) -> "HyperedgeGraph":
        """Return the graph with the messages m_i of these nodes (B, N, C)."""
        # ViHGNN: h_e = mean of x_j
        hyperedge = aggregate_mean(nodes, Graph(self.num_targets, weights=self.member.mT))  # (B, E, C)
        # ViHGNN: m_i = mean of h_e
        message = aggregate_mean(hyperedge, Graph(self.member.shape[2], weights=self.member))  # (B, N, C)
        return replace(self, sources=message)

    def union(self) -> Graph:
        """Return the graph over nodes with an edge between any two that share a hyperedge: weights (B, N, N), bool."""
        member = self.member.float()
        return Graph(self.num_targets, weights=member @ member.mT > 0)


class Hypergraph(nn.Module):
    """A node is in every hyperedge where its membership is above `least`, without gradient.

    Nodes (B, N, C) -> HyperedgeGraph with `member` (B, N, E) and messages (B, N, C). Features are not normalised.
    Degree: 1 to N nodes, by 1 to E hyperedges. Cost for each node: 2·E·C multiply-adds a round, and two means over E.
    hyperedges: a number or, so that images may be of several sizes, a rule of the number of nodes. Raises ValueError
    for hyperedges < 1, or more than there are nodes.
    """

    def __init__(self, hyperedges: int | Callable[[int], int] = 25, rounds: int = 20, least: float = 0.01):
        super().__init__()
        if not callable(hyperedges) and hyperedges < 1:
            raise ValueError(f"hyperedges={hyperedges}: must be at least 1")
        self.hyperedges, self.rounds, self.least = hyperedges, rounds, least

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> HyperedgeGraph:
        own = torch.arange(x.shape[1], device=x.device)[:, None].expand(x.shape[0], -1, -1)  # (B, N, 1)
        return HyperedgeGraph(x.shape[1], index=own, member=self.members(x)).again(x)

    def members(self, x: Tensor) -> Tensor:
        """Return which node is in which hyperedge: (B, N, C) to (B, N, E), bool."""
        return self.memberships(x) > self.least

    @torch.no_grad()
    def memberships(self, x: Tensor) -> Tensor:
        """Return u_ne: (B, N, C) to (B, N, E), without gradient."""
        hyperedges = at(self.hyperedges, int(x.shape[1]))
        if hyperedges > x.shape[1]:
            raise ValueError(f"hyperedges={hyperedges}: more than the {x.shape[1]} nodes; choose fewer, a larger image"
                             " or a smaller patch")
        start = fixed_start(x.shape[1], hyperedges)
        if self.training:  # the same nodes of all images, so that an image does not depend on its batch
            start = torch.randperm(x.shape[1])[:hyperedges]
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            return fuzzy_c_means(x, pick(x, start), self.rounds)

    def extra_repr(self) -> str:
        return f"hyperedges={self.hyperedges}, rounds={self.rounds}, least={self.least:g}"


@fast_form("rounds")
@torch.no_grad()
def fuzzy_c_means(x: Tensor, centre: Tensor, rounds: int) -> Tensor:
    """Return memberships (B, N, E), which sum to 1 over E: nodes (B, N, C), first centres (B, E, C), both in float32 or
    better and without autocast."""
    mean = mean_node(x)
    x, centre = x - mean, centre - mean  # the same distances, without cancellation
    membership = _membership(x, centre)
    for _ in range(rounds):
        # ViHGNN: c_e = Σ u² x / Σ u²
        weight = membership.square()  # (B, N, E)
        centre = weight.mT @ x / weight.sum(1)[..., None]  # (B, E, C)
        membership = _membership(x, centre)
    return membership


def _membership(x: Tensor, centre: Tensor) -> Tensor:
    # ViHGNN: u_ne = 1 / ‖x_n − c_e‖², divided by its sum over e; times the least distance, so that nothing overflows
    distance = squared_distance(x, centre).clamp(min=torch.finfo(x.dtype).tiny)  # (B, N, E)
    near = distance.amin(-1, keepdim=True) / distance
    return near / near.sum(-1, keepdim=True)
