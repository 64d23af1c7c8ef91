"""The graph convolutions: node features and a graph in, updated features out.

ViG's four (Table I of ClusterViG), and with `global_feature=True` the same four with a global feature z' beside every
node (its Table II); and attention. Each class states its update with z'; without z' it is that of Table I. `CONVS`
names them.

    x          (B, C, H, W)    the targets i, N = H·W of them -> (B, out_dim, H, W)
    graph                      its sources j are `graph.sources` (B, M, C) or, where there are none, the targets
    z          (B, N, C)       z': the global feature of each target, in ClusterViG that of its partition

Table II writes v and u for i and j. Where edges have weights (LRGC's α), a_ij multiplies what edge j → i carries, as
x_j − x_i, MLP_Φ(x_j) or v_j; so every convolution passes a gradient to the constructor.

Heads are groups: an MLP is a 1×1 convolution with 4 groups, BN and GELU. As a head of attention does, a group makes a
quarter of the outputs from a quarter of the inputs; the papers call this the multi-head update.
Interleaving: x, its aggregate m and z' enter as x_0, m_0, x_1, m_1, … or x_0, m_0, z'_0, x_1, …, so every head sees the
same slice of all of them. Were they concatenated, two heads would see x alone and two m alone.

Differs from the released code, where EdgeConv, GraphSAGE and the global convolutions concatenate, and GraphSAGE's Φ
runs once per edge, not once per node.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.aggregate import aggregate_max, aggregate_sum, max_relative
from ..graphs.graph import Graph
from .layers import conv_bn, to_image, to_nodes

HEADS = 4


def interleave(x: Tensor, *others: Tensor | None) -> Tensor:
    """Return x_0, m_0, x_1, m_1, … of two (…, C): (…, 2C); of three: (…, 3C). None is left out."""
    return torch.stack((x, *(other.to(x.dtype) for other in others if other is not None)), dim=-1).flatten(-2)


def mlp(in_dim: int, out_dim: int, groups: int = HEADS) -> nn.Sequential:
    """Return W_update with its heads: grouped 1×1 convolution, BN, GELU."""
    return nn.Sequential(*conv_bn(in_dim, out_dim, groups), nn.GELU())


class MRConv(nn.Module):
    """Max-relative: MLP(x_i | max_j (x_j − x_i) | z'_i)."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS, global_feature: bool = False):
        super().__init__()
        self.update = mlp((3 if global_feature else 2) * in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, z: Tensor | None = None) -> Tensor:
        nodes = to_nodes(x)  # (B, N, C)
        # ClusterViG Table I: MRGCN
        # ClusterViG Eq. 1 with Φ = x_j − x_i, ⊕ = max, Ψ = MLP
        m = max_relative(nodes, graph)  # (B, N, C)
        # ClusterViG Table II: G-MRGCN, where there is z'
        # ClusterViG Eq. 4 with the same Φ and ⊕, Ψ = MLP of all three
        return self.update(to_image(interleave(nodes, m, z), x.shape[2:]))


class EdgeNorm(nn.BatchNorm2d):
    """Batch norm over edges. Fewer than two have no spread: they are normalised as in evaluation and leave no trace."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x[:, 0].numel() > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class EdgeConv(nn.Module):
    """Edge convolution: max_j MLP(x_i | x_j − x_i | z'_i); 0 for a node without an edge. The MLP and its BN run on
    every edge, so memory grows as B·N·k·C for k-NN, but up to B·N²·C for a dense graph."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS, global_feature: bool = False):
        super().__init__()
        self.update = mlp((3 if global_feature else 2) * in_dim, out_dim, groups)
        self.update[1] = EdgeNorm(out_dim)

    def forward(self, x: Tensor, graph: Graph, z: Tensor | None = None) -> Tensor:
        nodes, adj = to_nodes(x), graph.adj()  # (B, N, C), (B, N, M)
        adj = adj.any(1) if adj.ndim == 4 else adj  # of groups, their union
        image, target, source = adj.nonzero(as_tuple=True)  # (E,) each
        x_i, x_j = nodes[image, target], graph.features(nodes)[image, source]  # (E, C)
        z_i = None if z is None else z[image, target]  # (E, C)
        # ClusterViG Table I: EdgeConv
        # ClusterViG Table II: G-EdgeConv, where there is z'
        edges = interleave(x_i, x_j - x_i, z_i)  # (E, 2C or 3C)
        # all edges as one image a pixel wide; no edge is no image, since an image without pixels cannot be convolved
        message = self.update(edges.T[None, ..., None] if len(edges) else edges[..., None, None]).transpose(1, 3)
        message = message.flatten(0, 2) * adj[image, target, source, None].to(message.dtype)  # (E, out_dim)
        row = (image * nodes.shape[1] + target)[:, None].expand_as(message)  # (E, out_dim): of all images' nodes
        m = message.new_zeros(nodes[..., 0].numel(), message.shape[1])  # (B·N, out_dim)
        m = m.scatter_reduce(0, row, message, "amax", include_self=False).unflatten(0, nodes.shape[:2])
        if adj.dtype != torch.bool:  # in a weighted graph a source without an edge carries 0
            m = torch.where((adj != 0).all(-1, keepdim=True), m, m.relu())
        return to_image(m, x.shape[2:])


class GraphSAGE(nn.Module):
    """GraphSAGE with maximum: MLP_Ψ(x_i | max_j MLP_Φ(x_j) | z'_i)."""

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS, global_feature: bool = False):
        super().__init__()
        self.neighbour = mlp(in_dim, in_dim, groups)  # Φ
        self.update = mlp((3 if global_feature else 2) * in_dim, out_dim, groups)  # Ψ

    def forward(self, x: Tensor, graph: Graph, z: Tensor | None = None) -> Tensor:
        nodes = to_nodes(x)
        # Φ reads images: sources in a row are an image one pixel wide
        phi = self.neighbour(x if graph.sources is None else graph.sources.mT[..., None])  # (B, C, M as an image)
        # ClusterViG Table I: GraphSAGE
        m = aggregate_max(nodes, replace(graph, sources=to_nodes(phi)))  # (B, N, C)
        # ClusterViG Table II: G-GraphSAGE, where there is z'
        return self.update(to_image(interleave(nodes, m, z), x.shape[2:]))


class GIN(nn.Module):
    """Graph isomorphism network: MLP((1 + ε) x_i + Σ_j x_j + (1 + δ) z'_i), ε and δ learnable, 0 at first.

    In a k-NN graph the sum has the node itself too, so x_i counts 2 + ε times, as in the released code.
    """

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS, global_feature: bool = False):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.delta = nn.Parameter(torch.zeros(1)) if global_feature else None
        self.update = mlp(in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, z: Tensor | None = None) -> Tensor:
        nodes = to_nodes(x)
        # ClusterViG Table I: GIN
        m = (1 + self.eps) * nodes + aggregate_sum(nodes, graph)  # (B, N, C)
        if z is not None:
            # ClusterViG Table II: G-GIN
            m = m + (1 + self.delta) * z
        return self.update(to_image(m, x.shape[2:]))


