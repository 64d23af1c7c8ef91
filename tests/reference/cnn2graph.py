"""Slow, obvious oracles of CNN2GNN and CNN2Transformer, as in vig.py: one image x (F,), loops over its sources.

anchors (A, F) and proxies (P, F) are lists of nodes; labels are lists of numbers.
"""

import math

import torch
from torch import Tensor


def isotropic_mean(x: Tensor, anchors: Tensor, proxies: Tensor, with_self: bool) -> Tensor:
    """Eq. 2 with D^-1 A: the mean of all sources of the image."""
    everything = ([x] if with_self else []) + list(anchors) + list(proxies)
    return sum(everything) / len(everything)


def printed_mean(batch: Tensor, anchors: Tensor, proxies: Tensor) -> Tensor:
    """Eq. 2 as printed, for a whole mini-batch: D^-1/2 A D^-1/2 [x | P | L]. Every image has an edge to itself, and one
    to every proxy and anchor."""
    members = list(proxies) + list(anchors)
    rows = []
    for x in batch:
        own, theirs = 1 + len(members), len(batch)
        rows.append(x / math.sqrt(own * own) + sum(m / math.sqrt(own * theirs) for m in members))
    return torch.stack(rows)


def isotropic_max(x: Tensor, anchors: Tensor, proxies: Tensor, with_self: bool) -> Tensor:
    """z_i = max [x_i | P | L], feature by feature."""
    everything = ([x] if with_self else []) + list(anchors) + list(proxies)
    return torch.stack([max((node[f] for node in everything), key=lambda v: v.item()) for f in range(len(x))])


def softmax(values: list[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(v) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def slices(x: Tensor, heads: int) -> list[Tensor]:
    width = len(x) // heads
    return [x[h * width:(h + 1) * width] for h in range(heads)]


def cnn2gnn(x: Tensor, anchors: Tensor, proxies: Tensor, w1: Tensor, w2: Tensor, a: Tensor, with_self: bool):
    """Eq. 3 and Algorithm 1 in each head, a softmax over anchors and one over proxies: z (F,) and alpha (H, A + P)."""
    heads, parts, weights = len(a), [], []
    for h in range(heads):
        g1 = slices(w1 @ x, heads)[h]
        groups = []
        for members in (anchors, proxies):
            g2 = [slices(w2 @ m, heads)[h] for m in members]
            e = []
            for g in g2:
                total = g1 + g
                leaky = torch.stack([v if v > 0 else 0.2 * v for v in total])
                e.append((a[h] * leaky).sum())
            groups.append((softmax(e), g2))
        z = sum(alpha * g for alphas, g2 in groups for alpha, g in zip(alphas, g2))
        parts.append(z + slices(w2 @ x, heads)[h] if with_self else z)
        weights.append(torch.stack([alpha for alphas, _ in groups for alpha in alphas]))
    return torch.cat(parts), torch.stack(weights)


def cross_attention(x: Tensor, members: Tensor, query: Tensor, key: Tensor, value: Tensor, heads: int):
    """Eq. 5 or 6 in each head: S(W_q x . W_k m / sqrt(d)) W_v m, (F,), and the softmax (H, M)."""
    parts, weights = [], []
    for h in range(heads):
        q = slices(query @ x, heads)[h]
        alphas = softmax([(q * slices(key @ m, heads)[h]).sum() / math.sqrt(len(q)) for m in members])
        parts.append(sum(alpha * slices(value @ m, heads)[h] for alpha, m in zip(alphas, members)))
        weights.append(torch.stack(alphas))
    return torch.cat(parts), torch.stack(weights)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum()


def triplets(sources, source_labels, positives, positive_labels, negatives, negative_labels, margin) -> list[Tensor]:
    """Eq. 8 of every valid (source, positive, negative)."""
    found = []
    for s, s_label in zip(sources, source_labels):
        for g, g_label in zip(positives, positive_labels):
            for n, n_label in zip(negatives, negative_labels):
                if s_label == g_label and s_label != n_label:
                    value = squared(s, g) - squared(s, n) + margin
                    found.append(value if value > 0 else 0 * value)
    return found


def pairs(x, labels, margin) -> list[Tensor]:
    """Eqs. 9 and 10 of every pair: one class is pulled together, two classes are pushed to the margin."""
    found = []
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            distance = torch.sqrt(squared(x[i], x[j]))
            far = margin - distance
            apart = far**2 / 2 if far > 0 else 0 * far
            found.append(distance**2 / 2 if labels[i] == labels[j] else apart)
    return found


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values) if values else torch.tensor(0.0, dtype=torch.float64)


def cross_entropy(logits: Tensor, labels) -> Tensor:
    """-log softmax at the label, mean over rows."""
    return mean([-torch.log(torch.stack(softmax(list(row)))[label]) for row, label in zip(logits, labels)])
