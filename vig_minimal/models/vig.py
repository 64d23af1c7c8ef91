"""ViG: an image as a graph of patches (Han et al., NeurIPS 2022), and the skeleton that all isotropic models share.

    features → graph constructor → adjacency → aggregation → update

    symbol    variable                     shape
    X         x                            (B, C, H, W), image of the N = H·W patches in channels_last memory
    X'        h = fc1(x)                   (B, C, H, W)
    G         graph = constructor(h)       N targets, N sources
    m         max_j (x'_j − x'_i)          (B, N, C), inside the graph convolution
    h heads   4 groups of `update`         2C → 2C, grouped
    Y         grapher(x)                   (B, C, H, W)
    Z         ffn(y)                       (B, C, H, W)

Differs from the print, as the released code does: BN after every linear layer; the heads are a grouped convolution
followed by BN and GELU; features are L2-normalised before distances; a node is its own nearest neighbour.
Differs from the released code: any image size and patch; dilation is limited by the grid there is, not by 196; images
of another size than the model was built for are an error, not a wrong answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..graphs.graph import Graph
from .convs import CONVS
from .layers import FFN, DropPath, Stem, conv_bn, head, init_weights, to_nodes


@dataclass(frozen=True)
class ViGConfig:
    """Everything that makes one isotropic model. Raises ValueError for what cannot work."""

    dim: int = 192                      # C
    depth: int = 12                     # number of (Grapher, FFN) blocks
    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224  # height and width; one number for a square
    patch: int = 16                     # total stride of the stem: 2, 4, 8 or 16
    graph: str = "knn"                  # constructor, see list_constructors()
    conv: str = "mr"                    # graph convolution: mr, edge, sage or gin
    drop_path: float = 0.0              # stochastic depth of the last block; grows linearly from 0
    dropout: float = 0.0                # in the head
    k: int | None = None                # neighbours in the first block, growing linearly to 2k at the end; None is the
                                        # papers' 9, or half of the nodes where that is less
    epsilon: float = 0.0                # graph="knn", "group_knn": probability of stochastic dilation (DeepGCNs: 0.2)
    threshold: float = 0.89             # graph="threshold": quantile q_0 of the first block
    decrement: float = 0.03             # graph="threshold": δ, from one block to the next
    clusters: int = 4                   # graph="cluster_knn": partitions κ
    groups: int = 2                     # graph="group_knn": groups G of channels, each with neighbours of its own

    def __post_init__(self):
        check_numbers(self, whole=("dim", "depth", "num_classes", "patch", "k", "clusters", "groups"),
                       real=("drop_path", "dropout", "epsilon", "threshold", "decrement"))
        height, width = size_pair(self.img_size)
        object.__setattr__(self, "img_size", (height, width))
        if self.patch not in (2, 4, 8, 16):
            raise ValueError(f"patch={self.patch}: the stem's total stride is 2, 4, 8 or 16")
        if height < 1 or width < 1 or height % self.patch or width % self.patch:
            raise ValueError(f"img_size={height}×{width}: both sides must be multiples of patch={self.patch};"
                             " choose another size, or a smaller patch")
        if self.conv not in CONVS:
            raise ValueError(f"conv={self.conv!r}: choose one of {', '.join(CONVS)}")
        smallest = math.lcm(4, self.patch // 2)
        if self.dim < smallest or self.dim % smallest:
            raise ValueError(f"dim={self.dim}: must be a multiple of {smallest} for 4 heads and patch={self.patch}")
        for name, least in (("depth", 1), ("num_classes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")
        for name in ("drop_path", "dropout", "epsilon"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name):g}: a probability, at least 0 and less than 1")
        if self.graph == "group_knn":
            check_groups(self.groups, [self.dim], self.conv)
        if self.k is None:
            object.__setattr__(self, "k", max(1, min(9, self.num_nodes // 2)))
        elif self.k < 1 or (self.graph in ("knn", "group_knn") and 2 * self.k > self.num_nodes):
            raise ValueError(f"k={self.k}: neighbours grow from k to 2k, and a {self.grid[0]}×{self.grid[1]} grid has"
                             f" {self.num_nodes} nodes; choose k from 1 to {max(1, self.num_nodes // 2)}, a larger"
                             " image or a smaller patch")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width."""
        return self.img_size[0] // self.patch, self.img_size[1] // self.patch

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


