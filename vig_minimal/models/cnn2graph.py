"""CNN2GNN and CNN2Transformer: a graph between images, anchors and proxies (Trivedy and Latecki, 2023).

Every image of a batch reads from the same proxy set: learnable proxies and a few training images, the anchors. The
graph is bipartite and complete; only images are targets. Equations 8 to 17, the losses, are in `training/`.

    symbol    variable                shape
    X_emb     x = backbone(images)    (B, F): embeddings of images, the targets i; φ, the backbone, is `resnet.ResNet`
    L         anchors                 (A, F), A = classes · anchors_per_class: embeddings of anchors, class after class
    P         proxies                 (P, F), P = classes · proxies_per_class: parameters, class after class
    α         attention               (B, H, A + P): anchors first; sums to 1 over anchors, and over proxies
    z_out     z                       (B, F)

Differs from the paper (no code was released):
* Eq. 2's D^{-1/2} A D^{-1/2} is D^{-1} A, a plain mean: in the graph of a mini-batch every proxy has the degree B, and
  an image's output would depend on the size of its batch.
* A linear layer 3F → F follows ω = cat, so that images, anchors and proxies share one classifier (section 3.4).
* Eq. 6 has W_k1 for W_k2. An image's own edge in CNN2GNN is normalised alone: its weight is 1.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.distance import full_precision
from ..graphs.graph import Graph
from .checks import check_choices, check_whole, image_size
from .layers import evaluating
from .resnet import BACKBONES, ResNet
from .vig import Backbone


@dataclass(frozen=True)
class CNN2GraphConfig:
    """Configuration of a ResNet with or without a graph. Raises ValueError for fields that cannot work."""

    backbone: str = "resnet18"        # nano, resnet18 or resnet34
    aggregation: str = "transformer"  # none (the plain ResNet), mean, max, gnn (CNN2GNN) or transformer
    num_classes: int = 1000
    img_size: int | tuple[int, int] = 224
    stem: str | None = None           # cifar (for small images) or imagenet; None is cifar up to 48 pixels
    heads: int = 4                    # H of the attention
    omega: str = "cat"                # aggregation="transformer": ω of Eq. 7, cat or max
    aggregate_self: bool = True       # False: an image does not read from itself (Table 3)
    anchors_per_class: int = 1
    proxies_per_class: int = 1

    def __post_init__(self):
        object.__setattr__(self, "img_size", image_size(self.img_size))
        if self.stem is None:
            object.__setattr__(self, "stem", "cifar" if max(self.img_size) <= 48 else "imagenet")
        check_whole(self, "heads", "anchors_per_class", "proxies_per_class")
        check_whole(self, "num_classes", least=0)
        check_choices(self, backbone=BACKBONES, aggregation=("none", *AGGREGATIONS), stem=("cifar", "imagenet"),
                      omega=("cat", "max"), aggregate_self=(True, False))
        dim = BACKBONES[self.backbone][0][-1]
        if dim % self.heads:
            raise ValueError(f"heads={self.heads}: must divide the embedding's {dim} numbers")


# ---- four aggregations: x (B, F), anchors (A, F), proxies (P, F) -> z (B, F), weights of the edges (B, H, A + P)


def mean(x: Tensor, anchors: Tensor, proxies: Tensor, aggregate_self: bool = True) -> tuple[Tensor, Tensor]:
    """Return the mean of the image and the proxy set; H = 1."""
    # CNN2GNN Eq. 2, with D^{-1} A
    count = len(anchors) + len(proxies) + aggregate_self
    total = (anchors.sum(0) + proxies.sum(0)).expand_as(x) + (x if aggregate_self else 0)  # (B, F)
    return total / count, x.new_full((x.shape[0], 1, len(anchors) + len(proxies)), 1 / count)


def maximum(x: Tensor, anchors: Tensor, proxies: Tensor, aggregate_self: bool = True) -> tuple[Tensor, Tensor]:
    """Return the maximum over the image and the proxy set, per feature; H = 1, and every edge has weight 1."""
    # CNN2GNN section 3.2: z_i = max [φ(X_i) ‖ P ‖ φ(L)]
    best = torch.cat([anchors, proxies]).amax(0).expand_as(x)  # (B, F)
    z = torch.maximum(x, best) if aggregate_self else best
    return z, x.new_ones(x.shape[0], 1, len(anchors) + len(proxies))


class CNN2GNN(nn.Module):
    """GATv2 from the proxy set to the images."""

    def __init__(self, config: CNN2GraphConfig, dim: int):
        super().__init__()
        self.heads, self.aggregate_self = config.heads, config.aggregate_self
        self.w1 = nn.Linear(dim, dim, bias=False)
        self.w2 = nn.Linear(dim, dim, bias=False)
        self.a = nn.Parameter(torch.empty(config.heads, dim // config.heads))
        nn.init.xavier_uniform_(self.a)

    def forward(self, x: Tensor, anchors: Tensor, proxies: Tensor) -> tuple[Tensor, Tensor]:
        # CNN2GNN Algorithm 1, lines 1 and 2; heads are slices of the features
        g1 = self.w1(x).unflatten(-1, (self.heads, -1))  # (B, H, F/H)
        g2 = self.w2(torch.cat([anchors, proxies])).unflatten(-1, (self.heads, -1))  # (A + P, H, F/H)
        # CNN2GNN Eq. 3: e_ij = aᵀ LeakyReLU(W [h_i ‖ h_j]);  W [h_i ‖ h_j] is W_1 h_i + W_2 h_j
        e = (F.leaky_relu(g1[:, None] + g2, 0.2) * self.a).sum(-1)  # (B, A + P, H)
        # CNN2GNN Algorithm 1, line 6, separately for anchors and proxies
        alpha = torch.cat([part.softmax(1) for part in e.split((len(anchors), len(proxies)), 1)], 1)
        z = torch.einsum("bmh,mhd->bhd", alpha, g2).flatten(1)  # (B, F)
        return (z + self.w2(x) if self.aggregate_self else z), alpha.transpose(-2, -1)


class CNN2Transformer(nn.Module):
    """Cross-attention from the images to anchors, and to proxies."""

    def __init__(self, config: CNN2GraphConfig, dim: int):
        super().__init__()
        self.heads, self.omega, self.aggregate_self = config.heads, config.omega, config.aggregate_self
        self.query = nn.Linear(dim, dim, bias=False)
        self.key1, self.value1 = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.key2, self.value2 = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear((2 + self.aggregate_self) * dim, dim) if self.omega == "cat" else nn.Identity()

    def forward(self, x: Tensor, anchors: Tensor, proxies: Tensor) -> tuple[Tensor, Tensor]:
        q = self.query(x)
        # CNN2GNN Eq. 5
        of_anchors, alpha1 = self._attend(q, self.key1(anchors), self.value1(anchors))  # L_mha: (B, F)
        # CNN2GNN Eq. 6, with W_k2
        of_proxies, alpha2 = self._attend(q, self.key2(proxies), self.value2(proxies))  # P_mha: (B, F)
        # CNN2GNN Eq. 7
        parts = ([x] if self.aggregate_self else []) + [of_anchors, of_proxies]
        z = torch.cat(parts, -1) if self.omega == "cat" else torch.stack(parts).amax(0)
        return self.out(z), torch.cat([alpha1, alpha2], -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return S(q kᵀ/√d) v in each head: (B, F), (M, F), (M, F) to (B, F), and the softmax (B, H, M).

        d = F/H, the width of a head; the paper has the whole embedding's F.
        """
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(0, 1) for t in (q, k, v))  # (H, B or M, F/H)
        alpha = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)  # (H, B, M)
        return (alpha @ v).transpose(0, 1).flatten(1), alpha.transpose(0, 1)


