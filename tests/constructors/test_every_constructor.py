"""What holds of every constructor of list_constructors(), against a double loop. A new one is tested by being there:
it needs an oracle in tests/reference/constructors.py, and the least and largest number of a node's sources."""

import re
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from helpers import assert_same, features
from reference import constructors, gkgnet, places
from reference import vig as oracle
from reference.constructors import EXPECTED
from vig_minimal import Graph, create_model, list_constructors, load_released
from vig_minimal.constructors import CONSTRUCTORS, OF_PLACES
from vig_minimal.constructors.hypergraph import HyperedgeGraph
from vig_minimal.constructors.schedules import at
from vig_minimal.graphs.aggregate import aggregate_sum, max_relative
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.look.explore_layers import layers_of
from vig_minimal.models.vig import ViGConfig
from vig_minimal.training.distributed import start
from vig_minimal.training.engine import moving_average
from vig_minimal.training.config import parse
from vig_minimal.training.resolve import resolve

GRID, DIM = (3, 5), 4  # sides that no K of the tests divides, so that one way round is not both ways round
NODES = GRID[0] * GRID[1]
CONFIG = {"dim": DIM, "depth": 2, "num_classes": 3, "img_size": (12, 20), "patch": 4}


DIRECTED = ("knn", "group_knn", "lrgc", "cluster_knn", "window_knn", "svga", "dagc", "random", "adaptive",
            "detail")


def made(name: str, grid: tuple[int, int] = GRID) -> list[nn.Module]:
    """The constructors of two blocks, in evaluation, in float64; learnt ones with random parameters."""
    size, k = tuple(4 * side for side in grid), constructors.GRIDS[grid].k[0]
    modules = CONSTRUCTORS[name][0](ViGConfig(**CONFIG | {"img_size": size}, k=k, graph=name))
    for module in modules:
        module.double().eval()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        if name == "adaptive":
            nn.init.constant_(module.temperature, 20.0)  # opens the gate
    return modules


def edges_of(graph: Graph) -> Tensor:
    """The adjacency (B, N, M); of a hypergraph which node is in which hyperedge, (B, N, E)."""
    return graph.member if isinstance(graph, HyperedgeGraph) else graph.adj()


def check_graph(name: str, grid: tuple[int, int], images: int) -> list[bool]:
    """Compare the graphs of both blocks with those of the double loop; return of each whether it is directed."""
    assert name in EXPECTED, f"{name} needs an oracle in tests/reference/constructors.py, and a line in its EXPECTED"
    x, directed = features(images, grid[0] * grid[1], DIM), []
    for block, module in enumerate(made(name, grid)):
        graph = module(x, grid)
        for b in range(images):
            expected = EXPECTED[name](x[b], grid, block, module)
            torch.testing.assert_close(edges_of(graph)[b], expected.adj)
            degree = graph.degree()[b]
            assert expected.least <= degree.min() and degree.max() <= expected.most
            adj = graph.union().adj()[b]
            directed.append(not torch.equal(adj, adj.mT))
        if name not in ("group_knn", "hypergraph"):  # a source counts once, whether it is listed or marked
            torch.testing.assert_close(aggregate_sum(x, graph), graph.adj().double() @ x)
    return directed


@pytest.mark.parametrize("name", list_constructors())
def test_the_graph_is_that_of_the_double_loop(name):
    directed = check_graph(name, GRID, images=2)
    assert any(directed) == (name in DIRECTED or name == "threshold" and any(directed))


@pytest.mark.parametrize("grid", [(9, 10), (6, 15)])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "hypergraph"))
                                  for name in list_constructors() if name not in ("full", "none", "lrgc")])
def test_the_graph_is_that_of_the_double_loop_on_larger_grids(name, grid):
    check_graph(name, grid, images=1)


@pytest.mark.parametrize("name", ["window_knn", "random", *OF_PLACES])
def test_the_graph_is_that_of_the_double_loop_at_224_pixels(name):
    check_graph(name, (14, 14), images=1)


