"""The four graph convolutions of ViG, Table I of ClusterViG: node features and a graph in, updated features out.

    EdgeConv    max_j MLP(x_i | x_j − x_i)
    MRConv      MLP(x_i | max_j (x_j − x_i))
    GraphSAGE   MLP_Ψ(x_i | max_j MLP_Φ(x_j))
    GIN         MLP((1 + ε) x_i + Σ_j x_j)

An MLP is a 1×1 convolution with 4 groups (the papers' multi-head update), BN and GELU. Where the graph has weights
(LRGC), a_ij multiplies what edge j → i carries: x_j − x_i, MLP_Φ(x_j), ..., so that every convolution passes a gradient
to the constructor.

Differs from the released code:
* x and its aggregate m are interleaved wherever both are there, x_0, m_0, x_1, m_1, ..., so that each head sees the
  same slice of both. The released EdgeConv and GraphSAGE concatenate, so that their heads never mix a node with its
  neighbours.
* GraphSAGE's Φ runs once a node, not once an edge; its BN therefore counts each node once in training.
"""

import torch
from torch import Tensor, nn

from .aggregate import aggregate_max, aggregate_sum, max_relative
from .graph import Graph
from .layers import conv_bn, to_image, to_nodes

HEADS = 4


def interleave(x: Tensor, m: Tensor) -> Tensor:
    """x_0, m_0, x_1, m_1, ... along the last dimension: two of (..., C) to (..., 2C)."""
    return torch.stack((x, m.to(x.dtype)), dim=-1).flatten(-2)


def mlp(in_dim: int, out_dim: int, groups: int = HEADS) -> nn.Sequential:
    """W_update with its heads: grouped 1×1 convolution, BN, GELU."""
    return nn.Sequential(*conv_bn(in_dim, out_dim, groups), nn.GELU())


class MRConv(nn.Module):
    """Max-relative graph convolution: x_i' = MLP(x_i | max_j (x_j − x_i)).

    x: (B, C, H, W) and a graph over its H·W nodes. sources: (B, M, C), the nodes themselves by default.
    Returns (B, out_dim, H, W).
    """

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.update = mlp(2 * in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
        nodes = to_nodes(x)  # (B, N, C)
        # ClusterViG Table I: MRGCN
        m = max_relative(nodes, graph, sources)  # (B, N, C)
        return self.update(to_image(interleave(nodes, m), x.shape[2:]))


class EdgeConv(nn.Module):
    """Edge convolution: x_i' = max_j MLP(x_i | x_j − x_i). Arguments as for `MRConv`.

    The MLP runs on every edge, so memory grows with the number of edges: B·N·k·C for k-NN, but up to B·N²·C for a dense
    graph. Its BN counts edges.
    """

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.update = mlp(2 * in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
        nodes = to_nodes(x)
        sources = nodes if sources is None else sources
        batch, num_nodes, _ = nodes.shape
        image, target, source, weight = graph.edges()  # (E,) each
        if len(image) == 0:
            return x.new_zeros(batch, self.update[0].out_channels, *x.shape[2:])
        x_i, x_j = nodes[image, target], sources[image, source]  # (E, C)
        # ClusterViG Table I: EdgeConv
        edges = interleave(x_i, x_j - x_i).T[None, :, :, None]  # (1, 2C, E, 1)
        message = self.update(edges)[0, :, :, 0].T  # (E, out_dim)
        message = message * weight[:, None].to(message.dtype)
        row = (image * num_nodes + target)[:, None].expand_as(message)  # (E, out_dim)
        m = message.new_zeros(batch * num_nodes, message.shape[1])
        m = m.scatter_reduce(0, row, message, "amax", include_self=False)  # 0 for a node without an edge
        return to_image(m.view(batch, num_nodes, -1), x.shape[2:])


class GraphSAGE(nn.Module):
    """GraphSAGE with maximum: x_i' = MLP_Ψ(x_i | max_j MLP_Φ(x_j)). Arguments as for `MRConv`."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.neighbour = mlp(in_dim, in_dim, groups)  # Φ
        self.update = mlp(2 * in_dim, out_dim, groups)  # Ψ

    def forward(self, x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
        # Φ reads images: sources in a row are an image one pixel wide
        phi = self.neighbour(x if sources is None else sources.mT[..., None])  # (B, C, M as an image)
        # ClusterViG Table I: GraphSAGE
        m = aggregate_max(to_nodes(phi), graph)  # (B, N, C)
        return self.update(to_image(interleave(to_nodes(x), m), x.shape[2:]))


class GIN(nn.Module):
    """Graph isomorphism network: x_i' = MLP((1 + ε) x_i + Σ_j x_j), ε learnable, 0 at first. Arguments as for `MRConv`.

    In a k-NN graph the sum has the node itself too, so x_i counts 2 + ε times, as in the released code.
    """

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.update = mlp(in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, sources: Tensor | None = None) -> Tensor:
        nodes = to_nodes(x)
        # ClusterViG Table I: GIN
        m = (1 + self.eps) * nodes + aggregate_sum(nodes if sources is None else sources, graph)  # (B, N, C)
        return self.update(to_image(m, x.shape[2:]))


CONVS = {"mr": MRConv, "edge": EdgeConv, "sage": GraphSAGE, "gin": GIN}
