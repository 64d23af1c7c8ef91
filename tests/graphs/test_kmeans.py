"""Batched k-means against Lloyd's algorithm in numpy loops, and properties that hold for any data."""

import math

import numpy as np
import pytest
import torch

from helpers import assert_same, nodes
from vig_minimal.graphs.kmeans import fixed_start, kmeans, membership, partition_mean


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lloyd(x, centroids, iters):
    """Labels, centroids and the sum of squared distances after each round, for one image (N, C): plain loops."""
    x, centroids, sums, labels = x.numpy(), centroids.numpy().copy(), [], None
    for _ in range(iters):
        new = []
        for node in x:
            distances = [float(((node - centroid) ** 2).sum()) for centroid in centroids]
            new.append(distances.index(min(distances)))
        sums.append(sum(float(((node - centroids[j]) ** 2).sum()) for node, j in zip(x, new)))
        if new == labels:
            break
        labels = new
        for j in range(len(centroids)):
            members = [node for node, label in zip(x, labels) if label == j]
            if members:
                centroids[j] = np.mean(members, axis=0)
    return labels, centroids, sums


def inertia(x, labels, centroids):
    own = centroids.gather(1, labels[..., None].expand(-1, -1, x.shape[2]))
    return (x - own).square().sum((1, 2))