@pytest.mark.parametrize("name", list_constructors())
def test_messages_and_their_gradients_are_those_of_the_double_loop(name):
    x = features(1, NODES, DIM).requires_grad_()
    module = made(name)[1]
    learnt = name in ("lrgc", "adaptive")
    graph, expected = module(x, GRID), EXPECTED[name](x[0] if learnt else x[0].detach(), GRID, 1, module)
    assert graph.adj().requires_grad == any(True for _ in module.parameters())  # only a learnt graph has a gradient
    if name == "hypergraph":
        message = places.hypergraph_message(x[0], expected.adj) - x[0]
    elif name == "group_knn":
        edges = [[row.nonzero()[:, 0].tolist() for row in group] for group in expected.adj]
        message = gkgnet.group_max_relative(x[0], x[0], edges)
    else:
        message = oracle.max_relative(x[0], x[0], expected.adj)
    ours = max_relative(x, graph)[0]
    if name == "none":  # x_i − x_i: neither a message nor a gradient
        assert not ours.any() and not torch.autograd.grad(ours.sum(), x)[0].any()
    else:
        assert_same(ours, message, [x, *module.parameters()])


@pytest.mark.parametrize("name", list_constructors())
def test_a_message_changes_with_its_sources_alone(name):
    # what a transposed adjacency would get wrong: row i are the sources of target i
    x = features(1, NODES, DIM)
    module = made(name)[1]
    graph = module(x, GRID)

    def messages(moved: Tensor) -> Tensor:
        if name == "hypergraph":  # its messages are made with the graph, whose hyperedges stay
            with mock.patch.object(module, "members", lambda _: graph.member):
                return max_relative(moved, module(moved, GRID))
        return max_relative(moved, graph)

    moved = torch.autograd.functional.jacobian(messages, x)[0, :, :, 0].abs().amax((1, 3))  # (N, N): target, source
    allowed = graph.union().adj()[0] != 0
    allowed.fill_diagonal_(True)
    assert not (moved > 0)[~allowed].any()


@pytest.mark.parametrize("name", list_constructors())
def test_an_image_does_not_depend_on_its_batch(name):
    x, module = features(3, NODES, DIM), made(name)[1]
    together = edges_of(module(x, GRID))
    for b in range(3):
        torch.testing.assert_close(edges_of(module(x[b:b + 1], GRID))[0], together[b])


@pytest.mark.parametrize("name", list_constructors())
def test_bfloat16_nodes_are_compared_in_float32(name):
    x = features(1, NODES, DIM).bfloat16()
    module = made(name)[1].float()
    with torch.autocast("cpu", torch.bfloat16):
        graph = module(x, GRID)
    assert torch.equal(edges_of(graph), edges_of(module(x.float(), GRID)))


@pytest.mark.parametrize("name", list_constructors())
def test_a_model_of_it_learns_and_its_graph_can_be_looked_at(name):
    model, images = create_model("vig_nano", **CONFIG, graph=name), torch.randn(2, 3, 12, 20)
    logits, graphs = model(images, return_graphs=True)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    for layer in layers_of(model.config, graphs):
        row = layer.row((1, 2))
        assert row.shape[-1] == NODES and layer.spread(row, GRID).shape[-2:] == GRID
        assert int((row if row.ndim == 1 else row.any(0)).count_nonzero()) == layer.graph.degree()[0, 7]
        assert not isinstance(layer.graph, GroupGraph) or name == "group_knn"


@pytest.mark.parametrize("name", ["window_knn", "hypergraph", "random"])
def test_a_printed_model_shows_what_every_block_takes(name):
    """Their numbers follow from the grid by a rule."""
    for block in create_model("vig_nano", **CONFIG, graph=name).blocks:
        constructor = block.grapher.constructor
        found = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)\b", repr(constructor))}
        if name == "window_knn":
            assert all(found[key] == at(getattr(constructor, key), GRID) for key in ("k", "window", "shift"))
        elif name == "hypergraph":
            assert found["hyperedges"] == constructor(features(1, NODES, DIM), GRID).member.shape[2]
        else:
            assert found["k"] == constructor(features(1, NODES, DIM), GRID).index.shape[2]


