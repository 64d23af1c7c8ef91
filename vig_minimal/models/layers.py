"""The parts between the graphs: stem, FFN, head, stochastic depth, and the two views of one tensor.

Convolutions see images (B, C, H, W), graphs see nodes (B, N, C) with N = H·W. In `channels_last` memory an image *is*
contiguous (B, N, C), so going from one to the other copies nothing.
"""

import math

from torch import Tensor, nn

from ..graphs.draws import draw


def to_nodes(image: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H·W, C), row by row: a view if the image is channels_last."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(nodes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H·W, C) to a channels_last (B, C, H, W), without a copy."""
    return nodes.unflatten(1, grid).permute(0, 3, 1, 2)


def conv_bn(in_dim: int, out_dim: int, groups: int = 1) -> nn.Sequential:
    """A linear layer on every node, with batch norm: 1×1 convolution, BN."""
    return nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, groups=groups), nn.BatchNorm2d(out_dim))


class Stem(nn.Module):
    """Image to patches: log2(patch) 3×3 convolutions of stride 2, each twice as wide as the last, then one of stride 1.

    Patch 16 (ViG): widths C/8, C/4, C/2, C, C. Patch 4 (Pyramid ViG): C/2, C, C. BN after each, GELU between.
    widenings: so many convolutions before the last one, those past log2(patch) with stride 1 (ClusterViG: always 4).
    narrowest: the least width, as far as dim allows (ClusterViG: 64).
    (B, 3, H, W) -> (B, dim, H/patch, W/patch).
    """

    def __init__(self, dim: int, patch: int, widenings: int | None = None, narrowest: int = 1):
        super().__init__()
        halvings = int(math.log2(patch))
        widenings = halvings if widenings is None else widenings
        widths = [min(dim, max(dim // 2**i, narrowest)) for i in reversed(range(widenings))] + [dim]
        layers, in_dim = [], 3
        for i, width in enumerate(widths):
            stride = 2 if i < halvings else 1
            layers += [nn.Conv2d(in_dim, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.GELU()]
            in_dim = width
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def position_encoding(dim: int) -> nn.Conv2d:
    """Conditional positional encoding (Chu et al., 2021): what a node sees of its surroundings, and of the image's
    padded edge, by a 7×7 depthwise convolution. (B, C, H, W) -> (B, C, H, W)."""
    return nn.Conv2d(dim, dim, 7, padding=3, groups=dim)


class FFN(nn.Module):
    """Y = GELU(X W_1) W_2 + X, with C → 4C → C and BN after each linear layer. LRGC Eq. 1, ViG's FFN.

    (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, dim: int, drop_path: float = 0.0):
        super().__init__()
        self.fc1 = conv_bn(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = conv_bn(4 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # LRGC Eq. 1, ViG's FFN: Y = GELU(X W_1) W_2 + X
        return self.drop_path(self.fc2(self.act(self.fc1(x)))) + x


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training a branch is 0 with probability p, else times 1/(1 − p)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = draw(x.shape[0], 1, 1, 1, device=x.device) >= self.p  # (B, 1, 1, 1), True is keep
        return x * (keep / (1 - self.p)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


def head(dim: int, num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The classifier on pooled features (B, C, 1, 1): C → 1024, BN, GELU, dropout, 1024 → classes."""
    return nn.Sequential(*conv_bn(dim, 1024), nn.GELU(), nn.Dropout(dropout), nn.Conv2d(1024, num_classes, 1))


def init_weights(model: nn.Module) -> None:
    """As in the released ViG: kaiming-normal convolution weights, zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
