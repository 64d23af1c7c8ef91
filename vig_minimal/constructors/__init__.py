"""Graph constructors: node features in, `Graph` out. One constructor, one file.

    graph=          class                   paper
    knn             `KNN`                   ViG: k-NN, dilated, stochastic
    group_knn       `GroupKNN`              GKGNet: k-NN in groups of channels
    cluster_knn     `ClusterKNN`            ClusterViG: k-NN inside partitions
    threshold       `SimilarityThreshold`   SViG
    lrgc            `LRGC`                  ViG-LRGC, Eqs. 2-4

A constructor is a module: `constructor(nodes, grid)` takes nodes (B, N, C) and their grid (H, W), which only those that
depend on places read, and returns a graph of N targets and N sources. The first two also take other nodes as sources.
What picks an edge is computed in float32 or better, also under autocast: in bfloat16 the third digit is lost.
"""


from .cluster_knn import ClusterKNN, neighbours
from .group_knn import GroupKNN
from .knn import KNN, neighbours_and_dilation
from .lrgc import LRGC
from .similarity_threshold import SimilarityThreshold, quantiles

__all__ = ["CONSTRUCTORS", "ClusterKNN", "GroupKNN", "KNN", "LRGC", "SimilarityThreshold"]


def knn_per_block(config) -> list[KNN]:
    """ViG's: k grows linearly to 2k, dilation by one every four blocks."""
    return [KNN(k, d, config.epsilon) for k, d in neighbours_and_dilation(config.k, config.depth, config.num_nodes)]


def group_knn_per_block(config) -> list[GroupKNN]:
    """Each group has ViG's k and dilation (GKGNet, Table 5)."""
    return [GroupKNN(k, config.groups, d, config.epsilon)
            for k, d in neighbours_and_dilation(config.k, config.depth, config.num_nodes)]


def cluster_knn_per_block(config) -> list[ClusterKNN]:
    """ClusterViG's: K grows linearly to 2K, κ stays. Raises ValueError if κ is more than the nodes."""
    if not 1 <= config.clusters <= config.num_nodes:
        raise ValueError(f"clusters={config.clusters}: a {config.grid[0]}×{config.grid[1]} grid has {config.num_nodes}"
                         f" nodes; choose clusters from 1 to {config.num_nodes}, a larger image or a smaller patch")
    return [ClusterKNN(k, config.clusters) for k in neighbours(config.k, config.depth)]


def threshold_per_block(config) -> list[SimilarityThreshold]:
    """SViG's: the quantile falls from block to block."""
    return [SimilarityThreshold(q) for q in quantiles(config.threshold, config.decrement, config.depth)]


def lrgc_per_block(config) -> list[LRGC]:
    """LRGC's: every block has its own keys, queries and τ_l."""
    return [LRGC(config.dim) for _ in range(config.depth)]


# graph= of a config -> what makes one constructor a block from it, and the fields that it alone reads
CONSTRUCTORS = {
    "knn": (knn_per_block, ("epsilon",)),
    "group_knn": (group_knn_per_block, ("epsilon", "groups")),
    "threshold": (threshold_per_block, ("threshold", "decrement")),
    "lrgc": (lrgc_per_block, ()),
    "cluster_knn": (cluster_knn_per_block, ("clusters",)),
}
