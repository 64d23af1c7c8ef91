"""ViG-LRGC: learnable reparameterized graph construction (Elsharkawi, Sharara, Rafea).

ViG-Ti whose constructor is learnt: attention between keys and queries, cut by a learnable threshold. In its own order:

    equation   says                                         is
    Eq. 1      Y = GELU(X W_1) W_2 + X                      `layers.FFN`
    Eq. 2      α'_ij = key(v_i)·query(v_j)                  `LRGC`
    Eq. 3      α'' = ReLU(σ(α') − σ(τ)), α = tanh(α'')      `LRGC`
    Eq. 4      Eq. 3 with Eq. 2 inside                      `LRGC`
    Eq. 5      x''_j = max α_ij (x'_i − x'_j), update       `vig.Grapher`, with `aggregate.max_relative`

    symbol    variable                       shape
    h = x'    fc1(x)                         (B, N, D): W_in of Eq. 5 comes before keys and queries (Figure 4)
    W_key     constructor.key                D → D, with bias
    W_query   constructor.query              D → D, with bias
    τ_l       constructor.tau                one scalar a block, −1 at first, without weight decay
    α_ij      graph.adj()[b, j, i]           (B, N, N): i is source, j is target, and rows are targets

What the print leaves open: the score is the plain dot product, without 1/√D; the maximum goes over {i : α_ij > 0}, and
a node without an edge gets 0; W_query starts at zero, so that every score is 0 > τ and the graph starts fully connected
(Figure 5). There is no released code to differ from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.distance import full_precision
from ..graphs.graph import Graph


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

    def forward(self, h: Tensor, grid: tuple[int, int] | None = None) -> Graph:
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.key.weight.dtype)
            # LRGC Eq. 2: α'_ij = key(v_i)·query(v_j), i source, j target
            score = full_precision(self.query(h)) @ full_precision(self.key(h)).mT  # (B, N, N): score[b, j, i] = α'_ij
            # LRGC Eq. 3: α'' = ReLU(σ(α') − σ(τ)), α = tanh(α'');  with Eq. 2 inside, this is LRGC Eq. 4
            alpha = torch.tanh(F.relu(torch.sigmoid(score) - torch.sigmoid(self.tau)))  # (B, N, N)
        return Graph(h.shape[1], weights=alpha)
