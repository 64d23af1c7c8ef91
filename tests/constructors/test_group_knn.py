"""group_knn.py: group k-NN against loops over all pairs of a group. What reads its graph is in test_group_graph.py."""

import math
from dataclasses import replace

import pytest
import torch

from helpers import directed_groups, image_by_image, nodes
from reference.gkgnet import group_knn
from vig_minimal import create_model
from vig_minimal.constructors import KNN, GroupKNN
from vig_minimal.constructors.schedules import at
from vig_minimal.graphs.aggregate import max_relative
from vig_minimal.graphs.distance import squared_distance
from vig_minimal.graphs.draws import part_of_batch
from vig_minimal.graphs.fast import nearest
from vig_minimal.graphs.graph import GroupGraph

B, N, M, C = 2, 7, 5, 12


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
    pooled = GroupKNN(2, 2)(targets, sources=sources)  # the first group picks 0 and 1, the second 2 and 3: G·K
    assert (pooled.degree() == 4).all() and pooled.adj()[0, 0, 0].tolist() == [True, True, False, False]
    graph = directed_groups(3, num_sources=20)
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
def test_groups_that_do_not_fit_are_an_error(constructor, says):
    with pytest.raises(ValueError, match=says):
        constructor(torch.randn(B, N, C))


@pytest.mark.fast_form
def test_pairs_of_large_images_are_never_all_in_memory(monkeypatch):
    x, sources, relative = torch.randn(B, N, C).double(), torch.randn(B, M, C).double(), torch.randn(N, M).double()
    whole = GroupKNN(3, 2)(x, sources=sources, relative=relative).index
    seen = []
    monkeypatch.setattr(nearest, "squared_distance", lambda *t: seen.append(t[0].shape) or squared_distance(*t))
    monkeypatch.setattr(nearest, "DISTANCES", 2 * B * M * 3)  # three targets of both groups
    assert torch.equal(GroupKNN(3, 2)(x, sources=sources, relative=relative).index, whole)
    assert [shape[1] for shape in seen] == [3, 3, 1]


def test_nan_features_get_neighbours_in_range():
    some = nodes(1, N, C)
    for x in (torch.full((1, N, C), torch.nan), some.masked_fill(torch.arange(N)[:, None] == 2, torch.nan)):
        graph = GroupKNN(3)(x)
        assert ((0 <= graph.index) & (graph.index < N)).all()
        m = max_relative(x, graph)
        assert m.isnan().any() and m.shape == x.shape  # NaNs pass on to the loss, where training reports them
    m.sum().backward()


def test_neighbours_are_found_in_full_precision_under_autocast():
    x = torch.randn(1, 1, C) + 1e-3 * torch.randn(2, N, C)  # equal to the third digit
    index = GroupKNN(2)(x).index
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(GroupKNN(2)(x).index, index)
    assert not torch.equal(GroupKNN(2)(x.bfloat16()).index, index)


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
        deep = {"depth": 9, "img_size": 32, "epsilon": 0.2}  # k and dilation grow from block to block
        ours, theirs = (create_model("vig_nano", **tiny | deep, graph=graph) for graph in ("group_knn", "knn"))
        for block, plain_block in zip(ours.blocks, theirs.blocks, strict=True):
            made, knn = block.grapher.constructor, plain_block.grapher.constructor
            for nodes in (64, 256):
                assert (at(made.k, nodes), at(made.dilation, nodes)) == (at(knn.k, nodes), at(knn.dilation, nodes))
            assert made.epsilon == knn.epsilon and made.groups == 2
        assert at(ours.blocks[-1].grapher.constructor.dilation, 64) == 3
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
    alone = image_by_image(lambda a, b, i: max_relative(a[None], GroupGraph(M, index=i[None], sources=b[None]))[0],
                           x, sources, whole)
    torch.testing.assert_close(max_relative(x, replace(graph, sources=sources)), alone)
