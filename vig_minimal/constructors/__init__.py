"""Graph constructors: nodes in, `Graph` out. One constructor, one file, its paper's equations in order.

To add one:

1. Write a module that is called as `constructor(nodes, grid)`: it takes nodes (B, N, C) and returns a `Graph` of N
   targets and N sources. `grid` is (H, W), where node h·W + w is the patch in row h and column w; ignore it unless the
   edges depend on places. Images may be of several sizes: what follows from the number of nodes is worked out in each
   call. (KNN and GroupKNN also take other nodes as sources, for pyramids and GKGNet's labels.)
   Pick edges in float32, also under autocast (`graphs.distance`): bfloat16 keeps fewer than three digits, so near ties
   change neighbours. The nodes arrive as the layers before computed them: under bfloat16 autocast they are rounded
   already.
   Take random numbers from `graphs.draws`: an image then gets the same ones in any split of its batch.
   The number of images is `nodes.shape[0]`: `len(nodes)` would be a fixed number in an exported model.
2. Write `NAME_per_block(config)` below: it returns one constructor for each block of a model, made from the fields of
   the model's config (`models.vig.ViGConfig`). A new field is added there.
3. Add one line to CONSTRUCTORS. `create_model("vig_ti", graph="NAME")` then uses it, and `compare` and `benchmark
   --graphs` have it.
4. Write its double loop into tests/reference/, and a line in tests/constructors/test_every_constructor.py.
"""

from functools import partial

from torch import nn

from .adaptive import Adaptive
from .axial import DAGC, LSGC, MGC, SVGA
from .cluster_knn import ClusterKNN
from .controls import Alone, Full, Random, Surroundings
from .detail import Detail
from .group_knn import GroupKNN
from .hypergraph import Hypergraph, hyperedges_of_block
from .knn import KNN, default_k, of_block
from .lrgc import LRGC
from .similarity_threshold import SimilarityThreshold, quantiles
from .window_knn import WindowKNN, window_rule

__all__ = ["CONSTRUCTORS", "DAGC", "KNN", "LRGC", "LSGC", "MGC", "OF_PLACES", "SVGA", "Adaptive", "Alone", "ClusterKNN", "Detail", "Full",
           "GroupKNN", "Hypergraph", "Random", "SimilarityThreshold", "Surroundings", "WindowKNN"]


def rules(config) -> list[partial]:
    """Return a rule for each block: k and the dilation d for any number of nodes, as in a model built for that number.
    A k that equals the default for the config's own size counts as not chosen: the default for the new size replaces
    it."""
    k = None if config.k == default_k(config.num_nodes) else config.k
    return [partial(of_block, k, config.depth, l) for l in range(config.depth)]


def knn_per_block(config) -> list[KNN]:
    """The number of neighbours k and the dilation d grow from block to block."""
    return [KNN(*rule(config.num_nodes), config.epsilon, rule) for rule in rules(config)]


def group_knn_per_block(config) -> list[GroupKNN]:
    """Each group has ViG's k and dilation (GKGNet, Table 5)."""
    return [GroupKNN(k, config.groups, d, config.epsilon, rule)
            for rule in rules(config) for k, d in [rule(config.num_nodes)]]


def threshold_per_block(config) -> list[SimilarityThreshold]:
    """The quantile q falls from block to block."""
    return [SimilarityThreshold(q) for q in quantiles(config.threshold, config.decrement, config.depth)]


def lrgc_per_block(config) -> list[LRGC]:
    """Every block learns its own keys, queries and τ."""
    return [LRGC(config.dim) for _ in range(config.depth)]


def cluster_knn_per_block(config) -> list[ClusterKNN]:
    """K grows from block to block."""
    # ClusterViG section V-A: K from 9 to 18 over the blocks
    return [ClusterKNN(rule(config.num_nodes)[0], config.clusters, rule=rule) for rule in rules(config)]


# graphs of places, which need neither pooled sources nor relative positions, so that pyramids take them too: from hops
# (None is the authors' K), k neighbours, and the rule by which k follows from the number of nodes
OF_PLACES = {
    "svga": lambda hops, k, rule: SVGA(hops or 2),
    "mgc": lambda hops, k, rule: MGC(hops),
    "dagc": lambda hops, k, rule: DAGC(hops or 2),
    "lsgc": lambda hops, k, rule: LSGC(hops or 2),
    "adaptive": lambda hops, k, rule: Adaptive(hops),
    "detail": lambda hops, k, rule: Detail(k, rule),
    "grid": lambda hops, k, rule: Surroundings(),
    "random": lambda hops, k, rule: Random(k, rule),
    "none": lambda hops, k, rule: Alone(),
}


def of_places(name: str, config) -> list[nn.Module]:
    """The same in every block; `random` has ViG's number of neighbours, and another draw for each block."""
    return [OF_PLACES[name](config.hops, rule(config.num_nodes)[0], rule) for rule in rules(config)]


def window_knn_per_block(config) -> list[WindowKNN]:
    """ViG's k; windows of half the grid's shorter side (7 at 224 pixels), shifted by half in every second block."""
    of_blocks = [partial(window_rule, rule, config.window, l % 2 == 1) for l, rule in enumerate(rules(config))]
    return [WindowKNN(*rule(config.grid), rule) for rule in of_blocks]


def hypergraph_per_block(config) -> list[Hypergraph]:
    """From 25 to 50 hyperedges over the blocks, as released; from a quarter to half of the nodes where these are few.
    """
    of_blocks = [partial(hyperedges_of_block, config.hyperedges, config.depth, l) for l in range(config.depth)]
    return [Hypergraph(rule(config.num_nodes), rule=rule) for rule in of_blocks]


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
