"""The Semantic FPN by loops, and the network around it: any size, any backbone, what is refused."""

import pytest
import torch
from reference import segmentation as reference
from vig_minimal.models.segmentation import SegmenterConfig, SemanticFPN, create_segmenter, segmenter_size

TINY = {"dim": 16, "depth": 1, "patch": 8, "channels": 8, "width": 8}


def test_semantic_fpn_is_that_of_loops():
    torch.manual_seed(0)
    head = SemanticFPN(channels=3, width=4, num_classes=5).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    sides = [(7, 9), (4, 5), (2, 3), (1, 2)]  # each half of the one before, rounded up
    levels = [torch.randn(1, 3, *side, dtype=torch.float64) for side in sides]
    branches = []
    for branch in head.branches:
        layers = [layer for layer in branch if hasattr(layer, "weight")]
        branches.append([(conv.weight.tolist(), norm.num_groups, norm.weight.tolist(), norm.bias.tolist())
                         for conv, norm in zip(layers[::2], layers[1::2])])
    expected = reference.semantic_fpn([level[0].tolist() for level in levels], branches,
                                      head.classifier.weight[:, :, 0, 0].tolist(), head.classifier.bias.tolist())
    torch.testing.assert_close(head(levels)[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_the_widths_of_the_paper():
    convolutions = [[layer.out_channels for layer in branch if isinstance(layer, torch.nn.Conv2d)]
                    for branch in SemanticFPN(256, 128, 150).branches]
    assert convolutions == [[128], [128], [128, 128], [128, 128, 128]]


@pytest.mark.parametrize("name", ["vig_nano", "cvig_nano", "lrgc_nano"])
@pytest.mark.parametrize("size", [(64, 64), (67, 90)])
def test_a_logit_for_every_pixel_of_an_image_of_any_size(name, size):
    model = create_segmenter(name, num_classes=3, **TINY).eval()
    logits, graphs = model(torch.randn(2, 3, *size), return_graphs=True)
    assert logits.shape == (2, 3, *size) and len(graphs) == 1


def test_a_pyramid_of_patch_2_and_one_of_patch_4():
    for patch in (2, 4):
        model = create_segmenter("pvig_nano", num_classes=3, dim=(8, 8, 16, 16), depth=(1, 1, 1, 1), patch=patch,
                                 channels=8, width=8).eval()
        assert model.backbone.strides[0] == patch
        assert model(torch.randn(1, 3, 70, 64)).shape == (1, 3, 70, 64)


def test_padding_is_that_of_zeros_on_the_right_and_below():
    model = create_segmenter("vig_nano", num_classes=3, **TINY).eval()
    image = torch.randn(1, 3, 70, 75)
    padded = torch.zeros(1, 3, 72, 80)
    padded[:, :, :70, :75] = image
    torch.testing.assert_close(model(image), model(padded)[:, :, :70, :75])


def test_an_image_does_not_depend_on_the_others():
    model = create_segmenter("vig_nano", num_classes=3, **TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images)[1:], model(images[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, fields, words", [
    ("gkgnet_nano", {}, "segmentation needs the patches"), ("resnet_nano", {}, "segmentation needs the patches"),
    ("vig_nano", {"width": 0}, "width=0"), ("vig_nano", {"dropout": 1.0}, "dropout=1"), ("vig", {}, "did you mean"),
    ("pvig_nano", {"dim": (8, 8), "depth": (1, 1), "pool": (1, 1)}, "four stages"),
])
def test_what_cannot_work_is_one_sentence(name, fields, words):
    with pytest.raises(ValueError, match=words):
        create_segmenter(name, **fields)


def test_config_of_the_issue():
    config = SegmenterConfig(())
    assert (config.channels, config.width, config.dropout, config.img_size) == (256, 128, 0.1, (512, 512))


def test_nano_networks_are_smaller():
    with torch.device("meta"):
        config = create_segmenter("pvig_nano", num_classes=3).config
    assert (config.channels, config.width, config.dropout, config.img_size) == (48, 32, 0.1, (128, 128))
    assert (segmenter_size("pvig_nano"), segmenter_size("pvig_s")) == ((128, 128), (512, 512))


def test_at_first_all_classes_are_about_as_likely():
    """The last layer starts near 0, as in Semantic FPN's own code: 0.01 times numbers of the size of its input."""
    head = SemanticFPN(channels=8, width=64, num_classes=40)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1) and not head.classifier.bias.any()
    assert head.dropout.p == 0.1


def test_the_head_is_that_of_the_config():
    model = create_segmenter("vig_nano", num_classes=3, **TINY, dropout=0.3)
    groups = {layer.num_groups for layer in model.head.modules() if isinstance(layer, torch.nn.GroupNorm)}
    assert model.head.dropout.p == 0.3 and groups == {8}  # of 32 groups at most, as many as divide the width
    assert model.head.classifier.weight.shape == (3, 8, 1, 1)
