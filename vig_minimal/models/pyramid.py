"""Pyramid ViG: four stages, each with fewer and wider nodes than the one before (Han et al., 2022, section 3.3).

    image → stem → stage 1 → downsample, stage 2 → downsample, stage 3 → downsample, stage 4 → pool → head

    symbol    variable                     shape
    X, X'     x, h = fc1(x)                (B, C, H, W): images of the stage's N = H·W patches, channels_last
    S         sources = pooled h           (B, M, C), M = (H/r)·(W/r): a source is the mean of r × r patches
    P         position_table(...)          (N, C): sines and cosines of a patch's row and column
    E         stage.relative               (N, M) float32: −2 P·Pᵀ/C, added to squared distances
    G         graph = constructor(...)     N targets i, M sources j
    m_i       max_j (s_j − x'_i)           (B, N, C), inside the graph convolution

k is 9 in every block. The released code limits the dilation d to 49 // 9 = 5: at 224 pixels the last stage has the
fewest sources, 7·7 = 49, and the k·d nearest of them must exist.

Differs from the paper, as the released code does: E comes from a fixed sine-cosine table, and the rest is as in
`vig.py`. Where r > 1 a node is not among its own sources, so m may be negative.
Differs from the released code: any image size, since tables and dilation follow the grid; the tables, bit for bit the
released ones, are in no checkpoint.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constructors import KNN, OF_PLACES, GroupKNN
from ..constructors.schedules import Rule, pyramid_dilation, pyramid_neighbours
from ..graphs.graph import Graph
from ..graphs.plain import fast_form
from .checks import check_choices, check_groups, check_numbers, check_stages, check_whole, halved, image_size
from .convs import CONVS
from .layers import FFN, Block, DropPath, Stem, conv_bn, drop_path_rates, init_weights, to_nodes
from .vig import Backbone, built, of_every


@dataclass(frozen=True)
class PyramidConfig:
    """Configuration of a pyramid. Raises ValueError for fields that cannot work."""

    dim: tuple[int, ...] = (48, 96, 240, 384)  # C of each stage
    depth: tuple[int, ...] = (2, 2, 6, 2)      # (Grapher, FFN) blocks of each stage
    pool: tuple[int, ...] = (4, 2, 1, 1)       # r of each stage: a source is the mean of r × r patches; 1 of OF_PLACES
    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224      # height and width; one number for a square
    patch: int = 4                             # total stride of the stem: 2, 4 or 8; every later stage halves the grid
    graph: str = "knn"                         # constructor: knn, group_knn, or one of constructors.OF_PLACES
    groups: int = 2                            # graph="group_knn": groups G of channels, each with its own neighbours
    conv: str = "mr"                           # graph convolution: mr, edge, sage, gin or attention
    graph_every: int = 1                       # n: of every n blocks of a stage the first builds the graph for all
    k: int | None = None                       # neighbours; None is 9; fewer where a stage has fewer sources
    hops: int | None = None                    # graph="svga", "mgc", "dagc", "lsgc", "adaptive": K; None: the authors'
    epsilon: float = 0.0                       # probability of stochastic dilation
    drop_path: float = 0.0                     # stochastic depth of the last block; grows linearly from 0
    dropout: float = 0.0                       # in the head

    patches = (2, 4, 8)  # no field

    def __post_init__(self):
        check_choices(self, patch=self.patches, conv=CONVS)
        object.__setattr__(self, "img_size", image_size(self.img_size, self.patch))
        check_whole(self, "groups", "graph_every", *[name for name in ("k", "hops") if getattr(self, name) is not None])
        check_whole(self, "num_classes", least=0)
        check_numbers(self, rates=("epsilon", "drop_path", "dropout"))
        check_stages(self, "(2, 2, 6, 2)", "dim", "depth", "pool")
        if any(dim % 4 for dim in self.dim):  # so the first is a multiple of patch / 2 too, which the stem needs
            raise ValueError(f"dim={self.dim}: widths must be multiples of 4, for 4 heads and the table of positions")
        if self.graph in OF_PLACES:
            object.__setattr__(self, "pool", (1,) * len(self.pool))
        if any(min(grid) < pool for grid, pool in zip(self.grids, self.pool, strict=True)):
            raise ValueError(f"pool={self.pool}: grids of {self.grids} patches have too few to pool; enlarge the image")
        if self.graph not in ("knn", "group_knn", *OF_PLACES):
            raise ValueError(f"graph={self.graph!r}: a pyramid takes knn and group_knn, which can read from pooled"
                             f" patches, or {', '.join(OF_PLACES)}, which need not")
        check_groups(self, self.dim)

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Patches in height and width, in each stage: half of the stage before, rounded up."""
        return halved(self.img_size, self.patch, len(self.dim))

    @property
    def grid(self) -> tuple[int, int]:
        return self.grids[0]


def position_table(dim: int, grid: tuple[int, int]) -> Tensor:
    """Return P: sines, then cosines of a patch's column and of its row, at dim / 4 frequencies from 1 to 1/10000.

    (N, dim) float64, patches row by row. Source: the released code, after Vaswani et al., 2017.
    """
    frequency = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (columns, rows)]  # (N, dim / 4) each
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)


@fast_form("position_rows")
def relative_positions(dim: int, grid: tuple[int, int], sources: int) -> Tensor:
    """Return E = −2 P·Pᵀ/C, rounded to float32, its second side resized bicubically from N to `sources`: (N, M).

    Added to squared distances. Without pooling (M = N) the nearer of two equally similar patches thus comes first. With
    pooling it does not: the released code resizes along the list of nodes, so that source m gets about the value of
    node m·N/M of that list, which is seldom one of those that m is the mean of. It stays so for the released weights,
    and in this order: another one differs in the last bit, enough to swap neighbours.
    """
    table = position_table(dim, grid)  # P: (N, C)
    # Pyramid ViG: E = −2 P·Pᵀ/C
    whole = (-2 * (table @ table.T) / dim).float()  # (N, N)
    return F.interpolate(whole[None, None], (len(table), sources), mode="bicubic")[0, 0]  # (N, M)


