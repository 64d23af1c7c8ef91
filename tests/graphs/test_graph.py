"""graph.py: the contract. Rows are targets, columns are sources."""

import dataclasses

import pytest
import torch

from helpers import assert_same, directed_edges, directed_groups, directed_weights, graph_of_kind, random_index
from vig_minimal import Graph
from vig_minimal.constructors.hypergraph import HyperedgeGraph
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.models.clustervig import ClusterGraph

# One image, 3 targets, 4 sources. Target 0 reads from sources 1 and 3, target 2 from source 0, target 1 has no source.
DIRECTED = torch.tensor([[[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]], dtype=torch.bool)


def test_rows_are_targets_and_columns_are_sources():
    graph = Graph(4, weights=DIRECTED)
    sources = torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]])  # (1, M, 1)
    gathered = graph.adj().float() @ sources
    assert gathered.flatten().tolist() == [1010.0, 0.0, 1.0]
    assert (graph.num_targets, graph.num_sources) == (3, 4)
    assert graph.degree().tolist() == [[2, 0, 1]]


def test_an_index_gives_the_adjacency_its_rows_list():
    index = torch.tensor([[[2, 0], [1, 3], [3, 2]]])  # (1, 3, 2)
    graph = Graph(4, index=index)
    expected = [[[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]]
    assert graph.adj().dtype == torch.bool
    assert graph.adj().int().tolist() == expected
    assert graph.index is index
    assert graph.degree().tolist() == [[2, 2, 2]]
    assert (graph.num_targets, graph.num_sources) == (3, 4)


def test_adjacency_of_a_random_index_edge_by_edge():
    index = random_index(2, 5, 7, k=3)
    adj = Graph(7, index=index).adj()
    for b in range(2):
        for i in range(5):
            for j in range(7):
                assert adj[b, i, j].item() == (j in index[b, i].tolist())


def test_weights_are_kept_as_they_are_and_zero_is_no_edge():
    weights = torch.tensor([[[0.0, 0.5], [-2.0, 0.0]]])
    graph = Graph(2, weights=weights)
    assert graph.adj() is weights
    assert graph.index is None
    assert graph.degree().tolist() == [[1, 1]]


def test_edge_list_names_image_target_source_and_weight():
    weights = torch.tensor([[[0.0, 0.5, 0.0]], [[-2.0, 0.0, 3.0]]])  # (2, 1, 3)
    image, target, source, weight = Graph(3, weights=weights).edges()
    edges = list(zip(image.tolist(), target.tolist(), source.tolist(), weight.tolist(), strict=True))
    assert edges == [(0, 0, 1, 0.5), (1, 0, 0, -2.0), (1, 0, 2, 3.0)]


def test_an_index_and_its_adjacency_have_the_same_edge_list():
    indexed = Graph(6, index=random_index(2, 6, 6, k=2))
    dense = Graph(6, weights=indexed.adj())
    for ours, theirs in zip(indexed.edges(), dense.edges(), strict=True):
        assert torch.equal(ours, theirs)


def test_statistics_of_a_graph_counted_by_hand():
    # Edges (target, source): (0, 0), (0, 1), (0, 2), (1, 0). Node 2 has no source.
    adj = torch.tensor([[[1, 1, 1], [1, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    statistics = Graph(3, weights=adj).statistics()
    expected = {"mean_degree": 4 / 3, "min_degree": 0, "max_degree": 3, "density": 4 / 9, "isolated": 1 / 3,
                "self_loops": 1 / 3, "reciprocity": 3 / 4}
    assert statistics == pytest.approx(expected)


def test_self_loops_are_counted_only_if_nodes_are_their_own_sources():
    statistics = Graph(4, weights=DIRECTED).statistics()
    assert statistics["mean_degree"] == 1 and statistics["density"] == 0.25
    assert "self_loops" not in statistics and "reciprocity" not in statistics


def test_an_index_and_its_adjacency_have_the_same_statistics():
    indexed = Graph(6, index=random_index(2, 6, 6, k=4))
    assert indexed.statistics() == pytest.approx(Graph(6, weights=indexed.adj()).statistics())


def test_a_graph_without_edges_has_statistics():
    statistics = Graph(3, weights=torch.zeros(1, 3, 3)).statistics()
    assert statistics["isolated"] == 1 and statistics["mean_degree"] == 0 and statistics["reciprocity"] == 0


DENSE = {"index": torch.zeros(1, 1, 1, dtype=torch.int64), "weights": torch.ones(1, 1, 2)}


@pytest.mark.parametrize("fields", [{}, DENSE], ids=["neither", "an index and a dense adjacency"])
def test_a_graph_takes_an_index_or_weights_or_an_index_with_its_weights(fields):
    with pytest.raises(ValueError, match="index.*weights"):
        Graph(2, **fields)


def test_weights_of_an_index_are_those_of_its_edges():
    index = torch.tensor([[[2, 0], [1, 2]]])
    graph = Graph(3, index=index, weights=torch.tensor([[[0.5, -2.0], [0.0, 3.0]]]))
    assert graph.adj().tolist() == [[[-2.0, 0, 0.5], [0, 0, 3.0]]]
    assert graph.degree().tolist() == [[2, 1]] and (graph.num_targets, graph.num_sources) == (2, 3)
    assert [part.tolist() for part in graph.edges()] == [[0, 0, 0], [0, 0, 1], [0, 2, 2], [-2.0, 0.5, 3.0]]


def test_a_graph_cannot_be_changed():
    graph = Graph(4, weights=directed_edges(1, 4, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.num_sources = 5


def by_loops(graph: Graph):
    """Edges in PyG's order and numbering, and their weights: image by image, target by target, source by source."""
    edges, weights, adj = [], [], graph.union().adj()
    for b in range(adj.shape[0]):
        for i in range(adj.shape[1]):
            for j in range(adj.shape[2]):
                if adj[b, i, j] != 0:
                    edges.append((b * adj.shape[2] + j, b * adj.shape[1] + i))
                    weights.append(adj[b, i, j])
    return torch.tensor(edges).T, torch.stack(weights)


@pytest.mark.parametrize("kind", ["edges", "weights", "index"])
@pytest.mark.parametrize("num_sources", [15, 4])  # nodes of a 3 × 5 grid, or pooled ones
def test_edge_index_is_that_of_pyg(kind, num_sources):
    graph = graph_of_kind(kind, 2, 15, num_sources)
    edges, weights = by_loops(graph)
    assert graph.edge_index().dtype == torch.int64 and torch.equal(graph.edge_index(), edges)
    assert torch.equal(graph.edge_weight(), weights) if kind == "weights" else graph.edge_weight() is None


def test_edge_index_by_hand():
    graph = Graph(4, weights=torch.cat([DIRECTED, DIRECTED.roll(1, 2)]))  # two images
    assert graph.edge_index().tolist() == [[1, 3, 0, 4, 6, 5], [0, 0, 2, 3, 3, 5]]  # sources; targets


def test_messages_along_edge_index_are_those_along_the_adjacency():
    leaf, x = directed_weights(2, 15, 15), torch.randn(2, 15, 3, dtype=torch.float64)
    graph = Graph(15, weights=leaf * (leaf != 0))
    source, target = graph.edge_index()
    message = graph.edge_weight()[:, None] * x.flatten(0, 1)[source]  # (E, C)
    gathered = torch.zeros(30, 3, dtype=torch.float64).index_add(0, target, message).unflatten(0, (2, 15))
    assert_same(gathered, graph.adj() @ x, [leaf])


def test_edge_index_of_groups_is_their_union_and_of_hyperedges_who_shares_one():
    graph = directed_groups(2)
    assert torch.equal(graph.edge_index(), by_loops(graph)[0]) and graph.edge_weight() is None
    member = torch.tensor([[[1, 0], [1, 1], [0, 1]]], dtype=torch.bool)  # node 1 is in both hyperedges
    shared = HyperedgeGraph(3, index=torch.arange(3)[None, :, None], member=member)
    assert shared.edge_index().tolist() == [[0, 1, 0, 1, 2, 1, 2], [0, 0, 1, 1, 1, 2, 2]]


INDEX = torch.zeros(2, 15, 9, dtype=torch.int64)
REPR = {
    "Graph(B=2, N=15, k=9)": Graph(15, index=INDEX),
    "Graph(B=2, N=15, M=4, k=9, weights=float64)": Graph(4, index=INDEX, weights=INDEX.double()),
    "Graph(B=1, N=3, M=4, edges=3)": Graph(4, weights=DIRECTED),
    "Graph(B=1, N=3, M=4, edges=3, weights=bfloat16)": Graph(4, weights=DIRECTED.bfloat16()),
    "GroupGraph(B=2, N=15, M=4, G=3, k=9)": GroupGraph(4, index=INDEX[:, None].expand(-1, 3, -1, -1)),
    "HyperedgeGraph(B=2, N=15, k=1)": HyperedgeGraph(15, index=INDEX[..., :1]),
    "ClusterGraph(B=2, N=15, k=9)": ClusterGraph(15, INDEX, labels=INDEX[..., 0]),
    "Graph(B=1, N=3, weights=float32)": Graph(3, weights=torch.ones(1, 3, 3, device="meta")),
}


@pytest.mark.parametrize("text", REPR)
def test_repr_is_one_line(text):
    assert repr(REPR[text]) == text
