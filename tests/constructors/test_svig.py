"""svig.py: the quantile of every block, and graphs whose nodes have as many neighbours as are similar enough.

The threshold itself is checked against loops over all pairs in test_constructors.py.
"""

import pytest
import torch

from helpers import as_nodes, assert_same, dense_of, image_by_image, nodes, randomise
from reference.vig import grapher, svig_threshold
from vig_minimal import create_model
from vig_minimal.constructors import SimilarityThreshold
from vig_minimal.models.vig import Grapher


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
