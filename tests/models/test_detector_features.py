"""What a detector's boxes and masks are cut from: whose features, at which place, from which level; and its presets."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from test_detector import small
from vig_minimal.models.detection import DetectorConfig, SimplePyramid, create_detector, detector_size

STRIDES = 4, 8, 16, 32


@pytest.mark.parametrize("name", ["vig_nano", "pvig_nano"])
@torch.no_grad()
def test_images_of_three_sizes_have_their_own_features_in_their_own_order(name):
    """The first and the last go through the backbone together: an order that is not its own inverse."""
    backbone = small(name).backbone.eval()
    sizes = [(64, 96), (128, 64), (96, 128), (64, 96)]
    images = torch.zeros(4, 3, 128, 128)
    for image, (height, width) in zip(images, sizes):
        image[:, :height, :width] = torch.randn(3, height, width)
    together = backbone(ImageList(images, sizes))
    for place, (height, width) in enumerate(sizes):
        alone = backbone(ImageList(images[place:place + 1, :, :height, :width], [(height, width)]))
        for level, expected in alone.items():
            high, wide = expected.shape[2:]
            torch.testing.assert_close(together[level][place, :, :high, :wide], expected[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("patch", [8, 16])
@torch.no_grad()
def test_levels_of_an_odd_grid_keep_its_last_row_and_column(patch):
    neck = SimplePyramid(16, patch, 8)
    grid = torch.randn(1, 16, 5, 7)  # 80 × 112 pixels in patches of 16
    sides = {"0": patch // 4, "1": patch // 8, "2": patch / 16, "3": patch / 32, "pool": patch / 64}
    levels = neck(grid)
    assert {name: tuple(level.shape[2:]) for name, level in levels.items()} == {
        name: (-int(-5 * side // 1), -int(-7 * side // 1)) for name, side in sides.items()}
    assert torch.equal(levels["pool"], levels["3"][:, :, [0, 2][:levels["pool"].shape[2]]][..., :, ::2])
    grid[:, :, -1, -1] += 100
    assert not torch.allclose(neck(grid)["3"][..., -1, -1], levels["3"][..., -1, -1])


def ramp(stride: int, height: int = 1024, width: int = 1024) -> torch.Tensor:
    """A map (1, 2, H/s, W/s) of the row and the column, in pixels, where each cell's number stands."""
    rows, columns = (stride * torch.arange(side // stride, dtype=torch.float32) for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


@pytest.mark.parametrize("pool, cells", [("box_roi_pool", 7), ("mask_roi_pool", 14)])
def test_a_box_has_the_features_of_its_own_place(pool, cells):
    """On a map that says where each of its numbers stands, a cell of a box says where its middle is."""
    levels = {str(i): ramp(stride) for i, stride in enumerate(STRIDES)} | {"pool": ramp(64)}
    boxes = torch.tensor([[40.0, 60, 110, 130], [200, 100, 410, 520], [64, 128, 320, 384], [100, 50, 800, 950]])
    found = getattr(small("vig_nano").roi_heads, pool)(levels, [boxes], [(1024, 1024)])
    assert found.shape == (4, 2, cells, cells)
    for box, features in zip(boxes, found):
        left, top, right, bottom = box
        middles = (torch.arange(cells) + 0.5) / cells
        torch.testing.assert_close(features[0], (top + middles * (bottom - top))[:, None].expand(cells, cells))
        torch.testing.assert_close(features[1], (left + middles * (right - left)).expand(cells, cells))


@pytest.mark.parametrize("pool", ["box_roi_pool", "mask_roi_pool"])
def test_a_larger_box_has_the_features_of_a_coarser_level(pool):
    """FPN (Lin et al., 2017), Eq. 1: level ⌊4 + log₂(√area / 224)⌋ of 2, 3, 4 and 5, whose strides are 4 to 32."""
    levels = {str(i): torch.full((1, 1, 1024 // s, 1024 // s), float(i)) for i, s in enumerate(STRIDES)}
    levels["pool"] = torch.full((1, 1, 16, 16), 9.0)
    sides = {20: 0, 100: 0, 113: 1, 220: 1, 225: 2, 440: 2, 450: 3, 1000: 3}
    boxes = torch.tensor([[10.0, 10.0, 10.0 + side, 10.0 + side] for side in sides])
    found = getattr(small("vig_nano").roi_heads, pool)(levels, [boxes], [(1024, 1024)])
    assert found.mean((1, 2, 3)).tolist() == list(sides.values())


def test_heads_and_proposals_are_torchvisions_apart_from_the_backbone():
    """Every number that torchvision gives its Mask R-CNN with a feature pyramid, as `create_detector` has it."""
    with torch.device("meta"):
        ours, theirs = create_detector("vig_nano", num_classes=90, **presets()), maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None)
    assert ours.rpn.anchor_generator.sizes == theirs.rpn.anchor_generator.sizes == (
        (32,), (64,), (128,), (256,), (512,))
    assert ours.rpn.anchor_generator.aspect_ratios == theirs.rpn.anchor_generator.aspect_ratios
    for pool in ("box_roi_pool", "mask_roi_pool"):
        mine, other = getattr(ours.roi_heads, pool), getattr(theirs.roi_heads, pool)
        assert (mine.output_size, mine.sampling_ratio) == (other.output_size, other.sampling_ratio)
        assert mine.featmap_names == other.featmap_names == ["0", "1", "2", "3"]
    for part in ("_pre_nms_top_n", "_post_nms_top_n", "nms_thresh", "score_thresh"):
        assert getattr(ours.rpn, part) == getattr(theirs.rpn, part), part
    for part in ("fg_bg_sampler", "proposal_matcher"):
        for mine, other in ((ours.rpn, theirs.rpn), (ours.roi_heads, theirs.roi_heads)):
            assert vars(getattr(mine, part)) == vars(getattr(other, part)), part
    for part in ("score_thresh", "nms_thresh", "detections_per_img"):
        assert getattr(ours.roi_heads, part) == getattr(theirs.roi_heads, part), part
    mine, other = ({key: value.shape for key, value in heads.state_dict().items()}
                   for heads in (ours.roi_heads, theirs.roi_heads))
    assert mine == other
    assert (DetectorConfig.img_size, DetectorConfig.num_classes, DetectorConfig.frozen_bn) == ((800, 1333), 80, True)


def presets() -> dict:
    """The fields of a detector of the paper's size, without the nano presets."""
    names = "channels", "box_head", "mask_layers", "proposals", "samples", "points", "anchor", "frozen_bn"
    return {name: getattr(DetectorConfig, name) for name in names} | {"dim": 16, "depth": 1}


def test_the_numbers_of_a_nano_detector():
    """As docs/detection.md says: smaller images, 50 proposals, batch norm with the statistics of its own batches."""
    with torch.device("meta"):
        config = create_detector("cvig_nano", num_classes=3).config
    assert {name: value for name, value in vars(config).items() if name != "body"} == {
        "num_classes": 3, "img_size": (128, 128), "channels": 48, "box_head": 256, "mask_layers": 2, "proposals": 50,
        "samples": 32, "points": 1, "anchor": 4, "frozen_bn": False}
    assert (detector_size("pvig_nano"), detector_size("pvig_s")) == ((128, 128), (800, 1333))


def test_fields_are_kept_and_do_what_they_say():
    fields = {"img_size": (96, 160), "channels": 16, "box_head": 24, "mask_layers": 3, "proposals": 70, "samples": 40,
              "points": 3, "anchor": 5, "frozen_bn": False}
    model = create_detector("vig_nano", 7, **fields, dim=16, depth=1)
    assert {name: getattr(model.config, name) for name in fields} == fields and model.config.num_classes == 7
    assert model.rpn.anchor_generator.sizes == ((20,), (40,), (80,), (160,), (320,))
    assert model.roi_heads.box_roi_pool.sampling_ratio == model.roi_heads.mask_roi_pool.sampling_ratio == 3
    assert model.rpn._pre_nms_top_n == {"training": 140, "testing": 70} == model.rpn._post_nms_top_n
    samplers = model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler
    assert [sampler.batch_size_per_image for sampler in samplers] == [20, 40]
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.roi_heads.mask_head.modules()) == 3
    assert (model.resize.min_size, model.resize.max_size) == ((96,), 160)
    assert small("vig_nano", samples=8).rpn.fg_bg_sampler.batch_size_per_image == 16  # half of them, and 16 at least


@torch.no_grad()
def test_answers_have_the_places_of_the_image_that_was_given():
    """Images are resized on the way in, and boxes and masks on the way out: of 30 × 120 pixels to 64 × 128 at most."""
    model = small("vig_nano").eval()
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    model.roi_heads.box_predictor.cls_score.bias[0] = -5  # of the background
    for size in ((30, 120), (120, 30)):
        found, = model([torch.randn(3, *size)])
        assert len(found["boxes"]) and found["masks"].shape[1:] == (1, *size)
        assert found["boxes"][:, 2].max() <= size[1] and found["boxes"][:, 3].max() <= size[0]
        assert found["boxes"][:, 2].max() > 0.7 * size[1] and found["boxes"][:, 3].max() > 0.7 * size[0]
