"""Semantic segmentation: a class for every pixel, by a Semantic FPN over any Vision GNN (Kirillov et al., 2019).

    image → backbone → neck → levels of strides s_0, 2 s_0, 4 s_0, 8 s_0 → SemanticFPN → a logit a class and pixel

    symbol    variable                shape
    P_l       levels                  (B, channels, H/s_l, W/s_l), l = 0 … 3: the detector's neck makes them
    s_l       strides                 s_0 · 2^l; s_0 is 4, or the patch of a pyramid whose patch is smaller
    up        nn.Upsample             twice as high and wide, bilinear
    Q_l       branches[l](P_l)        (B, width, H/s_0, W/s_0)
    logits    classifier(Σ_l Q_l)     (B, classes, H/s_0, W/s_0), then s_0 times as high and wide, bilinear

Images of any size: one is padded on the right and below, to a multiple of the patch, and the padding's logits are cut
off again.

Left open by the print: normalisation, which here is GroupNorm, so that a pixel does not depend on the batch.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.graph import Graph
from .checks import check_numbers, check_whole, image_size
from .detection import LEVELS, BodyAndNeck, body_and_config, padded, split_fields
from .layers import Dropout
from .pyramid import PyramidViG
from .vig import ViG

UNKNOWN = 255  # the class of a pixel that counts nowhere
NANO = {"img_size": (128, 128), "channels": 48, "width": 32}


@dataclass(frozen=True)
class SegmenterConfig:
    """Configuration of a network for segmentation. Raises ValueError for fields that cannot work."""

    body: tuple[tuple[str, object], ...]  # fields of the backbone's config; its img_size is that of its own training
    num_classes: int = 150
    img_size: int | tuple[int, int] = (512, 512)  # of the crops that it is trained on
    channels: int = 256                 # of every level of the neck
    width: int = 128                    # of the head
    dropout: float = 0.1                # before the last layer

    def __post_init__(self):
        object.__setattr__(self, "img_size", image_size(self.img_size))
        check_whole(self, "num_classes", "channels", "width")
        check_numbers(self, rates=("dropout",))

    @property
    def graph(self) -> str:
        """The constructor of the backbone's graphs."""
        return dict(self.body)["graph"]


def create_segmenter(name: str, num_classes: int = 150, **overrides) -> "Segmenter":
    """Build a Semantic FPN over the backbone of that name, with random weights.

    create_segmenter("cvig_s", num_classes=150, drop_path=0.1)

    overrides: fields of SegmenterConfig, and of the backbone's own config. Raises ValueError, naming what exists, for
    an unknown name or field, a value that cannot work, and a network that is neither a pyramid nor isotropic.
    """
    own, of_body = split_fields(SegmenterConfig, NANO, name, overrides)
    return Segmenter(*body_and_config("segmentation", SegmenterConfig, name, num_classes, own, of_body))


def segmenter_size(name: str) -> tuple[int, int]:
    """Return the size of the crops on which the network of that name is trained, unless it is told."""
    return NANO["img_size"] if name.endswith("_nano") else SegmenterConfig.img_size


class SemanticFPN(nn.Module):
    """Four levels (B, channels, ·, ·) of strides s_0 · 2^l to logits (B, classes, H/s_0, W/s_0).

    A level goes through max(1, l) times [3×3 convolution, norm, ReLU, up where l > 0]. The sum of all levels goes
    through dropout and a 1×1 convolution.
    """

    def __init__(self, channels: int, width: int, num_classes: int, dropout: float = 0.1):
        super().__init__()
        self.branches = nn.ModuleList()
        for level in range(len(LEVELS)):
            layers = []
            for step in range(max(1, level)):  # level: log2(s_l / s_0)
                layers += [nn.Conv2d(width if step else channels, width, 3, padding=1, bias=False),
                           nn.GroupNorm(math.gcd(32, width), width), nn.ReLU()]
                layers += [nn.Upsample(scale_factor=2, mode="bilinear")] if level else []
            self.branches.append(nn.Sequential(*layers))
        self.dropout = Dropout(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)  # at first, all classes are about as likely
        nn.init.zeros_(self.classifier.bias)

    def forward(self, levels: list[Tensor]) -> Tensor:
        height, width = levels[0].shape[2:]
        # a level's side is rounded up, so twice its side may be one more than the side of the level before
        summed = sum(branch(level)[:, :, :height, :width] for branch, level in zip(self.branches, levels, strict=True))
        return self.classifier(self.dropout(summed))  # Semantic FPN, Figure 3: (B, classes, H/s_0, W/s_0)


class Segmenter(nn.Module):
    """Normalised images (B, 3, H, W), of any height and width, to logits (B, classes, H, W); with `return_graphs` also
    the Graph of every block of the backbone."""

    def __init__(self, body: ViG | PyramidViG, config: SegmenterConfig):
        super().__init__()
        self.config = config
        self.backbone = BodyAndNeck(body, config)
        self.head = SemanticFPN(config.channels, config.width, config.num_classes, config.dropout)

    def forward(self, images: Tensor, return_graphs: bool = False) -> Tensor | tuple[Tensor, list[Graph]]:
        height, width = images.shape[2:]
        high, wide = padded((height, width), self.body.config.patch)
        whole = F.pad(images, (0, wide - width, 0, high - height))  # as outside an image, for its convolutions: zeros
        levels = self.backbone.levels(whole)
        logits = self.head([levels[name] for name in LEVELS])  # (B, classes, H/s_0, W/s_0)
        logits = F.interpolate(logits, scale_factor=self.backbone.strides[0], mode="bilinear")
        logits = logits[:, :, :height, :width]  # (B, classes, H, W)
        if not return_graphs:
            return logits
        with torch.no_grad():
            return logits, self.body(whole, return_graphs=True)[1]

    @property
    def body(self) -> ViG | PyramidViG:
        """The Vision GNN."""
        return self.backbone.body

    @property
    def blocks(self) -> list[nn.Module]:
        return self.body.blocks
