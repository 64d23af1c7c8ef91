"""IPG's graph: detail, budget and edges against the double loop; plain images; equally similar nodes."""

import pytest
import torch
import torch.nn.functional as F

from reference import places
from vig_minimal.constructors import Detail
from vig_minimal.constructors.detail import detail


def table(sources: list[set[int]]) -> torch.Tensor:
    return torch.tensor([[j in mine for j in range(len(sources))] for mine in sources])


@pytest.mark.equation("ipg", "budget")
@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (5, 2), (1, 6)])
def test_the_graph_is_the_double_loop(grid, k):
    x = torch.randn(2, grid[0] * grid[1], 4, dtype=torch.float64) * torch.rand(grid[0] * grid[1], 1).square()
    graph = Detail(k)(x, grid)
    for b in range(2):
        assert torch.equal(graph.adj()[b], table(places.detail(x[b], *grid, k)))
    assert k == 1 or len(graph.degree().unique()) > 1


@pytest.mark.equation("ipg", "detail")
@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 4)])
def test_detail_is_what_halving_loses(grid):
    x = torch.randn(1, grid[0] * grid[1], 4, dtype=torch.float64)
    image = x[0].T.reshape(4, *grid)
    half = places.bilinear(image, max(1, grid[0] // 2), grid[1] // 2)
    torch.testing.assert_close(half[None], F.interpolate(image[None], half.shape[1:], mode="bilinear"))
    lost = (image - places.bilinear(half, *grid)).abs().sum(0).flatten()
    torch.testing.assert_close(detail(x, grid)[0], lost)


def test_a_flat_half_gets_fewer_neighbours_than_a_busy_one():
    x = torch.ones(1, 8, 8, 4)
    x[:, :, 4:] = torch.randn(1, 8, 4, 4)
    degree = Detail(9)(x.flatten(1, 2), (8, 8)).degree().view(8, 8)
    assert (degree[:, :3] == 1).all() and degree[:, 5:].float().mean() > 14
    assert degree.float().mean() == pytest.approx(9, abs=1)


def test_of_a_plain_image_all_nodes_have_k_and_the_first_of_equal_ones_win():
    graph = Detail(3)(torch.ones(2, 16, 4), (4, 4))
    assert (graph.degree() == 3).all()
    assert graph.adj()[0].nonzero()[:, 1].view(16, 3)[5:7].tolist() == [[0, 1, 5], [0, 1, 6]]  # itself, then 0 and 1


def test_everything_is_a_neighbour_at_most_and_itself_at_least():
    x = torch.randn(1, 12, 4)
    assert Detail(12)(x, (3, 4)).degree().max() == 12
    graph = Detail(1)(x, (3, 4))
    assert graph.degree().min() == 1 and graph.adj().diagonal(dim1=1, dim2=2).all()


@pytest.mark.parametrize("k", [0, 13])
def test_k_must_be_one_of_the_nodes(k):
    with pytest.raises(ValueError, match="k="):
        Detail(k)(torch.randn(1, 12, 4), (3, 4))
