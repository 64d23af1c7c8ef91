"""ViG-LRGC: learnable reparameterized graph construction (Elsharkawi, Sharara, Rafea).

ViG-Ti with a learnt constructor: attention between keys and queries, cut at a learnt threshold. In the paper's order:

    equation   formula                                      place
    Eq. 1      Y = GELU(X W_1) W_2 + X                      `layers.FFN`
    Eq. 2      α'_ij = key(v_i)·query(v_j)                  `LRGC.scores`
    Eq. 3      α'' = ReLU(σ(α') − σ(τ)), α = tanh(α'')      `alpha_of`
    Eq. 4      Eq. 3 with Eq. 2 inside                      `LRGC`
    Eq. 5      x''_j = max α_ij (x'_i − x'_j), update       `vig.Grapher`, `convs.MRConv`, `aggregate.maximum`

In the paper and in this file i is the source and j the target; in all other files i is the target. The rows of an
adjacency are always targets: α_ij is stored at adj[b, j, i].

    symbol    variable                       shape
    h = x'    fc1(x)                         (B, N, D): keys and queries read x', the output of W_in (Figure 4)
    W_key     constructor.key                D → D, with bias
    W_query   constructor.query              D → D, with bias
    τ_l       constructor.tau                one scalar for each block, −1 at first, without weight decay
    α_ij      graph.adj()[b, j, i]           (B, N, N)

How the weights start: LRGC learns by pruning, so its graph must start fully connected, with N neighbours for every node
(Figure 5). There is an edge where the score is above τ, and τ starts at −1: so every score must start in (−1, 1).
W_query starts at 0, and every score at exactly 0, whatever image, size, width and mode. A random W_query cannot promise
that: drawn as W_key is, it keeps nearly all edges of `lrgc_nano` in training, but in evaluation before training, where
batch norm does not normalise yet, some blocks keep 2 of 64 neighbours. W_key starts at random: with both at 0 neither
would get a gradient.

Left open by the paper: the score is the plain dot product, without 1/√D. In Eq. 5 the maximum is over the neighbours of
v_j, but section 3.3.2 has the residuals of unselected edges multiplied by zero. So the maximum runs over all i, and an
unselected edge carries 0. There is no released code.
"""

import torch
from torch import Tensor, nn, relu, sigmoid, tanh

from ..graphs.distance import full_precision
from ..graphs.graph import Graph
from ..graphs.plain import fast_form


class LRGC(nn.Module):
    """Learnable Reparameterized Graph Construction, ViG-LRGC Eqs. 2-4, for one block.

    Nodes h (B, N, D) -> Graph with weights α (B, N, N), float32 or float64, with gradient; 0 is no edge.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.key, self.query = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.tau = nn.Parameter(torch.tensor(-1.0))
        nn.init.normal_(self.key.weight, std=1 / dim)
        for start_at_0 in (self.key.bias, self.query.weight, self.query.bias):
            nn.init.zeros_(start_at_0)

    def forward(self, h: Tensor, grid: tuple[int, int] | None = None) -> Graph:
        # LRGC Eq. 4: Eq. 3 with Eq. 2 inside
        alpha = alpha_of(self.scores(h), self.tau)  # (B, N, N)
        return Graph(h.shape[1], weights=alpha)

    def scores(self, h: Tensor) -> Tensor:
        """Return α': nodes h (B, N, D) to (B, N, N), in float32 or better."""
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.tau.dtype)  # not that of key.weight, which quantisation makes int8
            key, query = full_precision(self.key(h)), full_precision(self.query(h))
            # LRGC Eq. 2: α'_ij = key(v_i)·query(v_j), i source, j target
            score = query @ key.mT  # (B, N, N): score[b, j, i] = α'_ij
        return score


@fast_form("alpha")
def alpha_of(score: Tensor, tau: Tensor) -> Tensor:
    """Return α of the scores α': (B, N, N)."""
    # LRGC Eq. 3: α'' = ReLU(σ(α') − σ(τ)), α = tanh(α'')
    return tanh(relu(sigmoid(score) - sigmoid(tau)))
