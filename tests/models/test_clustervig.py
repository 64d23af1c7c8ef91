"""clustervig.py: Eqs. 1 to 6, Table II (convolutions with a global feature), Algorithms 1 and 2 against loops."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from helpers import TINY, as_nodes, assert_same, dense_of, image_by_image, nodes, on_meta, random_index, randomise
from reference import clustervig as oracles
from reference import vig as reference
from vig_minimal import Graph, create_model, list_constructors
from vig_minimal.constructors import ClusterKNN, cluster_knn
from vig_minimal.constructors.schedules import at
from vig_minimal.graphs.gatv2 import GATv2
from vig_minimal.graphs.plain import plain
from vig_minimal.models.clustervig import DEGC, ClusterGraph, ClusterViG, ClusterViGConfig, Grapher
from vig_minimal.models.convs import CONVS
from vig_minimal.models.cost import count_macs, count_parameters, saved_bytes

BATCH, GRID, DIM, OUT = 2, (3, 4), 4, 8
NODES, CLUSTERS, K = GRID[0] * GRID[1], 3, 3
UNEVEN = [[0, 1, 1, 0, 2, 1, 1, 1, 0, 1, 1, 1], [2, 2, 1, 2, 0, 2, 1, 2, 2, 1, 0, 2]]  # 3, 8, 1 and 2, 3, 7 nodes
SIZES = {"img_size": 16, "patch": 4, "clusters": 3, "k": 3}


def neighbours(graph: Graph, b: int = 0) -> list[list[int]]:
    """Image b's graph as the oracles take it: of every target the list of its sources."""
    return [row.nonzero().flatten().tolist() for row in graph.adj()[b]]


def attention_of(gat: GATv2) -> oracles.Attention:
    """The oracle's view of a GATv2 of one head."""
    return oracles.Attention(gat.lin_l.weight, gat.lin_l.bias, gat.lin_r.weight, gat.lin_r.bias, gat.att.flatten(),
                             gat.bias)


def local_update_of(conv: nn.Module, name: str):
    """The row of Table II that a global convolution is, as Algorithms 1 and 2 take it."""
    layer = dense_of(conv.update)
    if name == "mr":
        return lambda x, z, labels, near: oracles.g_mrgcn(x, z, labels, near, layer)
    if name == "edge":
        return lambda x, z, labels, near: oracles.g_edge_conv(x, z, labels, near, layer)
    if name == "sage":
        inner = dense_of(conv.neighbour)
        return lambda x, z, labels, near: oracles.g_graph_sage(x, z, labels, near, inner, layer)
    return lambda x, z, labels, near: oracles.g_gin(x, z, labels, near, conv.eps[0], conv.delta[0], layer)


def random_degc(conv: str = "mr", labels: list[list[int]] | None = None, groups: int = 1) -> DEGC:
    """A DEGC with every number drawn at random, which finds its partitions or is given them."""
    degc = randomise(DEGC(DIM, OUT, ClusterKNN(K, CLUSTERS), conv, groups))
    if labels is not None:
        degc.constructor.partition = lambda x: torch.tensor(labels)[:len(x)]
    return degc


# ------------------------------------------------------------------------------------- Table I by Eq. 1, and Table II


@pytest.mark.equation("clustervig", 1)
@pytest.mark.parametrize("name", CONVS)
def test_the_four_convolutions_of_table_1_are_message_passing(name):
    conv = randomise(CONVS[name](DIM, OUT, 2))
    image, graph = nodes(1, DIM, *GRID), Graph(NODES, index=random_index(1, NODES, NODES, k=3))
    inner = [dense_of(conv.neighbour)] if name == "sage" else [conv.eps[0]] if name == "gin" else []
    phi, aggregate, psi = oracles.TABLE_1[name](*inner, dense_of(conv.update))
    expected = oracles.message_passing(as_nodes(image)[0], neighbours(graph), phi, aggregate, psi)
    assert_same(as_nodes(conv(image, graph))[0], expected, [image, *conv.parameters()])


