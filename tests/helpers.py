"""Shared by the tests: directed test graphs, random layers, and the comparison of values and gradients."""

import functools
import importlib.util
import json
import types
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reference.vig import Dense
from vig_minimal import Graph, create_model
from vig_minimal.graphs.graph import GroupGraph

FAMILIES = ["vig_nano", "svig_nano", "lrgc_nano"]
TINY = {"dim": 16, "depth": 2, "num_classes": 5, "img_size": 16, "patch": 4}  # 16 nodes, some thousand parameters
ADAPTVIG = {"dim": (8, 16), "local": (1, 2), "depth": (2, 1), "hops": (2, 1), "num_classes": 5, "img_size": 16,
            "patch": 2}
PYRAMID = {"dim": (8, 16), "depth": (1, 1), "pool": (2, 1), "num_classes": 5, "img_size": 16, "patch": 2, "k": 3}


@functools.cache
def on_meta(name: str, **fields) -> nn.Module:
    """The model without memory for its numbers: enough to count them. Made once for all tests, which leave it as it is.
    Initialisers are skipped: on `meta` they draw nothing, and take most of the time."""
    draws = [f"{draw}_" for draw in ("uniform", "normal", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "ones",
                                     "zeros", "trunc_normal")]
    with torch.device("meta"), mock.patch.multiple(nn.init, **dict.fromkeys(draws, lambda weight, *_, **__: weight)):
        return create_model(name, **fields)


def script(path: str) -> types.ModuleType:
    """Import a script by its path in the repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).resolve().parents[1] / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nodes(*shape: int) -> Tensor:
    """Random float64 features with requires_grad."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def features(batch: int = 3, num_nodes: int = 12, dim: int = 4) -> Tensor:
    """(B, N, C) float64, images and nodes of very different lengths: only directions may matter to ViG and SViG."""
    scale = torch.rand(batch, num_nodes, 1, dtype=torch.float64) * 10 + 0.1
    return torch.randn(batch, num_nodes, dim, dtype=torch.float64) * scale


def directed_edges(batch: int, num_targets: int, num_sources: int) -> Tensor:
    """(B, N, M) bool. About half of all edges; target 0 of every image has none, target 1 reads from every source.

    Rows differ from columns on purpose: on a symmetric graph no test can see a transposed adjacency.
    """
    adj = torch.rand(batch, num_targets, num_sources) < 0.5
    adj[:, 0] = False
    adj[:, 1] = True
    if num_targets == num_sources:
        assert not torch.equal(adj, adj.mT)
    return adj


def directed_weights(batch: int, num_targets: int, num_sources: int) -> Tensor:
    """(B, N, M) float64 with requires_grad: `directed_edges` with weights, some negative; 0 is no edge."""
    adj = directed_edges(batch, num_targets, num_sources)
    weights = torch.randn(adj.shape, dtype=torch.float64) * adj
    return weights.requires_grad_()


def random_index(batch: int, num_targets: int, num_sources: int, k: int) -> Tensor:
    """(B, N, k) int64: k different sources of every target."""
    return torch.rand(batch, num_targets, num_sources).topk(k).indices


def directed_groups(groups: int, num_targets: int = 7, num_sources: int = 5, k: int = 3, batch: int = 2) -> GroupGraph:
    """A GroupGraph with different random neighbours in every group."""
    parts = [random_index(batch, num_targets, num_sources, k) for _ in range(groups)]
    return GroupGraph(num_sources, index=torch.stack(parts, 1))


def graph_of_kind(kind: str, batch: int, num_targets: int, num_sources: int) -> Graph:
    """A directed graph in one of the three forms that constructors return: "edges" (bool), "weights" or "index"."""
    if kind == "edges":
        return Graph(num_sources, weights=directed_edges(batch, num_targets, num_sources))
    if kind == "weights":
        return Graph(num_sources, weights=directed_weights(batch, num_targets, num_sources))
    return Graph(num_sources, index=random_index(batch, num_targets, num_sources, k=3))


def image_of(graph: Graph, b: int) -> Graph:
    """The graph of image b, as a batch of one."""
    if graph.index is not None:
        return Graph(graph.num_sources, index=graph.index[b:b + 1])
    return Graph(graph.num_sources, weights=graph.weights[b:b + 1])


