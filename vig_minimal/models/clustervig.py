"""ClusterViG: globally aware Vision GNNs by image partitioning (Parikh, Fein-Ashley, Ye, Kannan, Prasanna, 2025).

k-means partitions the nodes. A node reads from its nearest nodes in its own partition, and from the centroid of its
partition, which has read from all centroids. Eqs. 2 and 3, the global update, are `graphs.gatv2.GATv2`; Eqs. 1
and 4, the local updates of Tables I and II, are in `convs.py`; Eq. 6 is `layers.FFN`.

    symbol    variable              shape
    X         x                     (B, N, C), nodes of the (B, C, H, W) image, N = H·W
    κ, K      clusters, k           partitions; neighbours, K growing linearly to 2K over the blocks
    G^i       graph                 N targets v, N sources u, edges inside a partition; V^i, z_i, α_ji: `ClusterGraph`
    z'_i      z_updated             (B, κ, C); gathered to (B, N, C), z'_v is that of v's partition
    X'        update                (B, 2C, H, W)

Differs from the paper: BN after every linear layer, GELU of Eq. 5 inside DEGC's MLP, a bias after Eq. 2's sum, and a
position embedding after the stem, as in the released code. The published parameter counts need the embedding, and an
MLP of DEGC with 1 group in Ti and 4 in S and B.
Differs from the released code: k-means has one start, not 4, at most 20 iterations, not 50, and starts the same in
every evaluation; features are not centred in place; z_i carries a gradient; x, m and z' are interleaved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..constructors import ClusterKNN
from ..graphs.gatv2 import GATv2
from ..graphs.graph import Graph
from ..graphs.membership import membership, partition_mean
from .checks import check_choices
from .convs import CONVS
from .layers import FFN, Block, DropPath, Stem, conv_bn, drop_path_rates, init_weights, to_nodes
from .vig import Backbone, ViGConfig, of_every


@dataclass(frozen=True, repr=False)
class ClusterGraph(Graph):
    """The graph of one DEGC, with the partitions that made it."""

    labels: Tensor | None = None     # V^i: (B, N) int64, the partition of every node, 0 to κ − 1
    centroids: Tensor | None = None  # z_i: (B, κ, C), the mean of a partition, with gradient
    attention: Tensor | None = None  # α_ji: (B, κ, κ, heads), how much i reads from j in the global update


@dataclass(frozen=True)
class ClusterViGConfig(ViGConfig):
    """A ViGConfig (`clusters` is κ) with two more fields. Raises ValueError for fields that cannot work."""

    graph: str = "cluster_knn"          # no other: the global update needs partitions
    update_groups: int = 4              # heads of DEGC's MLP: 1, 2 or 4
    distillation: bool = False          # adds a second classifier, which learns from a teacher

    def __post_init__(self):
        super().__post_init__()
        if self.graph != "cluster_knn":
            raise ValueError(f"graph={self.graph!r}: ClusterViG reads its partitions, which graph='cluster_knn' makes")
        check_choices(self, update_groups=(1, 2, 4), distillation=(True, False))


class DEGC(nn.Module):
    """Dynamic Efficient Graph Convolution, Algorithm 1, for a whole batch of images at once (Algorithm 2).

    Algorithm 2 sorts the nodes of all images by partition, and sorts back at the end. Here the nodes stay in place, and
    labels restrict the neighbours. (B, C, H, W) -> (B, out_dim, H, W) and the ClusterGraph. Without a constructor
    partitions and edges are those of the block `before`, and z_i are the means of the nodes as they are now.
    """

    def __init__(self, dim: int, out_dim: int, constructor: ClusterKNN | None, conv: str = "mr", groups: int = 4):
        super().__init__()
        self.constructor = constructor
        self.attention = GATv2(dim, dim)
        self.conv = CONVS[conv](dim, out_dim, groups, global_feature=True)

    def forward(self, image: Tensor, before: ClusterGraph | None = None) -> tuple[Tensor, ClusterGraph]:
        # ClusterViG Algorithm 1, in its order; ClusterViG Algorithm 2, since all images and partitions go at once
        x = to_nodes(image)  # X: (B, N, C)
        if self.constructor is not None:
            labels = self.constructor.partition(x)  # V^i: (B, N)
            graph = self.constructor.inside(x, labels)  # G^i: (B, N, N), edges only inside a partition
            clusters = self.constructor.clusters
        else:
            labels, graph, clusters = before.labels, before, before.centroids.shape[1]
        member = membership(labels, clusters)  # (B, N, κ)
        z = partition_mean(x, member)  # z_i: (B, κ, C)
        z_updated, attention = self.attention(z, return_attention=True)  # z'_i: (B, κ, C), α_ji
        update = self.conv(image, graph, z=member.to(z.dtype) @ z_updated)  # X': (B, out_dim, H, W)
        return update, ClusterGraph(graph.num_sources, graph.index, labels=labels, centroids=z, attention=attention)


class Grapher(nn.Module):
    """Y = σ(DEGC((CPE(X) + X) W_1)) W_2 + X: (B, C, H, W) -> (B, C, H, W) and the ClusterGraph.

    CPE, conditional positional encoding (Chu et al., 2021), is a 7×7 depthwise convolution: a node learns its place
    from its surroundings and from the zeros around the image.
    """

    def __init__(self, config: ClusterViGConfig, constructor: ClusterKNN, drop_path: float = 0.0):
        super().__init__()
        self.cpe = nn.Conv2d(config.dim, config.dim, 7, padding=3, groups=config.dim)
        self.fc1 = conv_bn(config.dim, config.dim)
        self.degc = DEGC(config.dim, 2 * config.dim, constructor, config.conv, config.update_groups)
        self.fc2 = conv_bn(2 * config.dim, config.dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, before: ClusterGraph | None = None) -> tuple[Tensor, ClusterGraph]:
        # ClusterViG Eq. 5: σ is the GELU that ends DEGC's MLP
        h = self.fc1(self.cpe(x) + x)  # (B, C, H, W)
        update, graph = self.degc(h, before)  # (B, 2C, H, W)
        return self.drop_path(self.fc2(update)) + x, graph


class Distilled(Backbone):
    """A skeleton with one or two classifiers (Figure 4).

    With config.distillation, as in all but nano models, a training step gets a tuple: the logits of both classifiers,
    the first to learn from the labels and the second from a teacher. Evaluation gives their mean.
    `create_model("cvig_ti", distillation=False)` has one classifier, and always gives one tensor.
    """

    def add_classes(self) -> None:
        super().add_classes()
        distils = self.config.distillation and self.config.num_classes > 0
        self.distilled = nn.Conv2d(self.hidden, self.config.num_classes, 1) if distils else None

    def forward_head(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, num_classes) of the last features (B, C, H, W); the pooled features (B, C) for num_classes=0."""
        x = x.mean((2, 3), keepdim=True)
        if self.distilled is None:
            return self.head(x).flatten(1)
        for layer in self.head[:-1]:  # not called as a whole: a slice is a new module, which torch's counters misname
            x = layer(x)  # (B, hidden, 1, 1)
        logits, distilled = self.head[-1](x).flatten(1), self.distilled(x).flatten(1)
        return (logits, distilled) if self.training else (logits + distilled) / 2


class ClusterViG(Distilled):
    """The isotropic skeleton with one constructor for each block, and with one or two classifiers."""

    def __init__(self, config: ClusterViGConfig, constructors: list[ClusterKNN]):
        super().__init__()
        self.config, self.num_features = config, config.dim
        # ClusterViG section IV-C: k_h convolutions of stride 2, k_s of stride 1, k_h + k_s = 4, and a last one
        self.stem = Stem(config.dim, config.patch, layers=4, narrowest=64)
        self.position = nn.Parameter(torch.zeros(1, config.dim, *config.grid))
        constructors = of_every(constructors, config.graph_every, config.depth)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.ModuleList(Block(Grapher(config, constructor, rate), FFN(config.dim, rate))
                                    for constructor, rate in zip(constructors, rates, strict=True))
        self.add_classes()  # head
        init_weights(self.modules())
