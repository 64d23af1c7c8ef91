"""GKGNet: the cross level, the classifier, what depends on which label, sizes, weights from elsewhere."""

import pytest
import torch

from helpers import assert_same, dense_of, nodes, on_meta, randomise
from reference import gkgnet as oracle
from reference.vig import linear
from vig_minimal import create_model
from vig_minimal.atomic_files import CheckpointError
from vig_minimal.constructors import GroupKNN
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.models.cost import count_macs, count_parameters
from vig_minimal.models.gkgnet import CrossLevel
from vig_minimal.models.layers import to_image
from vig_minimal.models.released import init_from, load_released

B, L, C = 2, 3, 8
TINY = {"dim": (8, 16), "depth": (1, 2), "pool": (2, 1), "img_size": 16, "patch": 2, "num_classes": L, "k": 3}


def tiny(name="gkgnet_nano", **fields):
    return create_model(name, **TINY | fields)


def layers_of(grapher, ffn):
    """The five layers of a Grapher or cross level and its FFN."""
    return [dense_of(part) for part in (grapher.fc1, grapher.conv.update, grapher.fc2, ffn.fc1, ffn.fc2)]


@pytest.mark.equation("gkgnet", 1)
@pytest.mark.equation("gkgnet", 2)
@pytest.mark.equation("gkgnet", "cross level")
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_labels_read_from_patches_and_are_updated(groups):
    module = randomise(CrossLevel(C, GroupKNN(2, groups), "mr", 0.0))
    labels, patches = nodes(B, L, C), nodes(B, 6, C)  # fewer labels than patches: a transposed graph cannot pass
    layers = layers_of(module, module.ffn)
    assert layers[1].groups == 4
    out, graph = module(to_image(labels, (L, 1)), to_image(patches, (2, 3)))
    expected = torch.stack([oracle.cross_level(labels[b], patches[b], 2, groups, *layers) for b in range(B)])
    assert_same(out[..., 0].mT, expected, [labels, patches, *module.parameters()])
    assert isinstance(graph, GroupGraph) and graph.adj().shape == (B, groups, L, 6)


@pytest.mark.equation("gkgnet", 3)
def test_scores_add_the_labels_own_and_the_mean_patchs():
    model = randomise(tiny())
    images = torch.randn(B, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        forward_head, seen = model.forward_head, []
        model.forward_head = lambda x, labels: seen.append((x, labels)) or forward_head(x, labels)
        logits, (x, labels) = model(images), seen[0]
        of_labels, of_patches = model.of_labels, model.of_patches
        expected = torch.stack([oracle.logits(labels[b], x[b].flatten(1).T, of_labels.weight, of_labels.bias,
                                              of_patches.weight, of_patches.bias) for b in range(B)])
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.forward_features(images), x)