AGGREGATIONS = {"mean": mean, "max": maximum, "gnn": CNN2GNN, "transformer": CNN2Transformer}


class Output(NamedTuple):
    """A training step's output, which the losses read; A anchors and P proxies, class after class."""

    logits: Tensor         # (B, classes)
    anchor_logits: Tensor  # (A, classes)
    proxy_logits: Tensor   # (P, classes)
    x: Tensor              # embeddings, L2-normalised: (B, F)
    anchors: Tensor        # (A, F)
    proxies: Tensor        # (P, F)
    anchor_labels: Tensor  # (A,)
    proxy_labels: Tensor   # (P,)


class CNN2Graph(Backbone):
    """Backbone, aggregation over the proxy set, one linear classifier for images, anchors and proxies.

    In training, `anchor_images` (A, 3, H, W), set by the training loop, go through the backbone with every batch. In
    evaluation `anchors` has their embeddings, so that an image costs one pass of the backbone and O(classes).
    """

    lasting = {"aggregate"}  # attention

    def __init__(self, config: CNN2GraphConfig):
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone, config.stem)
        self.num_features = self.backbone.dim
        self.attends = config.aggregation in ("gnn", "transformer")
        self.add_classes()

    def add_classes(self) -> None:
        """Build classifier, aggregation, proxies and anchors; the model then needs anchors of these classes. For no
        classes forward returns the embeddings (B, F)."""
        config, dim, like = self.config, self.num_features, self.backbone.conv1.weight
        self.aggregate = self.anchor_images = None
        self.classifier = nn.Linear(dim, config.num_classes) if config.num_classes else nn.Identity()
        if config.aggregation == "none":
            return
        if config.num_classes == 0:
            self.proxies = None
            self.register_buffer("anchors", None)
            self.register_buffer("stored", None)
            return
        aggregation = AGGREGATIONS[config.aggregation]
        self.aggregate = (aggregation(config, dim) if self.attends
                          else partial(aggregation, aggregate_self=config.aggregate_self))
        self.proxies = nn.Parameter(like.new_empty(config.num_classes * config.proxies_per_class, dim))
        nn.init.kaiming_normal_(self.proxies)  # He initialisation, section 4.1
        self.register_buffer("anchors", like.new_zeros(config.num_classes * config.anchors_per_class, dim))
        self.register_buffer("stored", torch.zeros((), dtype=torch.bool, device=like.device))
        self.has_anchors = False  # `stored` as Python knows it: to ask a GPU would be to wait for it

    def _load_from_state_dict(self, *about) -> None:
        super()._load_from_state_dict(*about)
        stored = getattr(self, "stored", None)  # a plain ResNet has no anchors
        if stored is not None and not stored.is_meta:
            self.has_anchors = bool(stored)

    @property
    def blocks(self) -> list[nn.Module]:
        return self.backbone.blocks

    def labels(self, per_class: int) -> Tensor:
        """Return the classes of the anchors or proxies, `per_class` of each class: (classes · per_class,)."""
        return torch.arange(self.config.num_classes, device=self.classifier.weight.device).repeat_interleave(per_class)

    @torch.no_grad()
    def store_anchors(self, images: Tensor) -> None:
        """Keep the embeddings of these anchors (A, 3, H, W), class after class, for evaluation."""
        with evaluating(self.backbone):
            self.anchors.copy_(torch.cat([self.backbone(part) for part in images.split(128)]))
        self.stored.fill_(True)
        self.has_anchors = True

    def forward(self, images: Tensor, return_graphs: bool = False):
        """Evaluation: logits (B, classes) of images (B, 3, H, W); with `return_graphs` also [Graph] with B targets and
        A + P sources, anchors first, its weights (1, B, A + P) the mean attention of all heads. Training: `Output`.
        """
        if self.training and not return_graphs and self.aggregate is not None:
            return self._train(images)
        logits, graphs = self._classify(self.backbone(images))
        return (logits, graphs) if return_graphs else logits

    def forward_head(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of the last features (B, F, H', W'), as in evaluation; or embeddings."""
        return self._classify(x.mean((2, 3)))[0]

    def _classify(self, x: Tensor) -> tuple[Tensor, list[Graph]]:
        """Return the logits of embeddings (B, F), and the graph if there is one."""
        if self.aggregate is None:
            return self.classifier(x), []
        if not self.has_anchors:
            raise ValueError("this model has no anchors yet: call model.store_anchors with the images that stand for"
                             " the classes, or load a trained checkpoint")
        z, alpha = self.aggregate(x, self.anchors, self.proxies)
        weights = alpha.detach().mean(1)[None]  # (1, B, A + P)
        return self.classifier(z), [Graph(weights.shape[2], weights=weights)]

    def _train(self, images: Tensor) -> Output:
        if self.anchor_images is None:
            raise ValueError("training needs the anchors' images: set model.anchor_images, (A, 3, H, W)")
        # CNN2GNN Eq. 4, in one pass: batch norm sees images and anchors together
        sizes = len(images), len(self.anchor_images)
        x, anchors = self.backbone(torch.cat([images, self.anchor_images])).split(sizes)
        z, _ = self.aggregate(x, anchors, self.proxies)
        unit = [F.normalize(full_precision(t), dim=-1) for t in (x, anchors, self.proxies)]
        logits = [self.classifier(t) for t in (z, anchors, self.proxies)]
        labels = [self.labels(n) for n in (self.config.anchors_per_class, self.config.proxies_per_class)]
        return Output(*logits, *unit, *labels)

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return the features of the backbone's four stages, (B, C, H', W') each; see `ResNet.forward_stages`."""
        return self.backbone.forward_stages(images)
