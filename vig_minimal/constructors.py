"""Every graph constructor: node features in, `Graph` out.

    k-NN, dilated, stochastic dilated   `KNN`                   ViG (Han et al., 2022), after DeepGCNs (Li et al., 2019)
    group k-NN                          `GroupKNN`              GKGNet (Yao et al., 2024)
    k-NN inside partitions              `ClusterKNN`            ClusterViG (Parikh et al., 2025)
    similarity threshold                `SimilarityThreshold`   SViG (Elsharkawi et al., 2025)
    learnable reparameterised           `LRGC`                  ViG-LRGC, Eqs. 2-4

A constructor is a module that takes nodes (B, N, C) and returns a graph of N targets and N sources; the first two also
take other nodes as sources. What picks an edge is computed in float32 or better, also under autocast: in bfloat16 a
neighbour is decided by the third digit.
"""

from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distance import full_precision, squared_distance, unit_distance
from .graph import Graph, GroupGraph, draw
from .kmeans import fixed_start, kmeans


SIZES = 4  # groups of partitions, each padded to its largest
DISTANCES = 2**25  # between nodes and sources, held at a time by k-NN: 128 MiB


class KNN(nn.Module):
    """k nearest neighbours of L2-normalised features, dilated: of the k·d nearest, every d-th.

    Nearest first, the node itself among them (at distance 0, as in all the released code: k = 9 means eight others).
    With `epsilon` > 0, in training and for each image with that probability, a random k of the k·d nearest take their
    place (stochastic dilation, DeepGCNs). Picking carries no gradient.

    nodes (B, N, C) -> Graph with index (B, N, k). sources: (B, M, C), the nodes themselves by default. relative:
    (N, M), added to the squared distances (Pyramid ViG). Raises ValueError if k·d > M.
    """

    def __init__(self, k: int, dilation: int = 1, epsilon: float = 0.0):
        super().__init__()
        self.k, self.dilation, self.epsilon = k, dilation, epsilon
        self.place: tuple[int, int] | None = None  # of this process's images in the global batch, see `draw`

    @torch.no_grad()
    def forward(self, x: Tensor, sources: Tensor | None = None, relative: Tensor | None = None) -> Graph:
        nearest = nearest_sources(x, sources, relative, self.k, self.dilation)  # (B, N, k·d)
        return Graph(x.shape[1] if sources is None else sources.shape[1], index=dilated(self, nearest))

    def extra_repr(self) -> str:
        return f"k={self.k}, dilation={self.dilation}, epsilon={self.epsilon}"