def check_numbers(config: object, whole: Sequence[str], real: Sequence[str]) -> None:
    """Raises ValueError if a field is not a whole number, or not a number; None is one."""
    for names, kinds, what in ((whole, int, "a whole number"), (real, (int, float), "a number")):
        for name in names:
            value = getattr(config, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise ValueError(f"{name}={value!r}: must be {what}")


def check_groups(groups: int, dims: Sequence[int], conv: str) -> None:
    """Raises ValueError for groups of channels that cannot be made, or that the convolution could not keep apart."""
    if groups < 1 or any(dim % groups for dim in dims):
        raise ValueError(f"groups={groups}: all widths ({', '.join(map(str, dims))}) must be multiples of it")
    if conv == "edge" and groups > 1:
        raise ValueError("conv='edge' with graph='group_knn': the MLP of an edge mixes all channels, and group k-NN"
                         " gives each group edges of its own; choose mr, sage or gin")


def size_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size that is one number for a square, or two."""
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise ValueError(f"img_size={size!r}: one whole number for a square, or two, (height, width)")
    return pair


class Grapher(nn.Module):
    """A graph convolution between two linear layers, with a residual.

    x'_i = x_i W_in;  x''_i = max_{j ∈ N(i)} a_ij (x'_j − x'_i);  y_i = GELU([x'_i, x''_i] W_update) W_out + x_i,
    where N(i) and a_ij (1 in ViG, α in LRGC) are the graph that `constructor` makes of x', and W_update has 4 heads.
    LRGC Eq. 5.

    (B, C, H, W) -> (B, C, H, W) and the Graph.
    """

    def __init__(self, dim: int, constructor: nn.Module, conv: str = "mr", drop_path: float = 0.0):
        super().__init__()
        self.fc1 = conv_bn(dim, dim)
        self.constructor = constructor
        self.conv = CONVS[conv](dim, 2 * dim)
        self.fc2 = conv_bn(2 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> tuple[Tensor, Graph]:
        # LRGC Eq. 5, ViG's Grapher
        h = self.fc1(x)  # x' = x W_in: (B, C, H, W)
        graph = self.constructor(to_nodes(h), h.shape[2:])
        update = self.conv(h, graph)  # GELU([x', x''] W_update): (B, 2C, H, W)
        return self.drop_path(self.fc2(update)) + x, graph


class Block(nn.Module):
    """Grapher, then FFN: (B, C, H, W) -> (B, C, H, W) and the Graph."""

    def __init__(self, dim: int, constructor: nn.Module, conv: str = "mr", drop_path: float = 0.0):
        super().__init__()
        self.grapher = Grapher(dim, constructor, conv, drop_path)
        self.ffn = FFN(dim, drop_path)

    def forward(self, x: Tensor) -> tuple[Tensor, Graph]:
        y, graph = self.grapher(x)
        return self.ffn(y), graph


class ViG(nn.Module):
    """The isotropic skeleton: stem, position embedding, blocks of one width on one grid, average pooling, head.

    constructors: one graph constructor a block; k-NN makes it ViG.
    """

    def __init__(self, config: ViGConfig, constructors: Sequence[nn.Module]):
        super().__init__()
        self.config = config
        self.stem = Stem(config.dim, config.patch)
        self.position = nn.Parameter(torch.zeros(1, config.dim, *config.grid))
        rates = [config.drop_path * l / max(1, config.depth - 1) for l in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config.dim, constructor, config.conv, rate)
                                    for constructor, rate in zip(constructors, rates, strict=True))
        self.head = head(config.dim, config.num_classes, config.dropout)
        init_weights(self)

    def forward(self, images: Tensor, return_graphs: bool = False) -> Tensor | tuple[Tensor, list[Graph]]:
        """Logits (B, num_classes) of images (B, 3, H, W); with `return_graphs` also the Graph of every block."""
        x, graphs = encode(self, images, return_graphs)
        logits = self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return (logits, graphs) if return_graphs else logits

    def forward_features(self, images: Tensor) -> Tensor:
        """The last block's features, (B, C, H/patch, W/patch)."""
        return encode(self, images, keep_graphs=False)[0]


def encode(model: nn.Module, images: Tensor, keep_graphs: bool) -> tuple[Tensor, list[Graph]]:
    """Stem, position and blocks of an isotropic model: features (B, C, H/patch, W/patch), and every block's Graph.

    Raises ValueError for images of another size than the model's.
    """
    if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != model.config.img_size:
        height, width = model.config.img_size
        raise ValueError(f"images of shape {tuple(images.shape)}: this model takes (B, 3, {height}, {width});"
                         " resize them, or create the model with img_size=(height, width)")
    x = model.stem(images.contiguous(memory_format=torch.channels_last)) + model.position  # (B, C, H/patch, W/patch)
    graphs = []
    for block in model.blocks:
        x, graph = block(x)
        if keep_graphs:
            graphs.append(graph)
    return x, graphs
