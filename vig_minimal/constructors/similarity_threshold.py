"""SViG: similarity-thresholded graph construction (Elsharkawi et al., IEEE Access 2025).

SViG is ViG-Ti with this constructor, without dilation: a node reads from all nodes that are similar enough to it. The
aggregate is the maximum over the edges, 0 for a node without one.

    symbol    variable                       shape
    s         s = −‖x̂_i − x̂_j‖²              (B, N, N), x̂ the L2-normalised nodes
    z         (s − mean(s)) / std(s)         (B, N, N), mean and std over the N² entries of an image
    q_0, δ    threshold, decrement           0.89 and 0.03 in svig_ti
    q_l       quantile = q_0 − l·δ           one number for each block l = 0, 1, ...: `schedules.quantiles`
    Φ         NormalDist().cdf               distribution function of the standard normal distribution
    edge      z_ij > Φ⁻¹(q_l)                (B, N, N) bool, from source j to target i

An image has no edges where std(s) ≤ (8 ε)², ε being the rounding error of 1 in float32 (1.2e-7) or float64: its
directions then differ by their own rounding alone, as in an image of one colour, and z would be made of noise.

Differs from the released code: the aggregate keeps its precision (there it is cast to float16, whatever the precision
of training), and the rule above.
"""

from statistics import NormalDist

import torch
from torch import Tensor, nn

from ..graphs.distance import mean_node, squared_distance, unit
from ..graphs.graph import Graph
from ..graphs.plain import fast_form


class SimilarityThreshold(nn.Module):
    """SViG's graph: an edge from j to i wherever z_ij > Φ⁻¹(q), without gradient.

    If similarities were normally distributed, a share 1 − q of all pairs would be edges.

    Nodes (B, N, C) -> Graph with weights (B, N, N), bool. Raises ValueError unless 0 < q < 1.
    """

    def __init__(self, quantile: float):
        super().__init__()
        if not 0 < quantile < 1:
            raise ValueError(f"quantile q = {quantile:g}: SViG's threshold Φ⁻¹(q) needs 0 < q < 1")
        self.quantile, self.z = quantile, NormalDist().inv_cdf(quantile)  # q, Φ⁻¹(q)

    @torch.no_grad()
    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Graph:
        # SViG: z > Φ⁻¹(q)
        return Graph(x.shape[1], weights=above(self.scores(x), self.z))

    def scores(self, x: Tensor) -> Tensor:
        """Return z: nodes (B, N, C) to (B, N, N), in float32 or float64; −∞ for an image whose nodes are all alike."""
        nodes = unit(x)
        nodes = nodes - mean_node(nodes)
        s = -squared_distance(nodes, nodes)  # (B, N, N)
        centred = s - s.mean((1, 2), keepdim=True)
        # unbiased, (B, 1, 1); a single node has no spread. `torch.std` takes over ten times as long
        std = (centred.square().sum((1, 2), keepdim=True) / max(1, x.shape[1] ** 2 - 1)).sqrt()
        return torch.where(std > (8 * torch.finfo(s.dtype).eps) ** 2, centred / std, -torch.inf)

    def extra_repr(self) -> str:
        return f"quantile={self.quantile:g}"


@fast_form("above")
def above(z: Tensor, least: float) -> Tensor:
    """Return where z is above `least`, bool."""
    return z > least
