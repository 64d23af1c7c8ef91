"""GKGNet: multi-label recognition with one graph over labels and patches (Yao et al., ECCV 2024).

Patches are the nodes of a Pyramid ViG, in which every group of channels has neighbours of its own (section 3.2,
`constructors.GroupKNN`). Labels are nodes too: after every stage each label reads from the patches nearest to it. The
loss of section 3.4 is `training.tasks.MultiLabelTask`.

    symbol    variable              shape
    S         patches               (B, N, C), nodes of the stage's (B, C, H, W) image: the sources j
    D         labels                (B, L, C): the targets i («destinations»), L = num_classes
    G, K      groups, k             2 groups g with 9 neighbours each: a node has 9 to 18 sources
    D'        m                     (B, L, C), inside the graph convolution
    D̃         cross(labels, x)      (B, C, L, 1): labels as an image one node wide, so that BN sees labels × images
    Y_xl      of_labels             (B, L): label l times the l-th row of the weight
    Y_xp      of_patches            (B, L): the mean patch times the weight

Differs from the paper, as the released code does (its weights need it): Eq. 1 is Ŝ − D, as in ViG, and not the paper's
D − Ŝ; Eq. 2's Linear is the whole of ViG's Grapher (fc1 before the graph, an update of 4 heads over interleaved D and
D', fc2); a second residual goes around FFN. Patches enter the cross level as they are, without fc1.
Differs from the released code: label l's score is computed alone, not as the diagonal of an L × L matrix.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..constructors import GroupKNN
from ..constructors.schedules import Rule, pyramid_neighbours
from ..graphs.graph import Graph
from .convs import CONVS
from .layers import FFN, DropPath, Stem, conv_bn, drop_path_rates, init_weights, to_nodes
from .pyramid import PyramidConfig, Stage
from .vig import Backbone


@dataclass(frozen=True)
class GKGNetConfig(PyramidConfig):
    """A PyramidConfig whose `num_classes` are the labels L. Raises ValueError for fields that cannot work."""

    graph: str = "group_knn"  # of patches and labels; groups=1 is plain k-NN
    num_classes: int = 80

    def __post_init__(self):
        super().__post_init__()
        if self.graph != "group_knn":
            raise ValueError(f"graph={self.graph!r}: GKGNet is made of group k-NN; groups=1 makes it plain k-NN")
        if self.dropout:
            raise ValueError(f"dropout={self.dropout:g}: GKGNet's classifiers have none; leave it 0")


class CrossLevel(nn.Module):
    """Cross-Level Group KGCN: every label reads from the patches nearest to it; no patch reads from a label.

    D̃ = y + FFN(y),  y = D + fc2(GELU(update(D_1, D')));  D_1 = fc1(D), D' the group max-relative of Eq. 1.
    labels (B, C, L, 1) and the stage's patches (B, C, H, W) -> labels (B, C, L, 1) and the GroupGraph.
    """

    def __init__(self, dim: int, constructor: GroupKNN, conv: str, drop_path: float):
        super().__init__()
        self.fc1 = conv_bn(dim, dim)
        self.constructor = constructor
        self.conv = CONVS[conv](dim, 2 * dim)
        self.fc2 = conv_bn(2 * dim, dim)
        self.drop_path = DropPath(drop_path)
        self.ffn = FFN(dim, drop_path)

    def forward(self, labels: Tensor, x: Tensor) -> tuple[Tensor, Graph]:
        d = self.fc1(labels)  # (B, C, L, 1)
        graph = self.constructor(to_nodes(d), d.shape[2:], sources=to_nodes(x))  # L targets, N sources
        # GKGNet Eq. 1: D'_ig = max_j (Ŝ_jg − D_ig), printed the other way round; inside the convolution
        update = self.conv(d, graph)  # (B, 2C, L, 1)
        # GKGNet Eq. 2: a residual around the Grapher, then FFN with its own
        return self.ffn(self.drop_path(self.fc2(update)) + labels), graph


class GKGNet(Backbone):
    """Stem, position embedding, stages that each end with a cross level, classifiers of labels and of patches."""

    lasting = {"cross", "widen"}

    def __init__(self, config: GKGNetConfig):
        super().__init__()
        self.config, self.num_features = config, config.dim[-1]
        self.stem = Stem(config.dim[0], config.patch)
        self.position = nn.Parameter(torch.zeros(1, config.dim[0], *config.grid))
        self.stages = nn.ModuleList(Stage(config, i) for i in range(len(config.depth)))
        self.add_classes()
        init_weights(self.modules())
        self._start_at_one_half()

    def add_classes(self) -> None:
        """Build labels, a cross level for every stage, and two classifiers; none of them for no classes: forward then
        returns the pooled patches."""
        config = self.config
        if config.num_classes == 0:
            self.labels = self.of_labels = self.of_patches = None
            self.cross, self.widen = nn.ModuleList(), nn.ModuleList()
            return
        self.labels = nn.Embedding(config.num_classes, config.dim[0])  # D before the first stage
        self.cross = nn.ModuleList()
        rates = drop_path_rates(config.drop_path, sum(config.depth))
        for i, (dim, (height, width)) in enumerate(zip(config.dim, config.grids, strict=True)):
            # all patches are sources, not pooled, without dilation or relative positions
            constructor = GroupKNN(Rule(height * width, pyramid_neighbours, config.k), config.groups)
            rate = rates[sum(config.depth[:i])]  # that of the stage's first block, as in the released code
            self.cross.append(CrossLevel(dim, constructor, config.conv, rate))
        self.widen = nn.ModuleList(nn.Linear(dim, wider) for dim, wider in zip(config.dim, config.dim[1:]))
        self.of_labels = nn.Linear(config.dim[-1], config.num_classes)
        self.of_patches = nn.Linear(config.dim[-1], config.num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        super().reset_classifier(num_classes)
        self._start_at_one_half()

    def _start_at_one_half(self) -> None:
        """Start the classifiers so that every probability is near ½, as in the released code."""
        for classifier in filter(None, (self.of_labels, self.of_patches)):
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages, then the cross levels."""
        return [block for stage in self.stages for block in stage.blocks] + list(self.cross)

    def forward(self, images: Tensor, return_graphs: bool = False) -> Tensor | tuple[Tensor, list[Graph]]:
        """Return logits (B, L) of images (B, 3, H, W), before the sigmoid; with `return_graphs` also the GroupGraph of
        every block (N targets) and, after those of its stage, of every cross level (L targets). For num_classes=0
        return pooled patches (B, C)."""
        if self.labels is None:
            return super().forward(images, return_graphs)
        x, graphs = self.embed(images), []
        labels = self.labels.weight.repeat(images.shape[0], 1, 1)  # (B, L, C)
        for i, (stage, cross) in enumerate(zip(self.stages, self.cross, strict=True)):
            labels = self.widen[i - 1](labels) if i > 0 else labels  # (B, L, C of this stage)
            # GKGNet section 3.3: patches read from patches, then labels from patches
            x, made = stage(x)
            nodes, graph = cross(labels.transpose(-2, -1)[..., None], x)  # (B, C, L, 1)
            labels = to_nodes(nodes)
            graphs += [*made, graph] if return_graphs else []
        logits = self.forward_head(x, labels)
        return (logits, graphs) if return_graphs else logits

    def forward_head(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (B, L) of the patches (B, C, H, W) and labels (B, L, C) after the last stage; for num_classes=0
        pooled patches (B, C)."""
        if self.labels is None:
            return x.mean((2, 3))
        # GKGNet Eq. 3, before σ: logit_l = w_l · D̃_l + b_l, and the mean patch's
        of_labels = (labels * self.of_labels.weight).sum(-1) + self.of_labels.bias  # Y_xl: (B, L)
        return of_labels + self.of_patches(x.mean((2, 3)))  # (B, L)
