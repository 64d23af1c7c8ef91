"""Train `vig_nano` with LRGC's graph and one thing changed: `python docs/compare/lrgc_variants.py VARIANT [FLAG ...]`.

The flags are those of train.py. A checkpoint does not say which variant it is of: give --output, and evaluate by this
script too. The variants:

    small       W_query starts as N(0, 1/D²), as W_key does, instead of 0
    both        W_query ~ N(0, 0.004²) and W_key ~ N(0, 1/D) instead of N(0, 1/D²)
    fast_tau    τ has ten times the learning rate
    slow_tau    τ has a tenth of it
    scaled      α / tanh(σ(0) − σ(−1)): the complete graph at the start carries messages of full size
    selected    the maximum of Eq. 5 runs over selected edges alone; a node without any gets 0 (a third of the speed)
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vig_minimal import train
from vig_minimal.constructors import CONSTRUCTORS, LRGC
from vig_minimal.graphs.graph import Graph
from vig_minimal.models import convs
from vig_minimal.training import engine

VARIANTS = ("small", "both", "fast_tau", "slow_tau", "scaled", "selected")
AT_START = torch.tanh(torch.sigmoid(torch.tensor(0.0)) - torch.sigmoid(torch.tensor(-1.0)))  # α of a score of 0


class Scaled(LRGC):
    def forward(self, h: Tensor, grid: tuple[int, int] | None = None) -> Graph:
        graph = super().forward(h, grid)
        return Graph(graph.num_sources, weights=graph.weights / AT_START)


def constructor(variant: str, dim: int) -> LRGC:
    lrgc = (Scaled if variant == "scaled" else LRGC)(dim)
    with torch.random.fork_rng([]):  # all else starts as it would
        if variant == "small":
            nn.init.normal_(lrgc.query.weight, std=1 / dim)
        elif variant == "both":
            nn.init.normal_(lrgc.query.weight, std=0.004)
            nn.init.normal_(lrgc.key.weight, std=dim**-0.5)
    return lrgc


def over_selected(x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
    """Return m_i = max α_ij (x_j − x_i) over the edges of i alone, (B, N, C). Makes all messages: for small images."""
    alpha = graph.weights[..., None]  # (B, N, N, 1)
    message = (alpha * (x[:, None] - x[:, :, None])).masked_fill(alpha == 0, -torch.inf).amax(2)
    return message.masked_fill(message == -torch.inf, 0)


def rates_with_tau(factor: float):
    """Return `engine.rate_scales` with τ's share of the learning rate changed."""
    shares = engine.rate_scales

    def rate_scales(model: nn.Module, decay: float) -> dict[str, float]:
        return {name: share * (factor if name.endswith(".tau") else 1) for name, share in shares(model, decay).items()}

    return rate_scales


def main(argv: list[str]) -> None:
    if not argv or argv[0] not in VARIANTS:
        sys.exit(f"lrgc_variants.py: choose a variant: {', '.join(VARIANTS)}")
    variant, *flags = argv
    CONSTRUCTORS["lrgc"] = (lambda config: [constructor(variant, config.dim) for _ in range(config.depth)], ())
    if variant == "selected":
        convs.max_relative = over_selected
    if variant.endswith("_tau"):
        engine.rate_scales = rates_with_tau(10 if variant == "fast_tau" else 0.1)
    train.main(["--model", "vig_nano", "--set", "graph=lrgc", *flags])


if __name__ == "__main__":
    main(sys.argv[1:])