@pytest.mark.parametrize("name", OF_PLACES)
def test_graphs_of_places_in_a_pyramid_read_from_patches_that_are_not_pooled(name):
    model = create_model("pvig_nano", dim=(8, 16), depth=(1, 2), pool=(2, 1), img_size=(16, 24), patch=2, num_classes=3,
                         graph=name)
    logits, graphs = model(torch.randn(2, 3, 16, 24), return_graphs=True)
    logits.sum().backward()
    assert [(graph.num_targets, graph.num_sources) for graph in graphs] == [(96, 96), (24, 24), (24, 24)]
    assert not any("relative" in key for key, _ in model.named_buffers())  # no N × N table
    assert [layer.pool for layer in layers_of(model.config, graphs)] == [1, 1, 1]


@pytest.mark.parametrize("name", list_constructors())
def test_another_grid_has_the_graph_of_a_model_built_for_it(name):
    model = create_model("vig_nano", **CONFIG, graph=name).eval()
    twin = create_model("vig_nano", **CONFIG | {"img_size": (32, 24)}, graph=name).eval()
    load_released(twin, model.state_dict())
    images = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        for ours, theirs in zip(model(images, return_graphs=True)[1], twin(images, return_graphs=True)[1], strict=True):
            torch.testing.assert_close(edges_of(ours), edges_of(theirs))


def test_a_random_graph_is_drawn_once_and_is_kept_with_the_weights():
    first, second = (create_model("vig_nano", **CONFIG, graph="random") for _ in range(2))
    images = torch.randn(2, 3, 12, 20)

    def graphs(model: nn.Module) -> list[Tensor]:
        return [graph.adj() for graph in model(images, return_graphs=True)[1]]

    assert not torch.equal(graphs(first)[0][0], graphs(second)[0][0])
    assert not torch.equal(graphs(first)[0][0], graphs(first)[1][0])  # each block has its own
    assert torch.equal(graphs(first)[0][0], graphs(first)[0][1])      # all images have the same
    average = moving_average(first, 0.9)
    for _ in range(3):
        average.update_parameters(first)
    state = average.module.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    second.load_state_dict(state)
    assert all(map(torch.equal, graphs(first), graphs(second)))


@pytest.mark.parametrize("name", list_constructors())
def test_training_takes_it(name, tmp_path):
    """Settings are tried on a network without memory, before any data is fetched: no constructor may need values."""
    settings = resolve(parse(["--set", f"graph={name}", "--output", str(tmp_path)]))
    assert settings.build_model().config.graph == name


@pytest.mark.parametrize("name", list_constructors())
def test_nan_features_end_no_run(name):
    # they pass on to the loss, where training reports them
    for nan in (torch.ones(NODES, 1, dtype=torch.bool), torch.arange(NODES)[:, None] == 7):
        for module in made(name):
            module.float()
            graph = module(features(2, NODES, DIM).float().masked_fill(nan, torch.nan), GRID)
            if graph.index is not None:
                assert ((0 <= graph.index) & (graph.index < NODES)).all()
            assert graph.adj().shape[-1] == graph.num_sources
    model = create_model("vig_nano", **CONFIG, graph=name)
    assert model(torch.full((2, 3, *CONFIG["img_size"]), torch.nan)).isnan().all()


@pytest.mark.parametrize("name", list_constructors())
def test_statistics_describe_the_union(name):
    for module in made(name):
        graph = module(features(2, NODES, DIM), GRID)
        statistics = graph.statistics()
        assert 0 <= statistics["density"] <= 1 and 0 <= statistics["self_loops"] <= 1
        assert statistics == graph.union().statistics()