class Attention(nn.Module):
    """Attention along the edges: MLP(x_i | Σ_j a_ij softmax_j(q_i·k_j / √d) v_j | z'_i).

    The softmax runs over the edges j → i alone, in each head of d channels; the weight a_ij of an edge multiplies its
    message, as in the other convolutions, and does not enter the softmax. With graph="full" this is how a Transformer
    mixes tokens. In a GroupGraph a head has the edges of the group in which its channels lie. Memory: B·heads·N·M.
    """

    def __init__(self, in_dim: int, out_dim: int, groups: int = HEADS, global_feature: bool = False):
        super().__init__()
        self.heads = groups
        self.query, self.value = nn.Linear(in_dim, in_dim), nn.Linear(in_dim, in_dim)
        self.key = nn.Linear(in_dim, in_dim, bias=False)  # a bias adds the same to all scores of a target
        self.update = mlp((3 if global_feature else 2) * in_dim, out_dim, groups)

    def forward(self, x: Tensor, graph: Graph, z: Tensor | None = None) -> Tensor:
        nodes, attention = to_nodes(x), self.attention(x, graph)  # (B, N, C), (B, H, N, M)
        v = self.value(graph.features(nodes)).unflatten(-1, (attention.shape[1], -1)).transpose(1, 2)  # (B, H, M, d)
        m = (attention.to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (B, N, C)
        return self.update(to_image(interleave(nodes, m, z), x.shape[2:]))

    def attention(self, x: Tensor, graph: Graph) -> Tensor:
        """Return a_ij softmax_j(q_i·k_j / √d) of every head: (B, H, N, M), 0 where there is no edge."""
        nodes, adj = to_nodes(x), graph.adj()  # (B, N, C), (B, N, M) or (B, G, N, M)
        groups = adj.shape[1] if adj.ndim == 4 else 1
        heads = math.lcm(self.heads, groups)  # H
        adj = (adj if adj.ndim == 4 else adj[:, None]).repeat_interleave(heads // groups, 1)  # (B, H, N, M)
        q, k = (layer(y).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, N or M, d)
                for layer, y in ((self.query, nodes), (self.key, graph.features(nodes))))
        # Attention: m_i = Σ_j a_ij softmax_j(q_i·k_j / √d) v_j
        score = q @ k.mT / q.shape[-1] ** 0.5  # (B, H, N, M)
        no_edge = adj == 0
        attention = score.masked_fill(no_edge, torch.finfo(score.dtype).min).softmax(-1)  # over the edges alone
        return attention.masked_fill(no_edge, 0) * adj  # 0 in the whole row of a target without edges


CONVS = {"mr": MRConv, "edge": EdgeConv, "sage": GraphSAGE, "gin": GIN, "attention": Attention}
