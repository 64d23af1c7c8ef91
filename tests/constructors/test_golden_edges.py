"""Edges written down by hand, and rules at their limits: whole windows and cut ones, distances of exactly a threshold,
sides that a step divides, rounds that are not yet enough."""

import pytest
import torch
from torch import Tensor

from helpers import features
from reference.constructors import lloyd, start
from reference.places import fuzzy_c_means
from vig_minimal import Graph, create_model
from vig_minimal.constructors import DAGC, LSGC, MGC, SVGA, ClusterKNN, Hypergraph, Surroundings, WindowKNN
from vig_minimal.constructors.cluster_knn import cluster_graph
from vig_minimal.graphs.fast import partitions


def sources(constructor, grid: tuple[int, int], row: int, column: int, x: Tensor | None = None) -> set[tuple[int, int]]:
    """Rows and columns of the sources of one node; of random features unless some are given."""
    x = torch.randn(1, grid[0] * grid[1], 4) if x is None else x
    graph = constructor(x, grid)
    return {divmod(int(j), grid[1]) for j in graph.adj()[0, row * grid[1] + column].nonzero()}


# ---- along rows and columns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constructor, grid, node, expected", [
    # every second node of row and column, one way round; 6 and 4 are multiples of K, 5 is none
    (SVGA(2), (6, 4), (1, 0), {(1, 0), (5, 0), (3, 0), (1, 2)}),
    (SVGA(2), (5, 3), (0, 1), {(0, 1), (3, 1), (1, 1), (0, 2)}),
    (SVGA(3), (9, 10), (8, 9), {(8, 9), (5, 9), (2, 9), (8, 6), (8, 3), (8, 0)}),
    # MobileViGv2: K = 8, 4, 2 at 28, 14 and 7 nodes a side
    (MGC(), (28, 28), (0, 0), {(0, 0), (8, 0), (20, 0), (0, 8), (0, 20)}),
    (MGC(), (14, 14), (0, 0), {(0, 0), (4, 0), (10, 0), (0, 4), (0, 10)}),
    (MGC(), (7, 7), (3, 3), {(3, 3), (5, 3), (1, 3), (3, 5), (3, 1)}),
    (MGC(), (28, 7), (3, 3), {(3, 3), (5, 3), (1, 3), (3, 5), (3, 1)}),  # of the shorter side
    # LogViG: K^n - 1 both ways, n up to the bits of the side less one: 1, 3 and 7 of 14
    (LSGC(2), (14, 14), (0, 0), {(0, 0), (1, 0), (13, 0), (3, 0), (11, 0), (7, 0),
                                 (0, 1), (0, 13), (0, 3), (0, 11), (0, 7)}),
    (LSGC(2), (7, 4), (0, 0), {(0, 0), (1, 0), (6, 0), (3, 0), (4, 0), (0, 1), (0, 3)}),
    # 2 and 8 of 9 and of 10; 26 is beyond both
    (LSGC(3), (9, 10), (0, 0), {(0, 0), (2, 0), (7, 0), (8, 0), (1, 0), (0, 2), (0, 8)}),
    (Surroundings(), (4, 5), (0, 0), {(0, 0), (0, 1), (1, 0), (1, 1)}),
    (Surroundings(), (4, 5), (3, 2), {(3, 1), (3, 2), (3, 3), (2, 1), (2, 2), (2, 3)}),
])
def test_edges_by_hand(constructor, grid, node, expected):
    assert sources(constructor, grid, *node) == expected


def test_a_distance_of_exactly_mu_minus_sigma_is_no_edge():
    """GreedyViG: strictly below. In an image of one colour every distance is 0, and so are μ and σ."""
    assert torch.equal(DAGC(2)(torch.ones(1, 24, 3), (4, 6)).adj()[0], torch.eye(24, dtype=torch.bool))


def test_near_sources_of_a_row_and_a_column_are_told_apart():
    """6 × 4, K = 2, where K divides both sides: node (0, 0) is near (2, 0), and far from (4, 0) and (0, 2)."""
    x = torch.arange(24.0)[None, :, None] * 50
    x[0, [0, 8]], x[0, [16, 2]] = 100.0, 1000.0
    assert sources(DAGC(2), (6, 4), 0, 0, x) == {(0, 0), (2, 0)}
    x[0, [0, 2]], x[0, [16, 8]] = 100.0, 1000.0
    assert sources(DAGC(2), (6, 4), 0, 0, x) == {(0, 0), (0, 2)}


# ---- windows ---------------------------------------------------------------------------------------------------------


def block_graphs(img_size: tuple[int, int], **fields) -> list[Graph]:
    """The graphs of the two blocks of a small model in patches of 4 pixels."""
    model = create_model("vig_nano", dim=8, depth=2, num_classes=2, img_size=img_size, patch=4, **fields).eval()
    with torch.no_grad():
        return model(torch.randn(1, 3, *img_size), return_graphs=True)[1]


