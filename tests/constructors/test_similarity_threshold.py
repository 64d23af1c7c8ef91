"""similarity_threshold.py: SViG's edges against loops over all pairs, and the quantile of every block."""

from statistics import NormalDist

import pytest
import torch

from helpers import as_nodes, assert_same, dense_of, features, image_by_image, nodes, randomise
from reference.vig import grapher, svig_threshold
from vig_minimal import create_model
from vig_minimal.constructors import SimilarityThreshold
from vig_minimal.models.vig import Grapher

NODES, DIM = 12, 4


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.56, 0.89])
def test_an_image_of_one_colour_has_no_edges(dtype, quantile):
    lengths = torch.rand(5, 49, 1, dtype=dtype) + 0.5  # directions that differ by rounding alone
    for x in (torch.ones(1, 49, DIM, dtype=dtype), torch.randn(5, 1, 16, dtype=dtype).expand(5, 49, 16),
              torch.randn(5, 1, 16, dtype=dtype) * lengths):
        graph = SimilarityThreshold(quantile)(x)
        assert graph.adj().dtype == torch.bool and graph.degree().sum() == 0


def test_directions_that_differ_by_more_than_rounding_have_the_edges_of_float64():
    x = (torch.randn(1, 1, 64) + 1e-4 * torch.randn(4, 49, 64)).float()
    assert SimilarityThreshold(0.56)(x).degree().min() > 0
    ours, exact = SimilarityThreshold(0.56)(x).adj(), SimilarityThreshold(0.56)(x.double()).adj()
    assert (ours == exact).double().mean() > 0.999


def test_a_similarity_that_equals_the_threshold_is_no_edge():
    # four directions at right angles: squared distances 0, 2, 2, 4 with mean 2, and Φ⁻¹(½) = 0
    x = torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [0, -1]]])
    assert torch.equal(SimilarityThreshold(0.5)(x).adj()[0], torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.2, 1.5])
def test_similarity_threshold_takes_a_quantile_between_0_and_1(quantile):
    with pytest.raises(ValueError, match="quantile"):
        SimilarityThreshold(quantile)


def quantiles(model) -> list[float]:
    return [block.grapher.constructor.quantile for block in model.blocks]


@pytest.mark.equation("svig", "quantile")
def test_the_quantile_falls_by_delta_from_block_to_block():
    assert quantiles(create_model("svig_ti", dim=16)) == pytest.approx([0.89 - 0.03 * block for block in range(12)])
    model = create_model("svig_nano", dim=16, depth=3, threshold=0.6, decrement=0.1)
    assert quantiles(model) == pytest.approx([0.6, 0.5, 0.4])


def test_a_lower_quantile_draws_more_edges_between_the_same_nodes():
    model = create_model("svig_nano", dim=16)
    h = torch.randn(2, 64, 16, dtype=torch.float64)
    means = [block.grapher.constructor(h).degree().double().mean().item() for block in model.blocks]
    assert means == sorted(means) and means[-1] > means[0] > 0


@pytest.mark.equation("svig", "threshold")
def test_grapher_over_similar_nodes():
    module = randomise(Grapher(8, SimilarityThreshold(0.6)))
    image = nodes(2, 8, 2, 3)
    w_in, w_update, w_out = dense_of(module.fc1), dense_of(module.conv.update), dense_of(module.fc2)

    def oracle(x):
        return grapher(x, w_in, w_update, w_out, lambda h: svig_threshold(h, 0.6))

    out, graph = module(image)
    expected = image_by_image(oracle, as_nodes(image))
    assert 0 < graph.adj().sum() < graph.adj().numel()
    assert_same(as_nodes(out), expected, [image, *module.parameters()])


def test_nodes_have_different_numbers_of_neighbours():
    model = create_model("svig_nano").eval()
    with torch.no_grad():
        _, graphs = model(torch.randn(2, 3, 64, 64), return_graphs=True)
    assert all(graph.index is None and graph.adj().dtype == torch.bool for graph in graphs)
    assert any(graph.degree().unique().numel() > 1 for graph in graphs)


@pytest.mark.parametrize("fields", [
    {"threshold": 1.0}, {"threshold": 0.1}, {"decrement": 0.2}, {"threshold": 0.9, "decrement": -0.05},
])
def test_a_quantile_that_leaves_0_to_1_is_an_error_at_construction(fields):
    with pytest.raises(ValueError, match="threshold=.*between 0 and 1"):
        create_model("svig_nano", **fields)
