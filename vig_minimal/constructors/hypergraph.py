"""Hypergraph: nodes read from each other through hyperedges, found by fuzzy C-means (ViHGNN, Han et al., 2023).

A hyperedge joins any number of nodes. It is a node of its own in two bipartite graphs, nodes → hyperedges → nodes:

    h_e = mean of x_j over the nodes j of hyperedge e        E targets, N sources
    m_i = mean of h_e over the hyperedges e of node i        N targets, E sources

    symbol    variable            shape
    E         hyperedges          as many for every image
    c_e       centre              (B, E, C): Σ_n u_ne² x_n / Σ_n u_ne²
    u_ne      membership          (B, N, E): 1 / ‖x_n − c_e‖², divided by its sum over e (fuzzifier 2)
    member    graph.weights       (B, N, E), bool: u_ne > 0.01

Every node is in a hyperedge, since its largest membership is at least 1/E.

Differs from the released code: there centres begin as means of random memberships and rounds are 15, here they begin
at E nodes (random ones in training, always the same in evaluation) and rounds are 20; where any node of a batch has no
membership above 0.1, its threshold becomes 0.5 for all; its means count the last node in place of padding.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.aggregate import aggregate_mean
from ..graphs.distance import full_precision, mean_node, squared_distance
from ..graphs.graph import Graph, is_compiled
from ..graphs.kmeans import fixed_start, pick
from .schedules import at


class HyperedgeGraph(Graph):
    """Both bipartite graphs by their one incidence matrix, weights (B, N, E): node i is in hyperedge e.

    `adj()` is that matrix, with M = E sources. `union()`, and so `degree()`, `edges()` and `statistics()`, describe who
    reads from whom through any hyperedge.
    """

    def union(self) -> Graph:
        """Return the graph over nodes with an edge between any two that share a hyperedge: weights (B, N, N), bool."""
        member = self.weights.float()
        return Graph(self.num_targets, weights=member @ member.mT > 0)

    def read(self, nodes: Tensor) -> tuple[Graph, Tensor]:
        """Return every node's message m_i as its one source: a graph of index (B, N, 1), and messages (B, N, C)."""
        # ViHGNN: h_e = mean of x_j
        hyperedge = aggregate_mean(nodes, Graph(self.num_targets, weights=self.weights.mT))  # (B, E, C)
        # ViHGNN: m_i = mean of h_e
        message = aggregate_mean(hyperedge, Graph(self.num_sources, weights=self.weights))  # (B, N, C)
        own = torch.arange(self.num_targets, device=nodes.device)[:, None].expand(nodes.shape[0], -1, -1)  # (B, N, 1)
        return Graph(self.num_targets, index=own), message


class Hypergraph(nn.Module):
    """A node is in every hyperedge of which its membership is above `least`. Without gradient.

    Nodes (B, N, C) -> HyperedgeGraph with weights (B, N, E), bool. Features are not normalised. Degree: 1 to N nodes,
    by 1 to E hyperedges. Cost for each node: 2·E·C multiply-adds a round, and two means over E. hyperedges: a number
    or, so that images may be of several sizes, a rule of the number of nodes. Raises ValueError for hyperedges < 1, or
    more than there are nodes.
    """

    def __init__(self, hyperedges: int | Callable[[int], int] = 25, rounds: int = 20, least: float = 0.01):
        super().__init__()
        if not callable(hyperedges) and hyperedges < 1:
            raise ValueError(f"hyperedges={hyperedges}: must be at least 1")
        self.hyperedges, self.rounds, self.least = hyperedges, rounds, least

    @torch.no_grad()
    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> HyperedgeGraph:
        hyperedges = at(self.hyperedges, int(x.shape[1]))
        if hyperedges > x.shape[1]:
            raise ValueError(f"hyperedges={hyperedges}: more than the {x.shape[1]} nodes; choose fewer, a larger image"
                             " or a smaller patch")
        start = fixed_start(x.shape[1], hyperedges)
        if self.training:  # the same nodes of all images, so that an image does not depend on its batch
            start = torch.randperm(x.shape[1])[:hyperedges]
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            memberships = _uncompiled if is_compiled() else fuzzy_c_means
            member = memberships(x, pick(x, start), self.rounds) > self.least
        return HyperedgeGraph(hyperedges, weights=member)

    def extra_repr(self) -> str:
        return f"hyperedges={self.hyperedges}, rounds={self.rounds}, least={self.least:g}"


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


@torch.library.custom_op("vig_minimal::fuzzy_c_means", mutates_args=())
def _uncompiled(x: Tensor, centre: Tensor, rounds: int) -> Tensor:
    """Do `fuzzy_c_means` as an operation that torch.compile calls and does not look into, as k-means' `_lloyd`."""
    return fuzzy_c_means(x, centre, rounds)


@_uncompiled.register_fake
def _(x, centre, rounds):
    """Return a tensor of the same shape and type, for the compiler."""
    return x.new_empty(*x.shape[:2], centre.shape[1])


def _membership(x: Tensor, centre: Tensor) -> Tensor:
    # ViHGNN: u_ne = 1 / ‖x_n − c_e‖², divided by its sum over e; times the least distance, so that nothing overflows
    distance = squared_distance(x, centre).clamp(min=torch.finfo(x.dtype).tiny)  # (B, N, E)
    near = distance.amin(-1, keepdim=True) / distance
    return near / near.sum(-1, keepdim=True)