def compare_table_2(name: str, groups: int, as_eq_4: bool = False) -> None:
    """A global convolution on a directed graph, against its row of Table II or against Eq. 4."""
    conv = randomise(CONVS[name](DIM, OUT, groups, global_feature=True))
    image, z = nodes(1, DIM, *GRID), nodes(1, CLUSTERS, DIM)
    graph, labels = Graph(NODES, index=random_index(1, NODES, NODES, k=3)), UNEVEN[0]
    actual = conv(image, graph, z=z[:, labels])
    x, near = as_nodes(image)[0], neighbours(graph)
    if as_eq_4:
        layer = dense_of(conv.update)
        phi, aggregate, psi = {
            "mr": (lambda v, u, z: u - v, oracles.maximum,
                   lambda v, z, m: reference.mlp(oracles.interleave(v, m, z), layer)),
            "edge": (lambda v, u, z: reference.mlp(oracles.interleave(v, u - v, z), layer), oracles.maximum,
                     lambda v, z, m: m),
            "sage": (lambda v, u, z: reference.mlp(u, dense_of(conv.neighbour)), oracles.maximum,
                     lambda v, z, m: reference.mlp(oracles.interleave(v, m, z), layer)),
            "gin": (lambda v, u, z: u, oracles.total,
                    lambda v, z, m: reference.mlp((1 + conv.eps[0]) * v + m + (1 + conv.delta[0]) * z, layer)),
        }[name]
        expected = oracles.global_message_passing(x, z[0], labels, near, phi, aggregate, psi)
    else:
        expected = local_update_of(conv, name)(x, z[0], labels, near)
    assert actual.shape == (1, OUT, *GRID)
    assert_same(as_nodes(actual)[0], expected, [image, z, *conv.parameters()])


GROUPS = pytest.mark.parametrize("groups", [1, 2, 4])


@pytest.mark.equation("clustervig", "Table II: G-EdgeConv")
@GROUPS
def test_global_edge_conv(groups):
    compare_table_2("edge", groups)


@pytest.mark.equation("clustervig", "Table II: G-MRGCN")
@GROUPS
def test_global_mr_conv(groups):
    compare_table_2("mr", groups)


@pytest.mark.equation("clustervig", "Table II: G-GraphSAGE")
@GROUPS
def test_global_graph_sage(groups):
    compare_table_2("sage", groups)


@pytest.mark.equation("clustervig", "Table II: G-GIN")
@GROUPS
def test_global_gin(groups):
    compare_table_2("gin", groups)


@pytest.mark.equation("clustervig", 4)
@pytest.mark.parametrize("name", CONVS)
def test_the_four_convolutions_of_table_2_are_global_message_passing(name):
    compare_table_2(name, groups=1, as_eq_4=True)


@pytest.mark.parametrize("name", ["mr", "edge", "sage"])
def test_each_group_sees_its_own_slice_of_node_aggregate_and_global_feature(name):
    # Group h of 4 makes outputs 2h and 2h+1 from channel h of x, of the aggregate and of z', and from no others
    conv = randomise(CONVS[name](DIM, OUT, 4, global_feature=True))
    image, z = nodes(1, DIM, *GRID), nodes(1, NODES, DIM)
    others = torch.tensor([[(v + 1) % NODES, (v + 5) % NODES] for v in range(NODES)])  # no node reads from itself
    out = conv(image, Graph(NODES, index=others[None]), z=z)[0].flatten(1)
    for group in range(4):
        by_image, by_z = torch.autograd.grad(out[2 * group:2 * group + 2, 0].sum(), [image, z], retain_graph=True)
        by_node = by_image[0].flatten(1)
        for seen in (by_node[:, 0], by_node[:, [1, 5]].abs().amax(1), by_z[0, 0]):
            assert (seen != 0).tolist() == [channel == group for channel in range(DIM)]


def test_epsilon_and_delta_of_global_gin_are_learnt_and_start_at_0():
    conv = CONVS["gin"](DIM, OUT, global_feature=True)
    assert conv.eps.item() == 0 and conv.delta.item() == 0
    assert {"eps", "delta"} <= {name for name, _ in conv.named_parameters()}
    assert "delta" not in CONVS["gin"](DIM, OUT).state_dict()  # ViG's own GIN has no global feature


