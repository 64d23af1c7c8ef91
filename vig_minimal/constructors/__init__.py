"""Graph constructors: nodes in, `Graph` out. One constructor, one file, its paper's equations in order.

To add one:

1. Write a module that is called as `constructor(nodes, grid)`: it takes nodes (B, N, C) and returns a `Graph` of N
   targets and N sources. `grid` is (H, W), where node h·W + w is the patch in row h and column w; ignore it unless the
   edges depend on places. (KNN and GroupKNN also take other nodes as sources, for pyramids and GKGNet's labels.)
   Pick edges in float32, also under autocast (`graphs.distance`): bfloat16 keeps fewer than three digits, so near ties
   change neighbours. The nodes arrive as the layers before computed them: under bfloat16 autocast they are rounded
   already.
   Take random numbers from `graphs.draws`: an image then gets the same ones in any split of its batch.
2. Write `NAME_per_block(config)` below: it returns one constructor for each block of a model, made from the fields of
   the model's config (`models.vig.ViGConfig`). A new field is added there.
3. Add one line to CONSTRUCTORS. `create_model("vig_ti", graph="NAME")` then uses it.
"""

from .axial import DAGC, LSGC, MGC, SVGA
from .cluster_knn import ClusterKNN, neighbours
from .controls import Alone, Full, Random, Surroundings
from .group_knn import GroupKNN
from .hypergraph import Hypergraph
from .knn import KNN, neighbours_and_dilation
from .lrgc import LRGC
from .similarity_threshold import SimilarityThreshold, quantiles
from .window_knn import WindowKNN

__all__ = ["CONSTRUCTORS", "DAGC", "KNN", "LRGC", "LSGC", "MGC", "OF_PLACES", "SVGA", "Alone", "ClusterKNN", "Full",
           "GroupKNN", "Hypergraph", "Random", "SimilarityThreshold", "Surroundings", "WindowKNN"]


def knn_per_block(config) -> list[KNN]:
    """The number of neighbours k and the dilation d grow from block to block."""
    return [KNN(k, d, config.epsilon) for k, d in neighbours_and_dilation(config.k, config.depth, config.num_nodes)]


def group_knn_per_block(config) -> list[GroupKNN]:
    """Each group has ViG's k and dilation (GKGNet, Table 5)."""
    return [GroupKNN(k, config.groups, d, config.epsilon)
            for k, d in neighbours_and_dilation(config.k, config.depth, config.num_nodes)]


def threshold_per_block(config) -> list[SimilarityThreshold]:
    """The quantile q falls from block to block."""
    return [SimilarityThreshold(q) for q in quantiles(config.threshold, config.decrement, config.depth)]


def lrgc_per_block(config) -> list[LRGC]:
    """Every block learns its own keys, queries and τ."""
    return [LRGC(config.dim) for _ in range(config.depth)]


def cluster_knn_per_block(config) -> list[ClusterKNN]:
    """K grows from block to block. Raises ValueError for more clusters than nodes."""
    if not 1 <= config.clusters <= config.num_nodes:
        raise ValueError(f"clusters={config.clusters}: a {config.grid[0]}×{config.grid[1]} grid has {config.num_nodes}"
                         f" nodes; choose clusters from 1 to {config.num_nodes}, a larger image or a smaller patch")
    return [ClusterKNN(k, config.clusters) for k in neighbours(config.k, config.depth)]


def svga_per_block(config) -> list[SVGA]:
    """K is 2, as released."""
    return [SVGA(2 if config.hops is None else config.hops) for _ in range(config.depth)]


def mgc_per_block(config) -> list[MGC]:
    """K is 2/7 of the shorter side: as released, 8, 4 and 2 at 28, 14 and 7 nodes."""
    released = max(1, 2 * min(config.grid) // 7)
    return [MGC(released if config.hops is None else config.hops) for _ in range(config.depth)]


def dagc_per_block(config) -> list[DAGC]:
    """K is 2."""
    return [DAGC(2 if config.hops is None else config.hops) for _ in range(config.depth)]


def lsgc_per_block(config) -> list[LSGC]:
    """K is 2, as released."""
    return [LSGC(2 if config.hops is None else config.hops) for _ in range(config.depth)]


def window_knn_per_block(config) -> list[WindowKNN]:
    """ViG's k; windows of half the shorter side (7 at 224 pixels), shifted by half in every second block."""
    window = -(-min(config.grid) // 2) if config.window is None else config.window
    shift = window // 2 if window < min(config.grid) else 0
    return [WindowKNN(k, window, shift * (l % 2)) for l, k in enumerate(neighbours(config.k, config.depth))]


def hypergraph_per_block(config) -> list[Hypergraph]:
    """From 25 to 50 hyperedges over the blocks, as released; fewer on a grid of fewer than 100 nodes. Raises ValueError
    for more hyperedges than nodes."""
    first = max(1, min(25, config.num_nodes // 4)) if config.hyperedges is None else config.hyperedges
    numbers = neighbours(first, config.depth)
    if numbers[-1] > config.num_nodes:
        raise ValueError(f"hyperedges={first}: they grow to {numbers[-1]}, and the grid has {config.num_nodes} nodes;"
                         f" choose up to {max(1, config.num_nodes // 2)}, a larger image or a smaller patch")
    return [Hypergraph(number) for number in numbers]


def random_per_block(config) -> list[Random]:
    """ViG's number of neighbours, another draw for each block."""
    return [Random(min(k, config.num_nodes), config.num_nodes) for k in neighbours(config.k, config.depth)]


# field `graph` of a config -> (NAME_per_block, the config's fields that only this constructor reads)
CONSTRUCTORS = {
    "knn": (knn_per_block, ("epsilon",)),                            # ViG
    "group_knn": (group_knn_per_block, ("epsilon", "groups")),       # GKGNet
    "threshold": (threshold_per_block, ("threshold", "decrement")),  # SViG
    "lrgc": (lrgc_per_block, ()),                                    # ViG-LRGC
    "cluster_knn": (cluster_knn_per_block, ("clusters",)),           # ClusterViG
    "svga": (svga_per_block, ("hops",)),                             # MobileViG
    "mgc": (mgc_per_block, ("hops",)),                               # MobileViGv2
    "dagc": (dagc_per_block, ("hops",)),                             # GreedyViG
    "lsgc": (lsgc_per_block, ("hops",)),                             # LogViG
    "window_knn": (window_knn_per_block, ("window",)),               # WiGNet
    "hypergraph": (hypergraph_per_block, ("hyperedges",)),           # ViHGNN
    # controls
    "grid": (lambda config: [Surroundings() for _ in range(config.depth)], ()),
    "random": (random_per_block, ()),
    "full": (lambda config: [Full() for _ in range(config.depth)], ()),
    "none": (lambda config: [Alone() for _ in range(config.depth)], ()),
}
# those of places alone, which need neither pooled sources nor relative positions: pyramids take them too
OF_PLACES = ("svga", "mgc", "dagc", "lsgc", "grid", "random", "none")