def image_by_image(oracle, *batches: Tensor) -> Tensor:
    """Run an oracle of tests/reference/, which takes one image, on each image of the batch."""
    return torch.stack([oracle(*image) for image in zip(*batches, strict=True)])


def assert_same(actual: Tensor, expected: Tensor, wrt: Sequence[Tensor] = (), rtol: float = 1e-9, atol: float = 1e-10):
    """Assert equal values, and equal gradients with respect to every tensor of `wrt`, for a random output gradient."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
    if not wrt:
        return
    cotangent = torch.randn_like(expected)
    ours = torch.autograd.grad(actual, wrt, cotangent, retain_graph=True)
    theirs = torch.autograd.grad(expected, wrt, cotangent, retain_graph=True)
    for tensor, ours_i, theirs_i in zip(wrt, ours, theirs, strict=True):
        assert theirs_i.abs().max() > 0, f"the oracle has no gradient for a tensor of shape {tuple(tensor.shape)}"
        torch.testing.assert_close(ours_i, theirs_i, rtol=rtol, atol=atol)


def randomise(module: nn.Module) -> nn.Module:
    """Float64, evaluation mode, random parameters and running statistics, so that no factor is 1 and no term 0."""
    module = module.double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def dense_of(layers: nn.Sequential) -> Dense:
    """The oracle's view of a 1x1 convolution followed by batch norm."""
    conv, norm = layers[0], layers[1]
    assert isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and isinstance(norm, nn.BatchNorm2d)
    statistics = norm.running_mean, norm.running_var
    return Dense(conv.weight[:, :, 0, 0], conv.bias, norm.weight, norm.bias, *statistics, conv.groups)


def as_nodes(image: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H W, C), node by node in reading order: the slow twin of `layers.to_nodes`."""
    return torch.stack([image[:, :, y, x] for y in range(image.shape[2]) for x in range(image.shape[3])], dim=1)


def permuted(graph: Graph, order: Tensor) -> Tensor:
    """The adjacency of a graph over its own nodes once node order[i] has become node i: (B, N, N)."""
    return graph.adj()[:, order][:, :, order]


def image_folder(root, train=("cat", "dog"), val=("cat", "dog"), count=3, size=(20, 24), fmt="png"):
    """Write `count` small noise images for each class under root/train and root/val; return root."""
    rng = np.random.default_rng(0)
    for split, classes in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        for name in classes:
            (root / split / name).mkdir()
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.{fmt}")
    return root


def same_tensors(a, b) -> bool:
    """Whether two nested states hold the same values, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_tensors, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# ids out of order and with gaps, as in COCO
CATEGORIES = [{"id": 7, "name": "train"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def thing(image, category, box=(1, 2, 10, 8), **fields):
    return {"image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0, **fields}


def coco_folder(folder, objects=None, images=3, categories=CATEGORIES, change=lambda content: content):
    """A data set of `images` photos of 32 × 24 pixels a split, ids 10, 11, ...; `change` may spoil the JSON."""
    objects = [thing(10, 90), thing(10, 1), thing(12, 1)] if objects is None else objects
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        listed = [{"id": 10 + i, "file_name": f"{i}.jpg", "width": 32, "height": 24} for i in range(images)]
        for i in range(images):
            Image.new("RGB", (32, 24), (40 * i, 90, 10)).save(folder / split / f"{i}.jpg")
        content = {"images": listed, "categories": categories, "annotations": objects}
        content = change(content) if split == "train2017" else content
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def xml(*things, size=(32, 24)):
    """An annotation of (class, difficult, xmin, ymin, xmax, ymax)."""
    objects = "".join(f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{a}</xmin>"
                      f"<ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
                      for name, difficult, a, b, c, d in things)
    return (f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>")


def voc_folder(folder, first=None):
    root = folder / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    texts = {"000005": first or xml(("dog", 0, 1, 1, 32, 24), ("cat", 1, 2, 2, 9, 9), ("dog", 1, 3, 3, 5, 5)),
             "000007": xml(("person", 1, 1, 1, 4, 4), ("person", 0, 1, 1, 6, 6)), "000009": xml()}
    for name, text in texts.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (32, 24)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000005\n000007\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("000009\n\n")
    return folder
