"""aggregate.py: values and gradients of the four aggregations on directed graphs, and the memory of the maximum."""

import math
from dataclasses import replace

import pytest
import torch

from helpers import assert_same, directed_weights, graph_of_kind, image_by_image, image_of, nodes, random_index
from reference.vig import aggregate_max as max_by_loops
from reference.vig import aggregate_mean as mean_by_loops
from reference.vig import aggregate_sum as sum_by_loops
from reference.vig import max_relative as max_relative_by_loops
from vig_minimal import Graph
from vig_minimal.graphs.aggregate import aggregate_max, aggregate_mean, aggregate_sum, max_relative
from vig_minimal.graphs.fast import search, sparse
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.graphs.plain import plain

BATCH, TARGETS, SOURCES, DIM = 2, 5, 7, 3
KINDS = ["edges", "weights", "index"]
FROM_SOURCES = {"max": (aggregate_max, max_by_loops), "sum": (aggregate_sum, sum_by_loops),
                "mean": (aggregate_mean, mean_by_loops)}


@pytest.fixture(autouse=True, params=["plain", "cpu", "without sparse products", "gpu", "exported", "compiled"])
def as_searched_on(request, monkeypatch):
    """Run every test in plain form, and in every way of the fast search: it takes another one on a CPU, on a CPU whose
    torch has no sparse product with maximum, on a GPU and in an exported or compiled program."""
    if request.param == "without sparse products":
        monkeypatch.setattr(sparse, "IS_THERE", False)
    if request.param == "gpu":
        monkeypatch.setattr(search, "may_branch", lambda x: False)
    if request.param in ("exported", "compiled"):
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    monkeypatch.setattr(search, "is_compiled", lambda: request.param == "compiled")
    with plain(request.param == "plain"):
        yield request.param


def graph_over(graph: Graph, y: torch.Tensor) -> Graph:
    """The same edges, from sources y (B, M, C)."""
    return replace(graph, sources=y)


def differentiable(graph: Graph) -> list[torch.Tensor]:
    """The graph's weights, if they require a gradient."""
    return [graph.weights] if graph.weights is not None and graph.weights.requires_grad else []


@pytest.mark.equation("lrgc", 5)
@pytest.mark.parametrize("kind", KINDS)
def test_max_relative_is_the_loop_over_edges(kind):
    x, y, graph = nodes(BATCH, TARGETS, DIM), nodes(BATCH, SOURCES, DIM), graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    expected = image_by_image(max_relative_by_loops, x, y, graph.adj())
    assert_same(max_relative(x, graph_over(graph, y)), expected, [x, y, *differentiable(graph)])
    with torch.no_grad():
        assert_same(max_relative(x, graph_over(graph, y)), expected)


