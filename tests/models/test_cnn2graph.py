"""CNN2GNN and CNN2Transformer: anchors, each aggregation against loops, who attends to whom, sizes, stored anchors."""

import copy

import pytest
import torch
from torchvision import models

from helpers import assert_same, nodes, on_meta
from reference import cnn2graph as oracle
from vig_minimal import create_model, list_models
from vig_minimal.atomic_files import CheckpointError
from vig_minimal.data.anchors import draw_anchors
from vig_minimal.models.cnn2graph import CNN2GNN, CNN2GraphConfig, CNN2Transformer, maximum, mean
from vig_minimal.models.cost import count_macs, count_parameters
from vig_minimal.models.registry import CONFIGS
from vig_minimal.models.resnet import ResNet, load_backbone

X, A, P, DIM = 5, 3, 4, 6  # images, anchors, proxies: all different
FAMILIES = ["cnn2mean", "cnn2max", "cnn2gnn", "cnn2transformer"]


def module(build, dim=DIM, **fields):
    made = build(CNN2GraphConfig("nano", "gnn", heads=2, **fields), dim).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def sets():
    return nodes(X, DIM), nodes(A, DIM), nodes(P, DIM)


WITH_SELF = pytest.mark.parametrize("with_self", [True, False])


@pytest.mark.parametrize("family, total", [("cnn2mean", 6 / 7), ("cnn2gnn", 2.0), ("cnn2transformer", 2.0)])
def test_weights_of_the_graph_are_the_mean_of_all_heads(family, total):
    """Of each head they sum to 1 over the anchors, and over the proxies; of a mean over itself, 2 and 4 they are 1/7.
    """
    model = create_model(f"{family}_nano", num_classes=2, img_size=16, proxies_per_class=2).eval()
    model.store_anchors(torch.randn(2, 3, 16, 16))
    with torch.no_grad():
        weights = model(torch.randn(3, 3, 16, 16), return_graphs=True)[1][0].weights[0]  # (3, 2 + 4)
    torch.testing.assert_close(weights.sum(1), torch.full((3,), total))
    if family != "cnn2mean":
        torch.testing.assert_close(weights[:, :2].sum(1), torch.ones(3))


def test_attention_has_four_heads():
    for name in list_models("cnn2*"):
        assert CONFIGS[name].heads == 4


