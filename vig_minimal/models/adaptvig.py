"""AdaptViG: a pyramid of convolutions, of fixed places with a learnt gate, and of attention (Munir et al., WACV 2026).

    image → stem → stage 1 → downsample, stage 2 → downsample, stage 3 → downsample, stage 4 → pool → head

A stage is a row of local blocks, which are convolutions, then a row of graph blocks. The graph of the first three
stages is `constructors.Adaptive`; in the last, where few nodes are left, every node attends to all.

    symbol    variable                      shape
    X         x                             (B, C, H, W): image of the stage's N = H·W patches, channels_last
    X'        h = fc1(cpe(x) + x)           (B, C, H, W)
    G         graph = constructor(h)        N targets i, N sources j, with weights: the gate g_ij or attention a_ij
    m_i       max(0, max_j w_ij (x'_j − x'_i)); in the last stage max(0, Σ_j a_ij v_j − x'_i)
    Y         x + s_1 · grapher(x)          s_1, s_2, s: one number a channel, 10⁻⁵ at first, so that a block starts as
                                            nearly nothing (CaiT, Touvron et al., 2021)

x and m are concatenated, not interleaved as in ViG; the update has one head and keeps C channels, where ViG has 4 and
doubles them. There is no position embedding: the 7×7 convolutions tell places apart.

Differs from the released code: any image size. K stays 8, 4, 2 and 1 whatever the grid, as there.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..constructors.adaptive import Adaptive
from ..graphs.aggregate import aggregate_sum, max_relative
from ..graphs.graph import Graph
from .checks import check_choices, check_numbers, check_stages, check_whole, halved, image_size
from .clustervig import Distilled
from .layers import Block, DropPath, conv_bn, drop_path_rates, init_weights, to_image, to_nodes

SCALE = 1e-5  # s, s_1 and s_2 at first


@dataclass(frozen=True)
class AdaptViGConfig:
    """Configuration of an AdaptViG. Raises ValueError for fields that cannot work."""

    dim: tuple[int, ...] = (32, 64, 128, 256)  # C of each stage
    local: tuple[int, ...] = (3, 3, 9, 3)      # local blocks of each stage
    depth: tuple[int, ...] = (3, 3, 3, 3)      # graph blocks of each stage
    hops: tuple[int, ...] = (8, 4, 2, 1)       # K of each stage; the last stage has attention and reads none
    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224      # height and width; one number for a square
    patch: int = 4                             # total stride of the stem: 2 or 4; every later stage halves the grid
    drop_path: float = 0.0                     # stochastic depth of the last block; grows linearly from 0
    dropout: float = 0.0                       # in the head
    distillation: bool = True                  # a second classifier, which learns from a teacher

    patches, graph = (2, 4), "adaptive"  # no fields

    def __post_init__(self):
        check_choices(self, patch=self.patches, distillation=(True, False))
        object.__setattr__(self, "img_size", image_size(self.img_size, self.patch))
        check_whole(self, "num_classes", least=0)
        check_numbers(self, rates=("drop_path", "dropout"))
        check_stages(self, "(3, 3, 9, 3)", "dim", "local", "depth", "hops")
        if any(dim % 4 for dim in self.dim):
            raise ValueError(f"dim={self.dim}: widths must be multiples of 4, for queries and keys of C / 4")

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Patches in height and width, in each stage: half of the stage before, rounded up."""
        return halved(self.img_size, self.patch, len(self.dim))

    @property
    def grid(self) -> tuple[int, int]:
        return self.grids[0]

    @property
    def pool(self) -> tuple[int, ...]:
        """Sources are the nodes themselves."""
        return (1,) * len(self.dim)


class Scale(nn.Module):
    """Layer scale and stochastic depth of a branch: s · x, s one number a channel. (B, C, H, W) -> (B, C, H, W)"""

    def __init__(self, dim: int, drop_path: float):
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), SCALE))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.scale[:, None, None] * x)


