"""ViG-LRGC: learnable reparameterized graph construction (Elsharkawi, Sharara, Rafea).

ViG-Ti whose constructor is learnt: attention between keys and queries, cut by a learnable threshold. In its own order:

    equation   says                                         is
    Eq. 1      Y = GELU(X W_1) W_2 + X                      `layers.FFN`
    Eq. 2      α'_ij = key(v_i)·query(v_j)                  `constructors.LRGC`
    Eq. 3      α'' = ReLU(σ(α') − σ(τ)), α = tanh(α'')      `constructors.LRGC`
    Eq. 4      Eq. 3 with Eq. 2 inside                      `constructors.LRGC`
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

from dataclasses import replace

from .constructors import LRGC
from .vig import PRESETS as VIG
from .vig import ViGConfig

# LRGC section 3.2 and Table 2 (8.1 M parameters, 1.5 GMACs): ViG-Ti's sizes.
PRESETS = {
    "lrgc_nano": replace(VIG["vig_nano"], graph="lrgc"),  # 1,044,848 parameters
    "lrgc_ti": replace(VIG["vig_ti"], graph="lrgc"),      # 8,074,100
}


def lrgc_constructors(config: ViGConfig) -> list[LRGC]:
    """LRGC's constructor of each block: its own keys, queries and τ_l."""
    return [LRGC(config.dim) for _ in range(config.depth)]