@pytest.mark.equation("gkgnet", 2)
@pytest.mark.equation("gkgnet", 3)
@pytest.mark.equation("gkgnet", "cross level")
@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_the_whole_model_is_patches_and_then_labels_in_every_stage(groups):
    model = randomise(tiny(img_size=(8, 12), groups=groups))
    images = torch.randn(B, 3, 8, 12, dtype=torch.float64)
    x, labels = model.stem(images) + model.position, [model.labels.weight] * B
    for i, (stage, pool) in enumerate(zip(model.stages, (2, 1), strict=True)):
        blocks = [layers_of(block.grapher, block.ffn) for block in stage.blocks]
        x = torch.stack([oracle.stage(one, blocks, pool, 3, groups, [1] * len(blocks)) for one in stage.downsample(x)])
        patches = [one.flatten(1).T for one in x]
        if i > 0:
            wider = model.widen[i - 1]
            labels = [torch.stack([linear(label, wider.weight, wider.bias) for label in one]) for one in labels]
        cross = layers_of(model.cross[i], model.cross[i].ffn)
        labels = [oracle.cross_level(d, s, 3, groups, *cross) for d, s in zip(labels, patches)]
    own, whole = model.of_labels, model.of_patches
    expected = torch.stack([oracle.logits(d, s, own.weight, own.bias, whole.weight, whole.bias)
                            for d, s in zip(labels, patches)])
    torch.testing.assert_close(model(images), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("gkgnet", "cross level")
def test_patches_never_read_from_labels():
    model = tiny().eval()
    images = torch.randn(B, 3, 16, 16)
    with torch.no_grad():
        before, logits = model.forward_features(images), model(images)
        model.labels.weight.add_(1.0)
        assert torch.equal(model.forward_features(images), before) and not torch.allclose(model(images), logits)
    last = model.train().forward_features(images).sum()
    assert torch.autograd.grad(last, model.labels.weight, allow_unused=True) == (None,)
    assert torch.autograd.grad(model(images).sum(), model.labels.weight)[0].abs().sum() > 0


def test_a_labels_score_depends_on_its_own_embedding_alone_but_in_training():
    model = randomise(tiny())
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for label in range(L):
        rows = torch.autograd.grad(model(images)[:, label].sum(), model.labels.weight)[0].abs().sum(1)
        assert rows[label] > 0 and all(rows[other] == 0 for other in range(L) if other != label)
    model.train()  # batch norm sees labels × images
    rows = torch.autograd.grad(model(images)[:, 0].sum(), model.labels.weight)[0].abs().sum(1)
    assert (rows > 0).all()


def test_what_a_forward_pass_returns():
    model, images = tiny().eval(), torch.randn(B, 3, 16, 16)
    with torch.no_grad():
        logits, graphs = model(images, return_graphs=True)
        torch.testing.assert_close(model(images), logits)
    assert logits.shape == (B, L) and len(graphs) == 5  # 1 block, cross level, 2 blocks, cross level
    assert [graph.num_targets for graph in graphs] == [64, L, 16, 16, L]
    assert [graph.num_sources for graph in graphs] == [16, 64, 16, 16, 16]  # labels read from all patches
    assert all(3 <= graph.degree().min() and graph.degree().max() <= 6 for graph in graphs)
    with torch.no_grad():
        alone, together = model(images[:1]), logits[:1]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_cross_levels_have_no_dilation_and_the_drop_path_of_their_stages_first_block():
    model = create_model("gkgnet_nano", depth=(2, 2, 6, 2), drop_path=0.11, num_classes=L)
    assert [cross.drop_path.p for cross in model.cross] == pytest.approx([0.0, 0.02, 0.04, 0.10])
    assert [cross.ffn.drop_path.p for cross in model.cross] == pytest.approx([0.0, 0.02, 0.04, 0.10])
    assert {cross.constructor.dilation for cross in model.cross} == {1}


def test_every_probability_starts_near_a_half():
    torch.manual_seed(0)
    scores = create_model("gkgnet_nano").train()(torch.randn(8, 3, 64, 64)).sigmoid()
    assert 0.1 < scores.min() and scores.max() < 0.9


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, size, parameters", [
    ("gkgnet_s", 224, 33_265_200), pytest.param("gkgnet_s", 448, 34_017_840, marks=pytest.mark.slow),
    pytest.param("gkgnet_s", 576, 34_673_200, marks=pytest.mark.slow), ("gkgnet_nano", 64, 1_282_028),
])
def test_parameters_to_the_last_one(name, size, parameters):
    assert count_parameters(on_meta(name, img_size=size)) == parameters


def test_multiply_adds():
    assert round(count_macs(create_model("gkgnet_s"), torch.randn(1, 3, 224, 224)) / 1e9, 3) == 5.189


@pytest.mark.slow
@pytest.mark.parametrize("size, giga", [(448, 21.859), (576, 39.933)])  # an L × L matrix of scores would add 0.004
def test_multiply_adds_at_other_sizes(size, giga):
    macs = count_macs(create_model("gkgnet_s", img_size=size), torch.randn(1, 3, size, size))
    assert round(macs / 1e9, 3) == giga


# ---- weights from elsewhere ----------------------------------------------------------------------------------------


def equal(a, b, keys):
    return all(torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in keys)


