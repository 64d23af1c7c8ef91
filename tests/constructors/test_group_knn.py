"""Group k-NN and everything over a GroupGraph: which edges, the aggregates of groups, the interleaved update."""

import math

import pytest
import torch

from helpers import assert_same, dense_of, image_by_image, nodes, random_index, randomise
from reference.gkgnet import group_knn, group_max_relative, group_sum
from reference.vig import interleave, mlp
from vig_minimal import Graph, create_model
from vig_minimal.constructors import KNN, GroupKNN, knn
from vig_minimal.graphs import aggregate
from vig_minimal.graphs.aggregate import aggregate_max, aggregate_mean, aggregate_sum, max_relative, subnodes
from vig_minimal.graphs.distance import unit_distance
from vig_minimal.graphs.draws import part_of_batch
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.models.convs import CONVS, MRConv
from vig_minimal.models.layers import to_image

B, N, M, C = 2, 7, 5, 12


def directed(groups: int, num_targets: int = N, num_sources: int = M, k: int = 3) -> GroupGraph:
    """Other random neighbours in every group."""
    parts = [random_index(B, num_targets, num_sources, k) for _ in range(groups)]
    return GroupGraph(num_sources, index=torch.stack(parts, 1))


def lists(graph: GroupGraph, b: int) -> list:
    return graph.index[b].tolist()


@pytest.mark.equation("gkgnet", "group k-NN")
@pytest.mark.parametrize("k, groups, dilation", [(3, 1, 1), (3, 2, 1), (2, 3, 2), (5, 4, 1), (1, 6, 5)])
@pytest.mark.parametrize("with_relative", [False, True])
def test_group_knn_is_the_loop_over_all_pairs_of_a_group(k, groups, dilation, with_relative):
    x, sources = torch.randn(B, N, C, dtype=torch.float64), torch.randn(B, M, C, dtype=torch.float64)
    relative = torch.randn(N, M, dtype=torch.float64) if with_relative else None
    constructor = GroupKNN(k, groups, dilation)
    graph = constructor(x, sources=sources, relative=relative)
    assert graph.index.tolist() == [group_knn(a, b, k, groups, dilation, relative) for a, b in zip(x, sources)]
    assert (graph.num_targets, graph.num_sources) == (N, M)
    adj = graph.adj()
    assert adj.shape == (B, groups, N, M) and adj.dtype == torch.bool and (adj.sum(-1) == k).all()
    assert all(adj[b, g, i, j] for b in range(B) for g in range(groups) for i in range(N)
               for j in graph.index[b, g, i])
    own = GroupKNN(k, groups)(x)
    assert own.index.tolist() == [group_knn(a, a, k, groups) for a in x] and own.num_sources == N


