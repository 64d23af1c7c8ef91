"""Mask R-CNN with a Vision GNN as its backbone: object detection and instance segmentation (ClusterViG, section V).

Region proposals, box head, mask head, non-maximum suppression (NMS) and the pasting of masks are torchvision's
`MaskRCNN`. This file makes the features that it reads: at strides 4, 8, 16 and 32, each `channels` wide, and a fifth
level, half of the fourth, for the proposals of the largest objects.

    backbone        stages                          neck
    a pyramid       its four (`forward_stages`)     torchvision's feature pyramid network, FPN (Lin et al., 2017)
    isotropic       one grid, of stride `patch`     `SimplePyramid` (ViTDet, Li et al., 2022)

Images of a batch differ in size. Were they padded to the largest, nodes of padding would be neighbours, and would
shift the means of ClusterViG's partitions. So images of equal size go through the backbone together, each padded only
to a multiple of `patch`: every node holds real pixels, no mask is needed, and an image's features do not depend on the
others of its batch. Only finished features are padded, by zeros, which is what the convolutions of the heads see
outside an image anyway. (Images thinner than 64 pixels are padded to that: graphs need some patches.)

Position embeddings, relative positions, k and dilation follow the grid of each image, as in every model of this
project. κ is one number for a detector: that of the grid of `img_size`, see `clusters_for`.

Left open by the print, which has «FPN» alone: the four scales of an isotropic model, and the settings of the heads,
which are torchvision's here.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from ..graphs.graph import Graph
from .checks import check_choices, check_whole, image_size
from .pyramid import PyramidConfig, PyramidViG
from .registry import CONFIGS, create_model
from .vig import ViG, ViGConfig

LEVELS = ("0", "1", "2", "3")  # names of the features that boxes and masks are cut from; "pool" is the fifth
STRIDES = (4, 8, 16, 32)       # of an isotropic model's levels
THINNEST = 64                  # pixels
NANO = {"img_size": (128, 128), "channels": 48, "box_head": 256, "mask_layers": 2, "proposals": 50, "samples": 32,
        "points": 1, "anchor": 4, "frozen_bn": False}


@dataclass(frozen=True)
class DetectorConfig:
    """Configuration of a detector. Raises ValueError for fields that cannot work."""

    body: tuple[tuple[str, object], ...]  # fields of the backbone's config; its img_size is that of its own training
    num_classes: int = 80               # without the background
    img_size: int | tuple[int, int] = (800, 1333)  # an image is resized to this shorter side, or to this longer side
    channels: int = 256                 # of every level of features
    box_head: int = 1024                # width of the box head's two layers
    mask_layers: int = 4                # 3×3 convolutions of the mask head
    proposals: int = 1000               # of an image, after NMS; twice as many in training
    samples: int = 512                  # proposals of an image that boxes are learned from
    points: int = 2                     # RoIAlign reads so many points a side for each cell of a box
    anchor: int = 8                     # side of a level's anchors, in strides
    frozen_bn: bool = True              # BN of the backbone keeps its running statistics; scale and shift still learn

    def __post_init__(self):
        object.__setattr__(self, "img_size", tuple(sorted(image_size(self.img_size))))
        check_whole(self, "num_classes", "channels", "box_head", "mask_layers", "proposals", "samples", "points",
                    "anchor")
        check_choices(self, frozen_bn=(True, False))
        if self.img_size[0] < THINNEST:
            raise ValueError(f"img_size={self.img_size}: detection needs a shorter side of at least {THINNEST} pixels")

    @property
    def graph(self) -> str:
        """The constructor of the backbone's graphs."""
        return dict(self.body)["graph"]


def create_detector(name: str, num_classes: int = 80, **overrides) -> "Detector":
    """Build Mask R-CNN over the backbone of that name, with random weights.

    create_detector("cvig_s", num_classes=80, frozen_bn=False, drop_path=0.1)

    overrides: fields of DetectorConfig, and of the backbone's own config. Raises ValueError, naming what exists, for an
    unknown name or field, a value that cannot work, and a network that is neither a pyramid nor isotropic.
    """
    own, of_body = split_fields(DetectorConfig, NANO, name, overrides)
    preset = CONFIGS.get(name)
    if getattr(preset, "graph", None) == "cluster_knn":
        size, patch = DetectorConfig((), **own).img_size, of_body.get("patch", preset.patch)
        of_body.setdefault("clusters", clusters_for(preset, size, patch))
    return Detector(*body_and_config("a detector", DetectorConfig, name, num_classes, own, of_body))


