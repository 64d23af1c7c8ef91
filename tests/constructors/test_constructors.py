"""constructors.py: which edges are drawn, against loops over all pairs. LRGC's Eqs. 2 to 4 are in test_lrgc.py."""

from statistics import NormalDist

import pytest
import torch

from helpers import image_by_image, permuted
from reference.vig import nearest, svig_threshold
from vig_minimal.constructors import KNN, LRGC, SimilarityThreshold

BATCH, NODES, DIM = 3, 12, 4


def features() -> torch.Tensor:
    """(B, N, C) float64 with images and nodes of very different lengths: only directions may matter to ViG and SViG."""
    scale = torch.rand(BATCH, NODES, 1, dtype=torch.float64) * 10 + 0.1
    return torch.randn(BATCH, NODES, DIM, dtype=torch.float64) * scale


def trained_lrgc() -> LRGC:
    """An LRGC constructor away from its start, so that it has pruned about half of the edges."""
    constructor = LRGC(DIM).double()
    for layer in (constructor.key, constructor.query):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias, std=0.1)
    torch.nn.init.zeros_(constructor.tau)
    return constructor


CONSTRUCTORS = {"knn": lambda: KNN(3), "dilated": lambda: KNN(3, dilation=2),
                "threshold": lambda: SimilarityThreshold(0.7), "lrgc": trained_lrgc}


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


@pytest.mark.equation("svig", "threshold")
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.74, 0.89])
def test_similarity_threshold_is_the_loop_over_all_pairs(quantile):
    x = features()
    graph = SimilarityThreshold(quantile)(x)
    expected = image_by_image(lambda image: svig_threshold(image, quantile), x)
    assert 0 < expected.sum() < expected.numel()
    assert graph.adj().dtype == torch.bool
    assert torch.equal(graph.adj(), expected)


@pytest.mark.equation("svig", "threshold")
def test_similarity_threshold_divides_by_the_unbiased_deviation():
    # A cut just above the z of a node with itself (similarity 0, the highest) leaves no edge; with the biased
    # deviation, which is smaller, every node would read from itself.
    x = torch.randn(1, 3, DIM, dtype=torch.float64)
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    similarity = -(unit[:, None] - unit[None]).square().sum(2)  # (3, 3)
    z = -similarity.mean() / similarity.std(correction=1)
    biased = -similarity.mean() / similarity.std(correction=0)
    quantile = NormalDist().cdf(((z + biased) / 2).item())
    assert biased - z > 0.02
    assert SimilarityThreshold(quantile)(x).degree().sum() == 0
    assert SimilarityThreshold(NormalDist().cdf((z - 0.01).item()))(x).degree().sum() == 3


def test_similarity_threshold_standardises_each_image_by_itself():
    x = features()
    x[1] = 1 + 0.01 * torch.randn_like(x[1])  # an image whose nodes are all alike
    degrees = SimilarityThreshold(0.7)(x).degree()
    assert torch.all(degrees.sum(1) > NODES)  # every image has edges, not only the varied ones


def test_similarity_threshold_of_an_image_of_one_colour_is_finite():
    graph = SimilarityThreshold(0.7)(torch.ones(1, NODES, DIM))
    assert graph.adj().dtype == torch.bool and graph.adj().shape == (1, NODES, NODES)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.2, 1.5])
def test_similarity_threshold_takes_a_quantile_between_0_and_1(quantile):
    with pytest.raises(ValueError, match="quantile"):
        SimilarityThreshold(quantile)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_renumbering_the_nodes_renumbers_the_graph(name):
    x, order = features(), torch.randperm(NODES)
    constructor = CONSTRUCTORS[name]()
    graph, renumbered = constructor(x), constructor(x[:, order])
    torch.testing.assert_close(renumbered.adj(), permuted(graph, order))
    assert not torch.equal(graph.adj(), renumbered.adj())


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_the_graph_of_an_image_does_not_depend_on_its_batch(name):
    x = features()
    constructor = CONSTRUCTORS[name]()
    together = constructor(x).adj()
    for b in range(BATCH):
        torch.testing.assert_close(constructor(x[b:b + 1]).adj()[0], together[b])


@pytest.mark.parametrize("name", ["knn", "threshold"])
def test_only_directions_pick_neighbours(name):
    x, scale = features(), torch.rand(BATCH, NODES, 1, dtype=torch.float64) + 0.5
    constructor = CONSTRUCTORS[name]()
    assert torch.equal(constructor(x).adj(), constructor(x * scale).adj())


@pytest.mark.parametrize("name", ["knn", "threshold"])
def test_picking_carries_no_gradient(name):
    graph = CONSTRUCTORS[name]()(features().requires_grad_())
    assert not graph.adj().requires_grad


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_edges_are_picked_in_float32_under_autocast(name):
    # Nodes that bfloat16, with its 8 bits, cannot tell apart
    x = (1 + 1e-3 * features()).float()
    constructor = CONSTRUCTORS[name]().float()
    expected = constructor(x).adj()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adj = constructor(x).adj()
    assert adj.dtype == expected.dtype and torch.equal(adj, expected)
    rounded = constructor(x.bfloat16().float()).adj()
    assert name == "lrgc" or not torch.equal(rounded, expected), "these nodes do not tell the two precisions apart"


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_bfloat16_nodes_are_compared_in_float32(name):
    x = features().bfloat16()
    constructor = CONSTRUCTORS[name]().float()
    assert torch.equal(constructor(x).adj(), constructor(x.float()).adj())
