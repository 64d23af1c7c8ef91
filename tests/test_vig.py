"""vig.py and create_model: the Grapher against its equation, the schedules, sizes, counts and errors of every model."""

import dataclasses
import os
import shutil

import pytest
import torch
from helpers import as_nodes, assert_same, dense_of, directed_edges, image_by_image, nodes, randomise
from reference import dilation_by_block, grapher, nearest, neighbours_by_block
from torch import nn
from vig_minimal import Graph, create_model, list_constructors, list_models
from vig_minimal.constructors import KNN
from vig_minimal.convs import CONVS
from vig_minimal.measure import count_macs, count_parameters, saved_bytes
from vig_minimal.vig import PRESETS, Block, Grapher, ViGConfig, knn_constructors

TINY = {"dim": 16, "depth": 2, "num_classes": 5, "img_size": 16, "patch": 4}  # 16 nodes, some thousand parameters
FAMILIES = ["vig_nano", "svig_nano", "lrgc_nano"]


def on_meta(name: str, **fields) -> nn.Module:
    """The model without memory for its numbers: enough to count them."""
    with torch.device("meta"):
        return create_model(name, **fields)


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

    def forward(self, x: torch.Tensor) -> Graph:
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


# --------------------------------------------------------------------------------------------------- schedules of the kNN


@pytest.mark.equation("vig", "neighbours")
@pytest.mark.parametrize("name", ["vig_ti", "vig_s", "vig_b"])
def test_neighbours_grow_from_9_to_18(name):
    config = PRESETS[name]
    neighbours = [constructor.k for constructor in knn_constructors(config)]
    assert neighbours == neighbours_by_block(config.depth)
    assert neighbours == [int(k.item()) for k in torch.linspace(9, 18, config.depth)]  # as the released code has it
    assert (neighbours[0], neighbours[-1]) == (9, 18)


@pytest.mark.equation("vig", "dilation")
@pytest.mark.parametrize("name", ["vig_ti", "vig_s", "vig_b"])
def test_dilation_grows_by_one_every_four_blocks(name):
    config = PRESETS[name]
    assert [constructor.dilation for constructor in knn_constructors(config)] == dilation_by_block(config.depth)


@pytest.mark.equation("vig", "dilation")
def test_dilation_is_limited_by_the_nodes_there_are():
    # 8x8 = 64 nodes: 64 // 18 = 3 even in blocks 12 to 15, where 196 nodes would allow 4
    constructors = knn_constructors(ViGConfig(depth=16, img_size=128))
    assert [constructor.dilation for constructor in constructors] == [1] * 4 + [2] * 4 + [3] * 8


@pytest.mark.parametrize("img_size, patch, k", [(32, 16, 2), (32, 8, 8), (16, 16, 1), (64, 8, 9), ((32, 64), 16, 4)])
def test_neighbours_are_limited_by_the_nodes_there_are(img_size, patch, k):
    model = create_model("vig_ti", img_size=img_size, patch=patch, depth=3, dim=16)
    assert model.config.k == k
    assert all(c.k * c.dilation <= model.config.num_nodes for c in knn_constructors(model.config))


def test_the_configured_dilation_and_k_are_those_of_the_graphs():
    model = create_model("vig_nano", dim=16, depth=6, k=5, epsilon=0.2)
    constructors = [block.grapher.constructor for block in model.blocks]
    assert [(c.k, c.dilation, c.epsilon) for c in constructors] == [(5, 1, 0.2), (6, 1, 0.2), (7, 1, 0.2), (8, 1, 0.2), (9, 2, 0.2),
                                                                    (10, 2, 0.2)]
    _, graphs = model.eval()(torch.randn(1, 3, 64, 64), return_graphs=True)
    assert [graph.index.shape for graph in graphs] == [(1, 64, c.k) for c in constructors]


# ------------------------------------------------------------------------------------------------------ counts and sizes


@pytest.mark.parametrize("name, parameters", [
    ("vig_ti", 7_184_744), ("vig_s", 22_747_752), ("vig_b", 86_841_832), ("svig_ti", 7_184_744), ("lrgc_ti", 8_074_100),
    ("vig_nano", 933_098), ("svig_nano", 933_098), ("lrgc_nano", 1_044_848),
])
def test_parameters_to_the_last_one(name, parameters):
    assert count_parameters(on_meta(name)) == parameters


