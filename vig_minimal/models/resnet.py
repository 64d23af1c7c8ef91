"""Backbones: torchvision's ResNet18 and ResNet34 without their classifier, and a small one of the same blocks.

A backbone φ turns images (B, 3, H, W) into embeddings (B, F). Its stem is one 3×3 convolution ("cifar", for small
images) or torchvision's own ("imagenet": 7×7 of stride 2, then a maximum of stride 2).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from ..atomic_files import CheckpointError, load
from .released import misfit, unwrapped, without_prefix

# name: widths and blocks of the stages. Nano is ours.
BACKBONES = {"nano": ((32, 64, 128, 256), (1, 1, 1, 1)), "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2)),
             "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3))}


class ResNet(nn.Module):
    """Stem, stages of basic blocks, average pooling: (B, 3, H, W) -> (B, F). Modules are named as torchvision's."""

    def __init__(self, backbone: str, stem: str):
        super().__init__()
        widths, depths = BACKBONES[backbone]
        size, stride, padding = (3, 1, 1) if stem == "cifar" else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, widths[0], size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        self.dim = widths[0]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            stage = nn.Sequential()
            for j in range(depth):
                stride = 2 if i > 1 and j == 0 else 1
                shortcut = None
                if stride > 1 or self.dim != width:
                    shortcut = nn.Sequential(nn.Conv2d(self.dim, width, 1, stride, bias=False), nn.BatchNorm2d(width))
                stage.append(BasicBlock(self.dim, width, stride, shortcut))
                self.dim = width  # F in the end
            setattr(self, f"layer{i}", stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for i in range(1, 5) for block in getattr(self, f"layer{i}")]

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return the features of the four stages, (B, C, H', W'): strides 1 to 8 for the stem "cifar", else 4 to 32."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images.contiguous(memory_format=torch.channels_last)))))
        features = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            features.append(x)
        return features

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_stages(images)[-1].mean((2, 3))


def load_backbone(backbone: ResNet, name: str, weights: str | Path) -> None:
    """Load torchvision's weights of the ResNet called `name` into the backbone, all but its classifier (fc).

    weights: a file with a state dict, or "torchvision" to download those trained on ImageNet. Raises CheckpointError,
    which names what does not fit; the backbone is then as it was.
    """
    if weights == "torchvision":
        if name == "nano":
            raise CheckpointError("--backbone-weights torchvision: there are none of the nano backbone; give a file")
        try:
            state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise CheckpointError(f"--backbone-weights torchvision: download failed ({error}); give a file") from None
    else:
        state, _ = unwrapped(load(weights), str(weights))
    wanted = backbone.state_dict()
    state = {key: value for key, value in without_prefix(state, wanted.__contains__).items() if key in wanted}
    if problems := misfit(wanted, state):
        stem_alone = misfit(wanted, state | {"conv1.weight": wanted["conv1.weight"]}) == ""
        hint = "; the stem for small images is another, give --set stem=imagenet" if stem_alone else ""
        raise CheckpointError(f"{weights} does not fit the backbone {name}; {problems}{hint}")
    backbone.load_state_dict(state, strict=False)