def body(model):
    return [key for key in model.state_dict() if key.split(".")[0] in ("stem", "position", "stages")]


def test_a_pyramid_starts_the_patch_level():
    pyramid, model = randomise(tiny("pvig_nano")).float(), tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert init_from(model, pyramid.state_dict()) == ["labels", "cross", "widen", "of_labels", "of_patches"]
    assert equal(model, pyramid, body(model))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items() if key not in body(model))
    larger = tiny(img_size=32)
    init_from(larger, pyramid.state_dict())  # positions follow the grid
    assert larger.position.shape[2:] == (16, 16)
    assert larger.position.mean().item() == pytest.approx(pyramid.position.mean().item(), abs=0.05)


def test_another_number_of_classes_leaves_what_belongs_to_classes_new():
    trained, model = randomise(tiny(num_classes=7)).float(), tiny()
    assert init_from(model, trained.state_dict()) == ["labels", "of_labels", "of_patches"]
    assert equal(model, trained, [key for key in body(model)] + ["cross.0.fc1.0.weight", "widen.0.weight"])
    head, plain = randomise(tiny("pvig_nano", num_classes=7)).float(), tiny("pvig_nano")
    assert init_from(plain, head.state_dict()) == ["head"]
    assert equal(plain, head, ["head.0.weight"])  # its first layer does not depend on the classes


def test_weights_that_do_not_fit_leave_the_model_as_it_was():
    model, wrong = tiny(), tiny("pvig_nano", depth=(1, 1)).state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit this model; missing: stages.1.blocks.1"):
        init_from(model, wrong)
    with pytest.raises(CheckpointError, match="holds no weights"):
        init_from(model, {"epoch": 3})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def as_released(model):
    """A state dict of ours under the released code's names."""
    places = {}
    for i, stage in enumerate(model.stages):
        if i > 0:
            places[f"stages.{i}.downsample."] = f"backbone.backbone.{len(places)}.conv."
        for j in range(len(stage.blocks)):
            number = len(places)
            places[f"stages.{i}.blocks.{j}."] = f"backbone.backbone.{number}."
    renamed = {}
    for key, value in model.state_dict().items():
        for ours, theirs in places.items():
            if key.startswith(ours):
                key = theirs + key[len(ours):].replace("grapher.", "0.").replace("ffn.", "1.")
        parts = key.split(".")
        if parts[0] == "cross":
            key = ".".join(["backbone.gcn_label", parts[1], "0", *parts[2:]])
        if parts[0] == "widen":
            key = ".".join(["backbone.ffn_label", parts[1], "0", *parts[2:]])
        for ours, theirs in (("stem.layers", "backbone.stem.convs"), ("labels.", "backbone.label_lt."),
                             ("of_labels", "head.fc1"), ("of_patches", "head.fc2")):
            key = key.replace(ours, theirs) if key.startswith(ours) else key
        key = "backbone.pos_embed" if key == "position" else key.replace("conv.update.", "graph_conv.gconv.nn.")
        renamed[key] = value.clone()
    renamed["backbone.backbone.0.0.relative_pos"] = torch.zeros(1, 64, 16)  # a table, which ours makes itself
    return renamed


def test_released_names_load():
    source, target = randomise(tiny()).float(), tiny()
    names = as_released(source)
    assert "backbone.backbone.1.conv.0.weight" in names and "backbone.gcn_label.1.0.ffn.fc1.0.weight" in names
    load_released(target, {"state_dict": names})
    assert equal(source, target, source.state_dict())
    names["backbone.gcn_label.5.0.fc1.0.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match="not in this model: cross.5.fc1.0.weight"):
        load_released(target, names)


@pytest.mark.parametrize("fields, says", [
    ({"graph": "knn"}, "groups=1 makes it plain"), ({"groups": 3}, "multiples of it"), ({"dropout": 0.1}, "leave it 0"),
    ({"conv": "edge"}, "mixes all channels"),
])
def test_what_cannot_be_built_is_one_sentence(fields, says):
    with pytest.raises(ValueError, match=says):
        tiny(**fields)
