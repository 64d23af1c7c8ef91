"""vig.py: the Grapher against its equation, the schedules of k and dilation, and what a model's forward returns."""

import pytest
import torch
from torch import nn

from helpers import FAMILIES, TINY, as_nodes, assert_same, dense_of, directed_edges, image_by_image, nodes, randomise
from reference.vig import dilation_by_block, grapher, nearest, neighbours_by_block
from vig_minimal import Graph, create_model
from vig_minimal.constructors import KNN, knn_per_block
from vig_minimal.constructors.schedules import at
from vig_minimal.models.layers import FFN, Block
from vig_minimal.models.registry import CONFIGS
from vig_minimal.models.vig import Grapher, ViGConfig

# ------------------------------------------------------------------------------------------------- equations of a block


@pytest.mark.equation("vig", "Grapher")
def test_grapher_over_nearest_neighbours():
    module = randomise(Grapher(8, KNN(3)))
    image = nodes(2, 8, 2, 3)
    w_in, w_update, w_out = dense_of(module.fc1), dense_of(module.conv.update), dense_of(module.fc2)
    assert w_update.groups == 4 and w_update.weight.shape == (16, 4)

    def edges(x):
        adj = torch.zeros(6, 6, dtype=torch.bool)
        for i, row in enumerate(nearest(x, x, 3)):
            adj[i, row] = True
        return adj

    out, graph = module(image)
    x = as_nodes(image)
    expected = image_by_image(lambda one: grapher(one, w_in, w_update, w_out, edges), x)
    assert_same(as_nodes(out), expected, [image, *module.parameters()])
    assert isinstance(graph, Graph) and graph.index.shape == (2, 6, 3)


class Given(nn.Module):
    """A constructor that gives the same graph whatever the features."""

    def __init__(self, adj: torch.Tensor):
        super().__init__()
        self.adj = adj

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> Graph:
        return Graph(self.adj.shape[2], weights=self.adj)


@pytest.mark.equation("vig", "Grapher")
def test_grapher_over_a_directed_graph_with_an_isolated_node():
    adj = directed_edges(1, 6, 6)
    module = randomise(Grapher(8, Given(adj)))
    image = nodes(1, 8, 3, 2)
    w_in, w_update, w_out = dense_of(module.fc1), dense_of(module.conv.update), dense_of(module.fc2)
    expected = image_by_image(lambda one: grapher(one, w_in, w_update, w_out, lambda x: adj[0]), as_nodes(image))
    assert_same(as_nodes(module(image)[0]), expected, [image, *module.parameters()])


def test_grapher_passes_its_input_when_its_branch_is_dropped():
    module = Grapher(8, KNN(2), drop_path=0.5).train()
    image = torch.randn(64, 8, 2, 2)
    kept = (module(image)[0] == image).flatten(1).all(1)
    assert kept.any() and not kept.all()


