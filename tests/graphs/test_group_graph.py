"""GroupGraph: aggregates and graph convolutions over groups of channels, against loops."""

from dataclasses import replace

import pytest
import torch

from helpers import assert_same, dense_of, directed_groups, nodes, randomise
from reference.gkgnet import group_max_relative, group_sum
from reference.vig import interleave, mlp
from vig_minimal import Graph
from vig_minimal.graphs.aggregate import aggregate_max, aggregate_mean, aggregate_sum, max_relative
from vig_minimal.graphs.fast import search
from vig_minimal.graphs.graph import GroupGraph, subnodes
from vig_minimal.models.convs import CONVS, MRConv
from vig_minimal.models.layers import to_image

B, N, M, C = 2, 7, 5, 12


def lists(graph: GroupGraph, b: int) -> list:
    return graph.index[b].tolist()


@pytest.mark.equation("gkgnet", 1)
@pytest.mark.parametrize("groups", [1, 2, 3, 12])
def test_group_max_relative(groups):
    graph, x, sources = directed_groups(groups), nodes(B, N, C), nodes(B, M, C)
    expected = torch.stack([group_max_relative(x[b], sources[b], lists(graph, b)) for b in range(B)])
    assert_same(max_relative(x, replace(graph, sources=sources)), expected, [x, sources])
    with torch.no_grad():
        torch.testing.assert_close(max_relative(x, replace(graph, sources=sources)), expected)


@pytest.mark.equation("gkgnet", 1)
def test_patches_read_from_themselves_in_groups():
    graph, x = directed_groups(2, N, N), nodes(B, N, C)
    expected = torch.stack([group_max_relative(x[b], x[b], lists(graph, b)) for b in range(B)])
    assert_same(max_relative(x, graph), expected, [x])


@pytest.mark.equation("gkgnet", 1)
@pytest.mark.parametrize("elements", [1, 40])
def test_the_search_over_groups_goes_block_by_block(elements, monkeypatch):
    graph, x, sources = directed_groups(3), nodes(B, N, C), nodes(B, M, C)
    expected = torch.stack([group_max_relative(x[b], sources[b], lists(graph, b)) for b in range(B)])
    monkeypatch.setattr(search, "BLOCK_ELEMENTS", {"cpu": elements})
    assert_same(max_relative(x, replace(graph, sources=sources)), expected, [x, sources])
    with torch.no_grad():
        torch.testing.assert_close(max_relative(x, replace(graph, sources=sources)), expected)


@pytest.mark.fast_form
def test_memory_for_the_backward_pass_does_not_grow_with_neighbours():
    def kept(k):
        graph, x, sources, sizes = directed_groups(2, 40, 40, k), nodes(B, 40, C), nodes(B, 40, C), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            max_relative(x, replace(graph, sources=sources))
        return sum(sizes)

    assert kept(2) == kept(20) == B * 40 * C  # the winners, one byte each


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_other_aggregates_of_groups(groups):
    graph, sources, zeros = directed_groups(groups), nodes(B, M, C), torch.zeros(N, C, dtype=torch.float64)
    largest = torch.stack([group_max_relative(zeros, sources[b], lists(graph, b)) for b in range(B)])
    assert_same(aggregate_max(sources, graph), largest, [sources])
    total = torch.stack([group_sum(sources[b], lists(graph, b)) for b in range(B)])
    assert_same(aggregate_sum(sources, graph), total, [sources])
    assert_same(aggregate_mean(sources, graph), total / 3, [sources])


def test_subnodes_are_a_view_of_the_nodes():
    graph, x = directed_groups(3), torch.randn(B, N, C)
    view = subnodes(x, graph)
    assert view.shape == (B, N * 3, C // 3) and view.data_ptr() == x.data_ptr()
    small = graph.subnodes()
    assert type(small) is Graph and (small.num_targets, small.num_sources) == (N * 3, M * 3)
    for i in range(N):
        for g in range(3):
            assert (small.index[0, i * 3 + g] - g).tolist() == [3 * j for j in graph.index[0, g, i]]
    assert torch.equal(view[1, 5 * 3 + 2], x[1, 5, 8:])


@pytest.mark.equation("gkgnet", 2)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_update_is_interleaved_over_all_channels_and_has_four_heads(groups):
    conv, graph = randomise(MRConv(C, 2 * C)), directed_groups(groups)
    x, sources = nodes(B, N, C), nodes(B, M, C)
    out = conv(to_image(x, (N, 1)), replace(graph, sources=sources))
    layer = dense_of(conv.update)
    assert layer.groups == 4

    def oracle(b):
        m = group_max_relative(x[b], sources[b], lists(graph, b))
        return torch.stack([mlp(interleave(a, d), layer) for a, d in zip(x[b], m)])

    expected = torch.stack([oracle(b) for b in range(B)])
    assert_same(out.flatten(2).mT, expected, [x, sources, *conv.parameters()])


@pytest.mark.parametrize("name", ["mr", "sage", "gin"])
def test_every_convolution_that_keeps_groups_apart_runs_over_them(name):
    conv, x = randomise(CONVS[name](C, 2 * C)), torch.randn(B, C, N, 1, dtype=torch.float64)
    graph = replace(directed_groups(2), sources=torch.randn(B, M, C, dtype=torch.float64))
    assert conv(x, graph).shape == (B, 2 * C, N, 1)
