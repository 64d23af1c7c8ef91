"""The parts between the graphs: stem, FFN, head, stochastic depth, and the two views of one tensor.

Convolutions see images (B, C, H, W), graphs see nodes (B, N, C) with N = H·W. Images are kept in `channels_last`
memory, where the C numbers of a patch lie side by side. So an image *is* a contiguous (B, N, C), and changing the view
copies nothing.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..graphs.distance import full_precision
from ..graphs.draws import draw
from ..graphs.graph import Graph


def to_nodes(image: Tensor) -> Tensor:
    """Return an image (B, C, H, W) as nodes (B, H·W, C), row by row: a view if the image is channels_last."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def to_image(nodes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return nodes (B, H·W, C) as a channels_last image (B, C, H, W), without a copy."""
    return nodes.unflatten(1, grid).permute(0, 3, 1, 2)


def conv_bn(in_dim: int, out_dim: int, groups: int = 1) -> nn.Sequential:
    """Return one linear layer for all nodes, as a 1×1 convolution, and batch norm."""
    return nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, groups=groups), nn.BatchNorm2d(out_dim))


class Stem(nn.Module):
    """Image to patches: log2(patch) 3×3 convolutions of stride 2, each twice as wide as the last, then one of stride 1.

    Patch 16 (ViG): widths C/8, C/4, C/2, C, C. Patch 4 (Pyramid ViG): C/2, C, C. BN after each, GELU between.
    layers: convolutions before the last one, log2(patch) by default; those past log2(patch) have stride 1.
    narrowest: the least width, but never more than dim. (ClusterViG: 4 layers, narrowest 64.)
    (B, 3, H, W) -> (B, dim, H/patch, W/patch).
    """

    def __init__(self, dim: int, patch: int, layers: int | None = None, narrowest: int = 1):
        super().__init__()
        halvings = patch.bit_length() - 1  # log2(patch)
        widths = [min(dim, max(dim // 2**i, narrowest)) for i in reversed(range(layers or halvings))] + [dim]
        parts = []
        for i, (in_dim, width) in enumerate(pairwise([3, *widths])):
            stride = 2 if i < halvings else 1
            parts += [nn.Conv2d(in_dim, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.GELU()]
        self.layers = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def resize_position(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a position embedding (1, C, h, w) bicubically to another grid: (1, C, H, W)."""
    return F.interpolate(full_precision(position), grid, mode="bicubic").to(position.dtype)


class FFN(nn.Module):
    """Y = GELU(X W_1) W_2 + X, with C → 4C → C and BN after each linear layer: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, drop_path: float = 0.0):
        super().__init__()
        self.fc1 = conv_bn(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = conv_bn(4 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # LRGC Eq. 1, ViG's FFN: Y = GELU(X W_1) W_2 + X; ClusterViG Eq. 6 is the same
        return self.drop_path(self.fc2(self.act(self.fc1(x)))) + x


class Block(nn.Module):
    """A Grapher, then an FFN: (B, C, H, W) -> (B, C, H, W) and the Grapher's Graph."""

    def __init__(self, grapher: nn.Module, ffn: FFN):
        super().__init__()
        self.grapher, self.ffn = grapher, ffn

    def forward(self, x: Tensor, *also: Tensor | Graph | None) -> tuple[Tensor, Graph]:
        y, graph = self.grapher(x, *also)  # the Graph of the block before; in a pyramid relative positions come first
        return self.ffn(y), graph


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training a branch is 0 with probability p, else times 1/(1 − p)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = draw(*self.drawn(x), device=x.device) >= self.p  # (B, 1, 1, 1), True is keep; Dropout: (B, C, H, W)
        return x * (keep / (1 - self.p)).to(x.dtype)

    def drawn(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of the random numbers for x."""
        return x.shape[0], 1, 1, 1

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Dropout(DropPath):
    """Dropout (Srivastava et al., 2014): in training a number is 0 with probability p, else times 1/(1 − p). Unlike
    nn.Dropout, an image loses the same ones however its batch is split."""

    def drawn(self, x: Tensor) -> tuple[int, ...]:
        return x.shape


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return the drop-path rate of each block: linear from 0 in the first to `rate` in the last."""
    return [rate * l / max(1, depth - 1) for l in range(depth)]


def head(dim: int, num_classes: int, dropout: float = 0.0, hidden: int = 1024) -> nn.Sequential:
    """Return the classifier of pooled features (B, C, 1, 1): C → hidden, BN, GELU, dropout, hidden → classes; for no
    classes an empty one."""
    if num_classes == 0:
        return nn.Sequential()
    return nn.Sequential(*conv_bn(dim, hidden), nn.GELU(), Dropout(dropout), nn.Conv2d(hidden, num_classes, 1))


def no_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of parameters without weight decay: biases, norms (1-D) and LRGC's τ (0-D)."""
    return {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}


def init_weights(modules: Iterable[nn.Module]) -> None:
    """Initialise as the released ViG: kaiming-normal convolution weights, zero biases."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Temporarily switch to evaluation mode; afterwards each part has its own mode again, as frozen parts."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def recompute_blocks(model: nn.Module) -> None:
    """Checkpoint the activations of every block (Chen et al., 2016): less memory for about a third more time."""
    for block in model.blocks:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False,
            context_fn=lambda block=block: (contextlib.nullcontext(), _without_statistics(block)))


@contextlib.contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Restore batch norm's statistics at the end: they include this batch already."""
    norms = [part for part in block.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
