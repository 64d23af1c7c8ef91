"""Slow oracles of AdaptViG (Munir et al., WACV 2026): one image, Python loops over nodes, channels and pixels.

Nodes are (N, C), images (C, H, W), node (r, c) of an H x W grid is number r W + c; use float64. Results are built from
torch scalars, so autograd gives the oracle's gradient too. Nothing here is imported from `vig_minimal`.
"""

import math

import torch
from torch import Tensor

from .vig import Dense, dense, gelu, mlp


def adaptive(x: Tensor, height: int, width: int, hops: int, temperature: Tensor) -> Tensor:
    """The adjacency (N, N): 1 at K up and K to the left, exp(-|x_i - x_j|_1 / (|T| + 1e-6)) at 2, 4, 8, ... of them.

    There are as many far steps along an axis as its side has bits, less one; all wrap around. Where a local and a far
    source are the same node, max(0, d, g d) = max(0, d) since g <= 1: the edge has weight 1.
    """
    rows = []
    for r in range(height):
        for c in range(width):
            weight = {}
            for n in range(1, len(bin(height)) - 2):
                weight[(r - 2 ** n) % height * width + c] = None
            for n in range(1, len(bin(width)) - 2):
                weight[r * width + (c - 2 ** n) % width] = None
            for j in weight:
                distance = sum(abs(x[r * width + c, d] - x[j, d]) for d in range(x.shape[1]))
                weight[j] = torch.exp(-distance / (abs(temperature) + 1e-6))
            weight[(r - hops) % height * width + c] = torch.ones((), dtype=x.dtype)
            weight[r * width + (c - hops) % width] = torch.ones((), dtype=x.dtype)
            rows.append(torch.stack([weight.get(j, torch.zeros((), dtype=x.dtype)) for j in range(len(x))]))
    return torch.stack(rows)


def attention(x: Tensor, query: Tensor, key: Tensor, query_norm: tuple, key_norm: tuple) -> Tensor:
    """The last stage's weights (N, N): softmax over j of q_i . k_j / sqrt(C / 4); weights (C / 4, C), no bias."""
    def project(node: Tensor, weight: Tensor, norm: tuple) -> Tensor:
        y = torch.stack([sum(weight[o, c] * node[c] for c in range(len(node))) for o in range(len(weight))])
        mean = sum(y) / len(y)
        variance = sum((value - mean) ** 2 for value in y) / len(y)
        return (y - mean) / torch.sqrt(variance + 1e-5) * norm[0] + norm[1]

    q = [project(node, query, query_norm) for node in x]
    k = [project(node, key, key_norm) for node in x]
    rows = []
    for i in range(len(x)):
        power = [torch.exp(sum(q[i][c] * k[j][c] for c in range(len(q[i]))) / math.sqrt(len(q[i])))
                 for j in range(len(x))]
        rows.append(torch.stack([value / sum(power) for value in power]))
    return torch.stack(rows)


def attended(x: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """m_i = max(0, sum_j a_ij v_j - x_i), v = x W without bias. (N, C)"""
    v = [[sum(value[o, c] * node[c] for c in range(len(node))) for o in range(len(value))] for node in x]
    return torch.stack([torch.stack([torch.relu(sum(weights[i, j] * v[j][c] for j in range(len(x))) - x[i, c])
                                     for c in range(x.shape[1])]) for i in range(len(x))])


def depthwise(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel convolved by itself with zeros around the image: (C, H, W) and weight (C, 1, s, s)."""
    channels, height, width = image.shape
    reach = weight.shape[-1] // 2
    result = []
    for c in range(channels):
        for r in range(height):
            for w in range(width):
                total = bias[c]
                for a in range(-reach, reach + 1):
                    for b in range(-reach, reach + 1):
                        if 0 <= r + a < height and 0 <= w + b < width:
                            total = total + weight[c, 0, a + reach, b + reach] * image[c, r + a, w + b]
                result.append(total)
    return torch.stack(result).view(channels, height, width)


def nodes_of(image: Tensor) -> Tensor:
    """(C, H, W) to (N, C)."""
    return torch.stack([image[:, r, c] for r in range(image.shape[1]) for c in range(image.shape[2])])


def batch_norm(image: Tensor, layer: Dense) -> Tensor:
    """Batch norm of an image (C, H, W) in evaluation, by the statistics of a Dense."""
    shift, scale = layer.mean[:, None, None], (layer.scale / torch.sqrt(layer.variance + 1e-5))[:, None, None]
    return (image - shift) * scale + layer.shift[:, None, None]


def local_block(image: Tensor, widen: Dense, depth: Dense, narrow: Dense, scale: Tensor) -> Tensor:
    """x + s [1x1 C -> 4C, BN, GELU, depthwise 3x3, BN, GELU, 1x1 -> C, BN]; depth.weight is (4C, 1, 3, 3). -> (N, C)"""
    grid = image.shape[1:]
    wide = torch.stack([mlp(node, widen) for node in nodes_of(image)])  # (N, 4C)
    wide = gelu(batch_norm(depthwise(wide.T.unflatten(1, grid), depth.weight, depth.bias), depth))
    return torch.stack([x + scale * dense(y, narrow) for x, y in zip(nodes_of(image), nodes_of(wide), strict=True)])


def graph_block(image: Tensor, cpe: tuple, w_in: Dense, update: Dense, w_out: Dense, message, scale: Tensor,
                ffn: tuple, ffn_scale: Tensor) -> Tensor:
    """x + s1 Grapher(x), then + s2 FFN of that. -> (N, C)

    cpe: weight and bias of the 7x7 convolution. message: x' (N, C) -> m (N, C). ffn: two Dense.
    """
    moved = depthwise(image, *cpe) + image
    h = torch.stack([dense(node, w_in) for node in nodes_of(moved)])
    m = message(h)
    result = []
    for i, x in enumerate(nodes_of(image)):
        y = x + scale * dense(mlp(torch.cat([h[i], m[i]]), update), w_out)
        result.append(y + ffn_scale * dense(mlp(y, ffn[0]), ffn[1]))
    return torch.stack(result)
