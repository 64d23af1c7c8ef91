"""Detectors: features of four strides from any backbone, images of any size, and gradients for every weight."""

from dataclasses import asdict

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from helpers import same_tensors
from vig_minimal import create_model, init_from
from vig_minimal.models.detection import clusters_for, create_detector, padded
from vig_minimal.models.registry import CONFIGS

SMALL = {"num_classes": 3, "img_size": (64, 128), "channels": 8, "box_head": 16, "mask_layers": 1, "proposals": 20,
         "samples": 8, "anchor": 4}
ISOTROPIC = {"dim": 16, "depth": 2, "patch": 8}
PYRAMID = {"dim": (8, 8, 16, 16), "depth": (1, 1, 1, 1), "patch": 4}
BODIES = {"vig_nano": ISOTROPIC, "svig_nano": ISOTROPIC, "lrgc_nano": ISOTROPIC, "cvig_nano": ISOTROPIC,
          "pvig_nano": PYRAMID}


def small(name, **fields):
    return create_detector(name, **(SMALL | BODIES[name] | fields))


def target(*boxes, size):
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = 1
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            "labels": torch.ones(len(boxes), dtype=torch.int64), "masks": masks}


@pytest.mark.parametrize("name", BODIES)
def test_levels_have_strides_4_to_64_on_any_grid(name):
    backbone = small(name).backbone.eval()
    assert backbone.strides == (4, 8, 16, 32, 64)
    images = ImageList(torch.randn(2, 3, 128, 192), [(75, 190), (128, 65)])  # not multiples of anything
    levels = backbone(images)
    assert [tuple(level.shape) for level in levels.values()] == [
        (2, 8, 128 // stride, 192 // stride) for stride in backbone.strides]
    finest = levels["0"]
    assert (finest[0, :, 20:] == 0).all() and (finest[1, :, :, 18:] == 0).all()  # padding of features, not of images
    assert (finest[0, :, :19, :47] != 0).any(0).all() and (finest[1, :, :, :16] != 0).any(0).all()


@pytest.mark.parametrize("name, spread", [("vig_nano", 0.5), ("cvig_nano", 0.5), ("pvig_nano", 2e-3)])
def test_an_image_is_detected_alike_alone_and_beside_a_larger_one(name, spread):
    model = small(name).eval()
    with torch.no_grad():  # scores that differ from box to box: random weights alone give nearly equal ones
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=spread)
        model.roi_heads.box_predictor.cls_score.bias[0] = -5  # of the background
        nn.init.normal_(model.rpn.head.cls_logits.weight, std=spread)
    narrow, wide = torch.randn(3, 64, 70), torch.randn(3, 70, 120)
    with torch.no_grad():
        alone, together = model([narrow])[0], model([wide, narrow])[1]
    assert len(alone["boxes"]) > 3
    for part in ("boxes", "scores", "masks"):
        torch.testing.assert_close(together[part], alone[part], rtol=1e-3, atol=1e-3)
    assert torch.equal(together["labels"], alone["labels"])


@pytest.mark.parametrize("name, patch", [("pvig_nano", 2), ("pvig_nano", 4), ("vig_nano", 8)])
@torch.no_grad()
def test_an_image_thinner_than_64_pixels_has_the_same_features_beside_a_larger_one(name, patch):
    model = small(name, patch=patch).eval()
    thin, square = torch.randn(3, 20, 200), torch.randn(3, 128, 128)
    alone, together = (model.backbone(model.resize(images)[0]) for images in ([thin], [square, thin]))
    for level in alone:
        height, width = alone[level].shape[2:]
        torch.testing.assert_close(together[level][1:, :, :height, :width], alone[level])


def test_what_goes_through_the_backbone_is_padded_to_the_patch_only():
    assert padded((800, 1333), 16) == (800, 1344) and padded((801, 1333), 4) == (804, 1336)
    assert padded((10, 1333), 16) == (64, 1344)


@pytest.mark.parametrize("name", BODIES)
def test_every_weight_gets_a_gradient_with_and_without_objects(name):
    # one without would stop training on several processes
    model = small(name, frozen_bn=False).train()
    images = [torch.randn(3, 64, 64), torch.randn(3, 64, 96)]
    for boxes in ([[(5, 5, 40, 50)], [(10, 8, 60, 40), (50, 2, 90, 60)]], [[], []]):
        model.zero_grad()
        losses = model(images, [target(*some, size=image.shape[1:]) for some, image in zip(boxes, images)])
        assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale():
    images, targets = [torch.randn(3, 64, 64)], [target((5, 5, 40, 50), size=(64, 64))]
    for frozen in (True, False):
        model = small("cvig_nano", frozen_bn=frozen).train()
        norms = [part for part in model.backbone.body.modules() if isinstance(part, nn.BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms]
        sum(model(images, targets).values()).backward()
        assert all(torch.equal(norm.running_mean, old) == frozen for norm, old in zip(norms, before, strict=True))
        assert all(norm.weight.grad is not None for norm in norms) and model.backbone.neck.training


def test_clusters_follow_the_papers_two_grids():
    preset = CONFIGS["cvig_s"]
    assert [clusters_for(preset, size, 16) for size in ((224, 224), (448, 448), (800, 1333))] == [4, 6, 10]
    assert small("cvig_nano").backbone.body.config.clusters == clusters_for(CONFIGS["cvig_nano"], (64, 128), 8) == 5
    assert clusters_for(preset, (224, 224), 8) == 6  # four times as many patches of half the side
    smaller = create_detector("cvig_nano", 3, img_size=(64, 128), patch=4)
    assert smaller.backbone.body.config.clusters == clusters_for(CONFIGS["cvig_nano"], (64, 128), 4) == 7
    assert small("cvig_nano", clusters=3).backbone.body.config.clusters == 3


@pytest.mark.parametrize("name", ["cvig_nano", "pvig_nano"])
def test_a_config_builds_the_same_detector_again(name):
    model = small(name, drop_path=0.1)
    again = create_detector(name, **asdict(model.config))
    assert again.config == model.config and again.state_dict().keys() == model.state_dict().keys()
    assert dict(again.config.body)["drop_path"] == 0.1


@pytest.mark.parametrize("name", ["cvig_nano", "pvig_nano"])
def test_a_classifiers_weights_start_the_backbone(name):
    classifier, model = create_model(name, img_size=64, **BODIES[name]), small(name)
    assert init_from(model, classifier.state_dict()) == ["neck", "rpn", "roi_heads"]
    ours, theirs = model.backbone.body.state_dict(), classifier.state_dict()
    assert len(ours) > 50 and same_tensors(ours, {key: theirs[key] for key in ours})


def test_graphs_are_those_of_the_first_image():
    model = small("cvig_nano").eval()
    found, graphs = model([torch.randn(3, 64, 96), torch.randn(3, 64, 64)], return_graphs=True)
    assert len(found) == 2 and [graph.num_targets for graph in graphs] == [8 * 12] * 2
    assert graphs[0].labels.max() == 4  # 5 partitions


def test_what_cannot_be_a_detector_is_refused():
    for name in ("gkgnet_nano", "resnet_nano"):
        with pytest.raises(ValueError, match="needs the patches"):
            create_detector(name)
    with pytest.raises(ValueError, match="did you mean vig_nano"):
        create_detector("vig_nan")
    with pytest.raises(ValueError, match="no field 'sample'"):
        create_detector("vig_nano", sample=3)
    for wrong in ({"frozen_bn": 1}, {"samples": 0}, {"anchor": 1.5}, {"num_classes": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            create_detector("vig_nano", **wrong)
    with pytest.raises(ValueError, match="shorter side of at least 64"):
        create_detector("vig_nano", img_size=(32, 100))
    with pytest.raises(ValueError, match="four stages"):
        create_detector("pvig_nano", dim=(8, 8), depth=(1, 1), pool=(2, 1))