class GroupKNN(nn.Module):
    """Group k-NN: channels are split into G groups, and a node has k nearest neighbours of its own in each of them.

    Cosine similarity of the group's slices ranks them, as squared distance of slices that are L2-normalised each. A
    node reads from k to G·k different sources. GKGNet section 3.2. All else as for `KNN`, which it is for G = 1.

    nodes (B, N, C) -> GroupGraph with index (B, G, N, k). sources and relative, the same for all groups, as for `KNN`.
    Raises ValueError if k·d > M, or if C is no multiple of G.
    """

    def __init__(self, k: int, groups: int = 2, dilation: int = 1, epsilon: float = 0.0):
        super().__init__()
        self.k, self.groups, self.dilation, self.epsilon = k, groups, dilation, epsilon
        self.place: tuple[int, int] | None = None  # see `KNN`

    @torch.no_grad()
    def forward(self, x: Tensor, sources: Tensor | None = None, relative: Tensor | None = None) -> GroupGraph:
        if x.shape[2] % self.groups:
            raise ValueError(f"groups={self.groups}: {x.shape[2]} channels cannot be split into so many equal groups")
        # GKGNet section 3.2, group k-NN: D_ig searches among S_g only
        pieces = [None if t is None else self._split(t) for t in (x, sources)]  # (B·G, N or M, C/G)
        nearest = nearest_sources(*pieces, relative, self.k, self.dilation)
        nearest = nearest.unflatten(0, (-1, self.groups))  # (B, G, N, k·d)
        return GroupGraph(x.shape[1] if sources is None else sources.shape[1], index=dilated(self, nearest))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B·G, N, C/G)."""
        return x.unflatten(-1, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"k={self.k}, groups={self.groups}, dilation={self.dilation}, epsilon={self.epsilon}"


def nearest_sources(x: Tensor, sources: Tensor | None, relative: Tensor | None, k: int, dilation: int) -> Tensor:
    """The k·d sources of each node that are nearest by ‖x̂_i − ŷ_j‖² + relative_ij, nearest first: (B, N, k·d).

    x: (B, N, C). sources: (B, M, C), or None for the nodes themselves. relative: (N, M), or None.
    """
    sources = x if sources is None else sources
    num_sources, reach = sources.shape[1], k * dilation
    if reach > num_sources:
        raise ValueError(f"k·dilation = {k}·{dilation}: more neighbours than the {num_sources} nodes")
    rows = max(1, DISTANCES // (len(x) * num_sources))  # targets at a time: large images have more pairs than memory
    nearest = []
    for start in range(0, x.shape[1], rows):
        distance = unit_distance(x[:, start:start + rows], sources)  # (B, rows, M)
        if relative is not None:
            distance += relative[start:start + rows]
        nearest.append(distance.topk(reach, largest=False).indices)
    return torch.cat(nearest, 1) if len(nearest) > 1 else nearest[0]


def dilated(constructor: KNN | GroupKNN, nearest: Tensor) -> Tensor:
    """Every d-th of the k·d nearest, or in an image with probability ε a random k: (B, ..., k·d) to (B, ..., k)."""
    k, place, device = constructor.k, constructor.place, nearest.device
    if not (constructor.training and constructor.epsilon > 0):
        return nearest[..., ::constructor.dilation]
    regular = torch.arange(0, nearest.shape[-1], constructor.dilation, device=device)  # (k,)
    chances = draw(place, len(nearest), nearest.shape[-1], device=device)
    drawn = chances.topk(k).indices.sort().values  # (B, k)
    stochastic = draw(place, len(nearest), 1, device=device) < constructor.epsilon  # (B, 1)
    ranks = torch.where(stochastic, drawn, regular)
    return nearest.gather(-1, ranks.view(-1, *[1] * (nearest.ndim - 2), k).expand(*nearest.shape[:-1], k))


class ClusterKNN(nn.Module):
    """k nearest neighbours inside the node's own partition, the node itself among them; partitions by k-means.

    A partition of fewer than k nodes uses them all. In training k-means starts from random nodes, drawn from torch's
    global generator; in evaluation always from the same ones, so that an image's graph does not depend on the call.
    ClusterViG section IV-A. Picking carries no gradient.

    nodes (B, N, C) -> Graph with index (B, N, min(k, N)). Raises ValueError for k < 1 or clusters < 1, and if N is less
    than the number of clusters.
    """

    def __init__(self, k: int, clusters: int, iters: int = 20):
        super().__init__()
        if k < 1 or clusters < 1:
            raise ValueError(f"k={k}, clusters={clusters}: both must be at least 1")
        self.k, self.clusters, self.iters = k, clusters, iters

    def forward(self, x: Tensor) -> Graph:
        return cluster_graph(x, self.partition(x), self.clusters, self.k)

    @torch.no_grad()
    def partition(self, x: Tensor) -> Tensor:
        """The partition of every node: (B, N, C) to labels (B, N), 0 to clusters − 1, each of which occurs."""
        start = "random" if self.training else x[:, fixed_start(x.shape[1], self.clusters)]
        return kmeans(x, self.clusters, self.iters, start)[0]

    def extra_repr(self) -> str:
        return f"k={self.k}, clusters={self.clusters}"


@torch.no_grad()
def cluster_graph(x: Tensor, labels: Tensor, clusters: int, k: int) -> Graph:
    """The k nearest nodes of the same label, nearest first: nodes (B, N, C) and labels (B, N), 0 to clusters − 1.

    In a partition of fewer than k nodes the nearest comes again, which is no further edge. Features that are not
    numbers have neighbours of their own partition too: the NaNs go on to the loss, where training says what they are.
    """
    unit, k = F.normalize(full_precision(x), dim=-1).nan_to_num_(0), min(k, x.shape[1])
    if torch.compiler.is_compiling() or x.is_cuda:  # there, shapes that depend on the data cost more than they save
        return Graph(x.shape[1], index=_nearest_alike(unit, labels, clusters, k))
    return Graph(x.shape[1], index=_nearest_by_size(unit, labels, clusters, k))


def _nearest_alike(unit: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """(B, N, k) from all N² distances. ‖x̂_i − x̂_j‖² is at most 4; another partition is 8 farther, since its place in
    a one-hot vector is another."""
    placed = torch.cat([unit, 2 * F.one_hot(labels, clusters).to(unit)], -1)  # (B, N, C + κ)
    nearest = squared_distance(placed, placed).topk(k, largest=False)
    return torch.where(nearest.values < 6, nearest.indices, nearest.indices[..., :1])


def _nearest_by_size(unit: Tensor, labels: Tensor, clusters: int, k: int) -> Tensor:
    """(B, N, k) from the distances inside partitions only: all partitions of the batch, those of like size together."""
    (batch, num_nodes, channels), device = unit.shape, unit.device
    offset = num_nodes * torch.arange(batch, device=device)[:, None]  # (B, 1)
    node = (labels.argsort(dim=1, stable=True) + offset).flatten()  # (B·N,), partition after partition
    size = F.one_hot(labels, clusters).sum(1).flatten()  # (B·κ,)
    start = size.cumsum(0) - size
    unit, index = unit.reshape(-1, channels), torch.empty(batch * num_nodes, k, dtype=torch.int64, device=device)
    for alike in size.argsort().tensor_split(SIZES):  # (p,) partitions
        width = int(size[alike].max()) if len(alike) else 0
        if width == 0:
            continue
        place = torch.arange(width, device=device)
        inside = place < size[alike, None]  # (p, S), S the largest size
        member = node[(start[alike, None] + place).clamp(max=len(node) - 1)]  # (p, S)
        piece = unit[member]  # (p, S, C)
        distance = squared_distance(piece, piece).masked_fill_(~inside[:, None], torch.inf)  # (p, S, S)
        nearest = distance[inside].topk(min(k, width), largest=False)  # (n, ·) for each node of these partitions
        row = inside.nonzero()[:, :1] * width  # (n, 1)
        found = member.flatten()[row + nearest.indices]
        found = torch.where(nearest.values < torch.inf, found, found[:, :1])
        index[member[inside]] = torch.cat([found, found[:, :1].expand(-1, k - found.shape[1])], 1)
    return index.view(batch, num_nodes, k) - offset[..., None]


class SimilarityThreshold(nn.Module):
    """SViG's graph: an edge wherever the standardised similarity is above the normal quantile of q.

    s_ij = −‖x̂_i − x̂_j‖²,  z = (s − mean(s)) / std(s) over an image's N² entries,  an edge j → i where z_ij > Φ⁻¹(q).
    Were similarities normally distributed, a share 1 − q of all pairs would be edges.

    nodes (B, N, C) -> Graph with weights (B, N, N), bool. Raises ValueError unless 0 < q < 1.
    """

    def __init__(self, quantile: float):
        super().__init__()
        if not 0 < quantile < 1:
            raise ValueError(f"quantile q = {quantile:g}: SViG's threshold Φ⁻¹(q) needs 0 < q < 1")
        self.quantile = quantile
        self.z = NormalDist().inv_cdf(quantile)  # Φ⁻¹(q)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Graph:
        s = -unit_distance(x)  # (B, N, N)
        # unbiased, (B, 1, 1); a single node has no spread
        std, mean = torch.std_mean(s, dim=(1, 2), correction=min(1, x.shape[1] - 1), keepdim=True)
        # SViG: z > Φ⁻¹(q), without a division: a constant image (std = 0) has no edge rather than NaNs
        return Graph(x.shape[1], weights=s - mean > self.z * std)

    def extra_repr(self) -> str:
        return f"quantile={self.quantile:g}"


class LRGC(nn.Module):
    """Learnable Reparameterized Graph Construction, ViG-LRGC Eqs. 2-4.

    α_ij = tanh(ReLU(σ(key(h_i)·query(h_j)) − σ(τ))) is the weight of the edge from source i to target j. The paper's
    α_ij is stored at adj[b, j, i], since rows are targets. Where the score is at most τ there is no edge.

    The graph starts fully connected: τ = −1, and W_query = 0 makes every score exactly 0, whatever the image and the
    features' scale, which BatchNorm's running statistics do not know yet. (W_key is not 0, so W_query learns at once.)

    nodes h (B, N, D) -> Graph with weights (B, N, N), float32 or float64, with gradient.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.key = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.tau = nn.Parameter(torch.tensor(-1.0))
        nn.init.normal_(self.key.weight, std=1 / dim)
        nn.init.zeros_(self.key.bias)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def forward(self, h: Tensor) -> Graph:
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.key.weight.dtype)
            # LRGC Eq. 2: α'_ij = key(v_i)·query(v_j), i source, j target
            score = full_precision(self.query(h)) @ full_precision(self.key(h)).mT  # (B, N, N): score[b, j, i] = α'_ij
            # LRGC Eq. 3: α'' = ReLU(σ(α') − σ(τ)), α = tanh(α'');  with Eq. 2 inside, this is LRGC Eq. 4
            alpha = torch.tanh(F.relu(torch.sigmoid(score) - torch.sigmoid(self.tau)))  # (B, N, N)
        return Graph(h.shape[1], weights=alpha)
