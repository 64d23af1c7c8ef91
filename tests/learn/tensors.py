"""Answers to all lessons in whole tensors, by other operations than the package's."""

from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def to_nodes(image: Tensor, patch: int) -> Tensor:
    return F.unfold(image, patch, stride=patch).mT


def to_image(nodes: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    return F.fold(nodes.mT, (grid[0] * patch, grid[1] * patch), patch, stride=patch)


def places(grid: tuple[int, int]) -> Tensor:
    return torch.stack(torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij"), -1).reshape(-1, 2)


def adjacency(index: Tensor, num_sources: int) -> Tensor:
    return (index[..., None] == torch.arange(num_sources)).any(2)


def degree(adj: Tensor) -> Tensor:
    return adj.bool().sum(-1)


def mean_of_sources(adj: Tensor, x: Tensor) -> Tensor:
    a = adj.to(x.dtype)
    return torch.einsum("bnm,bmc->bnc", a, x) / torch.einsum("bnm->bn", a)[..., None].clamp(min=1)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=2)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def nearest(x: Tensor, k: int) -> Tensor:
    return torch.argsort(torch.cdist(unit(x), unit(x), compute_mode="donot_use_mm_for_euclid_dist"), -1)[:, :, :k]


def dilated(x: Tensor, k: int, d: int) -> Tensor:
    return nearest(x, k * d).unflatten(-1, (k, d))[..., 0]


def neighbours(k: int, depth: int) -> list[int]:
    return [int(value) for value in np.linspace(k, 2 * k, depth)]


def dilations(k: int, depth: int, num_nodes: int) -> list[int]:
    return (torch.arange(depth) // 4 + 1).clamp(max=num_nodes // (2 * k)).tolist()


def max_relative(x: Tensor, y: Tensor, adj: Tensor) -> Tensor:
    best = torch.where(adj[..., None], y[:, None], -1e30).amax(2) - x
    return best * adj.any(2, keepdim=True)


def max_relative_gradient(x: Tensor, y: Tensor, adj: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    winner = torch.where(adj[..., None], y[:, None], -1e30).argmax(2)
    grad = grad * adj.any(2, keepdim=True)
    return -grad, torch.zeros_like(y).scatter_add_(1, winner, grad)


def interleave(x: Tensor, m: Tensor) -> Tensor:
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2])
    out[..., ::2], out[..., 1::2] = x, m
    return out


def in_heads(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bnhc,hcd->bnhd", x.unflatten(-1, (len(weight), -1)), weight).flatten(2)


def grapher(x: Tensor, w_in: Tensor, w_update: Tensor, w_out: Tensor, k: int) -> Tensor:
    h = x @ w_in
    neighbours_of = nearest(h, k)  # (B, N, k)
    m = h[torch.arange(len(h))[:, None, None], neighbours_of].amax(2) - h
    return x + F.gelu(torch.cat([part @ weight for part, weight in zip(
        torch.stack([h, m], -1).flatten(2).chunk(len(w_update), -1), w_update, strict=True)], -1)) @ w_out


def similarity(x: Tensor) -> Tensor:
    return -torch.cdist(unit(x), unit(x), compute_mode="donot_use_mm_for_euclid_dist").square()


def standardise(s: Tensor) -> Tensor:
    variance, mean = torch.var_mean(s.flatten(1), 1, keepdim=True)
    return ((s.flatten(1) - mean) / variance.sqrt()).view_as(s)


def threshold_graph(x: Tensor, q: float) -> Tensor:
    s = similarity(x)
    mean, std = s.mean((1, 2), keepdim=True), s.std((1, 2), keepdim=True)
    return s > mean + NormalDist().inv_cdf(q) * std


def scores(h: Tensor, w_key: Tensor, w_query: Tensor) -> Tensor:
    return torch.einsum("bjd,bie,kd,ke->bji", h, h, w_query, w_key)


def soft_threshold(score: Tensor, tau: Tensor) -> Tensor:
    above = score > tau
    return torch.where(above, torch.tanh(score.sigmoid() - tau.sigmoid()), 0)


def strongest(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.einsum("bji,bjic->bjic", alpha, x[:, None] - x[:, :, None]).amax(2)


def assign(x: Tensor, centroids: Tensor) -> Tensor:
    d = (x[:, :, None] - centroids[:, None]).square().sum(-1)
    labels = d.argmin(2)
    empty = ~F.one_hot(labels, centroids.shape[1]).any(1)  # (B, k)
    worst = F.one_hot(d.amin(2).argmax(1), x.shape[1]).bool() & empty.any(1, keepdim=True)
    return torch.where(worst, empty.int().argmax(1, keepdim=True), labels)


def means(x: Tensor, labels: Tensor, k: int) -> Tensor:
    zeros = x.new_zeros(len(x), k, x.shape[2])
    return zeros.scatter_reduce(1, labels[..., None].expand_as(x), x, "mean", include_self=False)


def nearest_inside(x: Tensor, labels: Tensor, k: int) -> Tensor:
    same = labels[:, :, None] == labels[:, None]
    s = (unit(x) @ unit(x).mT).masked_fill(~same, -torch.inf)
    return (s.argsort(-1, descending=True).argsort(-1) < k) & same


def attention(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    left, right = F.linear(z, w_left), F.linear(z, w_right)
    return F.softmax(torch.einsum("bijc,c->bij", F.leaky_relu(right.unsqueeze(2) + left.unsqueeze(1), 0.2), a), -1)


def global_update(z: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    return torch.einsum("bij,bjc->bic", attention(z, w_left, w_right, a), F.linear(z, w_left))


def join(x: Tensor, m: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    own = z.gather(1, labels[..., None].expand(-1, -1, z.shape[2]))
    return torch.stack([x, m, own], 3).reshape(*x.shape[:2], -1)


def group_nearest(d: Tensor, s: Tensor, k: int, groups: int) -> Tensor:
    slices = [F.normalize(t.unflatten(-1, (groups, -1)).transpose(1, 2), dim=-1) for t in (d, s)]
    return (slices[0] @ slices[1].mT).topk(k).indices


def read_patches(d: Tensor, s: Tensor, index: Tensor) -> Tensor:
    groups, size = index.shape[1], d.shape[2] // index.shape[1]
    adj = (index[..., None] == torch.arange(s.shape[1])).any(3)  # (B, G, L, N)
    of_channel = adj.repeat_interleave(size, 1).permute(0, 2, 3, 1)  # (B, L, N, C)
    assert groups * size == d.shape[2]
    return torch.where(of_channel, s[:, None] - d[:, :, None], -torch.inf).amax(2)


def read_proxies(x: Tensor, anchors: Tensor, proxies: Tensor, w1: Tensor, w2: Tensor, a: Tensor) -> Tensor:
    sources = torch.cat([anchors, proxies]) @ w2.T
    e = F.leaky_relu((x @ w1.T)[:, None] + sources, 0.2) @ a
    alpha = torch.cat([part.softmax(1) for part in e.tensor_split([len(anchors)], 1)], 1)
    return alpha @ sources + x @ w2.T


def my_graph(nodes: Tensor, grid: tuple[int, int]) -> Tensor:
    s = unit(nodes) @ unit(nodes).mT
    return s.relu() * (s >= s.mean(-1, keepdim=True))
