"""Graphs that are used again: of every n blocks the first builds the graph, and the others read along its edges."""

import pytest
import torch
from torch import nn

from helpers import PYRAMID, TINY, as_nodes, assert_same, dense_of, image_by_image, nodes, randomise
from reference import places
from reference import vig as oracle
from vig_minimal import create_model
from vig_minimal.constructors.schedules import at
from vig_minimal.graphs.kmeans import membership, partition_mean
from vig_minimal.models.layers import recompute_blocks

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MODELS = {"vig_nano": TINY | {"depth": 5}, "cvig_nano": TINY | {"depth": 5}, "svig_nano": TINY | {"depth": 5},
          "pvig_nano": PYRAMID | {"depth": (3, 2)}, "gkgnet_nano": PYRAMID | {"depth": (3, 2)}}


def made(name: str, **fields) -> nn.Module:
    return randomise(create_model(name, **MODELS[name] | fields))


def counted(model: nn.Module) -> list[int]:
    """The numbers of the blocks whose constructors run from now on."""
    ran = []
    for l, block in enumerate(model.blocks):
        grapher = getattr(block, "grapher", block)
        constructor = getattr(grapher, "degc", grapher).constructor
        if constructor is not None:
            name = "partition" if hasattr(constructor, "partition") else "forward"
            run = getattr(constructor, name)
            setattr(constructor, name, lambda *about, l=l, run=run, **also: ran.append(l) or run(*about, **also))
    return ran


@pytest.mark.parametrize("name, every, expected", [
    ("vig_nano", 1, [0, 1, 2, 3, 4]), ("vig_nano", 2, [0, 2, 4]), ("vig_nano", 3, [0, 3]), ("vig_nano", 9, [0]),
    ("cvig_nano", 2, [0, 2, 4]), ("svig_nano", 2, [0, 2, 4]),
    ("pvig_nano", 2, [0, 2, 3]), ("pvig_nano", 5, [0, 3]),  # stages of 3 and 2 blocks: each begins anew
    ("gkgnet_nano", 2, [0, 2, 5, 3, 6])])                   # and cross levels make their own
def test_the_first_of_n_blocks_builds(name, every, expected):
    model = made(name, graph_every=every)
    ran = counted(model)
    _, graphs = model(IMAGES, return_graphs=True)
    assert ran == expected
    edges = [graph.adj() for graph in graphs]
    if name != "gkgnet_nano":
        for l in range(1, 5):
            same = edges[l].shape == edges[l - 1].shape and torch.equal(edges[l], edges[l - 1])
            assert same == (l not in expected)


@pytest.mark.equation("vig", "Grapher")
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_blocks_read_along_edges_of_an_earlier_blocks_features(every):
    """The double loop of ViG's Grapher, with the adjacency of the block that builds; values and all gradients."""
    model, image = made("vig_nano", dim=8, depth=3, k=3, graph_every=every), nodes(1, 8, 3, 4)
    x, adj, out, graph = as_nodes(image), None, image, None
    for l, block in enumerate(model.blocks):
        grapher, ffn = block.grapher, block.ffn

        def edges(h, l=l, grapher=grapher):
            nonlocal adj
            if l % every == 0:
                k, dilation = (at(rule, 12) for rule in (grapher.constructor.k, grapher.constructor.dilation))
                adj = torch.zeros(12, 12, dtype=torch.bool)
                for i, mine in enumerate(oracle.nearest(h, h, k, dilation)):
                    adj[i, mine] = True
            return adj

        x = image_by_image(lambda one, g=grapher, f=ffn, make=edges: oracle.lrgc_ffn(
            oracle.grapher(one, dense_of(g.fc1), dense_of(g.conv.update), dense_of(g.fc2), make),
            dense_of(f.fc1), dense_of(f.fc2)), x)
        out, graph = block(out, graph)
    assert_same(as_nodes(out), x, [image, *model.blocks.parameters()], rtol=1e-7, atol=1e-8)


def test_of_a_hypergraph_the_hyperedges_stay_and_the_messages_are_new():
    model, seen = made("vig_nano", graph="hypergraph", graph_every=5), []
    for block in model.blocks:
        block.grapher.fc1.register_forward_hook(lambda module, inputs, output: seen.append(as_nodes(output)))
    _, graphs = model(IMAGES, return_graphs=True)
    for h, graph in zip(seen, graphs, strict=True):
        assert torch.equal(graph.member, graphs[0].member)
        for b in range(2):
            torch.testing.assert_close(graph.sources[b], places.hypergraph_message(h[b], graph.member[b]))
    assert not torch.allclose(graphs[0].sources, graphs[1].sources)


def test_of_clustervig_partitions_stay_and_their_means_are_those_of_today():
    model, seen = made("cvig_nano", graph_every=5), []
    for block in model.blocks:
        block.grapher.fc1.register_forward_hook(lambda module, inputs, output: seen.append(as_nodes(output)))
    _, graphs = model(IMAGES, return_graphs=True)
    for h, graph in zip(seen, graphs, strict=True):
        assert torch.equal(graph.labels, graphs[0].labels)
        torch.testing.assert_close(graph.centroids, partition_mean(h, membership(graph.labels, 4)))
    assert not torch.allclose(graphs[0].attention, graphs[1].attention)


def test_pooled_sources_are_those_of_the_block_that_reads():
    model, seen = made("pvig_nano", graph_every=3), []
    for block in model.blocks:
        block.grapher.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    _, graphs = model(IMAGES, return_graphs=True)
    for h, graph in list(zip(seen, graphs, strict=True))[:3]:
        torch.testing.assert_close(graph.sources, as_nodes(nn.functional.avg_pool2d(h, 2)))
    assert graphs[3].sources is None and graphs[4].num_targets == 16


@pytest.mark.parametrize("name", MODELS)
def test_features_weights_and_recomputed_blocks_are_those_of_the_forward_pass(name):
    model = made(name, graph_every=2)
    assert model.state_dict().keys() == made(name).state_dict().keys()
    if name != "gkgnet_nano":
        torch.testing.assert_close(model.forward_head(model.forward_features(IMAGES)), model(IMAGES))
    gradients = []
    for recomputes in (False, True):
        if recomputes:
            recompute_blocks(model)
        model.zero_grad()
        model(IMAGES).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name, fields, says", [
    ("vig_nano", {"graph": "lrgc"}, "learns a graph of its own"),
    ("vig_nano", {"graph": "adaptive"}, "learns a graph of its own"),
    ("pvig_nano", {"graph": "adaptive", "k": None}, "learns a graph of its own"),
    ("vig_nano", {"graph_every": 0}, "graph_every=0"),
    ("pvig_nano", {"graph_every": 1.5}, "graph_every=1.5")])
def test_what_cannot_be_shared_is_an_error(name, fields, says):
    with pytest.raises(ValueError, match=says):
        create_model(name, **MODELS[name] | {"graph_every": 2} | fields)


@pytest.mark.slow
def test_a_compiled_model_shares_its_graphs_too():
    model = made("vig_nano", depth=3, graph_every=2)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES)
        torch.testing.assert_close(compiled, model(IMAGES), rtol=1e-8, atol=1e-8)