@pytest.mark.parametrize("name", FAMILIES)
def test_renumbering_the_patches_renumbers_a_block(name):
    block = randomise(create_model(name, **TINY).blocks[1])
    image, order = nodes(2, 16, 4, 4), torch.randperm(16)
    moved = image.flatten(2)[:, :, order].unflatten(2, (4, 4))
    out, graph = block(image)
    out_moved, graph_moved = block(moved)
    assert_same(out_moved, out.flatten(2)[:, :, order].unflatten(2, (4, 4)), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(graph_moved.adj(), graph.adj()[:, order][:, :, order])


def test_a_block_is_a_grapher_and_then_an_ffn():
    block = randomise(Block(Grapher(8, KNN(2)), FFN(8)))
    image = nodes(1, 8, 2, 2)
    after_grapher, graph = block.grapher(image)
    out, block_graph = block(image)
    assert torch.equal(out, block.ffn(after_grapher))
    assert torch.equal(block_graph.index, graph.index)


# ------------------------------------------------------------------------------------------------- schedules of the kNN


@pytest.mark.equation("vig", "neighbours")
@pytest.mark.parametrize("name", ["vig_ti", "vig_s", "vig_b"])
def test_neighbours_grow_from_9_to_18(name):
    config = CONFIGS[name]
    neighbours = [at(constructor.k, config.num_nodes) for constructor in knn_per_block(config)]
    assert neighbours == neighbours_by_block(config.depth)
    assert neighbours == [int(k.item()) for k in torch.linspace(9, 18, config.depth)]  # as the released code has it
    assert (neighbours[0], neighbours[-1]) == (9, 18)


@pytest.mark.equation("vig", "dilation")
@pytest.mark.parametrize("name", ["vig_ti", "vig_s", "vig_b"])
def test_dilation_grows_by_one_every_four_blocks(name):
    config = CONFIGS[name]
    found = [at(constructor.dilation, config.num_nodes) for constructor in knn_per_block(config)]
    assert found == dilation_by_block(config.depth)


@pytest.mark.equation("vig", "dilation")
def test_dilation_is_limited_by_the_nodes_there_are():
    # 8x8 = 64 nodes: 64 // 18 = 3 even in blocks 12 to 15, where 196 nodes would allow 4
    constructors = knn_per_block(ViGConfig(depth=16, img_size=128))
    assert [at(constructor.dilation, 64) for constructor in constructors] == [1] * 4 + [2] * 4 + [3] * 8


@pytest.mark.parametrize("img_size, patch, k", [(32, 16, 2), (32, 8, 8), (16, 16, 1), (64, 8, 9), ((32, 64), 16, 4)])
def test_neighbours_are_limited_by_the_nodes_there_are(img_size, patch, k):
    model = create_model("vig_ti", img_size=img_size, patch=patch, depth=3, dim=16)
    nodes, constructors = model.config.num_nodes, knn_per_block(model.config)
    assert model.config.k is None and at(constructors[0].k, nodes) == k
    assert all(at(c.k, nodes) * at(c.dilation, nodes) <= nodes for c in constructors)


def test_the_configured_dilation_and_k_are_those_of_the_graphs():
    model = create_model("vig_nano", dim=16, depth=6, k=5, epsilon=0.2)
    constructors = [block.grapher.constructor for block in model.blocks]
    found = [(at(c.k, 64), at(c.dilation, 64)) for c in constructors]
    assert found == [(5, 1), (6, 1), (7, 1), (8, 1), (9, 2), (10, 2)]
    assert [repr(c) for c in constructors] == [f"KNN(k={k}, dilation={d}, epsilon=0.2)" for k, d in found]
    assert all(c.epsilon == 0.2 for c in constructors)
    _, graphs = model.eval()(torch.randn(1, 3, 64, 64), return_graphs=True)
    assert [graph.index.shape for graph in graphs] == [(1, 64, k) for k, _ in found]


# ----------------------------------------------------------------------------------------------- what a forward returns


@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_are_those_the_logits_came_from(name):
    model = create_model(name, **TINY).eval()
    images = torch.randn(3, 3, 16, 16)
    logits, graphs = model(images, return_graphs=True)
    assert len(graphs) == 2 and all(isinstance(graph, Graph) for graph in graphs)
    assert torch.equal(logits, model(images))
    for graph in graphs:
        assert (graph.num_targets, graph.num_sources) == (16, 16)
        assert graph.adj().shape == (3, 16, 16) and graph.degree().shape == (3, 16)


def test_the_position_embedding_is_added_to_the_stem():
    model = create_model("vig_nano", **TINY).eval()
    nn.init.normal_(model.position)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.randn(2, 3, 16, 16)
    model(images)
    torch.testing.assert_close(seen[0], model.stem(images) + model.position)


def test_logits_are_the_head_of_the_mean_feature():
    model = create_model("vig_nano", **TINY).eval()
    images = torch.randn(3, 3, 16, 16)
    pooled = as_nodes(model.forward_features(images)).mean(1)  # (B, C)
    torch.testing.assert_close(model(images), model.head(pooled[:, :, None, None])[:, :, 0, 0])


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_does_not_depend_on_its_batch(name):
    model = randomise(create_model(name, **TINY))
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    together = model(images)
    for b in range(4):
        torch.testing.assert_close(model(images[b:b + 1])[0], together[b], rtol=1e-8, atol=1e-8)


def test_images_may_lie_in_memory_in_any_order():
    model = create_model("vig_nano", **TINY).double().eval()
    images = torch.randn(2, 16, 16, 3, dtype=torch.float64).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(images), model(images.contiguous()))


@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_trains(name):
    model = create_model(name, **TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, graphs = model(torch.randn(4, 3, 16, 16), return_graphs=True)
        loss = logits.float().square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert all(graph.adj().dtype in (torch.bool, torch.float32) for graph in graphs)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_in_bfloat16_throughout_gives_finite_logits(name):
    model = create_model(name, **TINY).bfloat16().eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 16, 16).bfloat16())
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_features_stay_in_channels_last_memory(name):
    # else every change between image and nodes would copy
    seen = []
    model = create_model(name, **TINY).eval()
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.randn(2, 3, 16, 16))
    assert len(seen) == 2 and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_gives_the_same_twice_and_training_with_dropping_does_not(name):
    model = create_model(name, **TINY, drop_path=0.5, dropout=0.5)
    images = torch.randn(8, 3, 16, 16)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize("name", [*FAMILIES, "cvig_nano"])
def test_drop_path_grows_linearly_over_the_blocks(name):
    model = create_model(name, dim=16, depth=5, drop_path=0.2)
    for part in ("grapher", "ffn"):
        assert [getattr(block, part).drop_path.p for block in model.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