# --------------------------------------------------------------------------------------------- global update: Eqs. 2, 3


@pytest.mark.equation("clustervig", 3)
def test_attention_between_centroids():
    gat, z = randomise(GATv2(DIM, OUT)), nodes(1, CLUSTERS, DIM)
    alpha = gat(z, return_attention=True)[1][0, :, :, 0]  # [target, source]
    expected = oracles.attention_scores(z[0], attention_of(gat))  # [source][target]
    expected = torch.stack([torch.stack([expected[j][i] for j in range(CLUSTERS)]) for i in range(CLUSTERS)])
    assert not torch.allclose(expected, expected.T), "this attention cannot tell a source from a target"
    inputs = [gat.lin_l.weight, gat.lin_r.weight, gat.lin_l.bias, gat.lin_r.bias, gat.att, z]
    assert_same(alpha, expected, inputs)


@pytest.mark.equation("clustervig", 2)
def test_global_update_of_the_centroids():
    gat, z = randomise(GATv2(DIM, OUT)), nodes(BATCH, CLUSTERS, DIM)
    expected = image_by_image(lambda one: oracles.global_update(one, attention_of(gat)), z)
    assert_same(gat(z), expected, [z, *gat.parameters()])


# ----------------------------------------------------------------------------------------------- Algorithms 1 and 2


@pytest.mark.equation("clustervig", "Algorithm 1")
@pytest.mark.parametrize("conv", CONVS)
def test_degc_is_algorithm_1_on_the_partitions_it_finds(conv):
    degc, image = random_degc(conv), nodes(BATCH, DIM, *GRID)
    out, graph = degc(image)
    update, gat = local_update_of(degc.conv, conv), attention_of(degc.attention)
    expected = torch.stack([oracles.degc(x, labels.tolist(), CLUSTERS, K, gat, update)
                            for x, labels in zip(as_nodes(image), graph.labels)])
    assert_same(as_nodes(out), expected, [image, *degc.parameters()])


@pytest.mark.equation("clustervig", "Algorithm 1")
def test_graph_of_degc_connects_the_nearest_inside_each_partition():
    degc, image = random_degc(labels=UNEVEN), nodes(BATCH, DIM, *GRID)
    graph = degc(image)[1]
    for b, labels in enumerate(UNEVEN):
        assert graph.labels[b].tolist() == labels
        near = {}
        for i in range(CLUSTERS):
            near |= oracles.nearest_in(as_nodes(image)[b], [v for v in range(NODES) if labels[v] == i], K)
        assert neighbours(graph, b) == [sorted(near[v]) for v in range(NODES)]
        size = [labels.count(label) for label in labels]
        assert graph.degree()[b].tolist() == [min(K, members) for members in size]  # a small one uses all its members
        assert all(graph.adj()[b, v, v] for v in range(NODES))


@pytest.mark.equation("clustervig", "Algorithm 2")
@pytest.mark.parametrize("labels", [UNEVEN, None], ids=["uneven", "found"])
@pytest.mark.parametrize("conv", CONVS)
def test_degc_is_algorithm_2_which_unrolls_and_arranges_the_batch(conv, labels):
    degc, image = random_degc(conv, labels), nodes(BATCH, DIM, *GRID)
    out, graph = degc(image)
    update, gat = local_update_of(degc.conv, conv), attention_of(degc.attention)
    expected = oracles.optimised_degc(as_nodes(image), graph.labels.tolist(), CLUSTERS, K, gat, update)
    assert_same(as_nodes(out), expected, [image, *degc.parameters()])


def test_renaming_the_partitions_changes_nothing():
    image = nodes(BATCH, DIM, *GRID)
    degc = random_degc(labels=UNEVEN)
    out, graph = degc(image)
    degc.constructor.partition = lambda x: torch.tensor([[(label + 1) % CLUSTERS for label in row] for row in UNEVEN])
    renamed, other = degc(image)
    assert not torch.equal(graph.labels, other.labels)
    assert_same(renamed, out, [image, *degc.parameters()])
    torch.testing.assert_close(other.centroids, graph.centroids.roll(1, 1))


