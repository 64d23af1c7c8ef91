"""AdaptViG's graph: places and gate against a double loop on several grids, its weights in every aggregation, its T."""

import pytest
import torch

from helpers import assert_same, nodes
from reference import adaptvig as oracle
from reference import vig
from vig_minimal.constructors import Adaptive
from vig_minimal.graphs.aggregate import aggregate_max, aggregate_mean, aggregate_sum, max_relative
from vig_minimal.graphs.graph import Graph

GRIDS = [(3, 5), (4, 8), (7, 7), (6, 1), (1, 1), (2, 2), (1, 2)]


def made(hops: int | None, temperature: float = 3.0) -> Adaptive:
    module = Adaptive(hops).double()
    torch.nn.init.constant_(module.temperature, temperature)
    return module


@pytest.mark.equation("adaptvig", "gate")
@pytest.mark.parametrize("hops", [1, 2, 3, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_places_and_gate_are_the_double_loop(grid, hops):
    x, module = nodes(2, grid[0] * grid[1], 4), made(hops, -3.0)
    graph = module(x, grid)
    expected = torch.stack([oracle.adaptive(one, *grid, hops, module.temperature) for one in x])
    gated = bool((expected.detach().frac() != 0).any())  # on small grids all sources are local, or the node itself
    assert_same(graph.adj(), expected, [x, module.temperature] if gated else [])
    assert graph.index.shape[2] <= 2 + sum(side.bit_length() - 1 for side in grid)
    assert all(len(set(row.tolist())) == len(row) for row in graph.index[0])


@pytest.mark.equation("adaptvig", "message")
@pytest.mark.parametrize("grid", GRIDS)
def test_messages_of_weighted_edges_are_those_of_the_dense_adjacency(grid):
    """The maximum gathers the k edges, and a source without one carries 0."""
    x, module = nodes(2, grid[0] * grid[1], 4), made(1)
    graph = module(x, grid)
    dense = Graph(graph.num_sources, weights=graph.adj())
    for aggregate in (max_relative, aggregate_max, aggregate_sum, aggregate_mean):
        both = [aggregate(*([x, which] if aggregate is not aggregate_max else [x, which])) for which in (graph, dense)]
        torch.testing.assert_close(*both)
        gradients = [torch.autograd.grad(m.square().sum(), [x, module.temperature], retain_graph=True,
                                         materialize_grads=True) for m in both]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs)
    expected = torch.stack([vig.max_relative(one, one, adj) for one, adj in zip(x, graph.adj(), strict=True)])
    torch.testing.assert_close(max_relative(x, graph), expected)
    assert (max_relative(x, graph) >= 0).all()


def test_a_closed_gate_is_no_edge_and_has_no_gradient():
    x, module = nodes(1, 16, 4), made(1, 1e-5)
    graph = module(x, (4, 4))
    local = torch.ones(1, 16, 2, dtype=torch.float64)
    assert torch.equal(graph.weights[..., :2], local)
    assert (graph.degree() < graph.index.shape[2]).all()
    gradient, = torch.autograd.grad(max_relative(x, graph).sum(), module.temperature)
    assert gradient == 0


def test_hops_follow_the_grid_as_released():
    sides = {56: 8, 28: 4, 14: 2, 7: 1, 8: 1, 4: 1}
    for side, hops in sides.items():
        local, _ = Adaptive().steps((side, side))
        assert local == ((side - hops, 0), (0, side - hops))
    assert made(None).temperature == 3 and Adaptive().temperature == 1


@pytest.mark.parametrize("hops", [0, -1, 1.5, True])
def test_hops_must_be_whole(hops):
    with pytest.raises(ValueError, match="hops"):
        Adaptive(hops)
