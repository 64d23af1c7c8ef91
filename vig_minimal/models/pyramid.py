"""Pyramid ViG: four stages, each with fewer and wider nodes than the one before (Han et al., 2022, section 3.3).

    image → stem → stage 1 → downsample, stage 2 → downsample, stage 3 → downsample, stage 4 → pool → head

    symbol    variable                     shape
    X         x                            (B, C, H, W), image of the stage's N = H·W patches in channels_last memory
    X'        h = fc1(x)                   (B, C, H, W)
    S         sources = pooled h           (B, M, C), M = (H/r)·(W/r): a source is the mean of r × r patches
    P         position_table(...)          (N, C): sines and cosines of a patch's row and column
    E         stage.relative               (N, M) float32: −2 P·Pᵀ/C, added to squared distances
    G         graph = constructor(...)     N targets, M sources
    m         max_j (s_j − x'_i)           (B, N, C), inside the graph convolution

Differs from the print, as the released code does: the relative term is that of a sine-cosine table, and fixed; BN,
interleaving and heads as in `vig.py`. Where r > 1 a node is not among its own sources, and m may be negative.
Differs from the released code: any image size, tables follow the grid; the tables are buffers that no checkpoint holds;
they are resized before the product with Pᵀ, which is the same up to rounding, and needs no N × N table.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constructors import KNN, GroupKNN
from ..graphs.graph import Graph
from .convs import CONVS
from .layers import FFN, DropPath, Stem, conv_bn, head, init_weights, to_nodes
from .vig import check_groups, check_numbers, size_pair


@dataclass(frozen=True)
class PyramidConfig:
    """Everything that makes one pyramid. Raises ValueError for what cannot work."""

    dim: tuple[int, ...] = (48, 96, 240, 384)  # C of each stage
    depth: tuple[int, ...] = (2, 2, 6, 2)      # (Grapher, FFN) blocks of each stage
    pool: tuple[int, ...] = (4, 2, 1, 1)       # r of each stage: a source is the mean of r × r patches
    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224      # height and width; one number for a square
    patch: int = 4                             # total stride of the stem: 2, 4 or 8; every later stage halves the grid
    graph: str = "knn"                         # constructor: knn or group_knn
    groups: int = 2                            # graph="group_knn": groups G of channels, each with its own neighbours
    conv: str = "mr"                           # graph convolution: mr, edge, sage or gin
    k: int | None = None                       # neighbours, in each group; fewer where a stage has fewer sources;
                                               # None is the papers' 9
    epsilon: float = 0.0                       # probability of stochastic dilation
    drop_path: float = 0.0                     # stochastic depth of the last block; grows linearly from 0
    dropout: float = 0.0                       # in the head

    def __post_init__(self):
        check_numbers(self, whole=("num_classes", "patch", "groups", "k"), real=("epsilon", "drop_path", "dropout"))
        height, width = size_pair(self.img_size)
        object.__setattr__(self, "img_size", (height, width))
        for name in ("dim", "depth", "pool"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not all(type(v) is int and v >= 1 for v in values):
                raise ValueError(f"{name}={values!r}: takes whole numbers of at least 1, one a stage, as (2, 2, 6, 2)")
            object.__setattr__(self, name, tuple(values))
        if not len(self.dim) == len(self.depth) == len(self.pool) >= 1:
            raise ValueError(f"dim={self.dim}, depth={self.depth}, pool={self.pool}: each needs one number a stage")
        if any(dim % 4 for dim in self.dim):
            raise ValueError(f"dim={self.dim}: widths must be multiples of 4, for 4 heads and the table of positions")
        if self.patch not in (2, 4, 8):
            raise ValueError(f"patch={self.patch}: the stem's total stride is 2, 4 or 8")
        if self.dim[0] % (self.patch // 2):
            raise ValueError(f"dim={self.dim}: with patch={self.patch} the first must be a multiple of"
                             f" {self.patch // 2}")
        if height < 1 or width < 1 or height % self.patch or width % self.patch:
            raise ValueError(f"img_size={height}×{width}: both sides must be multiples of patch={self.patch};"
                             " choose another size, or a smaller patch")
        for grid, pool in zip(self.grids, self.pool, strict=True):
            if min(grid) < pool:
                raise ValueError(f"img_size={height}×{width}: a stage has {grid[0]}×{grid[1]} patches, too few to pool"
                                 f" by {pool}; choose a larger image or a smaller patch")
        if self.conv not in CONVS:
            raise ValueError(f"conv={self.conv!r}: choose one of {', '.join(CONVS)}")
        if self.graph not in ("knn", "group_knn"):
            raise ValueError(f"graph={self.graph!r}: a pyramid's sources are pooled, which knn and group_knn can use")
        if self.graph == "group_knn":
            check_groups(self.groups, self.dim, self.conv)
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: must be at least 1")
        for name in ("drop_path", "dropout", "epsilon"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name):g}: a probability, at least 0 and less than 1")
        if self.k is None:
            object.__setattr__(self, "k", 9)
        if self.k < 1:
            raise ValueError(f"k={self.k}: a node has at least 1 neighbour")

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Patches in height and width, in each stage."""
        grids = [(self.img_size[0] // self.patch, self.img_size[1] // self.patch)]
        while len(grids) < len(self.dim):
            grids.append(tuple(-(-side // 2) for side in grids[-1]))
        return grids

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width, in the first stage."""
        return self.grids[0]


def position_table(dim: int, grid: tuple[int, int]) -> Tensor:
    """P: sines, then cosines of a patch's column and of its row, at dim / 4 frequencies from 1 to 1/10000.

    (N, dim) float64, patches row by row. Source: the released code, after Vaswani et al., 2017.
    """
    frequency = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (columns, rows)]  # (N, dim / 4) each
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)


def relative_positions(dim: int, grid: tuple[int, int], sources: int) -> Tensor:
    """E = −2 P·Pᵀ/C with its second side resized bicubically from N to `sources`: (N, M) float32.

    Added to squared distances, so that of like patches the near ones come first.
    """
    table = position_table(dim, grid)  # P: (N, C)
    # resizing is linear, so P·resize(Pᵀ) is resize(P·Pᵀ)
    resized = F.interpolate(table.T[None, None], (dim, sources), mode="bicubic")[0, 0]  # (C, M)
    # Pyramid ViG: E = −2 P·Pᵀ/C
    return (table @ resized * (-2 / dim)).float()


def downsample(dim: int, out_dim: int) -> nn.Sequential:
    """Between stages: a 3×3 convolution of stride 2 and BN, (B, dim, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉)."""
    return nn.Sequential(nn.Conv2d(dim, out_dim, 3, 2, padding=1), nn.BatchNorm2d(out_dim))


class Grapher(nn.Module):
    """`vig.Grapher` whose sources are the means of r × r nodes, and whose distances know where nodes are.

    (B, C, H, W) and relative (N, M) -> (B, C, H, W) and the Graph of N targets and M sources.
    """

    def __init__(self, dim: int, constructor: KNN | GroupKNN, conv: str, pool: int, drop_path: float):
        super().__init__()
        self.pool = pool
        self.fc1 = conv_bn(dim, dim)
        self.constructor = constructor
        self.conv = CONVS[conv](dim, 2 * dim)
        self.fc2 = conv_bn(2 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, relative: Tensor) -> tuple[Tensor, Graph]:
        h = self.fc1(x)  # (B, C, H, W)
        # Pyramid ViG: S, the pooled sources
        sources = to_nodes(F.avg_pool2d(h, self.pool)) if self.pool > 1 else to_nodes(h)  # (B, M, C)
        graph = self.constructor(to_nodes(h), h.shape[2:], sources, relative)
        update = self.conv(h, graph, sources)  # (B, 2C, H, W)
        return self.drop_path(self.fc2(update)) + x, graph


class Block(nn.Module):
    """Grapher, then FFN: (B, C, H, W) and relative (N, M) -> (B, C, H, W) and the Graph."""

    def __init__(self, dim: int, constructor: KNN | GroupKNN, conv: str, pool: int, drop_path: float):
        super().__init__()
        self.grapher = Grapher(dim, constructor, conv, pool, drop_path)
        self.ffn = FFN(dim, drop_path)

    def forward(self, x: Tensor, relative: Tensor) -> tuple[Tensor, Graph]:
        y, graph = self.grapher(x, relative)
        return self.ffn(y), graph


class Stage(nn.Module):
    """Blocks of one width on one grid, after a downsample in all stages but the first. first: the number of its first
    block, counted over all stages. (B, C_before, H, W) -> (B, C, H', W') and the Graph of every block."""

    def __init__(self, config: PyramidConfig, stage: int, first: int):
        super().__init__()
        dim, grid, pool = config.dim[stage], config.grids[stage], config.pool[stage]
        num_sources = (grid[0] // pool) * (grid[1] // pool)
        k = min(config.k, num_sources)
        last = max(1, sum(config.depth) - 1)
        blocks = range(first, first + config.depth[stage])
        self.downsample = downsample(config.dim[stage - 1], dim) if stage > 0 else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(dim, pyramid_constructor(config, block, k, num_sources), config.conv, pool,
                  config.drop_path * block / last) for block in blocks)
        self.register_buffer("relative", relative_positions(dim, grid, num_sources), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Graph]]:
        x, graphs = self.downsample(x), []
        for block in self.blocks:
            x, graph = block(x, self.relative)
            graphs.append(graph)
        return x, graphs


def pyramid_constructor(config: PyramidConfig, block: int, k: int, num_sources: int) -> KNN | GroupKNN:
    """The constructor of a block: k everywhere the same, dilation grows by one every four blocks of the whole."""
    # Pyramid ViG: d_l = min(l // 4 + 1, 49 // 9), and no more than the grid has sources for
    dilation = max(1, min(block // 4 + 1, 49 // 9, num_sources // k))
    if config.graph == "group_knn":
        return GroupKNN(k, config.groups, dilation, config.epsilon)
    return KNN(k, dilation, config.epsilon)


def stages(config: PyramidConfig) -> nn.ModuleList:
    """All stages, in order."""
    return nn.ModuleList(Stage(config, i, sum(config.depth[:i])) for i in range(len(config.depth)))


class PyramidViG(nn.Module):
    """The pyramid skeleton: stem, position embedding, stages, average pooling, head."""

    def __init__(self, config: PyramidConfig):
        super().__init__()
        self.config = config
        self.stem = Stem(config.dim[0], config.patch)
        self.position = nn.Parameter(torch.zeros(1, config.dim[0], *config.grid))
        self.stages = stages(config)
        self.head = head(config.dim[-1], config.num_classes, config.dropout)
        init_weights(self)

    @property
    def blocks(self) -> list[Block]:
        """The blocks of all stages."""
        return [block for stage in self.stages for block in stage.blocks]

    def forward(self, images: Tensor, return_graphs: bool = False) -> Tensor | tuple[Tensor, list[Graph]]:
        """Logits (B, num_classes) of images (B, 3, H, W); with `return_graphs` also the Graph of every block."""
        x, graphs = self._encode(images, return_graphs)
        logits = self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return (logits, graphs) if return_graphs else logits

    def forward_features(self, images: Tensor) -> Tensor:
        """The last stage's features, (B, C, H, W)."""
        return self._encode(images, keep_graphs=False)[0]

    def _encode(self, images: Tensor, keep_graphs: bool) -> tuple[Tensor, list[Graph]]:
        x, graphs = embed(self, images), []
        for stage in self.stages:
            x, made = stage(x)
            graphs += made if keep_graphs else []
        return x, graphs


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Stem and position of a pyramid: (B, C, H/patch, W/patch). Raises ValueError for images of another size."""
    if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != model.config.img_size:
        height, width = model.config.img_size
        raise ValueError(f"images of shape {tuple(images.shape)}: this model takes (B, 3, {height}, {width});"
                         " resize them, or create the model with img_size=(height, width)")
    return model.stem(images.contiguous(memory_format=torch.channels_last)) + model.position
