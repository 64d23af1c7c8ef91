"""The contract that all constructors keep. What each one computes is tested in a file of its own."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from helpers import features, permuted
from vig_minimal import Graph, constructors
from vig_minimal.constructors import CONSTRUCTORS as ALL
from vig_minimal.constructors import KNN, LRGC, SimilarityThreshold
from vig_minimal.models.vig import ViGConfig

BATCH, NODES, DIM = 3, 12, 4


def trained_lrgc() -> LRGC:
    """An LRGC constructor with random parameters, which has pruned about half of the edges."""
    constructor = LRGC(DIM).double()
    for layer in (constructor.key, constructor.query):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias, std=0.1)
    torch.nn.init.zeros_(constructor.tau)
    return constructor


CONSTRUCTORS = {"knn": lambda: KNN(3), "dilated": lambda: KNN(3, dilation=2),
                "threshold": lambda: SimilarityThreshold(0.7), "lrgc": trained_lrgc}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_renumbering_the_nodes_renumbers_the_graph(name):
    x, order = features(), torch.randperm(NODES)
    constructor = CONSTRUCTORS[name]()
    graph, renumbered = constructor(x), constructor(x[:, order])
    torch.testing.assert_close(renumbered.adj(), permuted(graph, order))
    assert not torch.equal(graph.adj(), renumbered.adj())


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_the_graph_of_an_image_does_not_depend_on_its_batch(name):
    x = features()
    constructor = CONSTRUCTORS[name]()
    together = constructor(x).adj()
    for b in range(BATCH):
        torch.testing.assert_close(constructor(x[b:b + 1]).adj()[0], together[b])


@pytest.mark.parametrize("name", ["knn", "threshold"])
def test_only_directions_pick_neighbours(name):
    x, scale = features(), torch.rand(BATCH, NODES, 1, dtype=torch.float64) + 0.5
    constructor = CONSTRUCTORS[name]()
    assert torch.equal(constructor(x).adj(), constructor(x * scale).adj())


@pytest.mark.parametrize("name", ["knn", "threshold"])
def test_picking_carries_no_gradient(name):
    graph = CONSTRUCTORS[name]()(features().requires_grad_())
    assert not graph.adj().requires_grad


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_edges_are_picked_in_float32_under_autocast(name):
    # bfloat16, with its 8 bits, cannot tell these nodes apart
    x = (1 + 1e-3 * features()).float()
    constructor = CONSTRUCTORS[name]().float()
    expected = constructor(x).adj()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adj = constructor(x).adj()
    assert adj.dtype == expected.dtype and torch.equal(adj, expected)
    rounded = constructor(x.bfloat16().float()).adj()
    assert name == "lrgc" or not torch.equal(rounded, expected), "these nodes do not tell the two precisions apart"


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_bfloat16_nodes_are_compared_in_float32(name):
    x = features().bfloat16()
    constructor = CONSTRUCTORS[name]().float()
    assert torch.equal(constructor(x).adj(), constructor(x.float()).adj())


@pytest.mark.parametrize("name", ALL)
def test_every_constructor_takes_nodes_and_their_grid_and_returns_a_graph_over_them(name):
    config = ViGConfig(dim=8, depth=3, img_size=(16, 24), patch=4, k=2, graph=name)
    make_per_block, own_fields = ALL[name]
    constructors = make_per_block(config)
    assert len(constructors) == 3 and all(isinstance(constructor, nn.Module) for constructor in constructors)
    assert set(own_fields) <= {field.name for field in dataclasses.fields(config)}
    x = torch.randn(2, 24, 8)
    for constructor in constructors:
        graph = constructor.eval()(x, config.grid)
        assert isinstance(graph, Graph) and (graph.num_targets, graph.union().num_sources) == (24, 24)
        assert graph.union().adj().shape == (2, 24, 24) and graph.degree().min() >= 0
        alone = constructor(x[1:], config.grid)
        torch.testing.assert_close(alone.adj()[0], graph.adj()[1])


@pytest.mark.parametrize("name, expected", [
    ("KNN", {"dilation": 1, "epsilon": 0.0}), ("GroupKNN", {"groups": 2, "dilation": 1, "epsilon": 0.0}),
    ("ClusterKNN", {"iters": 20}), ("WindowKNN", {"k": 9, "window": 7, "shift": 0}),
    ("Hypergraph", {"hyperedges": 25, "rounds": 20, "least": 0.01}), ("SVGA", {"hops": 2}), ("MGC", {"hops": None}),
    ("DAGC", {"hops": 2}), ("LSGC", {"hops": 2}), ("Adaptive", {"hops": None}), ("Detail", {"k": 9}),
    ("Random", {"k": 9}), ("LRGC", {}), ("SimilarityThreshold", {}), ("Surroundings", {}), ("Full", {}), ("Alone", {}),
])
def test_what_nobody_chooses_is_as_in_the_papers(name, expected):
    parameters = inspect.signature(getattr(constructors, name)).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert found == expected and all(type(found[field]) is type(expected[field]) for field in found)
