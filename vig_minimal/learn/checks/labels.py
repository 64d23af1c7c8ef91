"""Lesson 11: group k-NN, labels that read from patches, images that read from anchors and proxies."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...constructors.group_knn import GroupKNN
from ...graphs.aggregate import max_relative
from ...graphs.graph import GroupGraph
from ..task import Task, draw
from . import nearest


def group_nearest(d: Tensor, s: Tensor, k: int, groups: int) -> Tensor:
    return GroupKNN(k, groups)(d, sources=s).index


def read_patches(d: Tensor, s: Tensor, index: Tensor) -> Tensor:
    return max_relative(d, GroupGraph(s.shape[1], index=index, sources=s))


def read_proxies(x: Tensor, anchors: Tensor, proxies: Tensor, w1: Tensor, w2: Tensor, a: Tensor) -> Tensor:
    # CNN2GNN Algorithm 1. Importing the package's takes seconds; a test compares the two
    return attend(x, anchors, proxies, w1, w2, a)


def slices(x: Tensor, groups: int) -> Tensor:
    """(B, N, C) to (B, G, N, C/G)."""
    return x.unflatten(-1, (groups, -1)).transpose(1, 2)


def by_group(d: Tensor, s: Tensor, k: int) -> Tensor:
    """The k nearest in each group of slices as they are: (B, G, L, k)."""
    return torch.cdist(d, s).topk(k, largest=False).indices


def chosen(s: Tensor, index: Tensor) -> Tensor:
    """The slices of the chosen sources: (B, G, L, k, C/G)."""
    pieces = slices(s, index.shape[1])[:, :, None].expand(-1, -1, index.shape[2], -1, -1)
    return pieces.gather(3, index[..., None].expand(-1, -1, -1, -1, pieces.shape[-1]))


def best_of(d: Tensor, s: Tensor, index: Tensor, sign: int = 1) -> Tensor:
    messages = sign * (chosen(s, index) - slices(d, index.shape[1])[:, :, :, None])
    return messages.amax(3).transpose(1, 2).flatten(2)


def whole(d: Tensor, s: Tensor, index: Tensor) -> Tensor:
    """Every group may use the sources of all groups."""
    return read_patches(d, s, index.transpose(1, 2).flatten(2)[:, None].expand(-1, index.shape[1], -1, -1))


def energies(x: Tensor, sources: Tensor, w1: Tensor, w2: Tensor, a: Tensor, slope: float = 0.2) -> Tensor:
    return F.leaky_relu((x @ w1.mT)[:, None] + sources @ w2.mT, slope) @ a


def attend(x: Tensor, anchors: Tensor, proxies: Tensor, w1: Tensor, w2: Tensor, a: Tensor, slope: float = 0.2,
           dim: int = 1) -> Tensor:
    """Algorithm 1 with another slope, or a softmax over another dimension."""
    parts = [energies(x, part, w1, w2, a, slope).softmax(dim) @ (part @ w2.mT) for part in (anchors, proxies)]
    return parts[0] + parts[1] + x @ w2.mT


def one_softmax(x: Tensor, anchors: Tensor, proxies: Tensor, w1: Tensor, w2: Tensor, a: Tensor) -> Tensor:
    both = torch.cat([anchors, proxies])
    return energies(x, both, w1, w2, a).softmax(1) @ (both @ w2.mT) + x @ w2.mT


def weights(seed: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw(seed, width, width), draw(seed + 1, width, width), draw(seed + 2, width)


scale = draw(1, 2, 7, 1).abs() * 5 + 0.1
PAIRS = [(draw(2, 1, 2, 4), draw(3, 1, 4, 4), 2, 2), (draw(4, 2, 3, 6), draw(5, 2, 7, 6) * scale, 3, 2),
         (draw(6, 2, 4, 6), draw(7, 2, 5, 6), 2, 3)]
READS = [(d, s, group_nearest(d, s, k, groups)) for d, s, k, groups in PAIRS]
BATCHES = [(draw(10, 4, 2), draw(11, 2, 2), draw(12, 2, 2), *weights(13, 2)),
           (draw(16, 3, 4), draw(17, 5, 4), draw(18, 3, 4), *weights(19, 4)),
           (draw(22, 1, 3), draw(23, 2, 3), draw(24, 4, 3), *weights(25, 3))]

TASKS = [
    Task("group_nearest", group_nearest, "(B, G, L, k) integers, nearest first", PAIRS, [
        ("The channels were dealt out like cards. A group is a slice of neighbouring channels: the first C/G, the"
         " next...",
         lambda d, s, k, groups: by_group(*(nearest.unit(t.unflatten(-1, (-1, groups)).permute(0, 3, 1, 2))
                                            for t in (d, s)), k)),
        ("The whole nodes were normalised before they were split; each slice has a length of its own.",
         lambda d, s, k, groups: by_group(*(slices(nearest.unit(t), groups) for t in (d, s)), k)),
        ("The slices as they are: the paper compares by cosine, so they must have length 1.",
         lambda d, s, k, groups: by_group(slices(d, groups), slices(s, groups), k)),
        ("Every group has the neighbours of the whole nodes; each should search in its own channels.",
         lambda d, s, k, groups: by_group(nearest.unit(d), nearest.unit(s), k)[:, None].expand(-1, groups, -1, -1)),
        ("These are the least similar: topk takes the largest unless it is told otherwise.",
         lambda d, s, k, groups: torch.cdist(*(nearest.unit(slices(t, groups)) for t in (d, s))).topk(k).indices),
        ("Labels first, then groups: the groups belong right behind B.",
         lambda d, s, k, groups: group_nearest(d, s, k, groups).transpose(1, 2)),
    ], ["constructors.group_knn.GroupKNN.forward"]),
    Task("read_patches", read_patches, "(B, L, C)", READS, [
        ("D - S, as Eq. 1 is printed. The released code, and the text of this lesson, have the source minus the label.",
         lambda d, s, index: best_of(d, s, index, -1)),
        ("Every group used the sources of all groups. A group reads from its own alone.", whole),
        ("This is the largest source itself; subtract the label.",
         lambda d, s, index: chosen(s, index).amax(3).transpose(1, 2).flatten(2)),
        ("Every group used the sources of the first.",
         lambda d, s, index: read_patches(d, s, index[:, :1].expand_as(index))),
        ("The mean of the messages; Eq. 1 has the maximum.",
         lambda d, s, index: chosen(s, index).mean(3).transpose(1, 2).flatten(2) - d),
        ("The groups' slices were put together in the wrong order: channel by channel, not group by group.",
         lambda d, s, index: read_patches(d, s, index).unflatten(-1, (index.shape[1], -1)).mT.flatten(2)),
    ], ["graphs.aggregate.maximum", "graphs.graph.GroupGraph"], gradient=(0, 1)),
    Task("read_proxies", read_proxies, "(B, F)", BATCHES, [
        ("One softmax over anchors and proxies together. The paper has one for each, so that they do not compete.",
         one_softmax),
        ("The softmax ran over the images: an image's weights should add up to 1, whoever else is in its batch.",
         lambda *given: attend(*given, dim=0)),
        ("The image's own edge is missing: its weight is 1.",
         lambda x, anchors, proxies, w1, w2, a: attend(x, anchors, proxies, w1, w2, a) - x @ w2.mT),
        ("The image itself was added as it is; like all sources it goes through W_2.",
         lambda x, anchors, proxies, w1, w2, a: attend(x, anchors, proxies, w1, w2, a) - x @ w2.mT + x),
        ("W_1 and W_2 are exchanged: W_1 is of the image that reads, W_2 of what it reads.",
         lambda x, anchors, proxies, w1, w2, a: attend(x, anchors, proxies, w2, w1, a)),
        ("torch's LeakyReLU has a slope of 0.01; here it is 0.2.", lambda *given: attend(*given, slope=0.01)),
        ("Without its LeakyReLU, all images weigh the sources alike.", lambda *given: attend(*given, slope=1.0)),
    ], ["models.cnn2graph.CNN2GNN.forward"], gradient=(0, 1, 2, 3, 4, 5)),
]

HINTS = {
    "group_nearest": (
        "d.unflatten(-1, (groups, -1)).transpose(1, 2) is (B, G, L, C/G). Lesson 3's unit works on any number of"
        " dimensions; its distances need (B * G, L, C/G), or @ with .mT, or torch.cdist.",
    ),
    "read_patches": (
        "read_patches group by group: take the group's slice of d and of s, choose k sources with its part of"
        " index, subtract, take the maximum. torch.cat puts the slices together.",
        "s_slice[b, index[b, g]] is (L, k, C/G): indexing with a matrix chooses rows.",
    ),
    "read_proxies": (
        "read_proxies is lesson 10's attention with other sources: once for anchors, once for proxies, and their"
        " sums added.",
        "The image's own edge adds x @ w2.T.",
    ),
}
