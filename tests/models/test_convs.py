"""convs.py: the four graph convolutions of ClusterViG's Table I against loops over edges, in evaluation mode."""

from dataclasses import replace

import pytest
import torch

from helpers import (
    as_nodes,
    assert_same,
    dense_of,
    directed_edges,
    graph_of_kind,
    image_by_image,
    image_of,
    nodes,
    permuted,
    random_index,
    randomise,
)
from reference import vig as reference
from vig_minimal import Graph
from vig_minimal.models.convs import CONVS, GIN, EdgeConv, GraphSAGE, MRConv, interleave

BATCH, GRID, SOURCES, DIM, OUT = 2, (2, 3), 5, 8, 12
NODES = GRID[0] * GRID[1]
KINDS = ["edges", "weights", "index"]


def edge_conv_by_loops(conv):
    update = dense_of(conv.update)
    return lambda x, y, adj: reference.edge_conv(x, y, adj, update)


def mrgcn_by_loops(conv):
    update = dense_of(conv.update)
    return lambda x, y, adj: reference.mrgcn(x, y, adj, update)


def graph_sage_by_loops(conv):
    inner, outer = dense_of(conv.neighbour), dense_of(conv.update)
    return lambda x, y, adj: reference.graph_sage(x, y, adj, inner, outer)


def gin_by_loops(conv):
    update = dense_of(conv.update)
    return lambda x, y, adj: reference.gin(x, y, adj, conv.eps, update)


def image_and_graph(kind: str, num_sources: int) -> tuple[torch.Tensor, Graph, list[torch.Tensor]]:
    """An image, a graph over its nodes, and the graph's weights, if any; a weight of 0 is no edge, without gradient."""
    image, graph = nodes(BATCH, DIM, *GRID), graph_of_kind(kind, BATCH, NODES, num_sources)
    if kind != "weights":
        return image, graph, []
    leaf = graph.weights
    return image, Graph(num_sources, weights=leaf * (leaf != 0)), [leaf]


def compare(build, oracle, kind: str, from_others: bool, groups: int) -> None:
    """Values and gradients, with respect to features, weights and every parameter, of a convolution and its oracle."""
    conv = randomise(build(DIM, OUT, groups))
    image, graph, leaves = image_and_graph(kind, SOURCES if from_others else NODES)
    sources = nodes(BATCH, SOURCES, DIM) if from_others else None
    actual = conv(image, replace(graph, sources=sources))
    assert actual.shape == (BATCH, OUT, *GRID)
    x = as_nodes(image)
    expected = image_by_image(oracle(conv), x, x if sources is None else sources, graph.adj())
    others = [sources] if from_others else []
    assert_same(as_nodes(actual), expected, [image, *others, *leaves, *conv.parameters()])


CASES = pytest.mark.parametrize("kind, from_others, groups", [
    ("edges", False, 4), ("weights", False, 4), ("index", False, 4),
    ("edges", True, 4), ("weights", True, 2), ("index", True, 1),
])


@pytest.mark.equation("clustervig", "Table I: EdgeConv")
@CASES
def test_edge_conv(kind, from_others, groups):
    compare(EdgeConv, edge_conv_by_loops, kind, from_others, groups)


@pytest.mark.equation("clustervig", "Table I: MRGCN")
@CASES
def test_mr_conv(kind, from_others, groups):
    compare(MRConv, mrgcn_by_loops, kind, from_others, groups)


@pytest.mark.equation("clustervig", "Table I: GraphSAGE")
@CASES
def test_graph_sage(kind, from_others, groups):
    compare(GraphSAGE, graph_sage_by_loops, kind, from_others, groups)


@pytest.mark.equation("clustervig", "Table I: GIN")
@CASES
def test_gin(kind, from_others, groups):
    compare(GIN, gin_by_loops, kind, from_others, groups)


def test_the_four_convolutions_have_4_heads_by_default():
    assert CONVS == {"mr": MRConv, "edge": EdgeConv, "sage": GraphSAGE, "gin": GIN}
    for build in CONVS.values():
        assert build(DIM, OUT).update[0].groups == 4


def test_gin_starts_at_epsilon_zero():
    assert GIN(DIM, OUT).eps.item() == 0


def test_interleaving_puts_each_channel_beside_its_aggregate():
    x, m = torch.arange(4), torch.arange(10, 14)
    assert interleave(x, m).tolist() == [0, 10, 1, 11, 2, 12, 3, 13]
    features = torch.randn(2, 3, 5)
    assert interleave(features, -features).shape == (2, 3, 10)


