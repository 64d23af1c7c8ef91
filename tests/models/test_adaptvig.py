"""AdaptViG: blocks against slow loops, exact sizes, drop path, two classifiers, any image size. Released weights are in
test_released.py."""

import pytest
import torch
from torch import nn

from helpers import ADAPTVIG as TINY
from helpers import as_nodes, assert_same, dense_of, image_by_image, nodes, on_meta, randomise
from reference import adaptvig as oracle
from reference import vig
from reference.vig import Dense
from vig_minimal import create_model
from vig_minimal.constructors import Adaptive
from vig_minimal.look.explore_layers import layers_of
from vig_minimal.models.adaptvig import FFN, AdaptViGConfig, Attend, Grapher, LocalBlock
from vig_minimal.models.cost import count_parameters
from vig_minimal.models.layers import Block

GRID, DIM = (3, 4), 8


def tiny(**fields) -> nn.Module:
    return create_model("adaptvig_nano", **TINY | fields)


# ---- equations -----------------------------------------------------------------------------------------------------


@pytest.mark.equation("adaptvig", "local block")
def test_local_block():
    block, image = randomise(LocalBlock(DIM)), nodes(2, DIM, *GRID)
    conv, norm = block.depthwise[0], block.depthwise[1]
    depth = Dense(conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    expected = image_by_image(lambda one: oracle.local_block(
        one, dense_of(block.widen), depth, dense_of(block.narrow), block.scale.scale), image)
    assert_same(as_nodes(block(image)), expected, [image, *block.parameters()])


def graph_block(block: Block, image: torch.Tensor, message) -> torch.Tensor:
    grapher, ffn = block.grapher, block.ffn
    cpe = grapher.cpe.weight, grapher.cpe.bias
    return image_by_image(lambda one: oracle.graph_block(
        one, cpe, dense_of(grapher.fc1), dense_of(grapher.conv.update), dense_of(grapher.fc2), message,
        grapher.scale.scale, (dense_of(ffn.fc1), dense_of(ffn.fc2)), ffn.scale.scale), image)


@pytest.mark.equation("adaptvig", "Grapher")
@pytest.mark.equation("adaptvig", "message")
def test_graph_block_of_the_first_stages():
    block, image = randomise(Block(Grapher(DIM, Adaptive(1)), FFN(DIM))), nodes(2, DIM, *GRID)
    nn.init.constant_(block.grapher.constructor.temperature, -20.0)  # so that the gate is open

    def message(h):
        adj = oracle.adaptive(h, *GRID, 1, block.grapher.constructor.temperature)
        return vig.max_relative(h, h, adj)

    out, graph = block(image)
    assert_same(as_nodes(out), graph_block(block, image, message), [image, *block.parameters()], rtol=1e-8)
    far = graph.weights[..., 2:]
    assert ((0.05 < far) & (far < 1)).any()


@pytest.mark.equation("adaptvig", "attention")
def test_graph_block_of_the_last_stage():
    block, image = randomise(Block(Grapher(DIM, Attend(DIM)), FFN(DIM))), nodes(2, DIM, *GRID)
    attend, value = block.grapher.constructor, block.grapher.conv.value.weight[:, :, 0, 0]
    layers = [layer.weight[:, :, 0, 0] for layer in (attend.query, attend.key)]
    norms = [(norm.weight, norm.bias) for norm in (attend.query_norm, attend.key_norm)]

    def message(h):
        return oracle.attended(h, oracle.attention(h, *layers, *norms), value)

    out, graph = block(image)
    expected = graph_block(block, image, message)
    parameters = [p for p in block.parameters() if p is not attend.key_norm.bias]  # adds the same to a target's scores
    assert_same(as_nodes(out), expected, [image, *parameters], rtol=1e-8)
    torch.testing.assert_close(graph.adj().sum(-1), torch.ones(2, 12, dtype=torch.float64))


# ---- the network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, parameters", [("adaptvig_s", 8_685_785), ("adaptvig_m", 18_062_812),
                                             ("adaptvig_b", 26_987_231)])
def test_exact_parameters(name, parameters):
    model = on_meta(name)
    assert count_parameters(model) == parameters
    assert [len(stage.local) for stage in model.stages] == list(model.config.local)
    assert [len(stage.blocks) for stage in model.stages] == list(model.config.depth)


def test_a_block_starts_as_nearly_nothing():
    model = tiny().eval()
    images = torch.randn(2, 3, 16, 16)
    stem = model.stem(images)
    torch.testing.assert_close(model.stages[0](stem)[0], stem, atol=1e-2, rtol=0)
    scales = [p for name, p in model.named_parameters() if name.endswith("scale")]
    assert len(scales) == 3 + 2 * 3 and all((scale == 1e-5).all() for scale in scales)