def test_gradient_of_the_centroids_flows_through_their_mean_and_not_through_the_labels():
    degc, image = random_degc(), nodes(BATCH, DIM, *GRID)
    graph = degc(image)[1]
    assert not graph.labels.requires_grad and graph.labels.dtype == torch.int64
    cotangent = torch.randn_like(graph.centroids)
    gradient, = torch.autograd.grad(graph.centroids, image, cotangent)
    for b in range(BATCH):
        labels = graph.labels[b].tolist()
        expected = torch.stack([cotangent[b, i] / labels.count(i) for i in labels])  # d z_i / d x_v = 1 / |V^i|
        torch.testing.assert_close(as_nodes(gradient)[b], expected)


def test_a_graph_of_degc_also_says_what_made_it():
    degc, image = random_degc(), nodes(BATCH, DIM, *GRID)
    graph = degc(image)[1]
    assert isinstance(graph, Graph) and isinstance(graph, ClusterGraph)
    assert graph.labels.shape == (BATCH, NODES) and graph.centroids.shape == (BATCH, CLUSTERS, DIM)
    assert graph.attention.shape == (BATCH, CLUSTERS, CLUSTERS, 1)
    torch.testing.assert_close(graph.attention.sum(2), torch.ones(BATCH, CLUSTERS, 1, dtype=torch.float64))
    for b in range(BATCH):
        for i in range(CLUSTERS):
            members = as_nodes(image)[b][graph.labels[b] == i]
            torch.testing.assert_close(graph.centroids[b, i], members.mean(0))
        same = graph.labels[b][:, None] == graph.labels[b]
        assert not torch.any(graph.adj()[b] & ~same), "an edge between two partitions"


# ------------------------------------------------------------------------------------------- Grapher and FFN: Eqs. 5, 6


@pytest.mark.equation("clustervig", 5)
@GROUPS
def test_grapher(groups):
    config = ClusterViGConfig(dim=DIM, patch=2, img_size=8, update_groups=groups, clusters=CLUSTERS)
    module = randomise(Grapher(config, ClusterKNN(K, CLUSTERS)))
    image = nodes(BATCH, DIM, *GRID)
    out, graph = module(image)
    degc = module.degc
    gat, update = attention_of(degc.attention), local_update_of(degc.conv, "mr")
    w1, w2 = dense_of(module.fc1), dense_of(module.fc2)
    assert module.cpe.weight.shape == (DIM, 1, 7, 7) and degc.conv.update[0].groups == groups

    def by_loops(one: Tensor, labels: Tensor) -> Tensor:
        return oracles.grapher(one, (module.cpe.weight, module.cpe.bias), w1, w2,
                               lambda x: oracles.degc(x, labels.tolist(), CLUSTERS, K, gat, update))

    expected = image_by_image(by_loops, image, graph.labels)
    assert_same(as_nodes(out), expected, [image, *module.parameters()])


@pytest.mark.equation("clustervig", 6)
def test_ffn_of_a_block():
    config = ClusterViGConfig(dim=DIM, patch=2, img_size=8, clusters=CLUSTERS)
    block = randomise(ClusterViG(replace(config, depth=1), [ClusterKNN(K, CLUSTERS)]).blocks[0])
    y = nodes(BATCH, DIM, *GRID)
    block.grapher.forward = lambda x: (y, None)  # so that the FFN's input is known
    out, _ = block(torch.zeros(BATCH, DIM, *GRID, dtype=torch.float64))
    w1, w2 = dense_of(block.ffn.fc1), dense_of(block.ffn.fc2)
    assert w1.weight.shape == (4 * DIM, DIM)
    assert_same(as_nodes(out), image_by_image(lambda one: oracles.ffn(one, w1, w2), as_nodes(y)),
                [y, *block.ffn.parameters()])


# ----------------------------------------------------------------------------------------------------- counts and sizes


@pytest.mark.parametrize("name, parameters", [
    ("cvig_ti", 11_472_304), ("cvig_s", 28_163_232), ("cvig_b", 104_803_792), ("cvig_b_784", 105_180_112),
    ("cvig_nano", 1_181_066),
])
def test_parameters_to_the_last_one(name, parameters):
    assert count_parameters(on_meta(name)) == parameters