@pytest.mark.equation("cnn2graph", 1)
def test_anchors_are_drawn_uniformly_in_their_class():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 0, 2])
    seen = {}
    for seed in range(300):
        drawn = draw_anchors(labels, "abc", 2, torch.Generator().manual_seed(seed))
        assert labels[drawn].tolist() == [0, 0, 1, 1, 2, 2] and len(set(drawn.tolist())) == 6
        for index in drawn.tolist():
            seen[index] = seen.get(index, 0) + 1
    assert seen[2] == seen[5] == 300 and all(150 < seen[index] < 250 for index in (0, 1, 3, 4, 6, 7))
    again = [draw_anchors(labels, "abc", 1, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*again)
    with pytest.raises(ValueError, match="class b has 2 training images, too few for 3 anchors"):
        draw_anchors(labels, "abc", 3, torch.Generator())
    with pytest.raises(ValueError, match="class d has 0 training images"):
        draw_anchors(labels, "abcd", 1, torch.Generator())


@pytest.mark.equation("cnn2graph", 2)
@WITH_SELF
def test_mean(with_self):
    x, anchors, proxies = sets()
    z, weights = mean(x, anchors, proxies, with_self)
    expected = torch.stack([oracle.isotropic_mean(one, anchors, proxies, with_self) for one in x])
    assert_same(z, expected, [x, anchors, proxies] if with_self else [anchors, proxies])
    assert weights.shape == (X, 1, A + P) and torch.allclose(weights, torch.tensor(1 / (A + P + with_self)).double())


@pytest.mark.equation("cnn2graph", 2)
def test_the_printed_mean_is_the_mean_where_every_degree_is_the_same():
    x, anchors, proxies = nodes(1 + A + P, DIM), nodes(A, DIM), nodes(P, DIM)  # B = 1 + A + P
    torch.testing.assert_close(mean(x, anchors, proxies)[0], oracle.printed_mean(x, anchors, proxies))
    with pytest.raises(AssertionError):  # else an image depends on how many others there are
        two = x[:2]
        torch.testing.assert_close(mean(two, anchors, proxies)[0], oracle.printed_mean(two, anchors, proxies))


@pytest.mark.equation("cnn2graph", "max")
@WITH_SELF
def test_maximum(with_self):
    x, anchors, proxies = sets()
    z, weights = maximum(x, anchors, proxies, with_self)
    expected = torch.stack([oracle.isotropic_max(one, anchors, proxies, with_self) for one in x])
    assert_same(z, expected, [x, anchors, proxies] if with_self else [anchors, proxies])
    assert (weights == 1).all()


@pytest.mark.equation("cnn2graph", 3)
@pytest.mark.equation("cnn2graph", "Algorithm 1")
@WITH_SELF
def test_gatv2_with_a_softmax_over_anchors_and_one_over_proxies(with_self):
    gnn, (x, anchors, proxies) = module(CNN2GNN, aggregate_self=with_self), sets()
    z, alpha = gnn(x, anchors, proxies)
    made = [oracle.cnn2gnn(one, anchors, proxies, gnn.w1.weight, gnn.w2.weight, gnn.a, with_self) for one in x]
    assert_same(z, torch.stack([one for one, _ in made]), [x, anchors, proxies, *gnn.parameters()])
    assert_same(alpha, torch.stack([weights for _, weights in made]), [x, anchors, proxies])
    torch.testing.assert_close(alpha[..., :A].sum(-1), torch.ones(X, 2, dtype=torch.float64))
    torch.testing.assert_close(alpha[..., A:].sum(-1), torch.ones(X, 2, dtype=torch.float64))


def test_what_is_normalised_apart_does_not_touch_the_other():
    for build in (CNN2GNN, CNN2Transformer):
        made, (x, anchors, proxies) = module(build), sets()
        _, before = made(x, anchors, proxies)
        _, after = made(x, anchors, 3 * proxies)
        torch.testing.assert_close(before[..., :A], after[..., :A])
        assert not torch.allclose(before[..., A:], after[..., A:])


@pytest.mark.equation("cnn2graph", 5)
@pytest.mark.equation("cnn2graph", 6)
@pytest.mark.equation("cnn2graph", 7)
@WITH_SELF
@pytest.mark.parametrize("omega", ["cat", "max"])
def test_cross_attention_over_anchors_and_over_proxies(omega, with_self):
    attention, (x, anchors, proxies) = module(CNN2Transformer, omega=omega, aggregate_self=with_self), sets()
    z, alpha = attention(x, anchors, proxies)
    rows, weights = [], []
    for one in x:
        parts, found = [one] if with_self else [], []
        for members, key, value in ((anchors, attention.key1, attention.value1),
                                    (proxies, attention.key2, attention.value2)):
            made, alphas = oracle.cross_attention(one, members, attention.query.weight, key.weight, value.weight, 2)
            parts.append(made)
            found.append(alphas)
        if omega == "cat":
            rows.append(attention.out.weight @ torch.cat(parts) + attention.out.bias)
        else:
            rows.append(torch.stack([max((part[f] for part in parts), key=lambda v: v.item()) for f in range(DIM)]))
        weights.append(torch.cat(found, 1))
    assert_same(z, torch.stack(rows), [anchors, proxies, *attention.parameters()] + ([x] if with_self else []))
    assert_same(alpha, torch.stack(weights), [x, anchors, proxies])


# ---- the model -----------------------------------------------------------------------------------------------------


def tiny(family, **fields):
    return create_model(f"{family}_nano", **{"num_classes": 3, "img_size": 16} | fields)


@pytest.mark.equation("cnn2graph", 4)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_passes_images_and_anchors_through_one_backbone(family):
    model = tiny(family, anchors_per_class=2, proxies_per_class=3).double().train()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval()  # so that images and anchors can be computed apart
    images, anchors = torch.randn(4, 3, 16, 16).double(), torch.randn(6, 3, 16, 16).double()
    model.anchor_images = anchors
    out = model(images)
    x, l = model.backbone(images), model.backbone(anchors)
    torch.testing.assert_close(out.logits, model.classifier(model.aggregate(x, l, model.proxies)[0]))
    torch.testing.assert_close(out.anchor_logits, model.classifier(l))  # anchors do not attend
    torch.testing.assert_close(out.proxy_logits, model.classifier(model.proxies))
    for made, plain in ((out.x, x), (out.anchors, l), (out.proxies, model.proxies)):
        torch.testing.assert_close(made, plain / plain.norm(dim=1, keepdim=True))
    assert out.anchor_labels.tolist() == [0, 0, 1, 1, 2, 2] and out.proxy_labels.tolist() == 3 * [0] + 3 * [1] + 3 * [2]
    sum(part.sum() for part in out[:6]).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.equation("cnn2graph", 4)
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_norm_sees_images_and_anchors_together(family):
    model = tiny(family).double().train()
    images, anchors = torch.randn(4, 3, 16, 16).double(), 3 + torch.randn(3, 3, 16, 16).double()
    x, l = copy.deepcopy(model.backbone)(torch.cat([images, anchors])).split((4, 3))
    model.anchor_images = anchors
    out = model(images)
    torch.testing.assert_close(out.anchor_logits, model.classifier(l))
    torch.testing.assert_close(out.x, x / x.norm(dim=1, keepdim=True))
    norms = [norm for norm in model.backbone.modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 1 for norm in norms)


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_needs_the_anchors_embeddings_alone(family):
    model = tiny(family).eval()
    images, anchors = torch.randn(4, 3, 16, 16), torch.randn(3, 3, 16, 16)
    with pytest.raises(ValueError, match="no anchors yet"):
        model(images)
    with pytest.raises(ValueError, match="set model.anchor_images"):
        model.train()(images)
    model.store_anchors(anchors)
    assert model.training  # as it was
    model.eval()
    with torch.no_grad():
        logits, [graph] = model(images, return_graphs=True)
        torch.testing.assert_close(model(images), logits)
        torch.testing.assert_close(model(images[2:3]), logits[2:3], rtol=1e-4, atol=1e-5)  # a batch of one
        torch.testing.assert_close(model.anchors, model.backbone(anchors))
    assert logits.shape == (4, 3) and graph.adj().shape == (1, 4, 6)
    assert (graph.num_targets, graph.num_sources) == (4, 6) and (graph.degree() == 6).all()
    assert model.forward_features(images).shape[:2] == (4, 256)
    again = tiny(family).eval()
    again.load_state_dict(model.state_dict())  # exporting needs no images
    with torch.no_grad():
        torch.testing.assert_close(again(images), logits)
        calls = []
        again.backbone.register_forward_hook(lambda *_: calls.append(1))
        again(images)
    assert len(calls) == 1


def test_the_baseline_is_a_plain_resnet():
    model = tiny("resnet").eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), model.classifier(model.backbone(images)))
        assert model(images, return_graphs=True)[1] == []