@pytest.mark.parametrize("name", ["mr", "edge", "sage"])
def test_each_head_sees_its_own_slice_of_node_and_aggregate(name):
    # Head h of 4 makes outputs 3h, 3h+1, 3h+2 from channels 2h and 2h+1 of x and of the aggregate, and from no others
    conv = randomise(CONVS[name](DIM, OUT))
    image, graph = nodes(1, DIM, *GRID), graph_of_kind("edges", 1, NODES, SOURCES)
    sources = nodes(1, SOURCES, DIM)
    out = conv(image, replace(graph, sources=sources))[0]
    for head in range(4):
        outputs = out[3 * head:3 * head + 3, 0, 1].sum()
        by_image, by_sources = torch.autograd.grad(outputs, [image, sources], retain_graph=True)
        seen = by_image[0, :, 0, 1] != 0
        assert seen.tolist() == [channel // 2 == head for channel in range(DIM)]
        seen = (by_sources[0] != 0).any(0)
        assert seen.tolist() == [channel // 2 == head for channel in range(DIM)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVS)
def test_renumbering_the_nodes_renumbers_the_result(name, kind):
    conv = randomise(CONVS[name](DIM, OUT))
    image, graph, _ = image_and_graph(kind, NODES)
    order = torch.randperm(NODES)
    moved = image.flatten(2)[:, :, order].unflatten(2, GRID)
    expected = conv(image, graph).flatten(2)[:, :, order].unflatten(2, GRID)
    assert_same(conv(moved, Graph(NODES, weights=permuted(graph, order))), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVS)
def test_an_image_does_not_depend_on_its_batch(name, kind):
    conv = randomise(CONVS[name](DIM, OUT))
    image, graph, _ = image_and_graph(kind, NODES)
    together = conv(image, graph)
    for b in range(BATCH):
        assert_same(conv(image[b:b + 1], image_of(graph, b))[0], together[b])
    gradient, = torch.autograd.grad(together[0].sum(), image)
    assert torch.all(gradient[1:] == 0) and torch.any(gradient[0] != 0)


@pytest.mark.parametrize("name", CONVS)
def test_an_index_and_its_dense_adjacency_give_the_same(name):
    conv = randomise(CONVS[name](DIM, OUT))
    image, indexed = nodes(BATCH, DIM, *GRID), Graph(NODES, index=random_index(BATCH, NODES, NODES, k=3))
    dense = Graph(NODES, weights=indexed.adj())
    assert_same(conv(image, indexed), conv(image, dense), [image, *conv.parameters()])


@pytest.mark.parametrize("name", ["mr", "sage", "gin"])
def test_a_node_without_edges_is_updated_from_itself(name):
    # Target 0 has no edge: it sees its own features and a message of 0, whatever the others are
    conv = randomise(CONVS[name](DIM, OUT))
    image, graph, _ = image_and_graph("weights", NODES)
    gradient, = torch.autograd.grad(conv(image, graph)[0, :, 0, 0].sum(), image)
    assert torch.any(gradient[0, :, 0, 0] != 0)
    assert torch.count_nonzero(gradient) == torch.count_nonzero(gradient[0, :, 0, 0])


def test_edge_conv_of_a_node_without_edges_is_zero():
    # EdgeConv takes the maximum outside the MLP: without an edge there is nothing to take it of
    conv = randomise(EdgeConv(DIM, OUT))
    image, graph, _ = image_and_graph("edges", NODES)
    out = conv(image, graph)
    assert torch.all(out[:, :, 0, 0] == 0) and torch.all(out[:, :, 0, 1] != 0)
    gradient, = torch.autograd.grad(out[0, :, 0, 0].sum(), image)
    assert torch.all(gradient == 0)


def test_edge_conv_of_a_graph_without_any_edge_is_zero():
    conv = randomise(EdgeConv(DIM, OUT))
    out = conv(nodes(1, DIM, *GRID), Graph(NODES, weights=torch.zeros(1, NODES, NODES, dtype=torch.bool)))
    assert out.shape == (1, OUT, *GRID) and torch.all(out == 0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("edges", [0, 1])
def test_edge_conv_trains_on_no_edge_and_on_one(edges, weighted):
    # processes wait for each other's gradient of every parameter, and batch norm needs two edges
    conv, image = randomise(EdgeConv(DIM, OUT)).train(), nodes(1, DIM, *GRID)
    statistics = [buffer.clone() for buffer in conv.buffers()]
    weights = torch.zeros(1, NODES, NODES, dtype=torch.float64 if weighted else torch.bool)
    weights[0, 2, :edges] = 1
    weights = weights.requires_grad_(weighted)
    out = conv(image, Graph(NODES, weights=weights))
    assert torch.count_nonzero(out.flatten(2).any(1)) == edges  # targets with a message
    inputs = [image, *conv.parameters(), *([weights] if weighted else [])]
    gradients = torch.autograd.grad(out.square().sum(), inputs)  # an error if one is in no equation
    assert any((gradient != 0).any() for gradient in gradients) == (edges == 1)
    assert all(map(torch.equal, conv.buffers(), statistics))  # edges that are not there leave no trace
    if weighted:
        assert (gradients[-1][weights == 0] == 0).all()


def test_batch_norm_of_edge_conv_counts_edges_and_of_graph_sage_nodes():
    image = nodes(BATCH, DIM, *GRID)
    x, adj = as_nodes(image).detach(), directed_edges(BATCH, NODES, NODES)
    graph = Graph(NODES, weights=adj)
    edge, sage = EdgeConv(DIM, OUT).double(), GraphSAGE(DIM, OUT).double()
    for layer in (edge.update[1], sage.neighbour[1]):
        layer.momentum = 1.0  # the running mean is then the last batch's own
    edge(image, graph), sage(image, graph)
    per_edge = [reference.interleave(x[b, i], x[b, j] - x[b, i]) for b, i, j in adj.nonzero().tolist()]
    weights = dense_of(edge.update)
    before_norm = [reference.linear(pair, weights.weight, weights.bias, weights.groups) for pair in per_edge]
    torch.testing.assert_close(edge.update[1].running_mean, torch.stack(before_norm).mean(0).detach())
    weights = dense_of(sage.neighbour)
    before_norm = [reference.linear(node, weights.weight, weights.bias, weights.groups) for node in x.flatten(0, 1)]
    torch.testing.assert_close(sage.neighbour[1].running_mean, torch.stack(before_norm).mean(0).detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVS)
def test_autocast_trains_close_to_float32(name, kind):
    conv = randomise(CONVS[name](DIM, OUT)).float()
    image, graph, _ = image_and_graph(kind, NODES)
    image = image.detach().float()
    if kind == "weights":
        graph = Graph(NODES, weights=graph.weights.detach().float())
    expected = conv(image, graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(image, graph)
    scale = expected.abs().max().item()
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.05 * scale)
    out.float().square().sum().backward()
    for parameter in conv.parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0