def layer_macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers alone, from shapes: without k-means, distances and means."""
    counts = []

    def count(layer: nn.Module, _, output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    assert len(counts) == len(layers)  # each ran once
    return sum(counts)


@pytest.mark.parametrize("name, macs", [
    ("cvig_ti", 1_780_057_088),
    pytest.param("cvig_s", 4_606_185_472, marks=pytest.mark.slow),
    pytest.param("cvig_b", 18_043_228_160, marks=pytest.mark.slow),
    pytest.param("cvig_b_784", 69_784_842_240, marks=pytest.mark.slow),
])
def test_multiply_adds_of_one_image(name, macs):
    assert layer_macs(create_model(name), torch.randn(1, 3, 224, 224)) == macs


def test_multiply_adds_of_the_whole_have_graph_construction_in_them():
    model, images = create_model("cvig_nano").eval(), torch.randn(1, 3, 64, 64)
    _, graphs = model(images, return_graphs=True)
    sizes = [graph.labels[0].bincount() for graph in graphs]
    inside = sum(int((size**2).sum()) * 96 for size in sizes)  # a distance for each pair in a partition
    assert count_macs(model, images) >= layer_macs(model, images) + inside


def sources_by_loops(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """The adjacency (B, N, N) of k-NN inside partitions, node by node."""
    adj = torch.zeros(*labels.shape, labels.shape[1], dtype=torch.bool)
    unit = x / x.norm(dim=-1, keepdim=True)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            alike = [j for j in range(x.shape[1]) if labels[b, j] == labels[b, i]]
            alike.sort(key=lambda j: float((unit[b, i] - unit[b, j]).square().sum()))
            adj[b, i, alike[:k]] = True
    return adj


@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("clusters", [1, 3, 7, 20])
def test_neighbours_inside_partitions_by_both_ways(k, clusters):
    x = torch.randn(3, 20, 6, dtype=torch.float64)
    labels = torch.stack([torch.cat([torch.arange(clusters), torch.randint(clusters, (20 - clusters,))])[
        torch.randperm(20)] for _ in range(3)])  # every label occurs, sizes differ
    expected = sources_by_loops(x, labels, k)
    graph = cluster_knn.cluster_graph(x, labels, clusters, k)
    assert graph.index.shape == (3, 20, min(k, 20)) and torch.equal(graph.adj(), expected)
    assert torch.equal(graph.degree(), expected.sum(-1))
    for form in (plain(), plain(False)):
        with form:
            graph = cluster_knn.cluster_graph(x, labels, clusters, k)
        assert torch.equal(graph.adj(), expected)
        assert torch.equal(graph.index[..., 0], torch.arange(20).expand(3, 20))  # nearest first: the node itself


def test_the_constructor_partitions_anew_in_training_and_alike_in_evaluation():
    x, constructor = torch.randn(2, 40, 8), ClusterKNN(5, 4)
    assert torch.equal(constructor.eval().partition(x), constructor.partition(x))
    assert torch.equal(constructor(x).index, cluster_knn.cluster_graph(x, constructor.partition(x), 4, 5).index)
    constructor.train()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(constructor.partition(x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="k=0, clusters=4"):
        ClusterKNN(0, 4)
    with pytest.raises(ValueError, match="4 partitions of 3 nodes"):
        constructor.eval()(torch.randn(1, 3, 8))


@pytest.mark.slow
def test_a_training_step_of_b_784_at_batch_2_fits_in_8_gigabytes():
    model, images = create_model("cvig_b_784").train(), torch.randn(2, 3, 224, 224)
    weights = 4 * count_parameters(model)
    assert 2 * saved_bytes(model, images) + 4 * weights < 8e9  # weights, their gradients, and AdamW's two means


def test_k_grows_from_9_to_18_and_kappa_is_4_or_6():
    for name, depth, clusters in (("cvig_ti", 12, 4), ("cvig_b", 16, 4), ("cvig_b_784", 16, 6)):
        model = on_meta(name)
        constructors = [block.grapher.degc.constructor for block in model.blocks]
        found = [at(constructor.k, model.config.num_nodes) for constructor in constructors]
        assert found == reference.neighbours_by_block(depth)
        assert {constructor.clusters for constructor in constructors} == {clusters} == {model.config.clusters}


@pytest.mark.parametrize("name, strides, widths", [
    ("cvig_ti", [2, 2, 2, 2, 1], [64, 64, 96, 192, 192]), ("cvig_s", [2, 2, 2, 2, 1], [64, 80, 160, 320, 320]),
    ("cvig_b", [2, 2, 2, 2, 1], [80, 160, 320, 640, 640]), ("cvig_b_784", [2, 2, 2, 1, 1], [80, 160, 320, 640, 640]),
])
def test_stem_has_four_widening_layers_of_64_or_more_and_one_that_keeps(name, strides, widths):
    convs = [layer for layer in on_meta(name).stem.layers if isinstance(layer, nn.Conv2d)]
    assert [conv.stride[0] for conv in convs] == strides
    assert [conv.out_channels for conv in convs] == widths


def test_one_group_in_ti_and_four_in_s_and_b():
    for name, groups in (("cvig_ti", 1), ("cvig_s", 4), ("cvig_b", 4), ("cvig_b_784", 4)):
        assert {block.grapher.degc.conv.update[0].groups for block in on_meta(name).blocks} == {groups}


@pytest.mark.parametrize("img_size, patch, grid, clusters", [
    (224, 16, (14, 14), 4), (32, 4, (8, 8), 4), (32, 2, (16, 16), 6), (32, 16, (2, 2), 4), ((32, 64), 8, (4, 8), 5),
    (16, 16, (1, 1), 1), (16, 8, (2, 2), 1), (8, 4, (2, 2), 3),
])
def test_any_image_size_that_gives_a_grid(img_size, patch, grid, clusters):
    model = create_model("cvig_nano", dim=16, depth=2, img_size=img_size, patch=patch, clusters=clusters).eval()
    with torch.no_grad():
        logits, graphs = model(torch.randn(2, 3, *model.config.img_size), return_graphs=True)
    count = grid[0] * grid[1]
    assert logits.shape == (2, 10) and torch.isfinite(logits).all()
    assert model.config.grid == grid and model.position.shape == (1, 16, *grid)
    for graph in graphs:
        assert graph.adj().shape == (2, count, count) and graph.degree().min() >= 1
        assert all(len(labels.unique()) == clusters for labels in graph.labels), "an empty partition"


@pytest.mark.parametrize("conv", CONVS)
def test_any_of_the_four_convolutions_learns(conv):
    model = create_model("cvig_nano", **TINY, conv=conv, distillation=True)
    assert all(type(block.grapher.degc.conv) is CONVS[conv] for block in model.blocks)
    sum(logits.square().mean() for logits in model(torch.randn(4, 3, 16, 16))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if not name.endswith("bias"):
            assert parameter.grad.abs().max() > 0, name


# ----------------------------------------------------------------------------------------------------- what it answers


def test_with_distillation_training_gives_two_logits_and_evaluation_their_mean():
    model = create_model("cvig_nano", **TINY, distillation=True)
    images = torch.randn(4, 3, 16, 16)
    logits, distilled = model(images)
    assert logits.shape == distilled.shape == (4, 5) and not torch.allclose(logits, distilled)
    model.eval()
    pooled = model.head[:-1](model.forward_features(images).mean((2, 3), keepdim=True))
    expected = (model.head[-1](pooled) + model.distilled(pooled)).flatten(1) / 2
    torch.testing.assert_close(model(images), expected)


def test_without_distillation_there_is_one_classifier():
    model = create_model("cvig_nano", **TINY)
    assert model.distilled is None and model(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    assert create_model("cvig_ti", **TINY, distillation=False).distilled is None
    assert create_model("cvig_ti", **TINY).config.distillation


def test_evaluation_answers_the_same_in_every_call_and_every_batch():
    model = create_model("cvig_nano", img_size=32, patch=4).double().eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = torch.get_rng_state()
        first, graphs = model(images, return_graphs=True)
        assert torch.equal(torch.get_rng_state(), before), "evaluation draws from torch's own generator"
        torch.rand(7)
        torch.testing.assert_close(model(images), first, rtol=0, atol=0)
        for b in (0, 3):
            alone, own = model(images[b:b + 1], return_graphs=True)
            torch.testing.assert_close(alone[0], first[b], rtol=1e-9, atol=1e-9)
            assert all(torch.equal(one.labels[0], graph.labels[b]) for one, graph in zip(own, graphs))
        flipped = model(images.flip(0))
    torch.testing.assert_close(flipped.flip(0), first, rtol=1e-9, atol=1e-9)


def test_a_training_step_is_the_same_after_the_same_seed():
    model, images = create_model("cvig_nano", **TINY), torch.randn(4, 3, 16, 16)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(model(images))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)


@pytest.mark.parametrize("conv", CONVS)
def test_autocast_trains(conv):
    model, images = create_model("cvig_nano", **TINY, conv=conv), torch.randn(4, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(images).float().square().mean()
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())


# ------------------------------------------------------------------------- the constructor alone, errors, compilation


def test_cluster_knn_in_the_isotropic_skeleton():
    assert "cluster_knn" in list_constructors()
    model = create_model("vig_nano", **{**TINY, **SIZES}, graph="cluster_knn").eval()
    assert all(isinstance(block.grapher.constructor, ClusterKNN) for block in model.blocks)
    assert [at(block.grapher.constructor.k, model.config.num_nodes) for block in model.blocks] == [3, 6]
    logits, graphs = model(torch.randn(2, 3, 16, 16), return_graphs=True)
    assert logits.shape == (2, 5)
    for graph, k in zip(graphs, (3, 6)):
        assert 1 <= graph.degree().min() and graph.degree().max() <= k
    model.train()(torch.randn(2, 3, 16, 16)).sum().backward()


@pytest.mark.parametrize("name", ["cvig_nano", "vig_nano"])
def test_more_partitions_than_nodes_is_an_error_at_construction(name):
    graph = {} if name == "cvig_nano" else {"graph": "cluster_knn"}
    with pytest.raises(ValueError, match="clusters=5: a 2×2 grid has 4 nodes"):
        create_model(name, img_size=16, patch=8, clusters=5, **graph)
    create_model(name, img_size=16, patch=8, clusters=4, **graph)


@pytest.mark.parametrize("field, value, says", [
    ("clusters", 0, "clusters"), ("clusters", 65, "64 nodes"), ("clusters", 2.5, "whole number"),
    ("graph", "knn", "cluster_knn"), ("update_groups", 3, "choose one of 1, 2, 4"),
    ("update_groups", "all", "choose one of 1, 2, 4"),
    ("distillation", "yes", "choose one of True, False"),
    ("k", 0, "k=0"), ("conv", "gat", "mr, edge, sage"),
    ("threshold", 0.5, "threshold"), ("img_size", 100, "multiple"),
])
def test_a_value_that_cannot_work_is_an_error_at_construction(field, value, says):
    with pytest.raises(ValueError, match=says) as error:
        create_model("cvig_nano", **{field: value})
    assert field in str(error.value) and "\n" not in str(error.value)


def test_clusters_is_an_error_where_no_one_reads_it():
    with pytest.raises(ValueError, match="clusters is read by"):
        create_model("vig_nano", clusters=5)


def test_images_that_patches_do_not_divide_are_an_error_that_names_both_shapes():
    model = create_model("cvig_nano", dim=16, depth=1)
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 33\).*\(B, 3, 64, 64\)"):
        model(torch.randn(1, 3, 32, 33))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_evaluates_the_same(backend):
    if backend == "inductor" and not any(shutil.which(c) for c in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        pytest.skip("torch.compile on a CPU needs a C++ compiler, and there is none")
    model, images = create_model("cvig_nano", **TINY).double().eval(), torch.randn(3, 3, 16, 16).double()
    with torch.no_grad():
        compiled = torch.compile(model, backend=backend, fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_an_exported_model_gives_the_same_logits():
    model, images = create_model("cvig_nano", **TINY).eval(), torch.randn(2, 3, 16, 16)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images), rtol=1e-5, atol=1e-5)