F18, F34, NANO = 11_176_512, 21_284_672, 1_226_400  # ResNet18 and 34 without fc, as torchvision's; the small one


def expected_parameters(name):
    backbone = F34 if "34" in name else F18 if "18" in name else NANO
    dim, classes = (256, 10) if "nano" in name else (512, 1000)
    proxies = 0 if name.startswith("resnet") else classes * dim
    module_of = {"cnn2gnn": 2 * dim**2 + dim, "cnn2transformer": 5 * dim**2 + 3 * dim**2 + dim}
    return backbone + dim * classes + classes + proxies + module_of.get(name.split("_")[0], 0)


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if isinstance(config, CNN2GraphConfig)])
def test_parameters_are_backbone_classifier_proxies_and_attention(name):
    assert name in list_models()
    assert count_parameters(on_meta(name)) == expected_parameters(name)


def test_backbones_have_the_parameters_of_torchvisions():
    with torch.device("meta"):
        counts = [count_parameters(make()) for make in (models.resnet18, models.resnet34)]
    assert [count - 513_000 for count in counts] == [F18, F34]  # without fc


def test_multiply_adds_grow_with_classes_alone():
    few, many = (tiny("cnn2transformer", num_classes=c).eval() for c in (3, 30))
    for model in (few, many):
        model.has_anchors = True
    image = torch.randn(1, 3, 16, 16)
    # keys and values of 27 more anchors and proxies, scores and sums, classifier
    assert count_macs(many, image) - count_macs(few, image) == 27 * (4 * 256**2 + 4 * 256 + 256)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_the_backbone_is_torchvisions(name):
    theirs, ours = models.get_model(name).eval(), ResNet(name, "imagenet").eval()
    load_path = theirs.state_dict()
    ours.load_state_dict({key: value for key, value in load_path.items() if not key.startswith("fc.")})
    theirs.fc = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_convolutions_of_the_backbone_start_as_torchvisions():
    """Kaiming-normal over the outputs: a variance of 2 / (k² · outputs)."""
    for layer in ResNet("resnet18", "imagenet").modules():
        if isinstance(layer, torch.nn.Conv2d):
            std = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.05) and layer.weight.abs().max() > 2.5 * std


