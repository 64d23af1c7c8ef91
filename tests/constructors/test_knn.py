"""knn.py: k nearest neighbours, dilated and stochastic, against loops over all pairs."""

import pytest
import torch
import torch.nn.functional as F

from helpers import features
from reference.vig import nearest
from vig_minimal.constructors import KNN, GroupKNN
from vig_minimal.graphs.fast import nearest as blocks

BATCH, NODES = 3, 12


@pytest.mark.equation("vig", "dilation")
@pytest.mark.parametrize("k, dilation", [(1, 1), (4, 1), (3, 2), (3, 4), (12, 1), (1, 12)])
def test_knn_is_every_dth_of_the_nearest_nodes(k, dilation):
    x = features()
    graph = KNN(k, dilation)(x)
    assert graph.index.tolist() == [nearest(image, image, k, dilation) for image in x]
    assert (graph.num_targets, graph.num_sources) == (NODES, NODES)


def test_knn_starts_with_the_node_itself_and_is_directed():
    graph = KNN(4)(features())
    assert torch.equal(graph.index[:, :, 0], torch.arange(NODES).expand(BATCH, NODES))
    assert not torch.equal(graph.adj(), graph.adj().mT), "nearest neighbours are not mutual"


@pytest.mark.parametrize("spread", [3e-4, 1e-9, 0.0])
@pytest.mark.parametrize("constructor", [KNN(9), KNN(9, dilation=2), GroupKNN(9, 2)])
def test_a_node_is_its_own_nearest_even_where_all_nodes_are_nearly_equal(constructor, spread, monkeypatch):
    x = torch.randn(1, 1, 64) + spread * torch.randn(2, 196, 64)
    relative = -1e-6 * torch.eye(196)
    for pairs in (blocks.DISTANCES, 2 * 196 * 50):  # all targets at once, and 50 at a time
        monkeypatch.setattr(blocks, "DISTANCES", pairs)
        for graph in (constructor(x), constructor(x, relative=relative), constructor(x, sources=x, relative=relative)):
            assert (graph.index[..., 0] == torch.arange(196)).all()


@pytest.mark.parametrize("pooled", [False, True])
def test_neighbours_of_nearly_equal_nodes_are_those_of_float64(pooled):
    base = torch.randn(1, 1, 64)
    x = base + 3e-4 * torch.randn(2, 196, 64)
    sources = base + 3e-4 * torch.randn(2, 49, 64) if pooled else None
    exact = KNN(9)(x.double(), sources=None if sources is None else sources.double()).adj()
    expected = torch.cdist(*2 * [F.normalize(x.double(), dim=-1)], compute_mode="donot_use_mm_for_euclid_dist")
    if not pooled:
        assert torch.equal(exact, torch.zeros_like(exact).scatter_(2, expected.topk(9, largest=False).indices, True))
    same = (KNN(9)(x, sources=sources).adj() & exact).sum() / exact.sum()
    assert same > 0.995


@pytest.mark.equation("vig", "dilation")
def test_stochastic_dilation_draws_k_of_the_nearest_k_d_in_training():
    x = features()
    constructor = KNN(3, dilation=3, epsilon=0.999).train()  # nearly always
    drawn = [constructor(x).index for _ in range(20)]
    for index in drawn:
        for b in range(BATCH):
            within = nearest(x[b], x[b], 9)
            for i in range(NODES):
                row = index[b, i].tolist()
                assert len(set(row)) == 3 and set(row) <= set(within[i])
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:]), "every draw was the same"


def test_stochastic_dilation_is_off_in_evaluation():
    x = features()
    regular = KNN(3, dilation=3)(x).index
    constructor = KNN(3, dilation=3, epsilon=0.999).eval()
    assert all(torch.equal(constructor(x).index, regular) for _ in range(5))


def test_stochastic_dilation_happens_to_a_share_epsilon_of_the_images():
    x = torch.randn(4000, 6, 3, dtype=torch.float64)
    regular = KNN(2, dilation=3)(x).index
    stochastic = KNN(2, dilation=3, epsilon=0.2).train()(x).index
    changed = (stochastic != regular).flatten(1).any(1).double().mean().item()
    # of the C(6, 2) = 15 choices one is the regular one: 0.2 * 14 / 15 = 0.187, give or take 0.006
    assert changed == pytest.approx(0.2 * 14 / 15, abs=0.03)


def test_stochastic_dilation_draws_every_rank_alike():
    x = torch.randn(1, 6, 3, dtype=torch.float64).expand(4000, 6, 3)
    index = KNN(2, dilation=3, epsilon=0.999).train()(x).index[:, 0]  # node 0 of 4000 equal images: (4000, 2)
    share = torch.bincount(index.flatten(), minlength=6) / 4000
    torch.testing.assert_close(share, torch.full((6,), 1 / 3), rtol=0, atol=0.04)


def test_knn_without_enough_nodes_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="12"):
        KNN(5, dilation=3)(features())


@pytest.mark.parametrize("wrong, says", [
    ({"k": 0}, "k=0: must be at least 1"), ({"k": 2.5}, "k=2.5"), ({"dilation": 0}, "dilation=0"),
    ({"epsilon": 1.0}, "epsilon=1.0: a probability"), ({"epsilon": -0.1}, "epsilon=-0.1"), ({"groups": 0}, "groups=0")])
def test_what_no_node_can_have_is_refused(wrong, says):
    for constructor in (KNN, GroupKNN) if "groups" not in wrong else (GroupKNN,):
        with pytest.raises(ValueError, match=says):
            constructor(**{"k": 3} | wrong)