@pytest.mark.parametrize("name, giga", [("vig_ti", 1.301), ("vig_s", 4.517), ("vig_b", 17.643), ("lrgc_ti", 1.474)])
def test_multiply_adds_of_one_image(name, giga):
    macs = count_macs(create_model(name), torch.randn(1, 3, 224, 224))
    assert round(macs / 1e9, 3) == giga


def test_every_model_of_the_list_can_be_made():
    assert list_models() == ["vig_nano", "vig_ti", "vig_s", "vig_b", "svig_nano", "svig_ti", "lrgc_nano", "lrgc_ti"]
    for name in list_models():
        assert on_meta(name).config.num_classes == (10 if name.endswith("nano") else 1000)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("img_size, patch, grid", [
    (32, 4, (8, 8)), (32, 2, (16, 16)), (32, 16, (2, 2)), (64, 8, (8, 8)), (96, 16, (6, 6)), (224, 16, (14, 14)), (256, 16, (16, 16)),
    ((32, 64), 8, (4, 8)), ((48, 16), 4, (12, 4)), (16, 16, (1, 1)),
])
def test_any_image_size_that_gives_a_grid(name, img_size, patch, grid):
    model = create_model(name, dim=16, depth=2, img_size=img_size, patch=patch).eval()
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        logits, graphs = model(images, return_graphs=True)
        features = model.forward_features(images)
    count = grid[0] * grid[1]
    assert logits.shape == (2, 10) and torch.isfinite(logits).all()
    assert features.shape == (2, 16, *grid)
    assert [graph.adj().shape for graph in graphs] == [(2, count, count)] * 2
    assert model.config.img_size == (height, width) and model.config.grid == grid and model.config.num_nodes == count
    assert model.position.shape == (1, 16, *grid)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_of_the_four_convolutions_learns_in_every_family(name, conv):
    model = create_model(name, **TINY, conv=conv)
    assert all(type(block.grapher.conv) is CONVS[conv] for block in model.blocks)
    model(torch.randn(4, 3, 16, 16)).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name