def test_old_files_without_counters_of_batches_load(tmp_path):
    theirs, ours = models.resnet18(), ResNet("resnet18", "imagenet")
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    load_backbone(ours, "resnet18", tmp_path / "old.pth")
    assert torch.equal(ours.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_backbone_weights_load_from_a_file_or_say_why_not(tmp_path):
    theirs, ours = models.resnet18(), ResNet("resnet18", "imagenet")
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    load_backbone(ours, "resnet18", tmp_path / "resnet18.pth")
    assert torch.equal(ours.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    with pytest.raises(CheckpointError, match="set stem=imagenet"):
        load_backbone(ResNet("resnet18", "cifar"), "resnet18", tmp_path / "resnet18.pth")
    wrong = r"does not fit the backbone nano; of another shape: conv1.weight \(given .* and 54 more$"
    with pytest.raises(CheckpointError, match=wrong):
        load_backbone(ResNet("nano", "cifar"), "nano", tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match="there are none of the nano backbone"):
        load_backbone(ResNet("nano", "cifar"), "nano", "torchvision")


@pytest.mark.parametrize("fields, says", [
    ({"heads": 3}, "must divide the embedding's 256"), ({"omega": "sum"}, "choose one of cat, max"),
    ({"anchors_per_class": 0}, "at least 1"), ({"proxies_per_class": 1.5}, "whole number"),
    ({"stem": "vgg"}, "choose one of cifar, imagenet"), ({"backbone": "resnet50"}, "nano, resnet18, resnet34"),
    ({"aggregate_self": "no"}, "True, False"), ({"depth": 3}, "no field 'depth'"),
    ({"img_size": 0}, "at least 1 pixel"),
])
def test_what_cannot_be_built_is_one_sentence(fields, says):
    with pytest.raises(ValueError, match=says) as error:
        create_model("cnn2transformer_nano", **fields)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_no_program_is_made_of_a_model_without_anchors():
    model, images = create_model("cnn2gnn_nano", num_classes=3, img_size=16).eval(), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="no anchors yet"):
        torch.compile(model, backend="eager")(images)
    with pytest.raises(Exception, match="no anchors yet|Observed exception"):  # torch wraps it; 2.6 drops the words
        torch.export.export(model, (images,))
    model.store_anchors(torch.randn(len(model.anchors), 3, 16, 16))
    torch.testing.assert_close(torch.compile(model, backend="eager")(images), model(images))


def test_weights_without_anchors_take_the_anchors_away():
    model = create_model("cnn2gnn_nano", num_classes=3, img_size=16).eval()
    without = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.store_anchors(torch.randn(len(model.anchors), 3, 16, 16))
    model(torch.randn(2, 3, 16, 16))
    model.load_state_dict(without)
    with pytest.raises(ValueError, match="no anchors yet"):
        model(torch.randn(2, 3, 16, 16))
