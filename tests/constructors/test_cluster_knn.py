"""cluster_knn.py: properties that hold for any partition and features. Values are tested in test_clustervig.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers import TINY
from vig_minimal import Graph, create_model
from vig_minimal.constructors import ClusterKNN
from vig_minimal.constructors.cluster_knn import cluster_graph
from vig_minimal.graphs.aggregate import aggregate_max, aggregate_mean, aggregate_sum, max_relative

UNEVEN = torch.tensor([[0, 1, 1, 0, 2, 1, 1, 1, 0, 1], [2, 2, 1, 2, 0, 2, 1, 2, 2, 2]])  # 3, 6, 1 and 1, 2, 7 nodes


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["a node", "an image", "everything"])
@pytest.mark.parametrize("all_distances", [False, True], ids=["by size", "all distances"])
def test_nan_features_stay_in_their_partition(bad, where, all_distances, monkeypatch):
    if all_distances:  # as exported programs and GPUs do it
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    x = torch.randn(2, 10, 4)
    x[{"a node": (0, 2), "an image": 0, "everything": slice(None)}[where]] = bad
    index = cluster_graph(x, UNEVEN, 3, 4).index
    assert ((index >= 0) & (index < 10)).all()
    assert torch.equal(UNEVEN.gather(1, index.flatten(1)).view_as(index), UNEVEN[..., None].expand_as(index))


@pytest.mark.parametrize("clusters", [4, 6])
@pytest.mark.parametrize("batch", [2, 3])
def test_nan_pixels_reach_the_loss_and_leave_other_images_alone(clusters, batch):
    model = create_model("cvig_nano", **TINY, clusters=clusters)
    images = torch.randn(batch, 3, 16, 16)
    images[0] = math.nan
    logits = model.eval()(images)
    assert logits[0].isnan().all() and logits[1:].isfinite().all()  # the NaN image leaves the others alone
    loss = model.train()(images).sum()
    assert loss.isnan()
    loss.backward()


def test_renumbering_the_partitions_changes_nothing():
    x, renumbered = torch.randn(2, 10, 4), torch.tensor([2, 0, 1])[UNEVEN]
    assert torch.equal(cluster_graph(x, UNEVEN, 3, 4).adj(), cluster_graph(x, renumbered, 3, 4).adj())


def test_duplicate_sources_count_once():
    x = torch.randn(2, 10, 4)
    graph = cluster_graph(x, UNEVEN, 3, 5)
    plain = Graph(10, weights=graph.adj())
    size = F.one_hot(UNEVEN, 3).sum(1).gather(1, UNEVEN)  # size of each node's partition
    assert torch.equal(graph.degree(), size.clamp(max=5)) and (size < 5).any()
    assert len(graph.edges()[0]) == int(size.clamp(max=5).sum())
    for aggregate in (aggregate_max, aggregate_sum, aggregate_mean, max_relative):
        torch.testing.assert_close(aggregate(x, graph), aggregate(x, plain))


@pytest.mark.parametrize("all_distances", [False, True], ids=["by size", "all distances"])
def test_nearly_equal_nodes_are_their_own_nearest_and_have_the_neighbours_of_float64(all_distances, monkeypatch):
    if all_distances:
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    x, labels = torch.randn(1, 1, 64) + 3e-4 * torch.randn(2, 196, 64), torch.randint(4, (2, 196))
    graph, exact = cluster_graph(x, labels, 4, 9), cluster_graph(x.double(), labels, 4, 9)
    assert (graph.index[..., 0] == torch.arange(196)).all()
    assert (graph.adj() & exact.adj()).sum() / exact.adj().sum() > 0.995
    alike = torch.ones(2, 196, 8)
    assert (cluster_graph(alike, labels, 4, 9).index[..., 0] == torch.arange(196)).all()


def test_an_image_does_not_depend_on_its_batch_in_evaluation():
    x, constructor = torch.randn(5, 40, 8), ClusterKNN(6, 4).eval()
    together = constructor(x).adj()
    for b in range(5):
        assert torch.equal(constructor(x[b:b + 1]).adj()[0], together[b])


def test_evaluation_leaves_the_global_generator_alone():
    x, constructor = torch.randn(2, 40, 8), ClusterKNN(6, 4)
    torch.manual_seed(7)
    expected = torch.rand(3)
    for mode in (False, True):
        torch.manual_seed(7)
        constructor.train(mode)(x)
        assert torch.equal(torch.rand(3), expected) != mode  # training does draw from it


def test_neighbours_are_picked_in_float32_and_without_gradient():
    x = (1 + 1e-3 * torch.randn(2, 30, 6)).requires_grad_()  # nodes that bfloat16 cannot tell apart
    constructor = ClusterKNN(5, 3).eval()
    expected = constructor(x).adj()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(constructor(x).adj(), expected)
    assert not expected.requires_grad
    rounded = x.detach().bfloat16()
    assert not torch.equal(constructor(rounded).adj(), expected), "these nodes do not tell the two precisions apart"
    many = torch.randn(2, 200, 24).bfloat16()  # enough that rounding their directions would swap some neighbours
    assert torch.equal(constructor(many).index, constructor(many.float()).index)


@pytest.mark.parametrize("k, clusters", [(0, 3), (3, 0), (-1, 3)])
def test_less_than_one_neighbour_or_partition_is_an_error(k, clusters):
    with pytest.raises(ValueError, match=f"k={k}, clusters={clusters}: both must be at least 1"):
        ClusterKNN(k, clusters)