def test_graphs_are_gates_then_attention_and_can_be_looked_at():
    model = tiny().eval()
    logits, graphs = model(torch.randn(2, 3, 16, 16), return_graphs=True)
    assert logits.shape == (2, 5) and [graph.num_targets for graph in graphs] == [64, 64, 16]
    assert [graph.index is None for graph in graphs] == [False, False, True]
    assert [block.grapher.constructor.hops for block in model.blocks[:2]] == [2, 2]
    assert isinstance(model.blocks[2].grapher.constructor, Attend)
    layers = layers_of(model.config, graphs)
    assert [layer.name for layer in layers] == ["layer 0", "layer 1", "layer 2"]
    assert layers[2].spread(layers[2].row((3, 5)), (8, 8)).shape == (8, 8)
    stages = model.forward_stages(torch.randn(2, 3, 16, 16))
    assert [tuple(stage.shape) for stage in stages] == [(2, 8, 8, 8), (2, 16, 4, 4)]
    assert torch.equal(model.forward_features(images := torch.randn(1, 3, 16, 16)), model.forward_stages(images)[-1])


def test_stochastic_depth_grows_over_local_and_graph_blocks():
    model = tiny(drop_path=0.5)
    rates = [part.drop_path.p for part in model.modules() if hasattr(part, "drop_path")]
    expected = [0.5 * block / 5 for block in range(6)]  # 1 local, 2 graph; 2 local, 1 graph: two branches a graph block
    order = [0, 1, 1, 2, 2, 3, 4, 5, 5]
    assert rates == pytest.approx([expected[block] for block in order])
    block = LocalBlock(DIM, 0.5)
    nn.init.constant_(block.scale.scale, 1.0)
    x = torch.randn(64, DIM, *GRID)
    branch = block.eval()(x) - x
    block.scale.train()
    changed = (block(x) - x).flatten(1)
    dropped = (changed == 0).all(1)
    assert 10 < dropped.sum() < 54
    torch.testing.assert_close(changed[~dropped], 2 * branch.flatten(1)[~dropped], rtol=1e-4, atol=1e-5)


def test_two_classifiers_in_training_and_their_mean_in_evaluation():
    model, images = tiny(distillation=True), torch.randn(3, 3, 16, 16)
    first, second = model(images)
    assert first.shape == second.shape == (3, 5) and not torch.equal(first, second)
    model.eval()
    pooled = model.forward_features(images).mean((2, 3), keepdim=True)
    hidden = model.head[:-1](pooled)
    both = [layer(hidden).flatten(1) for layer in (model.head[-1], model.distilled)]
    torch.testing.assert_close(model(images), (both[0] + both[1]) / 2)
    model.reset_classifier(7)
    assert model(images).shape == (3, 7) and model.distilled.out_channels == 7
    assert isinstance(tiny().train()(images), torch.Tensor)  # one classifier


def test_everything_learns():
    model = tiny(distillation=True)
    for part in model.modules():
        if hasattr(part, "scale") and isinstance(part.scale, nn.Parameter):
            nn.init.constant_(part.scale, 1.0)
        if isinstance(part, Adaptive):
            nn.init.constant_(part.temperature, 20.0)
    first, second = model(torch.randn(3, 3, 16, 16))
    (first.square().sum() + second.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name
    assert "stages.0.blocks.0.grapher.constructor.temperature" in model.no_weight_decay()


def test_images_of_another_size():
    model = tiny().eval()
    twin = tiny(img_size=(24, 40)).eval()
    twin.load_state_dict(model.state_dict())  # nothing depends on the size
    images = torch.randn(2, 3, 24, 40)
    torch.testing.assert_close(model(images), twin(images))
    assert twin.config.grids == [(12, 20), (6, 10)]
    with pytest.raises(ValueError, match="patch"):
        model(torch.randn(1, 3, 17, 16))


@pytest.mark.parametrize("fields, says", [
    ({"dim": (8, 10)}, "multiples of 4"), ({"local": (1,)}, "one number a stage"), ({"depth": (0, 1)}, "at least 1"),
    ({"hops": 2}, "one a stage"), ({"patch": 8}, "patch"), ({"distillation": 1}, "distillation"),
    ({"drop_path": 1.0}, "drop_path"), ({"img_size": 15}, "img_size"), ({"num_classes": -1}, "num_classes")])
def test_what_cannot_be_built_is_an_error(fields, says):
    with pytest.raises(ValueError, match=says):
        AdaptViGConfig(**TINY | fields)
