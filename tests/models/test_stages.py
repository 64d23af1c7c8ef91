"""What users of models elsewhere expect: features of every stage, another head, none at all, names without decay."""

import pytest
import torch
from torch import nn

from helpers import ADAPTVIG, TINY
from vig_minimal import create_model, list_models
from vig_minimal.models.layers import DropPath
from vig_minimal.training.engine import create_optimiser
from vig_minimal.training.recipes import RECIPES

PYRAMID = {"dim": (8, 16), "depth": (1, 2), "pool": (2, 1), "num_classes": 5, "img_size": 16, "patch": 2, "k": 3}
ISOTROPIC = ("vig_nano", "svig_nano", "lrgc_nano", "cvig_nano")
RESNETS = ("resnet_nano", "cnn2mean_nano", "cnn2max_nano", "cnn2gnn_nano", "cnn2transformer_nano")
MODELS = {name: TINY for name in ISOTROPIC} | {name: PYRAMID for name in ("pvig_nano", "gkgnet_nano")} | {
    "adaptvig_nano": ADAPTVIG} | {name: {"num_classes": 5, "img_size": 16} for name in RESNETS}
IMAGES = torch.randn(2, 3, 16, 16)


def made(name: str, **fields) -> nn.Module:
    model = create_model(name, **MODELS[name] | fields).eval()
    if name in RESNETS[1:] and model.config.num_classes:
        model.store_anchors(torch.randn(model.config.num_classes, 3, 16, 16))
    return model


@pytest.mark.parametrize("name", ISOTROPIC)
@torch.no_grad()
def test_features_of_chosen_blocks(name):
    model, seen = made(name, depth=3), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    model(IMAGES)
    expected, seen[:] = list(seen), []
    assert torch.equal(model.forward_features(IMAGES), expected[2])
    for blocks in ((-1,), (0, 2), (2, 0), (1,), (-2, -3)):
        seen.clear()
        stages = model.forward_stages(IMAGES, blocks=blocks)
        assert all(torch.equal(ours, expected[block]) for ours, block in zip(stages, blocks, strict=True))
        assert len(seen) == max(block % 3 for block in blocks) + 1  # later blocks do not run
    for wrong in ((3,), (-4,), ()):
        with pytest.raises(ValueError, match="blocks 0 to 2"):
            model.forward_stages(IMAGES, blocks=wrong)


@pytest.mark.parametrize("name, shapes", [
    *((name, [(8, 8, 8), (16, 4, 4)]) for name in ("pvig_nano", "gkgnet_nano", "adaptvig_nano")),
    *((name, [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]) for name in RESNETS)])
@torch.no_grad()
def test_features_of_every_stage(name, shapes):
    model = made(name)
    stages = model.forward_stages(IMAGES)
    assert [tuple(features.shape[1:]) for features in stages] == shapes
    assert torch.equal(stages[-1], model.forward_features(IMAGES)) and model.num_features == shapes[-1][0]


@torch.no_grad()
def test_the_patches_of_gkgnet_are_those_that_its_labels_read():
    model, seen = made("gkgnet_nano"), []
    for cross in model.cross:
        cross.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(IMAGES)
    assert all(map(torch.equal, seen, model.forward_stages(IMAGES)))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gkgnet_nano"])
@torch.no_grad()
def test_the_head_of_the_features_is_the_answer(name):
    model = made(name)
    torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), model(IMAGES))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_without_classes_a_model_gives_its_pooled_features(name):
    model = made(name, num_classes=0)
    pooled = model.forward_features(IMAGES).mean((2, 3))
    assert pooled.shape == (2, model.num_features)
    torch.testing.assert_close(model(IMAGES), pooled)
    assert model.train()(IMAGES).shape == pooled.shape
    trained = made(name)
    trained.reset_classifier(0)
    assert trained.state_dict().keys() == model.state_dict().keys() and trained.config == model.config
    for without in (trained, model.eval()):
        without.reset_classifier(7)
        assert not any(part.training for part in without.modules() if isinstance(part, (nn.BatchNorm2d, DropPath)))
        assert without.state_dict().keys() == made(name).state_dict().keys() and without.config.num_classes == 7


@pytest.mark.parametrize("name", [*MODELS, "cvig_nano distilled", "adaptvig_nano distilled"])
def test_a_new_classifier_leaves_the_rest_as_it_was(name):
    fields = {"distillation": True} if name.endswith("distilled") else {}
    model = made(name.split()[0], **fields)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(7)
    twin = made(name.split()[0], num_classes=7, **fields)
    after = model.state_dict()
    assert {key: value.shape for key, value in after.items()} == {
        key: value.shape for key, value in twin.state_dict().items()}
    new = {key.rsplit(".", 1)[0] for key in after if after[key].shape != before[key].shape}
    assert new <= {"head.4", "distilled", "labels", "of_labels", "of_patches", "classifier", "proxies",
                   "anchors"} and new
    assert all(torch.equal(after[key], before[key]) for key in after if key.rsplit(".", 1)[0] not in new | {"stored"})
    assert model.config == twin.config
    if name not in RESNETS[1:]:
        assert model(IMAGES).shape == (2, 7)


def test_distillation_gives_a_tuple_in_training_alone_and_its_absence_a_tensor():
    distilled, plain = (made("cvig_nano", distillation=on).train() for on in (True, False))
    assert [logits.shape for logits in distilled(IMAGES)] == [(2, 5), (2, 5)]
    assert distilled.eval()(IMAGES).shape == plain(IMAGES).shape == (2, 5)
    assert create_model("cvig_ti").config.distillation


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_without_decay_are_those_of_the_optimiser(name):
    model = made(name)
    decayed, others = (group["params"] for group in create_optimiser(model, RECIPES["demo"]).param_groups)
    exempt = model.no_weight_decay()
    assert exempt and (name != "lrgc_nano" or "blocks.0.grapher.constructor.tau" in exempt)
    assert {id(p) for p in others} == {id(p) for key, p in model.named_parameters() if key in exempt}
    assert all(p.ndim > 1 for p in decayed) and len(decayed) + len(others) == len(list(model.parameters()))


def test_list_models_by_a_pattern():
    assert list_models("vig*") == ["vig_nano", "vig_ti", "vig_s", "vig_b"]