def blobs(batch, sizes, channels=5):
    """Well-separated groups of nodes, shuffled: (B, N, C) float64, and the group of each node, (B, N)."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    group = torch.stack([group[torch.randperm(len(group))] for _ in range(batch)])  # (B, N)
    middles = 100 * torch.randn(batch, len(sizes), channels, dtype=torch.float64)
    x = middles.gather(1, group[..., None].expand(-1, -1, channels))
    return x + 0.1 * torch.randn_like(x), group


@pytest.mark.parametrize("iters", [1, 2, 20])
def test_the_same_labels_as_lloyd_from_the_same_centroids(iters):
    x = torch.randn(4, 40, 6, dtype=torch.float64)
    start = x[:, :5]
    labels, centroids = kmeans(x, 5, iters, start)
    for b in range(4):
        expected, means, _ = lloyd(x[b], start[b], iters)
        assert labels[b].tolist() == expected
        np.testing.assert_allclose(centroids[b].numpy(), means, rtol=1e-10)


def test_well_separated_blobs_are_the_partition():
    x, group = blobs(3, [4, 9, 1, 16])
    first = torch.stack([(group[b] == j).nonzero()[0, 0] for b in range(3) for j in range(4)]).view(3, 4)
    for start in (x.gather(1, first[..., None].expand(-1, -1, 5)), "k-means++"):
        labels, _ = kmeans(x, 4, init=start, generator=generator())
        same = labels[:, :, None] == labels[:, None]
        assert torch.equal(same, group[:, :, None] == group[:, None])


def test_the_sum_of_squares_never_grows():
    x = torch.randn(6, 50, 3, dtype=torch.float64)
    sums = torch.stack([inertia(x, *kmeans(x, 7, iters, generator=generator())) for iters in range(1, 15)])
    assert (sums[1:] <= sums[:-1] + 1e-9).all() and (sums[-1] < sums[0]).all()


@pytest.mark.parametrize("init", ["random", "k-means++"])
@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_every_partition_has_a_node_and_centroids_are_means(init, k):
    x = torch.randn(5, 12, 4, dtype=torch.float64)
    labels, centroids = kmeans(x, k, init=init, generator=generator())
    assert labels.dtype == torch.int64 and labels.shape == (5, 12) and centroids.shape == (5, k, 4)
    for b in range(5):
        assert sorted(set(labels[b].tolist())) == list(range(k))
        for j in range(k):
            torch.testing.assert_close(centroids[b, j], x[b, labels[b] == j].mean(0))


@pytest.mark.parametrize("kind", ["constant", "two values", "one stands out", "duplicates", "huge", "squares overflow",
                                  "not numbers"])
@pytest.mark.parametrize("init", ["random", "k-means++"])
@pytest.mark.parametrize("iters", [1, 2, 20])
def test_difficult_data_ends_with_every_label(kind, init, iters):
    x = torch.zeros(3, 20, 4)
    if kind == "two values":
        x[:, ::3] = 1
    elif kind == "one stands out":
        x[:, 7] = 5
    elif kind == "duplicates":
        x = torch.randn(3, 5, 4).repeat(1, 4, 1)
    elif kind == "huge":
        x = 1e18 * torch.randn(3, 20, 4)
    elif kind == "squares overflow":
        x = 1e30 * torch.randn(3, 20, 4)
    elif kind == "not numbers":
        x[1, 3] = math.nan
        x[2, :, 1] = math.inf
    labels, _ = kmeans(x, 6, iters, init, generator())
    assert ((labels >= 0) & (labels < 6)).all()
    assert all(len(set(image.tolist())) == 6 for image in labels)


def test_an_empty_partition_gets_the_farthest_node():
    x = torch.tensor([0.0, 1.0, 2.0, 10.0, 30.0]).view(1, 5, 1)
    start = torch.tensor([1.0, 500.0, 600.0]).view(1, 3, 1)  # no node goes to the last two
    labels, _ = kmeans(x, 3, 1, start)
    assert labels.tolist() == [[0, 0, 0, 2, 1]]  # the first empty one gets the farthest node, the second the next


def test_a_partition_of_one_nan_node_stays():
    x = torch.tensor([0.0, math.nan, 1.0, 2.0]).view(1, 4, 1)
    start = torch.tensor([500.0, 0.0, 600.0]).view(1, 3, 1)  # only the NaN goes to the first, no node to the last
    labels, _ = kmeans(x, 3, 1, start)
    assert labels[0, 1] == 0 and sorted(set(labels[0].tolist())) == [0, 1, 2]


def test_an_image_does_not_depend_on_its_batch_and_the_seed_decides():
    x = torch.randn(6, 30, 4)
    for init in ("random", "k-means++"):
        labels, centroids = kmeans(x, 5, init=init, generator=generator())
        for b in (0, 5):
            alone, means = kmeans(x[b:b + 1], 5, init=init, generator=generator())
            assert torch.equal(alone[0], labels[b])
            torch.testing.assert_close(means[0], centroids[b])
        assert torch.equal(kmeans(x, 5, init=init, generator=generator())[0], labels)
        assert not torch.equal(kmeans(x, 5, init=init, generator=generator(1))[0], labels)


def test_k_means_plus_plus_starts_far_apart():
    x, group = blobs(1, [30, 30, 30])
    for seed in range(20):
        labels, _ = kmeans(x, 3, 1, "k-means++", generator(seed))
        assert torch.equal(labels[0, :, None] == labels[0], group[0, :, None] == group[0])


@pytest.mark.parametrize("init", ["given", "random", "k-means++"])
def test_nodes_far_from_the_origin_have_the_labels_of_float64(init):
    x = 400 + torch.randn(4, 196, 16)
    start = x[:, :6] if init == "given" else init
    exact, means = kmeans(x.double(), 6, init=start if init != "given" else start.double(), generator=generator())
    labels, centroids = kmeans(x, 6, init=start, generator=generator())
    assert (labels == exact).double().mean() > 0.999
    if init == "given":
        torch.testing.assert_close(centroids.double(), means, rtol=1e-6, atol=0)
        by_loops, _, _ = lloyd(x[0].double(), start[0].double(), 20)
        assert exact[0].tolist() == by_loops


def test_centroids_can_be_given_for_all_images_at_once():
    x = torch.randn(3, 20, 4)
    start = torch.randn(5, 4)
    assert torch.equal(kmeans(x, 5, init=start)[0], kmeans(x, 5, init=start.expand(3, 5, 4))[0])


def test_no_gradient_and_no_half_precision():
    x = (1000 + torch.randn(2, 30, 4)).requires_grad_()  # all equal in bfloat16
    labels, centroids = kmeans(x, 4, init=x.detach()[:, :4])
    assert not centroids.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        again, means = kmeans(x, 4, init=x.detach()[:, :4])
    assert torch.equal(again, labels) and means.dtype == torch.float32 and torch.equal(means, centroids)


def test_partition_means_pass_a_gradient_to_the_nodes_only():
    x, labels = nodes(2, 9, 3), torch.tensor([[0, 1, 1, 2, 2, 2, 2, 0, 3]] * 2)
    expected = torch.stack([torch.stack([sum(x[b, v] for v in range(9) if labels[b, v] == j)
                                         / sum(int(labels[b, v] == j) for v in range(9)) for j in range(4)])
                            for b in range(2)])
    assert_same(partition_mean(x, membership(labels, 4)), expected, [x])


@pytest.mark.parametrize(("change", "message"), [
    ({"k": 9}, "k-means of 8 nodes with k=9"), ({"k": 0}, "k=0"), ({"iters": 0}, "iters=0"),
    ({"init": "forgy"}, "init='forgy': choose random, k-means"),
])
def test_arguments_that_cannot_work_are_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        kmeans(torch.randn(1, 8, 2), **({"k": 3} | change))


def test_a_partition_by_hand():
    """Of the features, not of their directions: 1, 2 and 9, 10 and 30 on one ray. Two rounds move 9 to the middle."""
    x = torch.tensor([1.0, 2.0, 9.0, 10.0, 30.0])[None, :, None] * torch.tensor([0.6, 0.8])
    for iters, partition, middles in ((1, [0, 1, 1, 1, 2], [1, 7, 30]), (2, [0, 0, 1, 1, 2], [1.5, 9.5, 30])):
        labels, centroids = kmeans(x, 3, iters, x[:, [0, 1, 4]])
        assert labels[0].tolist() == partition
        torch.testing.assert_close(centroids[0], torch.tensor(middles)[:, None] * torch.tensor([0.6, 0.8]))


def test_twenty_rounds_are_the_default():
    """On a line, from its first nodes, where neither nineteen rounds nor twenty-one have the same partition."""
    x = torch.arange(300, dtype=torch.float64).pow(1.1)[None, :, None]
    labels, centroids = kmeans(x, 4, init=x[:, :4])
    by_loops = {rounds: lloyd(x[0], x[0, :4], rounds) for rounds in (19, 20, 21)}
    assert labels[0].tolist() == by_loops[20][0] and by_loops[19][0] != by_loops[20][0] != by_loops[21][0]
    np.testing.assert_allclose(centroids[0].numpy(), by_loops[20][1])


def test_k_means_plus_plus_draws_by_the_square_of_the_distance():
    """Nodes at 0, 1 and 3 (Arthur and Vassilvitskii, 2007): from 0, the second centroid is 3 in 9 of 10 draws; from 1,
    in 4 of 5; from 3, the other is 0 in 9 of 13."""
    x, pairs = torch.tensor([0.0, 1.0, 3.0])[None, :, None], {0.0: [], 1.0: [], 3.0: []}
    for seed in range(3000):
        draws = torch.rand(2, generator=generator(seed)).tolist()
        first = [0.0, 1.0, 3.0][int(3 * draws[0])]
        share, chosen = 0.0, None
        for node in (0.0, 1.0, 3.0):
            share += (node - first) ** 2 / sum((other - first) ** 2 for other in (0.0, 1.0, 3.0))
            chosen = node if chosen is None and share > draws[1] else chosen
        pairs[first].append(chosen)
        starts = torch.tensor([first, chosen])
        expected = (x[0] - starts).abs().argmin(1).tolist()
        assert kmeans(x, 2, 1, "k-means++", generator(seed))[0][0].tolist() == expected
    for first, second, share in ((0.0, 3.0, 9 / 10), (1.0, 3.0, 4 / 5), (3.0, 0.0, 9 / 13)):
        assert pairs[first].count(second) / len(pairs[first]) == pytest.approx(share, abs=0.04)


def test_k_means_plus_plus_never_draws_a_node_twice(monkeypatch):
    """Not even where the draw is exactly 0, the share of the first node, which is taken already."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(shape))
    x = torch.tensor([0.0, 1.0, 5.0, 6.0])[None, :, None]
    labels, centroids = kmeans(x, 2, 1, "k-means++")
    assert labels[0].tolist() == [0, 1, 1, 1] and centroids[0, :, 0].tolist() == [0, 4]  # from 0 and 1


def test_the_fixed_start_is_fixed():
    # drawn by Python's generator, the same on every machine: a checkpoint's evaluation begins here
    assert (fixed_start(196, 4), fixed_start(49, 6)) == ((98, 194, 107, 10), (24, 26, 2, 16, 32, 31))
    assert fixed_start(196, 4) == fixed_start(196, 4) and len(set(fixed_start(50, 50))) == 50
    with pytest.raises(ValueError, match="5 partitions of 4 nodes"):
        fixed_start(4, 5)


def test_compiled_rounds_are_the_same():
    x = torch.randn(3, 40, 6)
    compiled = torch.compile(lambda x, start: kmeans(x, 5, init=start), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, x[:, :5])[0], kmeans(x, 5, init=x[:, :5])[0])


def test_all_rounds_end_where_stopping_early_does(monkeypatch):
    x = torch.randn(3, 40, 6)
    early = kmeans(x, 5, init=x[:, :5])
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)  # an exported program does all 20 rounds, as a GPU does
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kmeans(x, 5, init=x[:, :5]), early, strict=True))
