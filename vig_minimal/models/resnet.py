"""Backbones: torchvision's ResNet18 and ResNet34 without their classifier, and a small one of the same blocks.

A backbone φ turns images (B, 3, H, W) into embeddings (B, F). The stem is that for small images ("cifar": one 3×3
convolution) or torchvision's own ("imagenet": 7×7 of stride 2, then a maximum of stride 2).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from ..files import CheckpointError, load

# name: widths and blocks of the stages. Nano is ours.
BACKBONES = {"nano": ((32, 64, 128, 256), (1, 1, 1, 1)), "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2)),
             "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3))}


class ResNet(nn.Module):
    """Stem, stages of basic blocks, average pooling: (B, 3, H, W) -> (B, F). Modules are named as torchvision's."""

    def __init__(self, backbone: str, stem: str):
        super().__init__()
        widths, depths = BACKBONES[backbone]
        small = stem == "cifar"
        self.conv1 = nn.Conv2d(3, widths[0], 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        before = widths[0]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            blocks = [_block(before if j == 0 else width, width, 2 if i > 1 and j == 0 else 1) for j in range(depth)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            before = width
        self.dim = before  # F
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def blocks(self) -> list[nn.Module]:
        """All basic blocks."""
        return [block for i in range(1, 5) for block in getattr(self, f"layer{i}")]

    def features(self, images: Tensor) -> Tensor:
        """What is pooled: (B, F, H', W')."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images.contiguous(memory_format=torch.channels_last)))))
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))


def _block(in_dim: int, dim: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride > 1 or in_dim != dim:
        shortcut = nn.Sequential(nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))
    return BasicBlock(in_dim, dim, stride, shortcut)


def load_backbone(backbone: ResNet, name: str, weights: str | Path) -> None:
    """Weights of torchvision's ResNet of that name into the backbone: a file with its state dict, or "torchvision" for
    those trained on ImageNet, which torchvision downloads. The classifier (fc) is left out.

    Raises CheckpointError, which names what does not fit; the backbone is then as it was.
    """
    if weights == "torchvision":
        if name == "nano":
            raise CheckpointError("--backbone-weights torchvision: there are none of the nano backbone; take resnet18"
                                  " or resnet34, or give a file")
        try:
            state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise CheckpointError(f"--backbone-weights torchvision: cannot be downloaded ({error}); give a"
                                  " file") from None
    else:
        state = load(weights)
        state = state.get("model", state)
    state = {key.removeprefix("backbone."): value for key, value in state.items()
             if not key.startswith("fc.") and isinstance(value, Tensor)}
    wanted = backbone.state_dict()
    wrong = [key for key in wanted if not key.endswith("num_batches_tracked")
             and (key not in state or state[key].shape != wanted[key].shape)]
    if wrong:
        example = f"{wrong[0]} should be {tuple(wanted[wrong[0]].shape)}"
        example += f" and is {tuple(state[wrong[0]].shape)}" if wrong[0] in state else " and is missing"
        stem = "; for small images the stem differs, give --set stem=imagenet" if wrong == ["conv1.weight"] else ""
        raise CheckpointError(f"{weights}: does not fit the backbone {name}: {len(wrong)} tensors, {example}{stem}")
    backbone.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