def test_a_node_has_between_k_and_g_k_sources():
    half = torch.randn(1, N, 6)
    alike = GroupKNN(3, 2)(torch.cat([half, 2 * half], 2))  # both groups see the same directions
    assert (alike.degree() == 3).all() and alike.degree().shape == (1, N)
    x = torch.zeros(1, 6, 4)  # pairs (0, 1), (2, 3), (4, 5) in one group; (0, 5), (1, 2), (3, 4) in the other
    for i in range(6):
        for g, angle in ((0, i // 2), (1, (i + 1) // 2 % 3)):
            x[0, i, 2 * g:2 * g + 2] = torch.tensor([math.cos(2.0 * angle), math.sin(2.0 * angle)])
    apart = GroupKNN(2, 2)(x)
    assert (apart.degree() == 3).all()  # the node itself in both, another neighbour in each
    targets = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 3, 4)
    sources = torch.tensor([[1.0, 0, 1, 0], [2.0, 0, 1, 0], [0, 1.0, 0, 1], [0, 1.0, 0, 2]])[None]
    pooled = GroupKNN(2, 2)(targets, sources=sources)  # where they are others, G·K: 0 and 1 by the first group, 2 and 3
    assert (pooled.degree() == 4).all() and pooled.adj()[0, 0, 0].tolist() == [True, True, False, False]
    graph = directed(3, num_sources=20)
    assert 3 <= graph.degree().min() <= graph.degree().max() <= 9
    union = graph.adj().any(1)
    assert torch.equal(graph.degree(), union.sum(-1)) and torch.equal(graph.union().adj(), union)
    assert len(graph.edges()[0]) == union.sum()
    assert graph.statistics()["mean_degree"] == pytest.approx(union.sum(-1).float().mean().item())


def test_one_group_is_plain_k_nn():
    x, sources, relative = torch.randn(B, N, C), torch.randn(B, M, C), torch.randn(N, M)
    for arguments in ({}, {"sources": sources}, {"sources": sources, "relative": relative}):
        one, plain = GroupKNN(2, 1, 2)(x, **arguments), KNN(2, 2)(x, **arguments)
        assert torch.equal(one.index[:, 0], plain.index) and torch.equal(one.adj()[:, 0], plain.adj())


def test_stochastic_dilation_is_drawn_for_an_image_and_follows_its_place():
    x = torch.randn(20, N, C)
    constructor = GroupKNN(2, 2, 2, epsilon=0.5).train()
    torch.manual_seed(3)
    whole = constructor(x).index
    torch.manual_seed(3)
    with part_of_batch(10, 20):
        part = constructor(x[10:]).index
    assert torch.equal(part, whole[10:])
    regular, nearest = GroupKNN(2, 2, 2)(x).index, GroupKNN(4, 2)(x).index
    drawn = (whole != regular).flatten(1).any(1)
    assert 4 <= drawn.sum() <= 16 and drawn[10:].any()
    for i in drawn.nonzero()[:, 0]:  # the same ranks of all nodes and groups, in order
        ranks = [(nearest[i] == column[..., None]).nonzero()[:, 2] for column in whole[i].unbind(-1)]
        assert all((rank == rank[0]).all() for rank in ranks) and ranks[0][0] < ranks[1][0]
    assert torch.equal(constructor.eval()(x[10:]).index, regular[10:])


@pytest.mark.parametrize("constructor, says", [(GroupKNN(3, 5), "groups=5: 12 channels"), (GroupKNN(4, 2, 2), "4·2")])
def test_what_cannot_be_grouped_is_an_error(constructor, says):
    with pytest.raises(ValueError, match=says):
        constructor(torch.randn(B, N, C))


def test_pairs_of_large_images_are_never_all_in_memory(monkeypatch):
    x, sources, relative = torch.randn(B, N, C).double(), torch.randn(B, M, C).double(), torch.randn(N, M).double()
    whole = GroupKNN(3, 2)(x, sources=sources, relative=relative).index
    seen = []
    monkeypatch.setattr(knn, "unit_distance", lambda *t: seen.append(t[0].shape) or unit_distance(*t))
    monkeypatch.setattr(knn, "DISTANCES", 2 * B * M * 3)  # three targets of both groups
    assert torch.equal(GroupKNN(3, 2)(x, sources=sources, relative=relative).index, whole)
    assert [shape[1] for shape in seen] == [3, 3, 1]


def test_features_that_are_not_numbers_have_neighbours_in_range():
    some = nodes(1, N, C)
    for x in (torch.full((1, N, C), torch.nan), some.masked_fill(torch.arange(N)[:, None] == 2, torch.nan)):
        graph = GroupKNN(3)(x)
        assert ((0 <= graph.index) & (graph.index < N)).all()
        m = max_relative(x, graph)
        assert m.isnan().any() and m.shape == x.shape  # they go on to the loss, where training says what they are
    m.sum().backward()


def test_neighbours_are_found_in_full_precision_under_autocast():
    x = torch.randn(1, 1, C) + 1e-3 * torch.randn(2, N, C)  # alike to the third digit
    index = GroupKNN(2)(x).index
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(GroupKNN(2)(x).index, index)
    assert not torch.equal(GroupKNN(2)(x.bfloat16()).index, index)


# ---- over groups ---------------------------------------------------------------------------------------------------


@pytest.mark.equation("gkgnet", 1)
@pytest.mark.parametrize("groups", [1, 2, 3, 12])
def test_group_max_relative(groups):
    graph, x, sources = directed(groups), nodes(B, N, C), nodes(B, M, C)
    expected = torch.stack([group_max_relative(x[b], sources[b], lists(graph, b)) for b in range(B)])
    assert_same(max_relative(x, graph, sources), expected, [x, sources])
    with torch.no_grad():
        torch.testing.assert_close(max_relative(x, graph, sources), expected)


@pytest.mark.equation("gkgnet", 1)
def test_patches_read_from_themselves_in_groups():
    graph, x = directed(2, N, N), nodes(B, N, C)
    expected = torch.stack([group_max_relative(x[b], x[b], lists(graph, b)) for b in range(B)])
    assert_same(max_relative(x, graph), expected, [x])


@pytest.mark.parametrize("elements", [1, 40])
def test_the_search_over_groups_goes_block_by_block(elements, monkeypatch):
    graph, x, sources = directed(3), nodes(B, N, C), nodes(B, M, C)
    expected = torch.stack([group_max_relative(x[b], sources[b], lists(graph, b)) for b in range(B)])
    monkeypatch.setattr(aggregate, "BLOCK_ELEMENTS", {"cpu": elements})
    assert_same(max_relative(x, graph, sources), expected, [x, sources])
    with torch.no_grad():
        torch.testing.assert_close(max_relative(x, graph, sources), expected)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_neighbours():
    def kept(k):
        graph, x, sources, sizes = directed(2, 40, 40, k), nodes(B, 40, C), nodes(B, 40, C), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            max_relative(x, graph, sources)
        return sum(sizes)

    assert kept(2) == kept(20) == B * 40 * C * 2  # the winners, two bytes each


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_other_aggregates_of_groups(groups):
    graph, sources, zeros = directed(groups), nodes(B, M, C), torch.zeros(N, C, dtype=torch.float64)
    largest = torch.stack([group_max_relative(zeros, sources[b], lists(graph, b)) for b in range(B)])
    assert_same(aggregate_max(sources, graph), largest, [sources])
    total = torch.stack([group_sum(sources[b], lists(graph, b)) for b in range(B)])
    assert_same(aggregate_sum(sources, graph), total, [sources])
    assert_same(aggregate_mean(sources, graph), total / 3, [sources])


def test_subnodes_are_nodes_without_a_copy():
    graph, x = directed(3), torch.randn(B, N, C)
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
    conv, graph = randomise(MRConv(C, 2 * C)), directed(groups)
    x, sources = nodes(B, N, C), nodes(B, M, C)
    out = conv(to_image(x, (N, 1)), graph, sources)
    layer = dense_of(conv.update)
    assert layer.groups == 4

    def oracle(b):
        m = group_max_relative(x[b], sources[b], lists(graph, b))
        return torch.stack([mlp(interleave(a, d), layer) for a, d in zip(x[b], m)])

    expected = torch.stack([oracle(b) for b in range(B)])
    assert_same(out.flatten(2).mT, expected, [x, sources, *conv.parameters()])


@pytest.mark.parametrize("name", ["mr", "sage", "gin"])
def test_every_convolution_that_keeps_groups_apart_runs_over_them(name):
    conv, graph, x = randomise(CONVS[name](C, 2 * C)), directed(2), torch.randn(B, C, N, 1, dtype=torch.float64)
    assert conv(x, graph, torch.randn(B, M, C, dtype=torch.float64)).shape == (B, 2 * C, N, 1)


def test_group_k_nn_in_the_isotropic_skeleton():
    tiny = {"dim": 16, "depth": 2, "img_size": 16, "patch": 4}
    plain = create_model("vig_nano", **tiny).eval()
    grouped = create_model("vig_nano", **tiny, graph="group_knn", groups=1).eval()
    grouped.load_state_dict(plain.state_dict())  # the same parameters
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(grouped(images), plain(images))
        two = create_model("vig_nano", **tiny, graph="group_knn", groups=2).eval()
        two.load_state_dict(plain.state_dict())
        logits, graphs = two(images, return_graphs=True)
        assert graphs[0].adj().shape == (2, 2, 16, 16) and not torch.allclose(logits, plain(images))
        deep = {"depth": 9, "img_size": 32, "epsilon": 0.2}  # k grows from block to block, and dilation too
        ours, theirs = (create_model("vig_nano", **tiny | deep, graph=graph) for graph in ("group_knn", "knn"))
        for block, plain_block in zip(ours.blocks, theirs.blocks, strict=True):
            made, knn = block.grapher.constructor, plain_block.grapher.constructor
            assert (made.k, made.dilation, made.epsilon) == (knn.k, knn.dilation, knn.epsilon) and made.groups == 2
        assert ours.blocks[-1].grapher.constructor.dilation == 3
    for fields, says in (({"groups": 3}, "groups=3"), ({"conv": "edge"}, "mixes all channels"),
                         ({"groups": 0}, "groups=0")):
        with pytest.raises(ValueError, match=says):
            create_model("vig_nano", **tiny, graph="group_knn", **fields)
    with pytest.raises(ValueError, match="graph='group_knn' alone"):
        create_model("vig_nano", **tiny, groups=4)


def test_an_image_does_not_depend_on_its_batch():
    x, sources = torch.randn(4, N, C), torch.randn(4, M, C)
    whole = GroupKNN(2)(x, sources=sources).index
    assert all(torch.equal(GroupKNN(2)(x[i:i + 1], sources=sources[i:i + 1]).index[0], whole[i]) for i in range(4))
    graph = GroupGraph(M, index=whole)
    alone = image_by_image(lambda a, b, i: max_relative(a[None], GroupGraph(M, index=i[None]), b[None])[0],
                           x, sources, whole)
    torch.testing.assert_close(max_relative(x, graph, sources), alone)
