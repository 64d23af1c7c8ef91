"""Slow, obvious oracles of Pyramid ViG and GKGNet, in the manner of vig.py: one image, plain tensors, loops over nodes.

Letters: N targets, M sources, C channels, G groups, L labels. `edges[g][i]` lists the sources of target i in group g.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.vig import Dense, dense, gelu, interleave, linear, lrgc_ffn, mlp


def groups_of(x: Tensor, groups: int) -> list[Tensor]:
    """Split the channels into the slices of the groups: G tensors (N, C/G)."""
    width = x.shape[1] // groups
    return [x[:, g * width:(g + 1) * width] for g in range(groups)]


def cosine(a: Tensor, b: Tensor) -> float:
    """a·b / (‖a‖ ‖b‖)."""
    return ((a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())).item()


def group_knn(targets: Tensor, sources: Tensor, k: int, groups: int, dilation: int = 1, relative=None) -> list:
    """GKGNet section 3.2: sub-node D_ig takes the k most similar of S_1g, S_2g, ...; nearest first.

    Distances of unit vectors are 2 - 2 cos; `relative` (N, M) is added to them (Pyramid ViG).
    """
    edges = []
    for d, s in zip(groups_of(targets, groups), groups_of(sources, groups)):
        rows = []
        for i in range(len(d)):
            far = [2 - 2 * cosine(d[i], s[j]) + (0.0 if relative is None else float(relative[i, j]))
                   for j in range(len(s))]
            rows.append(sorted(range(len(s)), key=lambda j: far[j])[:k * dilation:dilation])
        edges.append(rows)
    return edges


def group_max_relative(targets: Tensor, sources: Tensor, edges: list) -> Tensor:
    """GKGNet Eq. 1 with the sign of the released code: D'_ig = max_k (S_kg - D_ig), all groups together: (N, C)."""
    parts = []
    for rows, d, s in zip(edges, groups_of(targets, len(edges)), groups_of(sources, len(edges))):
        parts.append(torch.stack([torch.stack([max((s[j, c] - d[i, c] for j in rows[i]), key=lambda value: value.item())
                                               for c in range(d.shape[1])]) for i in range(len(d))]))
    return torch.cat(parts, 1)


def group_sum(sources: Tensor, edges: list) -> Tensor:
    """The sum over the sources of each target in each group: (N, C)."""
    return torch.cat([torch.stack([sum(s[j] for j in row) for row in rows])
                      for rows, s in zip(edges, groups_of(sources, len(edges)))], 1)


def pooled(image: Tensor, r: int) -> Tensor:
    """Pyramid ViG's sources: the mean of every r x r patches of (C, H, W), row by row; a remainder is dropped."""
    channels, height, width = image.shape
    rows = []
    for y in range(height // r):
        for x in range(width // r):
            total = torch.zeros(channels, dtype=image.dtype)
            for dy in range(r):
                for dx in range(r):
                    total = total + image[:, y * r + dy, x * r + dx]
            rows.append(total / r**2)
    return torch.stack(rows)


def position_table(dim: int, height: int, width: int) -> Tensor:
    """P, entry by entry: sin and cos of place / 10000^(i / (dim/4)), place being the column, then the row."""
    quarter, rows = dim // 4, []
    for y in range(height):
        for x in range(width):
            row = []
            for place in (x, y):
                row += [math.sin(place / 10000 ** (i / quarter)) for i in range(quarter)]
                row += [math.cos(place / 10000 ** (i / quarter)) for i in range(quarter)]
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def relative_positions(dim: int, height: int, width: int, sources: int) -> Tensor:
    """-2 P P^T / C: the whole N x N table, its second side resized bicubically by torch. (N, sources)"""
    table = position_table(dim, height, width)
    whole = -2 * table @ table.T / dim
    return F.interpolate(whole[None, None], (len(whole), sources), mode="bicubic")[0, 0]


def grapher(targets: Tensor, sources_of, w_in: Dense, w_update: Dense, w_out: Dense, edges_of) -> Tensor:
    """Pyramid Grapher of targets (N, C). sources_of: x' = X W_in -> sources; edges_of: x', sources -> edges."""
    h = torch.stack([dense(x, w_in) for x in targets])
    sources = sources_of(h)
    m = group_max_relative(h, sources, edges_of(h, sources))
    return torch.stack([dense(mlp(interleave(a, b), w_update), w_out) + x for a, b, x in zip(h, m, targets)])


def stage(image: Tensor, blocks: list, pool: int, k: int, groups: int, dilations: list[int]) -> Tensor:
    """One stage of a pyramid on (C, H, W). A block is five layers: w_in, w_update, w_out and the two of its FFN."""
    channels, height, width = image.shape
    relative = relative_positions(channels, height, width, (height // pool) * (width // pool))
    x = torch.stack([image[:, row, column] for row in range(height) for column in range(width)])
    for (w_in, w_update, w_out, ffn1, ffn2), dilation in zip(blocks, dilations, strict=True):
        def sources_of(h):
            return pooled(h.T.unflatten(1, (height, width)), pool)

        def edges_of(h, sources, dilation=dilation):
            return group_knn(h, sources, k, groups, dilation, relative)

        x = lrgc_ffn(grapher(x, sources_of, w_in, w_update, w_out, edges_of), ffn1, ffn2)
    return x.T.unflatten(1, (height, width))


def cross_level(labels: Tensor, patches: Tensor, k: int, groups: int, w_in: Dense, w_update: Dense, w_out: Dense,
                ffn1: Dense, ffn2: Dense) -> Tensor:
    """GKGNet Eq. 2: labels (L, C) read from patches (N, C). W_in is applied to the labels only."""
    y = grapher(labels, lambda h: patches, w_in, w_update, w_out, lambda h, s: group_knn(h, s, k, groups))
    return torch.stack([row + dense(gelu(dense(row, ffn1)), ffn2) for row in y])


def logits(labels: Tensor, patches: Tensor, w_labels: Tensor, b_labels: Tensor, w_patches: Tensor,
           b_patches: Tensor) -> Tensor:
    """GKGNet Eq. 3 before the sigmoid: (L,).

    The released code applies W_labels to every label, and takes entry n of label n (the diagonal).
    """
    mean = sum(patches) / len(patches)
    whole = linear(mean, w_patches, b_patches)
    return torch.stack([linear(labels[n], w_labels, b_labels)[n] + whole[n] for n in range(len(labels))])
