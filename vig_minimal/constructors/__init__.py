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

from functools import partial

from .cluster_knn import ClusterKNN
from .group_knn import GroupKNN
from .knn import KNN, default_k, of_block
from .lrgc import LRGC
from .similarity_threshold import SimilarityThreshold, quantiles

__all__ = ["CONSTRUCTORS", "ClusterKNN", "GroupKNN", "KNN", "LRGC", "SimilarityThreshold"]


def rules(config) -> list[partial]:
    """Return, for each block, how k and the dilation d follow from the number of nodes: as in a model that was built
    for so many. A k that was not chosen, the default of the config's size, is the default there too."""
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


# field `graph` of a config -> (NAME_per_block, the config's fields that only some constructors read)
CONSTRUCTORS = {
    "knn": (knn_per_block, ("k", "epsilon")),                        # ViG
    "group_knn": (group_knn_per_block, ("k", "epsilon", "groups")),  # GKGNet
    "threshold": (threshold_per_block, ("threshold", "decrement")),  # SViG
    "lrgc": (lrgc_per_block, ()),                                    # ViG-LRGC
    "cluster_knn": (cluster_knn_per_block, ("k", "clusters")),       # ClusterViG
}