@pytest.mark.equation("lrgc", 5)
@pytest.mark.parametrize("kind", KINDS)
def test_max_relative_between_the_nodes_themselves(kind):
    x, graph = nodes(BATCH, TARGETS, DIM), graph_of_kind(kind, BATCH, TARGETS, TARGETS)
    expected = image_by_image(max_relative_by_loops, x, x, graph.adj())
    assert_same(max_relative(x, graph), expected, [x, *differentiable(graph)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FROM_SOURCES)
def test_aggregation_is_the_loop_over_edges(name, kind):
    ours, by_loops = FROM_SOURCES[name]
    y, graph = nodes(BATCH, SOURCES, DIM), graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    leaves = differentiable(graph)
    if leaves:  # a weight of 0 is no edge: the oracle has no derivative by it
        graph = Graph(SOURCES, weights=leaves[0] * (leaves[0] != 0))
    expected = image_by_image(by_loops, y, graph.adj())
    assert_same(ours(y, graph), expected, [y, *leaves])
    with torch.no_grad():
        assert_same(ours(y, graph), expected)


def test_maxima_of_messages_that_are_all_negative_are_negative():
    # sources without an edge must not enter the maximum as zeros
    x, y = torch.ones(1, 2, 3), -torch.ones(1, 4, 3)
    weights, index = torch.tensor([[[1.0, 0, 0, 1], [0, 0.5, 0, 0]]]), torch.tensor([[[0, 3], [1, 2]]])
    for graph in (Graph(4, weights=weights + 0.5), Graph(4, weights=weights != 0), Graph(4, index=index)):
        assert torch.all(max_relative(x, graph_over(graph, y)) < 0) and torch.all(aggregate_max(y, graph) < 0)


@pytest.mark.equation("lrgc", 5)
def test_in_a_weighted_graph_a_source_without_an_edge_carries_0():
    x, y = torch.ones(1, 2, 3), -torch.ones(1, 4, 3)
    weights = torch.tensor([[[1.0, 0, 0, 1], [0, 0.5, 0, 0]]]).requires_grad_()
    for m in (max_relative(x, graph_over(Graph(4, weights=weights), y)), aggregate_max(y, Graph(4, weights=weights))):
        assert torch.all(m == 0)
        gradient, = torch.autograd.grad(m.sum(), weights)
        assert torch.all(gradient == 0)  # which of the sources without an edge won says nothing


@pytest.mark.parametrize("weighted", [False, True])
def test_a_target_without_edges_gets_zero_and_gives_no_gradient(weighted):
    x, y = nodes(1, 3, DIM), (20 + torch.randn(1, 4, DIM, dtype=torch.float64)).requires_grad_()
    weights = torch.zeros(1, 3, 4, dtype=torch.float64)
    weights[0, 1, 2] = 1  # target 1 reads from source 2; targets 0 and 2 have no source
    weights = weights.requires_grad_() if weighted else weights.bool()
    graph = Graph(4, weights=weights)
    for m in (max_relative(x, graph_over(graph, y)), *(ours(y, graph) for ours, _ in FROM_SOURCES.values())):
        assert torch.all(m[:, [0, 2]] == 0) and torch.all(m[:, 1] != 0)
        grad_x, grad_y = torch.autograd.grad(m.sum(), [x, y], allow_unused=True)
        assert grad_x is None or torch.all(grad_x[:, [0, 2]] == 0)
        assert torch.all(grad_y[:, [0, 1, 3]] == 0) and torch.all(grad_y[:, 2] != 0)


def test_an_isolated_target_gives_its_weights_no_gradient_from_the_maximum():
    x, weights = nodes(1, 4, DIM), torch.zeros(1, 4, 4, dtype=torch.float64)
    weights[0, 1, 2] = 0.5
    weights.requires_grad_()
    with torch.no_grad():
        x[0, 2] += 20
    grad, = torch.autograd.grad(max_relative(x, Graph(4, weights=weights)).sum(), weights)
    assert grad[0, 1, 2] != 0
    assert torch.count_nonzero(grad) == 1


@pytest.mark.parametrize("name", ["relative", *FROM_SOURCES])
def test_an_index_and_its_dense_adjacency_give_the_same(name):
    x, y = nodes(BATCH, TARGETS, DIM), nodes(BATCH, SOURCES, DIM)
    indexed = Graph(SOURCES, index=random_index(BATCH, TARGETS, SOURCES, k=4))
    boolean = Graph(SOURCES, weights=indexed.adj())
    ones = Graph(SOURCES, weights=indexed.adj().double())  # where weight 0 carries 0 into a maximum
    graphs, wrt = (indexed, boolean, ones), [x, y] if name == "relative" else [y]
    if name == "relative":
        results = [max_relative(x, graph_over(graph, y)) for graph in graphs]
    else:
        results = [FROM_SOURCES[name][0](y, graph) for graph in graphs]
    assert_same(results[0], results[1], wrt)
    assert_same(results[0].relu() if name in ("relative", "max") else results[0], results[2], wrt)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_memory_linear_maximum(kind):
    # Ties are excluded: no two messages come closer than 1e-4, and gradcheck moves them by 1e-6
    x, y, graph = nodes(BATCH, 4, 2), nodes(BATCH, 5, 2), graph_of_kind(kind, BATCH, 4, 5)
    adj = graph.adj()
    messages = (adj[..., None] * (y[:, None] - x[:, :, None])).detach()  # (B, N, M, C)
    for b, i in [(b, i) for b in range(BATCH) for i in range(4)]:
        edges = messages[b, i][adj[b, i] != 0]
        if kind == "weights":  # what a source without an edge carries
            edges = torch.cat([edges, torch.zeros(1, 2)])
        edges = edges.sort(0).values
        assert len(edges) < 2 or edges.diff(dim=0).min() > 1e-4
    if not differentiable(graph):
        assert torch.autograd.gradcheck(lambda x, y: max_relative(x, graph_over(graph, y)), (x, y))
        assert torch.autograd.gradcheck(lambda y: aggregate_max(y, graph), (y,))
        return
    # Moving a weight that is 0 would draw an edge: only the weights of edges are moved
    edge_weights, edge = adj[adj != 0].detach().requires_grad_(), adj != 0

    def weighted(values):
        return Graph(5, weights=torch.zeros_like(adj).masked_scatter(edge, values))

    assert torch.autograd.gradcheck(lambda x, y, w: max_relative(x, graph_over(weighted(w), y)), (x, y, edge_weights))
    assert torch.autograd.gradcheck(lambda y, w: aggregate_max(y, weighted(w)), (y, edge_weights))


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_several_equal_sources_takes_the_whole_gradient(kind):
    x, y = nodes(1, 2, DIM), torch.ones(1, 4, DIM, dtype=torch.float64, requires_grad=True)
    every = torch.ones(1, 2, 4)
    graph = {"edges": Graph(4, weights=every.bool()), "weights": Graph(4, weights=every.double()),
             "index": Graph(4, index=torch.arange(4).expand(1, 2, 4))}[kind]
    grad, = torch.autograd.grad(max_relative(x, graph_over(graph, y)).sum(), y)
    assert grad.tolist() == [[[2.0] * DIM, *3 * [[0.0] * DIM]]]  # the first source, for both targets


def saved_for_backward(function) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass of `function()`."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_for_the_backward_pass_does_not_grow_with_edges_times_channels(kind, as_searched_on):
    if as_searched_on == "plain":
        pytest.skip("the plain form keeps all messages")
    batch, count, dim = 2, 48, 64
    x = torch.randn(batch, count, dim, requires_grad=True)
    graph = graph_of_kind(kind, batch, count, count)
    if kind == "weights":
        graph = Graph(count, weights=graph.weights.float().detach().requires_grad_())
    plain = saved_for_backward(lambda: (graph.adj()[..., None] * (x[:, None] - x[:, :, None])).amax(2))
    assert plain > 4 * batch * count * count * dim  # the count sees the plain form's (B, N, M, C) tensors
    kept = saved_for_backward(lambda: max_relative(x, graph))
    node_tensor, adjacency = 4 * batch * count * dim, 4 * batch * count * count
    assert kept <= 4 * node_tensor + 2 * adjacency
    assert saved_for_backward(lambda: aggregate_max(x, graph)) <= 4 * node_tensor + 2 * adjacency


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", [1, 50, 333])
def test_the_search_gives_the_same_whatever_its_block_size(kind, elements, monkeypatch):
    x, y, graph = nodes(BATCH, TARGETS, DIM), nodes(BATCH, SOURCES, DIM), graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    wrt = [x, y, *differentiable(graph)]
    monkeypatch.setattr(search, "BLOCK_ELEMENTS", {"cpu": 10**9})
    whole = max_relative(x, graph_over(graph, y))
    with torch.no_grad():
        whole_searched = max_relative(x, graph_over(graph, y))
    monkeypatch.setattr(search, "BLOCK_ELEMENTS", {"cpu": elements})
    assert_same(max_relative(x, graph_over(graph, y)), whole, wrt, rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(max_relative(x, graph_over(graph, y)), whole_searched)


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_call_does_not_touch_an_earlier_result(kind):
    # the search reuses its memory from call to call, also between inference mode and training
    x, graph = nodes(BATCH, TARGETS, DIM), graph_of_kind(kind, BATCH, TARGETS, TARGETS)
    with torch.inference_mode():
        evaluated = max_relative(x, graph)
    trained = max_relative(x, graph)
    before = evaluated.clone(), trained.detach().clone()
    max_relative(2 * x, graph), aggregate_max(2 * x, graph)
    assert torch.equal(evaluated, before[0]) and torch.equal(trained.detach(), before[1])
    torch.testing.assert_close(evaluated, trained.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_and_weights_may_lie_in_memory_in_any_order(kind):
    x, y, graph = nodes(BATCH, TARGETS, DIM), nodes(BATCH, SOURCES, DIM), graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    strided_x, strided_y = x.mT.contiguous().mT, y.mT.contiguous().mT
    if kind == "index":
        strided = Graph(SOURCES, index=graph.index.mT.contiguous().mT)
    else:
        strided = Graph(SOURCES, weights=graph.weights.mT.contiguous().mT)
    assert not strided_x.is_contiguous() and not strided.adj().is_contiguous() or kind == "index"
    strided, graph = graph_over(strided, strided_y), graph_over(graph, y)
    assert_same(max_relative(strided_x, strided), max_relative(x, graph), [x, y, *differentiable(graph)])
    with torch.no_grad():
        assert_same(max_relative(strided_x, strided), max_relative(x, graph))


@pytest.mark.parametrize("kind", KINDS)
def test_renumbering_targets_and_sources_renumbers_the_result(kind):
    x, y, graph = nodes(BATCH, TARGETS, DIM), nodes(BATCH, SOURCES, DIM), graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    to, of = torch.randperm(TARGETS), torch.randperm(SOURCES)
    renumbered = Graph(SOURCES, weights=graph.adj()[:, to][:, :, of])
    assert_same(max_relative(x[:, to], graph_over(renumbered, y[:, of])), max_relative(x, graph_over(graph, y))[:, to])
    for ours, _ in FROM_SOURCES.values():
        assert_same(ours(y[:, of], renumbered), ours(y, graph)[:, to])


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(kind):
    x, y, graph = nodes(BATCH, TARGETS, DIM), nodes(BATCH, SOURCES, DIM), graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    together = max_relative(x, graph_over(graph, y))
    for b in range(BATCH):
        assert_same(max_relative(x[b:b + 1], graph_over(image_of(graph, b), y[b:b + 1]))[0], together[b])
    # and the gradient of the other images is exactly zero
    grad_x, grad_y = torch.autograd.grad(together[0].sum(), [x, y])
    assert torch.all(grad_x[1:] == 0) and torch.all(grad_y[1:] == 0)


@pytest.mark.equation("lrgc", 5)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("kind", KINDS)
def test_lower_precisions_are_close_to_float64(kind, dtype, tolerance):
    graph = graph_of_kind(kind, BATCH, TARGETS, SOURCES)
    if kind == "weights":
        graph = Graph(SOURCES, weights=graph.weights.detach().float())
    x, y = (nodes(BATCH, n, DIM).detach().to(dtype).requires_grad_() for n in (TARGETS, SOURCES))
    adj = graph.adj().double() if kind == "weights" else graph.adj()
    expected = image_by_image(max_relative_by_loops, x.double(), y.double(), adj)
    assert torch.isfinite(expected).all()
    trained = max_relative(x, graph_over(graph, y))
    with torch.no_grad():
        evaluated = max_relative(x, graph_over(graph, y))
    for m in (trained, evaluated):
        torch.testing.assert_close(m.double(), expected, rtol=tolerance, atol=tolerance)
    grads = torch.autograd.grad(trained.sum(), [x, y])
    for ours, theirs in zip(grads, torch.autograd.grad(expected.sum(), [x, y]), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=2 * tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_many_sources_in_bfloat16_still_find_the_largest(kind):
    # bfloat16 counts exactly only up to 256
    x, y = torch.zeros(1, 3, 4, dtype=torch.bfloat16), torch.randn(1, 600, 4).bfloat16().requires_grad_()
    if kind == "index":
        graph = Graph(600, index=random_index(1, 3, 600, k=599))
    else:
        edge = torch.rand(1, 3, 600) < 0.99
        graph = Graph(600, weights=edge if kind == "edges" else edge.float())
    trained = max_relative(x, graph_over(graph, y))
    with torch.no_grad():
        torch.testing.assert_close(trained, max_relative(x, graph_over(graph, y)).to(trained.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("count", [200, 256, 257, 40_000])
def test_the_gradient_finds_its_source_among_many(count):
    # the winners are kept in the fewest bytes that can number the sources
    x, y = nodes(1, 1, 2), nodes(1, count, 2)
    winner = torch.tensor([count - 1, count - 2])
    with torch.no_grad():
        y[0, winner, torch.arange(2)] = 100.0
    graph = Graph(count, weights=torch.ones(1, 1, count, dtype=torch.bool))
    grad, = torch.autograd.grad(max_relative(x, graph_over(graph, y)).sum(), y)
    assert torch.equal(grad[0].argmax(0), winner) and grad.sum() == 2


def test_weights_may_be_float32_beside_bfloat16_nodes_under_autocast():
    weights = directed_weights(BATCH, TARGETS, TARGETS).detach().float().requires_grad_()
    layer = torch.nn.Linear(DIM, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = layer(torch.randn(BATCH, TARGETS, DIM))
        assert x.dtype == torch.bfloat16
        m = max_relative(x, Graph(TARGETS, weights=weights))
    m.float().square().sum().backward()
    assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.abs().max() > 0
    assert weights.grad.dtype == torch.float32 and weights.grad.abs().max() > 0


def read(kind: str, sources: list[float], edges: list[list[float]], targets: list[float]) -> list[list[float]]:
    """max_relative and aggregate_max of nodes with one number each: by evaluation and by training."""
    y, x = torch.tensor(sources)[None, :, None], torch.tensor(targets)[None, :, None]
    weights = torch.tensor(edges)[None]
    if kind == "index":
        graph = Graph(len(sources), index=(weights[0] != 0).nonzero()[:, 1].view(1, len(targets), -1))
    else:
        graph = Graph(len(sources), weights=weights != 0 if kind == "edges" else weights.double())
    results = [max_relative(x, graph_over(graph, y)), aggregate_max(y, graph)]
    x, y = x.requires_grad_(), y.requires_grad_()
    for trained in (max_relative(x, graph_over(graph, y)), aggregate_max(y, graph)):
        results.append(trained.detach())
        grad, = torch.autograd.grad(trained.sum(), y)
        assert torch.all(grad[0, (weights[0] == 0).all(0)] == 0)  # no gradient without an edge
    return [result.flatten().tolist() for result in results]


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_at_an_edge_is_the_maximum_with_and_without_gradient(kind):
    for numbers in ([1, math.nan, 2], [math.nan, 1, 2], [math.inf, math.nan, -math.inf], [1, 2, math.nan]):
        for result in read(kind, numbers, [[1, 1, 1]], [0.5]):
            assert math.isnan(result[0])
    for result in read(kind, [1, math.nan, 2], [[0, 1, 1]], [0.5]):
        assert math.isnan(result[0])  # and not 1, which has no edge


@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_source_without_an_edge_is_never_read_whatever_it_holds(kind, other):
    for numbers, edges in (([other, -7.0, 3.0, 2.0], [[0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]),
                           ([-7.0, 3.0, 2.0, other], [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]])):
        for result, expected in zip(read(kind, numbers, edges, [0.5, 0.5, 0.5]), ([2.5, 1.5, 2.5], [3, 2, 3]) * 2):
            assert result == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_minus_infinity_is_not_the_absence_of_an_edge(kind):
    for result in read(kind, [-math.inf, 1.0, 2.0], [[1, 0, 0]], [0.5]):
        assert result == [0.0 if kind == "weights" else -math.inf]  # weight 0 carries 0
    for result in read(kind, [-math.inf] * 3, [[1, 1, 1]], [0.5]):
        assert result == [-math.inf]


@pytest.mark.parametrize("nodes_dtype, weights_dtype", [
    (torch.bfloat16, None), (torch.float16, torch.float16), (torch.bfloat16, torch.float32),
    (torch.float32, torch.float64), (torch.bfloat16, torch.bool), (torch.float64, torch.float32),
])
def test_the_maximum_has_one_dtype_and_one_value_with_and_without_gradient(nodes_dtype, weights_dtype):
    x = torch.randn(BATCH, TARGETS, DIM, dtype=torch.float64).to(nodes_dtype)
    if weights_dtype is None:
        graph = Graph(TARGETS, index=random_index(BATCH, TARGETS, TARGETS, k=3))
        expected = nodes_dtype
    else:
        graph = Graph(TARGETS, weights=directed_weights(BATCH, TARGETS, TARGETS).detach().to(weights_dtype))
        expected = nodes_dtype if weights_dtype == torch.bool else torch.promote_types(nodes_dtype, weights_dtype)
    evaluated = max_relative(x, graph)
    trained = max_relative(x.requires_grad_(), graph)
    assert evaluated.dtype == trained.dtype == expected and torch.equal(evaluated, trained)
    assert aggregate_max(x, graph).dtype == aggregate_max(x.detach(), graph).dtype == expected


@pytest.mark.parametrize("groups", [None, 2])
def test_a_mean_in_float16_does_not_overflow_where_the_sum_would(groups):
    index = torch.arange(4000).expand(1, 1, 4000)
    graph = Graph(4000, index=index) if groups is None else GroupGraph(4000, index=index.expand(1, groups, 1, 4000))
    mean = aggregate_mean(torch.full((1, 4000, 4), 20.0).half(), graph)
    torch.testing.assert_close(mean, torch.full((1, 1, 4), 20.0).half(), rtol=2e-3, atol=0)


def test_a_directed_graph_is_not_read_backwards():
    # Source 1 is target 0's only source, and target 1 has none: a transposed reading would swap them
    edge = torch.zeros(1, 2, 2, dtype=torch.bool)
    edge[0, 0, 1] = True
    x = torch.tensor([[[1.0], [5.0]]])
    assert max_relative(x, Graph(2, weights=edge)).flatten().tolist() == [4.0, 0.0]
    for ours, _ in FROM_SOURCES.values():
        assert ours(x, Graph(2, weights=edge)).flatten().tolist() == [5.0, 0.0]


def test_images_without_any_edge_train():
    x = torch.randn(2, 5, 3, requires_grad=True)
    m = max_relative(x, Graph(5, weights=torch.zeros(2, 5, 5, dtype=torch.bool)))
    m.sum().backward()
    assert not m.any() and not x.grad.any()


def test_the_gradient_finds_its_source_among_any_number_of_sources():
    """Winners are kept in 1, 2 or 4 bytes: around 256 and 32,768 sources the number of bytes changes."""
    for num_sources in (256, 257, 2**15, 2**15 + 1, 40_000):
        chosen = [0, 1, 254, 255, *(j for j in (256, 2**15 - 1, 2**15, num_sources - 1) if j < num_sources)]
        y = torch.randn(1, num_sources, 2, dtype=torch.float64, requires_grad=True)
        graph = Graph(num_sources, index=torch.tensor(chosen)[None, :, None])
        gradient, = torch.autograd.grad(aggregate_max(y, graph).sum(), y)
        assert gradient[0, :, 0].nonzero().flatten().tolist() == sorted(set(chosen))