def split_fields(kind: type, nano: dict, name: str, overrides: dict) -> tuple[dict, dict]:
    """Return the overridden fields of the config `kind`, with those of `nano` for a nano model, and the backbone's."""
    names = {field.name for field in fields(kind)} - {"body"}
    own = {field: value for field, value in overrides.items() if field in names}
    of_body = {field: value for field, value in overrides.items() if field not in {*names, "body"}}
    return (nano if name.endswith("_nano") else {}) | own, dict(overrides.get("body", {})) | of_body


def body_and_config(what: str, kind: type, name: str, num_classes: int, own: dict, of_body: dict) -> tuple:
    """Build the backbone, and the config `kind` of the network over it. Raises ValueError unless the backbone is
    isotropic or a pyramid of four stages; `what` is the network in words."""
    preset = CONFIGS.get(name)
    if type(preset) is not PyramidConfig and not isinstance(preset, (ViGConfig, type(None))):
        raise ValueError(f"{name}: {what} needs the patches of a ViG, SViG, LRGC, ClusterViG or Pyramid ViG")
    body = create_model(name, **(of_body | {"num_classes": 0}))
    config = kind(tuple(asdict(body.config).items()), num_classes, **own)
    if isinstance(body, PyramidViG) and len(body.config.dim) != 4:
        raise ValueError(f"dim={body.config.dim}: {what} needs the four stages of a pyramid")
    return body, config


def detector_size(name: str) -> tuple[int, int]:
    """Return the shorter and the longest side to which the detector of that name resizes images, unless it is told."""
    return NANO["img_size"] if name.endswith("_nano") else DetectorConfig.img_size


def clusters_for(preset: ViGConfig, img_size: tuple[int, int], patch: int) -> int:
    """Return κ for images of that size in patches of that side: κ grows as the nodes to the power log₄ 1.5.

    The paper has 4 at 196 nodes and 6 at 784, four times as many (section V-A): this is the curve through both. At
    800×1333 and patch 16 it gives 10.
    """
    nodes = math.prod(math.ceil(side / patch) for side in img_size)
    return max(1, round(preset.clusters * (nodes / preset.num_nodes) ** math.log(1.5, 4)))