class Grapher(nn.Module):
    """`vig.Grapher` with pooled sources, the means of r × r nodes, and with E added to the distances.

    (B, C, H, W) and relative (N, M) -> (B, C, H, W) and the Graph of N targets and M sources. Without `relative`, for a
    constructor of OF_PLACES, it is `vig.Grapher`. Without a constructor the edges are those of the block `before`.
    """

    def __init__(self, dim: int, constructor: nn.Module | None, conv: str, pool: int, drop_path: float):
        super().__init__()
        self.pool = pool
        self.fc1 = conv_bn(dim, dim)
        self.constructor = constructor
        self.conv = CONVS[conv](dim, 2 * dim)
        self.fc2 = conv_bn(2 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, relative: Tensor | None = None, before: Graph | None = None) -> tuple[Tensor, Graph]:
        h = self.fc1(x)  # (B, C, H, W)
        # Pyramid ViG: S, the pooled sources
        sources = to_nodes(F.avg_pool2d(h, self.pool)) if self.pool > 1 else None  # (B, M, C), or the nodes themselves
        also = () if relative is None else (sources, relative)  # for which graphs of places have no use
        graph = (replace(before, sources=sources) if self.constructor is None  # the same edges
                 else built(self.constructor, to_nodes(h), h.shape[2:], *also))
        update = self.conv(h, graph)  # (B, 2C, H, W)
        return self.drop_path(self.fc2(update)) + x, graph


class Stage(nn.Module):
    """Blocks of one width on one grid; before them, in all stages but the first, a 3×3 convolution of stride 2 and BN.

    (B, C_before, H, W) -> (B, C, ⌈H/2⌉, ⌈W/2⌉) and the Graph of every block.
    """

    def __init__(self, config: PyramidConfig, stage: int):
        super().__init__()
        dim, self.grid, self.pool = config.dim[stage], config.grids[stage], config.pool[stage]
        first = sum(config.depth[:stage])  # blocks are counted over all stages
        rates = drop_path_rates(config.drop_path, sum(config.depth))
        self.downsample = nn.Identity()
        if stage > 0:
            self.downsample = nn.Sequential(nn.Conv2d(config.dim[stage - 1], dim, 3, 2, padding=1), nn.BatchNorm2d(dim))
        constructors = [self.constructor(config, block) for block in range(first, first + config.depth[stage])]
        self.blocks = nn.ModuleList(
            Block(Grapher(dim, constructor, config.conv, self.pool, rate), FFN(dim, rate))
            for constructor, rate in zip(of_every(constructors, config.graph_every, config.depth[stage]),
                                         rates[first:]))
        self.dim, self.placed = dim, config.graph in OF_PLACES
        # no buffer: DDP would send it to all processes at every step, and a moving average would average it
        self.relative = None if self.placed else relative_positions(dim, self.grid, self.num_sources(self.grid))

    def constructor(self, config: PyramidConfig, block: int) -> nn.Module:
        """Return the constructor of a block, counted over all stages."""
        k = Rule(self.num_sources(self.grid), pyramid_neighbours, config.k)
        dilation = Rule(self.num_sources(self.grid), pyramid_dilation, config.k, block)
        if config.graph == "knn":
            return KNN(k, dilation, config.epsilon)
        if config.graph == "group_knn":
            return GroupKNN(k, config.groups, dilation, config.epsilon)
        return OF_PLACES[config.graph](config.hops, k)

    def num_sources(self, grid: tuple[int, int]) -> int:
        """M on this grid."""
        return (grid[0] // self.pool) * (grid[1] // self.pool)

    @torch.compiler.assume_constant_result
    @fast_form("position_rows")
    def relative_on(self, height: int, width: int) -> Tensor:
        """Return E (N, M) on this grid."""
        grid = (height, width)
        if grid != self.grid:
            return relative_positions(self.dim, grid, self.num_sources(grid)).to(self.relative.device)
        return self.relative

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        if isinstance(self.relative, Tensor):  # goes where the weights go
            moved = fn(self.relative)
            # model.bfloat16() and model.half() leave E in float32: its digits order the neighbours
            is_half = moved.dtype in (torch.bfloat16, torch.float16)
            self.relative = self.relative.to(moved.device) if is_half else moved
        return self

    def forward(self, x: Tensor, before: list[Graph] | None = None) -> tuple[Tensor, list[Graph]]:
        x, graph, graphs = self.downsample(x), None, []  # another grid than that of the stage before: other graphs
        # under torch.compile a side may be a symbol, which `len` turns into its number
        relative = None if self.placed else self.relative_on(*(len(range(side)) for side in x.shape[2:]))
        for block in self.blocks:
            x, graph = block(x, relative, graph)
            graphs.append(graph)
        return x, graphs


class PyramidViG(Backbone):
    """The pyramid skeleton: stem, position embedding, stages, average pooling, head."""

    def __init__(self, config: PyramidConfig):
        super().__init__()
        self.config, self.num_features = config, config.dim[-1]
        self.stem = Stem(config.dim[0], config.patch)
        self.position = nn.Parameter(torch.zeros(1, config.dim[0], *config.grid))
        self.stages = nn.ModuleList(Stage(config, i) for i in range(len(config.depth)))
        self.add_classes()  # head
        init_weights(self.modules())

    @property
    def blocks(self) -> list[Block]:
        return [block for stage in self.stages for block in stage.blocks]
