"""A constructor of one's own, as in README.md: each mistake is one sentence that says what to return instead."""

import re

import pytest
import torch

from helpers import TINY, directed_edges
from vig_minimal import Graph, create_model, train
from vig_minimal.constructors import CONSTRUCTORS, OF_PLACES
from vig_minimal.graphs.graph import GroupGraph


class Beside(torch.nn.Module):
    """README's example, with `made` of the adjacency (N, N) and the nodes (B, N, C) in place of its last line."""

    def __init__(self, made=None):
        super().__init__()
        self.made = made or (lambda near, nodes: Graph(len(near), weights=near.expand(nodes.shape[0], -1, -1)))

    def forward(self, nodes, grid):
        places = torch.cartesian_prod(*map(torch.arange, grid)).to(nodes)  # (N, 2)
        return self.made(torch.cdist(places, places, p=1) < 1.5, nodes)


def index(near):
    """(1, N, 3) int64: three sources of each node, for two images."""
    return near.float().topk(3).indices.expand(2, -1, -1)


def model_of(monkeypatch, per_block, **fields):
    monkeypatch.setitem(CONSTRUCTORS, "beside", (per_block, ()))
    return create_model("vig_nano", **TINY, graph="beside", **fields)


IMAGES = torch.zeros(2, 3, 16, 16)  # 16 nodes
RETURNED = {
    "a tensor": (
        lambda near, nodes: near.expand(2, -1, -1),
        "Beside returned a Tensor: a constructor returns a Graph; return Graph(nodes.shape[1], weights=adjacency), or"
        " index=…"),
    "nothing": (
        lambda near, nodes: None,
        "Beside returned a NoneType: a constructor returns a Graph; return Graph(nodes.shape[1], weights=adjacency), or"
        " index=…"),
    "the adjacency alone": (
        lambda near, nodes: Graph(near.expand(2, -1, -1)),
        "a Graph takes num_sources and an index (B, N, k), weights (B, N, M), or an index and weights (B, N, k); give"
        " Graph(nodes.shape[1], weights=adjacency), or index=…"),
    "weights of one image": (
        lambda near, nodes: Graph(16, weights=near),
        "weights of shape (16, 16): a Graph takes (B, N, M), B images; for the same edges in all give"
        " weights.expand(B, -1, -1)"),
    "an index of one image": (
        lambda near, nodes: Graph(16, index=index(near)[0]),
        "index of shape (16, 3): a Graph takes (B, N, k), B images; for the same edges in all give"
        " index.expand(B, -1, -1)"),
    "groups without images": (
        lambda near, nodes: GroupGraph(16, index=index(near)),
        "index of shape (2, 16, 3): a GroupGraph takes (B, G, N, k), B images; for the same edges in all give"
        " index.expand(B, -1, -1, -1)"),
    "a batch of 1": (
        lambda near, nodes: Graph(16, weights=near[None]),
        "Beside returned a Graph of B=1, N=16, M=16 for 2 images with 16 targets and 16 sources each; give"
        " num_sources=16 and edges of shape (B, N, …)"),
    "a node too few": (
        lambda near, nodes: Graph(15, weights=near[1:, 1:].expand(2, -1, -1)),
        "Beside returned a Graph of B=2, N=15, M=15 for 2 images with 16 targets and 16 sources each; give"
        " num_sources=16 and edges of shape (B, N, …)"),
    "an index of another number of sources": (
        lambda near, nodes: Graph(20, index=index(near)),
        "Beside returned a Graph of B=2, N=16, M=20 for 2 images with 16 targets and 16 sources each; give"
        " num_sources=16 and edges of shape (B, N, …)"),
    "another number of columns": (
        lambda near, nodes: Graph(7, weights=near.expand(2, -1, -1)),
        "weights of shape (2, 16, 16) for num_sources=7: they have one column per source; give num_sources=16"),
    "an index from 1": (
        lambda near, nodes: Graph(16, index=index(near) + 1),
        "index from 1 to 16: num_sources=16, so sources are numbered from 0 to 15; correct the index, or num_sources"),
    "−1 for no source": (
        lambda near, nodes: Graph(16, index=index(near) - 1),
        "index from -1 to 14: num_sources=16, so sources are numbered from 0 to 15; correct the index, or num_sources"),
    "one number too high in the last image": (
        lambda near, nodes: Graph(16, index=torch.stack([index(near)[0], index(near)[1] + 1])),
        "index from 0 to 16: num_sources=16, so sources are numbered from 0 to 15; correct the index, or num_sources"),
    "an index of floats": (
        lambda near, nodes: Graph(16, index=index(near).float()),
        "index of torch.float32: it numbers the sources in int64; give index.long(), or an adjacency as weights"),
    "an adjacency as index": (
        lambda near, nodes: Graph(16, index=near.expand(2, -1, -1)),
        "index of torch.bool: it numbers the sources in int64; give index.long(), or an adjacency as weights"),
    "weights of integers": (
        lambda near, nodes: Graph(len(near), weights=near.long().expand(nodes.shape[0], -1, -1)),
        "weights of torch.int64: they are bool (edge or none) or float; give weights.bool() or weights.float()"),
    "a dense adjacency beside an index": (
        lambda near, nodes: Graph(16, index=index(near), weights=near.expand(2, -1, -1)),
        "index of shape (2, 16, 3), weights of shape (2, 16, 16): an index takes one weight per edge; give both the"
        " same shape, or no index"),
}
GIVEN = {
    "one constructor": (
        lambda config: Beside(),
        "a function of CONSTRUCTORS returned a Beside; return a list of 2 constructors, one per block, as [Beside() for"
        " _ in range(config.depth)]"),
    "a list of one": (
        lambda config: [Beside()],
        "a function of CONSTRUCTORS returned a list of 1; return a list of 2 constructors, one per block, as [Beside()"
        " for _ in range(config.depth)]"),
    "one object for all blocks": (
        lambda config: [Beside()] * config.depth,
        "one Beside is the constructor of several blocks; return a list of 2 constructors, one per block, as [Beside()"
        " for _ in range(config.depth)]"),
    "the class": (
        lambda config: [Beside for _ in range(config.depth)],
        "Beside is not called with nodes and grid; return a list of 2 constructors, one per block, as [Beside() for _"
        " in range(config.depth)]"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_constructor_returns_instead_of_a_graph_of_its_nodes(case, monkeypatch):
    made, sentence = RETURNED[case]
    model = model_of(monkeypatch, lambda config: [Beside(made) for _ in range(config.depth)])
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        model(IMAGES)


@pytest.mark.parametrize("case", GIVEN)
def test_what_a_function_of_constructors_returns_instead_of_one_per_block(case, monkeypatch):
    per_block, sentence = GIVEN[case]
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        model_of(monkeypatch, per_block)


def test_readmes_constructor_runs_also_as_a_function_and_in_a_pyramid(monkeypatch):
    assert model_of(monkeypatch, lambda config: [Beside() for _ in range(config.depth)])(IMAGES).shape == (2, 5)
    function = Beside().forward
    assert model_of(monkeypatch, lambda config: [function] * config.depth, graph_every=2)(IMAGES).shape == (2, 5)
    fields = {"dim": (8, 16), "depth": (2, 1), "pool": (1, 1), "img_size": 16, "patch": 2, "graph": "beside"}
    monkeypatch.setitem(CONSTRUCTORS, "beside", (None, ()))
    monkeypatch.setitem(OF_PLACES, "beside", lambda hops, k: Beside())
    assert create_model("pvig_nano", **fields)(IMAGES).shape == (2, 10)
    monkeypatch.setitem(OF_PLACES, "beside", lambda hops, k: Beside(RETURNED["a tensor"][0]))
    with pytest.raises(ValueError, match="Beside returned a Tensor"):
        create_model("pvig_nano", **fields)(IMAGES)
    shared = Beside()
    monkeypatch.setitem(OF_PLACES, "beside", lambda hops, k: shared)
    with pytest.raises(ValueError, match="one Beside is the constructor of several blocks"):
        create_model("pvig_nano", **fields)


def test_train_prints_the_sentence_and_no_traceback(monkeypatch, tmp_path, capsys):
    made, sentence = RETURNED["weights of integers"]
    monkeypatch.setitem(CONSTRUCTORS, "beside", (lambda config: [Beside(made) for _ in range(config.depth)], ()))
    with pytest.raises(SystemExit) as ended:
        train.main(f"--model vig_nano --set graph=beside --limit 64 --dry-run --out {tmp_path}/run".split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and f"train.py: error: {sentence}" in error and "Traceback" not in error


class OnGPU(torch.Tensor):
    """An index whose numbers are not looked at when a Graph is made of it."""

    device = torch.device("cuda")


def test_the_range_of_an_index_on_a_gpu_is_not_looked_at():
    wrong = torch.full((2, 16, 1), 16)
    Graph(16, index=wrong.as_subclass(OnGPU))
    with pytest.raises(ValueError, match="index from 16 to 16"):
        Graph(16, index=wrong)


def test_a_graph_on_a_cpu_looks_at_one_image_of_an_expanded_index():
    Graph(16, index=torch.full((1, 1, 1), 15).expand(4, 16, 3))
    with pytest.raises(ValueError, match="index from 16 to 16: num_sources=16"):
        Graph(16, index=torch.full((1, 1, 1), 16).expand(4, 16, 3))
    Graph(16, index=torch.zeros(0, 16, 3, dtype=torch.int64))  # no image
    Graph(16, index=torch.full((2, 16, 3), 99, device="meta"))  # no numbers


def test_a_compiled_model_says_the_sentence_too(monkeypatch):
    made, sentence = RETURNED["a batch of 1"]
    model = model_of(monkeypatch, lambda config: [Beside(made) for _ in range(config.depth)])
    with pytest.raises(ValueError, match=re.escape(sentence)):
        torch.compile(model, backend="eager")(IMAGES)


def test_weights_of_every_float_type_are_taken():
    edges = directed_edges(1, 4, 4)
    for dtype in (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert Graph(4, weights=edges.to(dtype)).adj().dtype == dtype