# ------------------------------------------------------------------------------------------------ what a forward returns


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
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last)))
    model(torch.randn(2, 3, 16, 16))
    assert seen == [True, True]


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_gives_the_same_twice_and_training_with_dropping_does_not(name):
    model = create_model(name, **TINY, drop_path=0.5, dropout=0.5)
    images = torch.randn(8, 3, 16, 16)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_drop_path_grows_linearly_over_the_blocks():
    model = create_model("vig_nano", dim=16, depth=5, drop_path=0.2)
    for part in ("grapher", "ffn"):
        assert [getattr(block, part).drop_path.p for block in model.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_what_a_training_step_keeps_of_lrgc_ti_stays_under_70_megabytes_an_image():
    assert saved_bytes(create_model("lrgc_ti").train(), torch.randn(2, 3, 224, 224)) < 70e6


# ---------------------------------------------------------------------------------------------------- config and errors


def test_config_is_frozen_plain_data_that_makes_the_model_again():
    model = create_model("vig_nano", num_classes=7, drop_path=0.1)
    config = model.config
    assert isinstance(config, ViGConfig)
    assert (config.dim, config.depth, config.num_classes, config.img_size, config.patch) == (96, 6, 7, (64, 64), 8)
    assert (config.graph, config.conv, config.k, config.drop_path) == ("knn", "mr", 9, 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 8
    for value in dataclasses.asdict(config).values():
        assert isinstance(value, (int, float, str, tuple))
    read_by_knn = {field: value for field, value in dataclasses.asdict(config).items() if field not in ("threshold", "decrement")}
    assert create_model("vig_nano", **read_by_knn).config == config


def test_the_names_of_parameters_are_those_that_checkpoints_rely_on():
    model = create_model("lrgc_nano", **TINY)
    names = {name.removesuffix(".weight") for name, _ in model.named_parameters() if not name.endswith("bias")}
    block = {f"blocks.{i}.{layer}" for i in range(2) for layer in (
        "grapher.fc1.0", "grapher.fc1.1", "grapher.conv.update.0", "grapher.conv.update.1", "grapher.fc2.0", "grapher.fc2.1",
        "grapher.constructor.key", "grapher.constructor.query", "grapher.constructor.tau", "ffn.fc1.0", "ffn.fc1.1", "ffn.fc2.0",
        "ffn.fc2.1")}
    stem = {f"stem.layers.{i}" for i in (0, 1, 3, 4, 6, 7)}
    assert names == block | stem | {"position", "head.0", "head.1", "head.4"}


@pytest.mark.parametrize("name, near", [("vig_nanno", "vig_nano"), ("lrcg_ti", "lrgc_ti"), ("svig-ti", "svig_ti"), ("resnet50", "vig_ti")])
def test_an_unknown_model_is_an_error_that_names_near_ones(name, near):
    with pytest.raises(ValueError, match=f"{name}.*{near}"):
        create_model(name)


@pytest.mark.parametrize("field, near", [("num_class", "num_classes"), ("image_size", "img_size"), ("droppath", "drop_path")])
def test_an_unknown_field_is_an_error_that_names_near_ones(field, near):
    with pytest.raises(ValueError, match=f"{field}.*did you mean.*{near}"):
        create_model("vig_nano", **{field: 1})


def test_an_unknown_graph_is_an_error_that_names_near_ones():
    assert list_constructors() == ["knn", "threshold", "lrgc"]
    with pytest.raises(ValueError, match="'lrgcc'.*did you mean lrgc"):
        create_model("vig_nano", graph="lrgcc")


@pytest.mark.parametrize("field, value, says", [
    ("img_size", 4, "patch"), ("img_size", 100, "multiple"), ("img_size", 0, "img_size"), ("img_size", -64, "img_size"),
    ("img_size", (64,), "height, width"), ("img_size", "64", "img_size"), ("img_size", (64, 60), "multiple"),
    ("patch", 3, "2, 4, 8 or 16"), ("patch", 32, "2, 4, 8 or 16"), ("dim", 0, "multiple"), ("dim", 30, "multiple"),
    ("depth", 0, "at least 1"), ("num_classes", 0, "at least 1"), ("num_classes", "ten", "whole number"), ("k", 0, "k=0"),
    ("k", 33, "64 nodes"), ("conv", "gat", "mr, edge, sage"), ("drop_path", 1.0, "less than 1"), ("drop_path", -0.1, "at least 0"),
    ("dropout", 2, "less than 1"), ("epsilon", 1.5, "less than 1"), ("depth", 2.5, "whole number"), ("drop_path", "no", "number"),
])
def test_a_value_that_cannot_work_is_an_error_at_construction(field, value, says):
    with pytest.raises(ValueError, match=says) as error:
        create_model("vig_nano", **{field: value})
    assert field in str(error.value) and "\n" not in str(error.value)


def test_a_field_that_the_graph_does_not_read_is_an_error():
    for name, field in (("lrgc_nano", "epsilon"), ("vig_nano", "threshold"), ("vig_nano", "decrement")):
        with pytest.raises(ValueError, match=field):
            create_model(name, **{field: 0.1})


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 64, 64), (3, 64, 64), (1, 3, 64, 32)])
def test_images_of_another_shape_are_an_error_that_names_both(shape):
    model = create_model("vig_nano", dim=16, depth=1)
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 64\)"):
        model(torch.randn(shape))
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 64\)"):
        model.forward_features(torch.randn(shape))


# ---------------------------------------------------------------------------------------------------- compile and export


def assert_same_step(name: str, backend: str) -> None:
    """One training step of a compiled model, without a graph break, gives the plain model's loss and gradients."""
    model = create_model(name, **{**TINY, "depth": 1}).double()
    for parameter in model.parameters():  # away from where scores are exactly 0 and messages tie
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    results = []
    for function in (model, torch.compile(model, backend=backend, fullgraph=True)):
        model.zero_grad()
        torch.manual_seed(0)
        loss = function(images).square().mean()
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_model_trains_the_same(name):
    assert_same_step(name, "aot_eager")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_model_evaluates_the_same(name):
    model = create_model(name, **{**TINY, "depth": 1}).double().eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano"])
def test_a_model_compiled_to_machine_code_trains_the_same(name):
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        pytest.skip("torch.compile on a CPU needs a C++ compiler, and there is none")
    assert_same_step(name, "inductor")


@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano"])
def test_an_exported_model_gives_the_same_logits(name):
    model = create_model(name, **TINY).eval()
    images = torch.randn(2, 3, 16, 16)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images), rtol=1e-5, atol=1e-5)


def test_a_block_is_a_grapher_and_then_an_ffn():
    block = randomise(Block(8, KNN(2)))
    image = nodes(1, 8, 2, 2)
    after_grapher, graph = block.grapher(image)
    out, block_graph = block(image)
    assert torch.equal(out, block.ffn(after_grapher))
    assert torch.equal(block_graph.index, graph.index)
