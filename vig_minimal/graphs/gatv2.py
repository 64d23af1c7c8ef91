"""GATv2, attention over a graph (Brody, Alon, Yahav, 2022), dense: ClusterViG Eqs. 2 and 3. CNN2GNN's is in
models/cnn2graph.py.

    z'_i = Σ_j α_ji LIN_L(z_j),   α_ji = softmax_j a·LeakyReLU(LIN_R(z_i) + LIN_L(z_j))

    symbol    variable     shape
    z         x, sources   targets (B, N, C); sources (B, M, C), by default the targets themselves
    LIN_L     lin_l        C → C', with bias, applied to source j
    LIN_R     lin_r        C → C', with bias, applied to target i
    a         att          (1, heads, C'/heads)
    α_ji      attention    (B, N, M, heads): rows are targets i, columns are sources j

Differs from the paper as PyG's GATv2Conv does, whose parameters have these names and shapes: each head computes its own
slice of C', and a bias is added after the sum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distance import full_precision


class GATv2(nn.Module):
    """Attention of every target over its sources: (B, N, C) to (B, N, out_dim). Without a mask, all M are its sources.

    self_loops: if False, nodes that are their own sources do not read from themselves.
    Needs B·N·M·C' numbers of memory: meant for tens of nodes, as centroids. Raises ValueError unless
    `heads` divides out_dim.
    """

    def __init__(self, in_dim: int, out_dim: int, heads: int = 1, slope: float = 0.2, self_loops: bool = True):
        super().__init__()
        if heads < 1 or out_dim % heads:
            raise ValueError(f"heads={heads}: must divide out_dim={out_dim}")
        self.heads, self.slope, self.self_loops = heads, slope, self_loops
        self.lin_l, self.lin_r = nn.Linear(in_dim, out_dim), nn.Linear(in_dim, out_dim)
        self.att = nn.Parameter(torch.empty(1, heads, out_dim // heads))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        for weight in (self.lin_l.weight, self.lin_r.weight, self.att):
            nn.init.xavier_uniform_(weight)
        for linear in (self.lin_l, self.lin_r):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, sources: Tensor | None = None, mask: Tensor | None = None,
                return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return updated targets (B, N, out_dim), with `return_attention` also α (B, N, M, heads).

        mask: (B, N, M) bool, True is an edge. A target without edges gets the bias alone.
        """
        if sources is None and not self.self_loops:
            others = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # (N, N)
            mask = others if mask is None else mask & others
        left = self.lin_l(x if sources is None else sources).unflatten(-1, (self.heads, -1))  # (B, M, heads, C'/heads)
        right = self.lin_r(x).unflatten(-1, (self.heads, -1))  # (B, N, heads, C'/heads)
        # ClusterViG Eq. 3
        both = F.leaky_relu(right[:, :, None] + left[:, None], self.slope)  # (B, N, M, heads, C'/heads)
        score = full_precision(both * self.att).sum(-1)  # (B, N, M, heads)
        if mask is not None:  # not −∞, which would make NaNs of a row without edges; the product below sets it to 0
            score = score.masked_fill(~mask[..., None], torch.finfo(score.dtype).min)
        attention = score.softmax(2) if mask is None else score.softmax(2) * mask[..., None]
        # ClusterViG Eq. 2
        updated = torch.einsum("bnmh,bmhc->bnhc", attention.to(left.dtype), left).flatten(2) + self.bias
        return (updated, attention) if return_attention else updated
