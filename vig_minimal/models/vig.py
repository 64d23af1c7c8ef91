"""ViG: an image as a graph of patches (Han et al., NeurIPS 2022), and the skeleton of all models with patches.

    image → stem → position → [constructor → aggregation → update → FFN] × depth → mean of all patches → head

Isotropic means that the width C and the grid stay the same from the first block to the last; `pyramid.py` changes both.

    symbol    variable                     shape
    X         x                            (B, C, H, W): image of the N = H·W patches, channels_last
    X'        h = fc1(x)                   (B, C, H, W)
    G         graph = constructor(h)       N targets i, N sources j
    m_i       max_j (x'_j − x'_i)          (B, N, C), inside the graph convolution
    Y, Z      grapher(x), ffn(y)           (B, C, H, W)

Dilation d (`constructors/schedules.py`): a node reads from every d-th of its k·d nearest, so it reaches farther with
as many neighbours, as dilated convolutions do; DeepGCNs (Li et al., 2019) brought this to graphs. k and d grow over the
blocks.

Differs from the paper, as the released code does: BN after every linear layer, heads as in `convs.py`; features are
L2-normalised before distances; a node is its own nearest neighbour.
Differs from the released code: any image size and patch; dilation is limited by the grid there is, not by 196 nodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..graphs import mistakes
from ..graphs.graph import Graph
from .checks import check_choices, check_groups, check_numbers, check_whole, image_size
from .convs import CONVS
from .layers import (
    FFN,
    Block,
    DropPath,
    Stem,
    conv_bn,
    drop_path_rates,
    head,
    init_weights,
    no_weight_decay,
    resize_position,
    to_nodes,
)


@dataclass(frozen=True)
class ViGConfig:
    """Configuration of an isotropic model. Raises ValueError for fields that cannot work."""

    dim: int = 192                      # C
    depth: int = 12                     # number of (Grapher, FFN) blocks
    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224  # height and width; one number for a square
    patch: int = 16                     # total stride of the stem: 2, 4, 8 or 16
    graph: str = "knn"                  # constructor, see list_constructors()
    conv: str = "mr"                    # graph convolution: mr, edge, sage, gin or attention
    graph_every: int = 1                # n: of every n blocks the first builds the graph, the others use it again
    drop_path: float = 0.0              # stochastic depth of the last block; grows linearly from 0
    dropout: float = 0.0                # in the head
    k: int | None = None                # neighbours, from k to 2k over the blocks; None is 9 or, if less, half of N
    epsilon: float = 0.0                # graph="knn", "group_knn": probability of stochastic dilation (DeepGCNs: 0.2)
    threshold: float = 0.89             # graph="threshold": quantile q_0 of the first block
    decrement: float = 0.03             # graph="threshold": δ, from one block to the next
    clusters: int = 4                   # graph="cluster_knn": partitions κ
    groups: int = 2                     # graph="group_knn": groups G of channels, each with neighbours of its own
    hops: int | None = None             # graph="svga", "mgc", "dagc", "lsgc", "adaptive": K; None is the authors'
    window: int | None = None           # graph="window_knn": side w of a window; None is half of the shorter side
    hyperedges: int | None = None       # graph="hypergraph": of the first block; None is 25 or, if less, a quarter of N

    patches = (2, 4, 8, 16)  # no field

    def __post_init__(self):
        check_choices(self, patch=self.patches, conv=CONVS)
        object.__setattr__(self, "img_size", image_size(self.img_size, self.patch))
        optional = [name for name in ("k", "hops", "window", "hyperedges") if getattr(self, name) is not None]
        check_whole(self, "dim", "depth", "graph_every", "clusters", "groups", *optional)
        check_whole(self, "num_classes", least=0)
        check_numbers(self, "threshold", "decrement", rates=("drop_path", "dropout", "epsilon"))
        smallest = math.lcm(4, self.patch // 2)
        if self.dim % smallest:
            raise ValueError(f"dim={self.dim}: must be a multiple of {smallest} for 4 heads and patch={self.patch}")
        check_groups(self, [self.dim])
        if self.graph in ("knn", "group_knn") and 2 * (self.k or 1) > max(2, self.num_nodes):
            raise ValueError(f"k={self.k}: neighbours grow to 2k, and the grid has {self.num_nodes} nodes; choose k up"
                             f" to {max(1, self.num_nodes // 2)}, a larger image or a smaller patch")
        if self.graph == "cluster_knn" and self.clusters > self.num_nodes:
            raise ValueError(f"clusters={self.clusters}: a {self.grid[0]}×{self.grid[1]} grid has {self.num_nodes}"
                             f" nodes; choose clusters from 1 to {self.num_nodes}, a larger image or a smaller patch")

        if self.graph == "hypergraph" and (self.hyperedges or 1) > self.num_nodes:
            raise ValueError(f"hyperedges={self.hyperedges}: a {self.grid[0]}×{self.grid[1]} grid has {self.num_nodes}"
                             " nodes; choose fewer hyperedges, a larger image or a smaller patch")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width."""
        return self.img_size[0] // self.patch, self.img_size[1] // self.patch

    @property
    def num_nodes(self) -> int:
        return self.grid[0] * self.grid[1]