def padded(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Return the padded height and width of an image of that size."""
    return tuple(max(math.ceil(side / patch) * patch, THINNEST) for side in size)


class SimplePyramid(nn.Module):
    """Features of four strides from one grid (ViTDet): (B, C, H, W) -> {"0": (B, channels, ·, ·), …, "pool": …}.

    From a grid of stride 16: two transposed convolutions of stride 2 with LayerNorm and GELU between give stride 4, one
    gives 8, nothing is done for 16, and a 2×2 maximum gives 32. Then a 1×1 and a 3×3 convolution, LayerNorm after each.
    """

    def __init__(self, dim: int, patch: int, channels: int):
        super().__init__()
        self.levels = nn.ModuleList()
        for stride in STRIDES:
            layers, width = [], dim
            for step in range(patch.bit_length() - stride.bit_length()):  # log2(patch / stride) doublings
                layers += [LayerNorm2d(width), nn.GELU()] if step else []
                layers += [nn.ConvTranspose2d(width, width // 2, 2, 2)]
                width //= 2
            if stride > patch:
                layers.append(nn.MaxPool2d(stride // patch, ceil_mode=True))
            layers += [nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels),
                       nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
            self.levels.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {name: level(x) for name, level in zip(LEVELS, self.levels)}
        return found | {"pool": found["3"][:, :, ::2, ::2]}


class BodyAndNeck(nn.Module):
    """Body and neck: an ImageList of normalised images (B, 3, H, W) to features (B, channels, H/s, W/s) by level."""

    def __init__(self, body: ViG | PyramidViG, config: DetectorConfig):
        super().__init__()
        self.body, self.out_channels, (dim, patch) = body, config.channels, (body.config.dim, body.config.patch)
        if isinstance(body, PyramidViG):
            self.neck, first = FeaturePyramidNetwork(list(dim), config.channels, LastLevelMaxPool()), patch
        else:
            self.neck, first = SimplePyramid(dim, patch, config.channels), STRIDES[0]
        self.strides = tuple(first * 2**i for i in range(5))

    def forward(self, images: ImageList) -> dict[str, Tensor]:
        groups = defaultdict(list)
        for place, size in enumerate(images.image_sizes):
            groups[padded(size, self.body.config.patch)].append(place)
        parts = []
        for (height, width), places in groups.items():
            levels = self.levels(images.tensors[places, :, :height, :width])
            canvas = [[side // stride for side in images.tensors.shape[2:]] for stride in self.strides]
            parts.append([F.pad(level, (0, w - level.shape[3], 0, h - level.shape[2]))
                          for level, (h, w) in zip(levels.values(), canvas, strict=True)])
        order = torch.tensor([place for places in groups.values() for place in places]).argsort()
        return {name: torch.cat(level)[order] for name, level in zip((*LEVELS, "pool"), zip(*parts), strict=True)}

    def graphs(self, images: ImageList) -> list[Graph]:
        """Return the first image's Graph in every block."""
        height, width = padded(images.image_sizes[0], self.body.config.patch)
        return self.body(images.tensors[:1, :, :height, :width], return_graphs=True)[1]

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of images of one size, by level."""
        stages = self.body.forward_stages(images)
        return self.neck(dict(zip(LEVELS, stages, strict=True)) if len(stages) > 1 else stages[0])


class Detector(MaskRCNN):
    """torchvision's Mask R-CNN over a Vision GNN.

    It takes normalised images, a list of (3, H, W) of any sizes. In training it also takes their targets, dicts of
    `boxes` (n, 4) as left, top, right, bottom in pixels, `labels` (n,) from 1, 0 being the background, and `masks`
    (n, H, W), and returns torchvision's five losses by name. In evaluation it returns for each image a dict of `boxes`,
    `labels`, `scores` (n,) and `masks` (n, 1, H, W) with values from 0 to 1, highest score first; with `return_graphs`
    also the first image's Graph in every block.
    """

    def __init__(self, body: nn.Module, config: DetectorConfig):
        backbone, pools = BodyAndNeck(body, config), {}
        strides = backbone.strides
        for kind, size in (("box_roi_pool", 7), ("mask_roi_pool", 14)):
            pools[kind] = pool = MultiScaleRoIAlign(list(LEVELS), size, config.points)
            # torchvision guesses the strides from the first batch
            pool.scales = [1 / stride for stride in strides[:4]]
            pool.map_levels = initLevelMapper(*(int(math.log2(strides[i])) for i in (0, 3)))
        super().__init__(
            backbone, min_size=config.img_size[0], max_size=config.img_size[1],
            size_divisible=max(strides[-1], THINNEST),
            image_mean=(0.0,) * 3, image_std=(1.0,) * 3,
            rpn_anchor_generator=AnchorGenerator(tuple((config.anchor * stride,) for stride in strides),
                                                 ((0.5, 1.0, 2.0),) * len(strides)),
            rpn_pre_nms_top_n_train=2 * config.proposals, rpn_post_nms_top_n_train=2 * config.proposals,
            rpn_pre_nms_top_n_test=config.proposals, rpn_post_nms_top_n_test=config.proposals,
            rpn_batch_size_per_image=max(16, config.samples // 2), box_batch_size_per_image=config.samples,
            box_head=TwoMLPHead(config.channels * 7**2, config.box_head),
            box_predictor=FastRCNNPredictor(config.box_head, config.num_classes + 1),
            mask_head=MaskRCNNHeads(config.channels, (config.channels,) * config.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(config.channels, config.channels, config.num_classes + 1),
            **pools)
        self.config = config
        self.resize = self.transform  # `transform` of a loaded model is the preprocessing of an image
        del self.transform

    def forward(self, images: list[Tensor] | Tensor, targets: list[dict[str, Tensor]] | None = None,
                return_graphs: bool = False):
        sizes = [tuple(image.shape[1:]) for image in images]
        images, targets = self.resize(images, targets)
        features = self.backbone(images)
        proposals, losses = self.rpn(images, features, targets)
        found, more_losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        if self.training:
            return losses | more_losses
        found = self.resize.postprocess(found, images.image_sizes, sizes)
        return (found, self.backbone.graphs(images)) if return_graphs else found

    def train(self, mode: bool = True) -> "Detector":
        super().train(mode)
        if self.config.frozen_bn:
            for part in self.body.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return self

    @property
    def body(self) -> ViG | PyramidViG:
        """The Vision GNN."""
        return self.backbone.body

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return self.body.blocks
