"""Graph constructors, one per file.

Nodes in, `Graph` out, the paper's equations in order. The schedules over the blocks are in `schedules.py`. To add a
constructor:

1. Write a module that is called as `constructor(nodes, grid)`: it takes nodes (B, N, C) and returns a `Graph` of N
   targets and N sources. `grid` is (H, W), where node h·W + w is the patch in row h and column w; ignore it unless the
   edges depend on places. Images may be of several sizes: what follows from the number of nodes is worked out in each
   call, by a `Rule` of `schedules.py`. (KNN and GroupKNN also take other nodes as sources, for pyramids and GKGNet's
   labels.)
   Pick edges in float32, also under autocast (`graphs.distance`): bfloat16 keeps fewer than three digits, so near ties
   change neighbours. Under bfloat16 autocast the nodes themselves are rounded already.
   A Graph of a wrong shape or type raises ValueError; on a CPU also an index out of range, so try it there first.
   Take random numbers from `graphs.draws`: an image then gets the same ones in any split of its batch.
   The number of images is `nodes.shape[0]`: `len(nodes)` would be a fixed number in an exported model.
2. Write `NAME_per_block(config)` below: it returns one constructor for each block of a model, made from the fields of
   the model's config (`models.vig.ViGConfig`). Add new fields there, and schedules over the blocks
   in `schedules.py`.
3. Add one line to CONSTRUCTORS. `create_model("vig_ti", graph="NAME")` then uses it, and `compare` and `benchmark
   --graphs` have it.
4. Write its double loop into tests/reference/, and a line in tests/constructors/test_every_constructor.py.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from .adaptive import Adaptive
from .axial import DAGC, LSGC, MGC, SVGA
from .cluster_knn import ClusterKNN
from .controls import Alone, Full, Random, Surroundings
from .detail import Detail
from .group_knn import GroupKNN
from .hypergraph import Hypergraph
from .knn import KNN
from .lrgc import LRGC
from .schedules import Rule, dilation, hyperedges, neighbours, neighbours_on, quantiles, window_shift, window_side
from .similarity_threshold import SimilarityThreshold
from .window_knn import WindowKNN

__all__ = ["CONSTRUCTORS", "DAGC", "KNN", "LRGC", "LSGC", "MGC", "OF_PLACES", "SVGA", "Adaptive", "Alone", "ClusterKNN",
           "Detail", "Full", "GroupKNN", "Hypergraph", "Random", "SimilarityThreshold", "Surroundings", "WindowKNN"]


def of_blocks(config, schedule: Callable[..., int], first: int | None) -> list[Rule]:
    """Return the rule of each block: `schedule` with this first number, for any number of nodes."""
    return [Rule(config.num_nodes, schedule, first, config.depth, l) for l in range(config.depth)]


def knn_per_block(config) -> list[KNN]:
    """Return k-NN whose k and dilation d grow from block to block."""
    rules = zip(of_blocks(config, neighbours, config.k), of_blocks(config, dilation, config.k), strict=True)
    return [KNN(k, d, config.epsilon) for k, d in rules]


def group_knn_per_block(config) -> list[GroupKNN]:
    """Return group k-NN; each group has ViG's k and dilation (GKGNet, Table 5)."""
    rules = zip(of_blocks(config, neighbours, config.k), of_blocks(config, dilation, config.k), strict=True)
    return [GroupKNN(k, config.groups, d, config.epsilon) for k, d in rules]


def threshold_per_block(config) -> list[SimilarityThreshold]:
    """Return SViG's constructors, whose quantile q falls from block to block."""
    return [SimilarityThreshold(q) for q in quantiles(config.threshold, config.decrement, config.depth)]


def lrgc_per_block(config) -> list[LRGC]:
    """Return LRGC's constructors, each with its own keys, queries and τ."""
    return [LRGC(config.dim) for _ in range(config.depth)]


def cluster_knn_per_block(config) -> list[ClusterKNN]:
    """Return k-NN inside partitions; K grows from block to block."""
    # ClusterViG section V-A: K from 9 to 18 over the blocks
    return [ClusterKNN(k, config.clusters) for k in of_blocks(config, neighbours, config.k)]


# graphs, most of them of places, that need neither pooled sources nor relative positions, so that pyramids take them
# too: from hops (None is the authors' K) and k neighbours, a rule of the number of nodes
OF_PLACES = {
    "svga": lambda hops, k: SVGA(hops or 2),
    "mgc": lambda hops, k: MGC(hops),
    "dagc": lambda hops, k: DAGC(hops or 2),
    "lsgc": lambda hops, k: LSGC(hops or 2),
    "adaptive": lambda hops, k: Adaptive(hops),
    "detail": lambda hops, k: Detail(k),
    "grid": lambda hops, k: Surroundings(),
    "random": lambda hops, k: Random(k),
    "none": lambda hops, k: Alone(),
}


def of_places(name: str, config) -> list[nn.Module]:
    """Return the same graph for every block; `random` has ViG's number of neighbours, and a draw for each block."""
    return [OF_PLACES[name](config.hops, k) for k in of_blocks(config, neighbours, config.k)]


def window_knn_per_block(config) -> list[WindowKNN]:
    """Return k-NN inside windows with ViG's k; windows of half the grid's shorter side (7 at 224 pixels),
    shifted by half in every second block."""
    side = Rule(config.grid, window_side, config.window)
    return [WindowKNN(Rule(config.grid, neighbours_on, config.k, config.depth, l), side,
                      Rule(config.grid, window_shift, config.window, l)) for l in range(config.depth)]


def hypergraph_per_block(config) -> list[Hypergraph]:
    """Return hypergraphs of 25 to 50 hyperedges over the blocks, as released; of a quarter to half of fewer nodes."""
    return [Hypergraph(number) for number in of_blocks(config, hyperedges, config.hyperedges)]


# field `graph` of a config -> (NAME_per_block, the config's fields that only some constructors read)
CONSTRUCTORS = {
    "knn": (knn_per_block, ("k", "epsilon")),                        # ViG
    "group_knn": (group_knn_per_block, ("k", "epsilon", "groups")),  # GKGNet
    "threshold": (threshold_per_block, ("threshold", "decrement")),  # SViG
    "lrgc": (lrgc_per_block, ()),                                    # ViG-LRGC
    "cluster_knn": (cluster_knn_per_block, ("k", "clusters")),       # ClusterViG
    "window_knn": (window_knn_per_block, ("k", "window")),           # WiGNet
    "hypergraph": (hypergraph_per_block, ("hyperedges",)),           # ViHGNN
    "svga": (partial(of_places, "svga"), ("hops",)),                 # MobileViG
    "mgc": (partial(of_places, "mgc"), ("hops",)),                   # MobileViGv2
    "dagc": (partial(of_places, "dagc"), ("hops",)),                 # GreedyViG
    "lsgc": (partial(of_places, "lsgc"), ("hops",)),                 # LogViG
    "adaptive": (partial(of_places, "adaptive"), ("hops",)),         # AdaptViG
    "detail": (partial(of_places, "detail"), ("k",)),                # IPG
    # controls
    "grid": (partial(of_places, "grid"), ()),
    "random": (partial(of_places, "random"), ("k",)),
    "none": (partial(of_places, "none"), ()),
    "full": (lambda config: [Full() for _ in range(config.depth)], ()),
}