class Grapher(nn.Module):
    """A graph convolution between two linear layers, with a residual.

    x'_i = x_i W_in;  x''_i = max_{j ∈ N(i)} a_ij (x'_j − x'_i);  y_i = GELU([x'_i, x''_i] W_update) W_out + x_i,
    where N(i) and a_ij (1 in ViG, α in LRGC) are the graph that `constructor` makes of x', and W_update has 4 heads. In
    LRGC the maximum runs over all j, and a j that is not in N(i) has a_ij = 0. LRGC Eq. 5 writes i for the source and j
    for the target. (B, C, H, W) -> (B, C, H, W) and the Graph. Without a constructor it is that of the block `before`.
    """

    def __init__(self, dim: int, constructor: nn.Module | None, conv: str = "mr", drop_path: float = 0.0):
        super().__init__()
        self.fc1 = conv_bn(dim, dim)
        self.constructor = constructor
        self.conv = CONVS[conv](dim, 2 * dim)
        self.fc2 = conv_bn(2 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, before: Graph | None = None) -> tuple[Tensor, Graph]:
        # LRGC Eq. 5: Grapher, ViG's Grapher
        h = self.fc1(x)  # x' = x W_in: (B, C, H, W)
        nodes = to_nodes(h)  # (B, N, C)
        graph = before.again(nodes) if self.constructor is None else built(self.constructor, nodes, h.shape[2:])
        update = self.conv(h, graph)  # GELU([x', x''] W_update): (B, 2C, H, W)
        return self.drop_path(self.fc2(update)) + x, graph


def built(constructor: nn.Module, nodes: Tensor, *about) -> Graph:
    """Return what a constructor makes of nodes (B, N, C). Raises ValueError unless it is a Graph of them."""
    graph = constructor(nodes, *about)
    if not isinstance(graph, Graph) or not graph.is_of(nodes):
        raise ValueError(mistakes.of_result(constructor, graph, nodes))
    return graph