def test_shifted_windows_of_seven_on_fourteen():
    """WiGNet at 224 pixels: shifted by ⌊7/2⌋ = 3, so rows 0 to 2, 3 to 9 and 10 to 13; all of a window are k' of 49."""
    graph = WindowKNN(49, 7, 3)(torch.randn(1, 196, 5), (14, 14))
    degree = graph.degree()[0].view(14, 14)
    for r, rows in enumerate([3] * 3 + [7] * 7 + [4] * 4):
        assert degree[r].tolist() == [rows * columns for columns in [3] * 3 + [7] * 7 + [4] * 4]
    assert sources(WindowKNN(49, 7, 3), (14, 14), 12, 1) == {(r, c) for r in range(10, 14) for c in range(3)}


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_cut_window_has_three_neighbours_at_least_and_a_whole_one_has_k(k):
    """k' = max(⌊k · allowed / 9⌋, 3), at most `allowed`, in windows of fewer than 9 nodes."""
    degree = WindowKNN(k, 3, 1)(torch.randn(1, 49, 4), (7, 7)).degree()[0].view(7, 7)
    cut = [1] + [3] * 3 + [3] * 3  # rows 0; 1 to 3; 4 to 6: of one row and of three
    for r in range(7):
        for c in range(7):
            allowed = cut[r] * cut[c]
            assert degree[r, c] == (k if allowed == 9 else min(allowed, max(k * allowed // 9, 3)))


def test_windows_of_a_model_are_half_of_the_shorter_side_and_shifted_in_every_second_block():
    plain, shifted = block_graphs((24, 60), graph="window_knn", k=9)  # 6 × 15 nodes: windows of 3, shifted by 1
    assert sources_of(plain, 0, 15) == {(r, c) for r in range(3) for c in range(3)}
    assert sources_of(shifted, 0, 15) == {(0, 0)} and sources_of(shifted, 16, 15) == {
        (r, c) for r in range(1, 4) for c in range(1, 4)}


def test_one_window_that_is_the_whole_grid_is_never_shifted():
    for window in (4, 7):
        for graph in block_graphs((16, 16), graph="window_knn", window=window, k=16):
            assert graph.adj().all()


def sources_of(graph: Graph, node: int, width: int) -> set[tuple[int, int]]:
    return {divmod(int(j), width) for j in graph.adj()[0, node].nonzero()}


@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_a_node_is_its_own_nearest_in_its_window(spread):
    x = torch.randn(1, 1, 64) + spread * torch.randn(2, 90, 64)
    for shift in (0, 2):
        index = WindowKNN(3, 5, shift)(x, (9, 10)).index
        assert (index[..., 0] == torch.arange(90)).all()


# ---- hyperedges ------------------------------------------------------------------------------------------------------


def test_hyperedges_grow_from_25_to_50_over_the_blocks_at_224_pixels():
    model = create_model("vig_ti", graph="hypergraph", dim=16, num_classes=2).eval()
    with torch.no_grad():
        graphs = model(torch.randn(1, 3, 224, 224), return_graphs=True)[1]
    assert [graph.member.shape[2] for graph in graphs] == [25, 27, 29, 31, 34, 36, 38, 40, 43, 45, 47, 50]


def test_few_nodes_have_a_quarter_of_them_to_half():
    for size, expected in (((12, 20), [3, 6]), ((24, 60), [22, 44]), ((40, 44), [25, 50]), ((4, 8), [1, 2])):
        assert [graph.member.shape[2] for graph in block_graphs(size, graph="hypergraph")] == expected


def test_a_membership_of_exactly_a_hundredth_is_none():
    """One hundred hyperedges around equal nodes: every membership is 1/100, and 0.01 is not above 0.01."""
    assert not Hypergraph(100).eval()(torch.ones(1, 120, 3)).member.any()
    assert Hypergraph(99).eval()(torch.ones(1, 120, 3)).member.all()


@pytest.mark.slow
def test_fuzzy_c_means_does_twenty_rounds():
    """On features where fifteen rounds, nineteen or twenty-one have other hyperedges."""
    torch.manual_seed(3)
    x = features(1, 90, 4)[0]
    centres = [x[n] for n in start(90, 22)]
    found = Hypergraph(22).eval()(x[None]).member[0]
    by_rounds = {rounds: torch.tensor(fuzzy_c_means(x, list(centres), rounds)) > 0.01 for rounds in (15, 20, 25)}
    assert torch.equal(found, by_rounds[20])
    assert not torch.equal(found, by_rounds[15]) and not torch.equal(found, by_rounds[25])


# ---- partitions and labels -------------------------------------------------------------------------------------------


def test_partitions_are_those_of_twenty_rounds_over_features():
    """Nodes on a line, where k-means takes long: ten rounds have another partition, and so have unit vectors."""
    x = torch.linspace(1, 2, 300, dtype=torch.float64).pow(3)[:, None].repeat(1, 2) * torch.tensor([1.0, -1.0])
    labels = {rounds: torch.tensor(lloyd(x, [x[n] for n in start(300, 4)], rounds)) for rounds in (10, 20)}
    adj = ClusterKNN(300, 4).eval()(x[None]).adj()[0]  # all of a partition
    assert torch.equal(adj, labels[20][:, None] == labels[20]) and not torch.equal(labels[10], labels[20])


def test_a_node_is_its_own_nearest_in_its_partition_wherever_its_block_begins(monkeypatch):
    monkeypatch.setattr(partitions, "DISTANCES", 100)  # some rows of distances at a time
    x = torch.ones(2, 60, 8)
    index = cluster_graph(x, torch.arange(60).expand(2, -1) % 3, 3, 4).index
    assert (index[..., 0] == torch.arange(60)).all()


def test_few_labels_have_nine_neighbours_among_the_patches():
    """k follows from the sources, the patches, and not from the targets, three labels."""
    model = create_model("gkgnet_nano", num_classes=3, img_size=64).eval()
    with torch.no_grad():
        graphs = model(torch.randn(1, 3, 64, 64), return_graphs=True)[1]
    of_labels = [graph for graph in graphs if graph.num_targets == 3]
    assert [graph.index.shape[-1] for graph in of_labels] == [min(9, graph.num_sources) for graph in of_labels]
    assert len(of_labels) == 4 and all(graph.num_sources > 3 for graph in of_labels)