class LocalBlock(nn.Module):
    """Y = X + s · (depthwise convolution between two linear layers): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, drop_path: float = 0.0):
        super().__init__()
        wide = 4 * dim
        self.widen = nn.Sequential(*conv_bn(dim, wide), nn.GELU())
        self.depthwise = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.BatchNorm2d(wide),
                                       nn.GELU())
        self.narrow = conv_bn(wide, dim)
        self.scale = Scale(dim, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # AdaptViG's local block
        return x + self.scale(self.narrow(self.depthwise(self.widen(x))))


class Attend(nn.Module):
    """The graph of the last stage: every node reads from all, with weights a_ij that sum to 1 over j.

    Nodes (B, N, C) and grid (H, W) -> Graph with weights (B, N, N).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key = (nn.Conv2d(dim, dim // 4, 1, bias=False) for _ in range(2))
        self.query_norm, self.key_norm = (nn.LayerNorm(dim // 4) for _ in range(2))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Graph:
        image = to_image(x, grid)
        q = self.query_norm(to_nodes(self.query(image)))  # (B, N, C/4)
        k = self.key_norm(to_nodes(self.key(image)))  # (B, N, C/4)
        # AdaptViG: a_ij = softmax_j(q_i·k_j / √(C/4))
        return Graph(x.shape[1], weights=(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))  # (B, N, N)


class AdaptConv(nn.Module):
    """GELU(BN([x, m] W)), x and m concatenated: (B, C, H, W) and a Graph with weights -> (B, C, H, W).

    attends: the last stage, whose m reads values v from the graph, where the others read differences.
    """

    def __init__(self, dim: int, attends: bool):
        super().__init__()
        self.value = nn.Conv2d(dim, dim, 1, bias=False) if attends else None
        self.update = nn.Sequential(*conv_bn(2 * dim, dim), nn.GELU())

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        nodes = to_nodes(x)  # (B, N, C)
        if self.value is None:
            # AdaptViG: m_i = max(0, max_j w_ij (x_j − x_i))
            m = max_relative(nodes, graph)  # (B, N, C)
        else:
            # AdaptViG: m_i = max(0, Σ_j a_ij v_j − x_i)
            m = (aggregate_sum(to_nodes(self.value(x)), graph) - nodes).relu()  # (B, N, C)
        return self.update(torch.cat([x, to_image(m.to(x.dtype), x.shape[2:])], 1))


class Grapher(nn.Module):
    """Y = X + s_1 · AdaptConv((CPE(X) + X) W_1) W_2: (B, C, H, W) -> (B, C, H, W) and the Graph.

    CPE, conditional positional encoding (Chu et al., 2021), is a 7×7 depthwise convolution.
    """

    def __init__(self, dim: int, constructor: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.cpe = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.fc1 = conv_bn(dim, dim)
        self.constructor = constructor
        self.conv = AdaptConv(dim, attends=isinstance(constructor, Attend))
        self.fc2 = conv_bn(dim, dim)
        self.scale = Scale(dim, drop_path)

    def forward(self, x: Tensor) -> tuple[Tensor, Graph]:
        # AdaptViG's Grapher
        h = self.fc1(self.cpe(x) + x)  # X': (B, C, H, W)
        graph = self.constructor(to_nodes(h), h.shape[2:])
        return x + self.scale(self.fc2(self.conv(h, graph))), graph


class FFN(nn.Module):
    """Z = Y + s_2 · GELU(Y W_1) W_2, with C → 4C → C and BN after each linear layer: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, drop_path: float = 0.0):
        super().__init__()
        self.fc1, self.fc2 = nn.Sequential(*conv_bn(dim, 4 * dim), nn.GELU()), conv_bn(4 * dim, dim)
        self.scale = Scale(dim, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # AdaptViG's FFN
        return x + self.scale(self.fc2(self.fc1(x)))


class Stage(nn.Module):
    """Before all stages but the first a 3×3 convolution of stride 2 and BN; local blocks; graph blocks.

    (B, C_before, H, W) -> (B, C, ⌈H/2⌉, ⌈W/2⌉) and the Graph of every graph block.
    """

    def __init__(self, config: AdaptViGConfig, stage: int):
        super().__init__()
        dim, last = config.dim[stage], stage == len(config.dim) - 1
        per_stage = [a + b for a, b in zip(config.local, config.depth, strict=True)]
        rates = iter(drop_path_rates(config.drop_path, sum(per_stage))[sum(per_stage[:stage]):])  # over all blocks
        self.downsample = nn.Identity()
        if stage > 0:
            self.downsample = nn.Sequential(nn.Conv2d(config.dim[stage - 1], dim, 3, 2, padding=1), nn.BatchNorm2d(dim))
        self.local = nn.Sequential(*(LocalBlock(dim, next(rates)) for _ in range(config.local[stage])))
        self.blocks = nn.ModuleList()
        for _ in range(config.depth[stage]):
            rate, constructor = next(rates), Attend(dim) if last else Adaptive(config.hops[stage])
            self.blocks.append(Block(Grapher(dim, constructor, rate), FFN(dim, rate)))

    def forward(self, x: Tensor, before: list[Graph] | None = None) -> tuple[Tensor, list[Graph]]:
        x, graphs = self.local(self.downsample(x)), []
        for block in self.blocks:
            x, graph = block(x)
            graphs.append(graph)
        return x, graphs


class AdaptViG(Distilled):
    """Stem, stages, average pooling, and a head with one or two classifiers."""

    position, hidden = None, 768  # no position embedding

    def __init__(self, config: AdaptViGConfig):
        super().__init__()
        self.config, self.num_features = config, config.dim[-1]
        stem, widths = [], (3, config.dim[0] // 2, config.dim[0])
        for i, (before, width) in enumerate(pairwise(widths)):
            stride = 2 if 2**i < config.patch else 1  # patch 4: both 2; patch 2: the first
            stem += [nn.Conv2d(before, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.GELU()]
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList(Stage(config, i) for i in range(len(config.dim)))
        self.add_classes()  # head
        init_weights(self.modules())

    @property
    def blocks(self) -> list[Block]:
        """The graph blocks of all stages."""
        return [block for stage in self.stages for block in stage.blocks]
