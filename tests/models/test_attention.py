"""conv="attention": attention along the edges of any graph, against loops over targets, sources and heads."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import (
    as_nodes,
    assert_same,
    dense_of,
    directed_groups,
    directed_weights,
    graph_of_kind,
    image_by_image,
    nodes,
    randomise,
)
from reference import attention as oracle
from reference.clustervig import interleave
from reference.vig import mlp
from vig_minimal import Graph, create_model
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.models.convs import Attention

BATCH, GRID, SOURCES, DIM, OUT = 2, (2, 3), 5, 8, 12
NODES = GRID[0] * GRID[1]


def parts(conv: Attention) -> tuple:
    no_bias = torch.zeros(DIM, dtype=torch.float64)
    return tuple((layer.weight, no_bias if layer.bias is None else layer.bias)
                 for layer in (conv.query, conv.key, conv.value))


def by_loops(conv: Attention, heads: int):
    layers, update = parts(conv), dense_of(conv.update)
    return lambda x, y, adj: oracle.attention_conv(x, y, adj, heads, *layers, update)


@pytest.mark.equation("attention", "message")
@pytest.mark.parametrize("kind, from_others, heads", [
    ("edges", False, 4), ("weights", False, 4), ("index", False, 4),
    ("edges", True, 4), ("weights", True, 2), ("index", True, 1)])
def test_attention(kind, from_others, heads):
    conv, num_sources = randomise(Attention(DIM, OUT, heads)), SOURCES if from_others else NODES
    image, graph = nodes(BATCH, DIM, *GRID), graph_of_kind(kind, BATCH, NODES, num_sources)
    others = [nodes(BATCH, SOURCES, DIM)] if from_others else []
    leaves = [graph.weights] if kind == "weights" else []
    x = as_nodes(image)
    expected = image_by_image(by_loops(conv, heads), x, others[0] if from_others else x, graph.adj())
    actual = conv(image, replace(graph, sources=others[0] if from_others else None))
    assert_same(as_nodes(actual), expected, [image, *others, *leaves, *conv.parameters()])


@pytest.mark.equation("attention", "message")
def test_a_global_feature_stands_beside_node_and_message():
    conv, graph = randomise(Attention(DIM, OUT, global_feature=True)), graph_of_kind("weights", BATCH, NODES, NODES)
    image, z, update = nodes(BATCH, DIM, *GRID), nodes(BATCH, NODES, DIM), dense_of(conv.update)

    def by_hand(x, z, adj):
        m = oracle.attention(x, x, adj, 4, *parts(conv))
        return torch.stack([mlp(interleave(x[i], m[i], z[i]), update) for i in range(NODES)])

    expected = image_by_image(by_hand, as_nodes(image), z, graph.adj())
    assert_same(as_nodes(conv(image, graph, z)), expected, [image, z, *conv.parameters()])


@pytest.mark.parametrize("groups, heads", [(2, 4), (4, 4), (4, 2), (8, 4), (2, 1)])
def test_heads_read_along_the_edges_of_their_group(groups, heads):
    conv, graph = randomise(Attention(DIM, OUT, heads)), directed_groups(groups, NODES, NODES, 3, BATCH)
    image = nodes(BATCH, DIM, *GRID)
    expected = image_by_image(by_loops(conv, max(groups, heads)), as_nodes(image), as_nodes(image), graph.adj())
    assert_same(as_nodes(conv(image, graph)), expected, [image, conv.query.weight, conv.value.weight])


def test_a_group_graph_whose_groups_agree_is_a_plain_graph():
    conv, image = randomise(Attention(DIM, OUT)), nodes(BATCH, DIM, *GRID)
    index = torch.rand(BATCH, NODES, NODES).topk(3).indices
    grouped = GroupGraph(NODES, index=index[:, None].expand(-1, 2, -1, -1))
    assert_same(conv(image, grouped), conv(image, Graph(NODES, index=index)), [image])


def test_a_target_without_edges_gets_0_and_a_weight_of_0_is_no_edge():
    conv, image = randomise(Attention(DIM, OUT)), nodes(BATCH, DIM, *GRID)
    weights = directed_weights(BATCH, NODES, NODES)  # target 0 has no edge
    seen = []
    conv.update.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    out = conv(image, Graph(NODES, weights=weights))
    m = as_nodes(seen[0])[:, :, 1::2]
    assert (m[:, 0] == 0).all() and (m[:, 1:] != 0).any(-1).all()
    by_image, by_weights = torch.autograd.grad(out[0, :, 0, 0].sum(), [image, weights], retain_graph=True)
    assert torch.count_nonzero(by_image) == torch.count_nonzero(by_image[0, :, 0, 0]) > 0 and not by_weights.any()
    by_weights, = torch.autograd.grad(out.sum(), weights)
    assert (by_weights[weights == 0] == 0).all() and (by_weights[weights != 0] != 0).any()


def test_a_full_graph_is_a_transformers_mixing_of_tokens():
    """torch's own multi-head attention, without its last linear layer."""
    conv, image = randomise(Attention(DIM, OUT)), nodes(BATCH, DIM, *GRID)
    seen = []
    conv.update.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    conv(image, Graph(NODES, weights=torch.ones(BATCH, NODES, NODES, dtype=torch.bool)))
    theirs = nn.MultiheadAttention(DIM, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([weight for weight, _ in parts(conv)]))
        theirs.in_proj_bias.copy_(torch.cat([bias for _, bias in parts(conv)]))
        theirs.out_proj.weight.copy_(torch.eye(DIM))
        theirs.out_proj.bias.zero_()
    x = as_nodes(image)
    torch.testing.assert_close(as_nodes(seen[0])[:, :, 1::2], theirs(x, x, x)[0])


def test_attention_at_the_start_is_nearly_even():
    """Linear layers keep torch's small start: init_weights draws convolutions alone."""
    model = create_model("vig_nano", graph="full", conv="attention").eval()
    conv, x = model.blocks[0].grapher.conv, torch.randn(2, 64, 96)
    q, k = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (conv.query, conv.key))
    share = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    assert 64 * share.max() < 6 and share.std() * 64 < 0.7
