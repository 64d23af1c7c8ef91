"""SViG: similarity-thresholded graph construction (Elsharkawi et al., IEEE Access 2025).

ViG-Ti with another constructor and no dilation: a node has as many neighbours as are similar enough.

    symbol    variable                     shape
    s         −‖x̂_i − x̂_j‖²                (B, N, N), in `constructors.SimilarityThreshold`
    z         (s − mean(s)) / std(s)       (B, N, N), over the N² entries of an image
    q_l       threshold − l · decrement    a number a block, l = 0, 1, ...
    edge      z_ij > Φ⁻¹(q_l)              Φ the standard normal distribution function

The aggregate is the maximum over the edges, 0 for a node with none.
Differs from the released code: the aggregate keeps its precision (there it is cast to float16 whatever the rest is in).
"""

from dataclasses import replace

from .constructors import SimilarityThreshold
from .vig import PRESETS as VIG
from .vig import ViGConfig

# q_0 = 0.89, δ = 0.03: 74.6 % top-1 at batch 1024 in its authors' table; 0.86 and 0.03 give the same.
PRESETS = {
    "svig_nano": replace(VIG["vig_nano"], graph="threshold"),  #   933,098 parameters
    "svig_ti": replace(VIG["vig_ti"], graph="threshold"),      # 7,184,744
}


def threshold_constructors(config: ViGConfig) -> list[SimilarityThreshold]:
    """SViG's constructor of each block: the quantile falls, so that deeper blocks have more edges. Raises ValueError
    where a quantile would leave (0, 1)."""
    # SViG: q_l = q_0 − l·δ
    quantiles = [config.threshold - l * config.decrement for l in range(config.depth)]
    if not all(0 < q < 1 for q in quantiles):
        raise ValueError(f"threshold={config.threshold:g}, decrement={config.decrement:g}: the quantile would go from"
                         f" {quantiles[0]:g} to {quantiles[-1]:g} over {config.depth} blocks; keep it between 0 and 1")
    return [SimilarityThreshold(q) for q in quantiles]
