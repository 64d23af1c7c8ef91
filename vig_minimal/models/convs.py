"""The graph convolutions: node features and a graph in, updated features out.

ViG's four, Table I of ClusterViG, and ClusterViG's four, its Table II, which also read a global feature z':

    EdgeConv    max_j MLP(x_i | x_j − x_i)           GlobalEdgeConv    max_j MLP(x_i | x_j − x_i | z'_i)
    MRConv      MLP(x_i | max_j (x_j − x_i))         GlobalMRConv      MLP(x_i | max_j (x_j − x_i) | z'_i)
    GraphSAGE   MLP_Ψ(x_i | max_j MLP_Φ(x_j))        GlobalGraphSAGE   MLP_Ψ(x_i | max_j MLP_Φ(x_j) | z'_i)
    GIN         MLP((1 + ε) x_i + Σ_j x_j)           GlobalGIN         MLP((1 + ε) x_i + Σ_j x_j + (1 + δ) z'_i)

An MLP is a 1×1 convolution with 4 groups (the papers' multi-head update), BN and GELU. Where the graph has weights
(LRGC), a_ij multiplies what edge j → i carries: x_j − x_i, MLP_Φ(x_j), ..., so that every convolution passes a gradient
to the constructor.

Differs from the released code:
* x, its aggregate m and z' are interleaved wherever they are there, x_0, m_0, x_1, m_1, ... or x_0, m_0, z'_0, x_1,
  ..., so that each head sees the same slice of all. The released EdgeConv and GraphSAGE concatenate, so that their
  heads never mix a node with its neighbours; the released global ones put z' last, and one head would see it alone.
* GraphSAGE's Φ runs once a node, not once an edge; its BN therefore counts each node once in training.
"""

import torch
from torch import Tensor, nn

from ..graphs.aggregate import aggregate_max, aggregate_sum, max_relative
from ..graphs.graph import Graph
from .layers import conv_bn, to_image, to_nodes

HEADS = 4


def interleave(x: Tensor, *others: Tensor) -> Tensor:
    """x_0, m_0, x_1, m_1, ... along the last dimension: two of (..., C) to (..., 2C); likewise three or more."""
    return torch.stack((x, *(other.to(x.dtype) for other in others)), dim=-1).flatten(-2)


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
        # ClusterViG Eq. 1 with Φ = x_j − x_i, ⊕ = max, Ψ = MLP
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
        image, target, source, _ = edges = graph.edges()  # (E,) each
        x_i, x_j = nodes[image, target], (nodes if sources is None else sources)[image, source]  # (E, C)
        # ClusterViG Table I: EdgeConv
        m = max_over_edges(self.update, interleave(x_i, x_j - x_i), edges, nodes.shape[:2])  # (B, N, out_dim)
        return to_image(m, x.shape[2:])


def max_over_edges(update: nn.Sequential, inputs: Tensor, edges: tuple[Tensor, ...], shape: tuple[int, int]) -> Tensor:
    """max_j a_ij MLP(input of edge j → i), 0 for a node without an edge.

    inputs: (E, ·), one row an edge. edges: as from `Graph.edges`. shape: B and N. Returns (B, N, out_dim).
    """
    image, target, _, weight = edges
    batch, num_nodes = shape
    if len(image) == 0:
        return inputs.new_zeros(batch, num_nodes, update[0].out_channels)
    message = update(inputs.T[None, :, :, None])[0, :, :, 0].T  # (E, out_dim)
    message = message * weight[:, None].to(message.dtype)
    row = (image * num_nodes + target)[:, None].expand_as(message)  # (E, out_dim)
    m = message.new_zeros(batch * num_nodes, message.shape[1])
    return m.scatter_reduce(0, row, message, "amax", include_self=False).view(batch, num_nodes, -1)


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


class GlobalMRConv(nn.Module):
    """Max-relative with a global feature: x_v' = MLP(x_v | max_u (x_u − x_v) | z'_v).

    x: (B, C, H, W) and a graph over its H·W nodes. z: (B, N, C), of every node its own global feature, in ClusterViG
    that of its partition. Returns (B, out_dim, H, W).
    """

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.update = mlp(3 * in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, z: Tensor) -> Tensor:
        nodes = to_nodes(x)  # (B, N, C)
        # ClusterViG Table II: G-MRGCN
        # ClusterViG Eq. 4 with Φ = x_u − x_v, ⊕ = max, Ψ = MLP of all three
        m = max_relative(nodes, graph)  # (B, N, C)
        return self.update(to_image(interleave(nodes, m, z), x.shape[2:]))


class GlobalEdgeConv(nn.Module):
    """Edge convolution with a global feature: x_v' = max_u MLP(x_v | x_u − x_v | z'_v). As `GlobalMRConv`; its memory
    is as `EdgeConv`'s."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.update = mlp(3 * in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, z: Tensor) -> Tensor:
        nodes = to_nodes(x)
        image, target, source, _ = edges = graph.edges()  # (E,) each
        x_v, x_u, z_v = nodes[image, target], nodes[image, source], z[image, target]  # (E, C)
        # ClusterViG Table II: G-EdgeConv
        m = max_over_edges(self.update, interleave(x_v, x_u - x_v, z_v), edges, nodes.shape[:2])  # (B, N, out_dim)
        return to_image(m, x.shape[2:])


class GlobalGraphSAGE(nn.Module):
    """GraphSAGE with a global feature: x_v' = MLP_Ψ(x_v | max_u MLP_Φ(x_u) | z'_v). As `GlobalMRConv`."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.neighbour = mlp(in_dim, in_dim, groups)  # Φ
        self.update = mlp(3 * in_dim, out_dim, groups)  # Ψ

    def forward(self, x: Tensor, graph: Graph, z: Tensor) -> Tensor:
        phi = self.neighbour(x)  # (B, C, H, W)
        # ClusterViG Table II: G-GraphSAGE
        m = aggregate_max(to_nodes(phi), graph)  # (B, N, C)
        return self.update(to_image(interleave(to_nodes(x), m, z), x.shape[2:]))


class GlobalGIN(nn.Module):
    """GIN with a global feature: x_v' = MLP((1 + ε) x_v + Σ_u x_u + (1 + δ) z'_v), ε and δ learnable, 0 at first. As
    `GlobalMRConv`."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.delta = nn.Parameter(torch.zeros(1))
        self.update = mlp(in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, z: Tensor) -> Tensor:
        nodes = to_nodes(x)
        # ClusterViG Table II: G-GIN
        m = (1 + self.eps) * nodes + aggregate_sum(nodes, graph) + (1 + self.delta) * z  # (B, N, C)
        return self.update(to_image(m, x.shape[2:]))


CONVS = {"mr": MRConv, "edge": EdgeConv, "sage": GraphSAGE, "gin": GIN}
GLOBAL_CONVS = {"mr": GlobalMRConv, "edge": GlobalEdgeConv, "sage": GlobalGraphSAGE, "gin": GlobalGIN}