class Backbone(nn.Module):
    """The skeleton of all models, with a timm-style interface.

    A model has `config`, `num_features` (the channels of its last features), `stem`, `position`, `blocks`, in a pyramid
    `stages` of blocks, and `head`; or methods of its own, as CNN2Graph. GKGNet's head also takes the labels.
    """

    hidden = 1024  # width of the head
    lasting = {"head.0", "head.1"}  # what `add_classes` makes alike for any classes

    def forward(self, images: Tensor, return_graphs: bool = False) -> Tensor | tuple[Tensor, list[Graph]]:
        """Return logits (B, num_classes) of images (B, 3, H, W); with `return_graphs` also the Graph of every block."""
        x, made, graphs = self.embed(images), None, []  # stem and position: (B, C, H/patch, W/patch)
        for part in self.parts:
            x, made = part(x, made)  # a block makes one Graph, a stage a list of them
            if return_graphs:
                graphs += made if isinstance(made, list) else [made]
        logits = self.forward_head(x)
        return (logits, graphs) if return_graphs else logits

    def embed(self, images: Tensor) -> Tensor:
        """Return patches (B, C, H/patch, W/patch), channels_last: the stem of images (B, 3, H, W), plus positions."""
        if images.shape[1:] != (3, *self.config.img_size):
            check_images(self.config, images)
        x, position = self.stem(images.contiguous(memory_format=torch.channels_last)), self.position
        if position is None:
            return x
        return x + (position if x.shape[2:] == position.shape[2:] else resize_position(position, x.shape[2:]))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of the last features (B, C, H, W); for 0 classes pooled features (B, C)."""
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)

    @property
    def parts(self) -> nn.ModuleList:
        """The modules between position embedding and head, in order: blocks, or a pyramid's stages."""
        return self.stages if hasattr(self, "stages") else self.blocks

    def forward_stages(self, images: Tensor, blocks: Sequence[int] | None = None) -> list[Tensor]:
        """Return the features after these blocks, by default the last: (B, C, H/patch, W/patch) each; later
        blocks do not run. Of a pyramid after these stages, by default all: (B, C, H, W) each, at strides of patch,
        2·patch, 4·patch, …"""
        depth = len(self.parts)
        if blocks is None:
            blocks = range(depth) if hasattr(self, "stages") else (-1,)
        if not blocks or any(not -depth <= block < depth for block in blocks):
            raise ValueError(f"blocks={blocks}: this model has blocks 0 to {depth - 1}; −1 is the last")
        chosen, kept, x, made = [block % depth for block in blocks], {}, self.embed(images), None
        for i, part in enumerate(self.parts[:max(chosen) + 1]):
            x, made = part(x, made)
            if i in chosen:
                kept[i] = x
        return [kept[i] for i in chosen]

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last features, (B, num_features, H, W)."""
        return self.forward_stages(images)[-1]

    def add_classes(self) -> None:
        """Build the layers that depend on config.num_classes: in a new model, and again for other classes."""
        self.head = head(self.num_features, self.config.num_classes, self.config.dropout, self.hidden)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier for other classes; its `lasting` layers stay as they were trained. 0: no classifier,
        and forward returns the pooled features."""
        old, like, had_classes = dict(self.named_modules()), next(self.parameters()), self.config.num_classes > 0
        self.config = replace(self.config, num_classes=num_classes)
        self.add_classes()
        known = set(old.values())
        new = [part for part in self.modules() if part not in known]
        init_weights(new)
        for part in new:
            part.to(like).train(self.training)
        for name in self.lasting & old.keys() if had_classes and num_classes else ():
            self.set_submodule(name, old[name])

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return no_weight_decay(self)


def check_images(config: object, images: Tensor) -> None:
    """Raise ValueError for images of a size for which no such model could be built.

    Those of another size than the config's, at which the model is trained, get the position embedding that a model
    built for their size would load. It is resized anew every time, so that it follows the weights and has their
    gradient.
    """
    size = tuple(images.shape[2:])
    if images.ndim != 4 or images.shape[1] != 3 or any(side % config.patch or not side for side in size):
        raise ValueError(f"images of shape {tuple(images.shape)}: this model takes (B, 3, {config.img_size[0]},"
                         f" {config.img_size[1]}), or another height and width that are multiples of"
                         f" patch={config.patch}; resize or pad them")
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        replace(config, img_size=size)  # raises ValueError, as for too few patches


def of_every(constructors: list[nn.Module], every: int, depth: int) -> list[nn.Module | None]:
    """Return the constructors of the first of every `every` blocks; the others get None, and use that block's graph.
    Picked edges have no gradient, so none is lost. Raises ValueError for a graph that every block learns anew, and
    unless each of `depth` blocks has a constructor of its own."""
    if sentence := mistakes.of_constructors(constructors, depth):
        raise ValueError(sentence)
    learnt = [each for each in constructors if isinstance(each, nn.Module) and any(True for _ in each.parameters())]
    if every > 1 and learnt:
        raise ValueError(f"graph_every={every}: every block learns a graph of its own; choose graph_every=1, or a graph"
                         " that is not learnt, as knn")
    return [constructor if l % every == 0 else None for l, constructor in enumerate(constructors)]


class ViG(Backbone):
    """The isotropic skeleton, with one graph constructor for each block: k-NN makes it ViG."""

    def __init__(self, config: ViGConfig, constructors: list[nn.Module]):
        super().__init__()
        self.config, self.num_features = config, config.dim
        self.stem = Stem(config.dim, config.patch)
        self.position = nn.Parameter(torch.zeros(1, config.dim, *config.grid))
        constructors = of_every(constructors, config.graph_every, config.depth)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.ModuleList(Block(Grapher(config.dim, constructor, config.conv, rate), FFN(config.dim, rate))
                                    for constructor, rate in zip(constructors, rates, strict=True))
        self.add_classes()  # head
        init_weights(self.modules())
