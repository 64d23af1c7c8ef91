"""Mistakes as somebody wrote them, by other operations than those that the checks compare with."""

import pytest
import tensors
import torch

from vig_minimal.learn.check import check
from vig_minimal.learn.lessons import owner


def quantile_graph(x, q):
    z = tensors.standardise(tensors.similarity(x))
    return z > torch.quantile(z, q)


def transposed_heads(x, weight):
    size = weight.shape[1]
    return torch.cat([x[..., h * size:(h + 1) * size] @ weight[h].T for h in range(len(weight))], -1)


def graph_of_x(x, w_in, w_update, w_out, k):
    h = x @ w_in
    m = tensors.max_relative(h, h, tensors.adjacency(tensors.nearest(x, k), x.shape[1]))
    return x + torch.nn.functional.gelu(tensors.in_heads(tensors.interleave(h, m), w_update)) @ w_out


def winner_without_sources(x, y, adj, grad):
    grad_y = torch.zeros_like(y)
    winner = torch.where(adj[..., None], y[:, None], -torch.inf).argmax(2)
    return -grad, grad_y.scatter_add(1, winner, grad)


def inside(features, fill):
    """nearest_inside with some features and a distance for other partitions."""
    def nearest_inside(x, labels, k):
        adj = torch.zeros(len(x), x.shape[1], x.shape[1], dtype=torch.bool)
        for b, i in torch.cartesian_prod(torch.arange(len(x)), torch.arange(x.shape[1])).tolist():
            d = (features(x)[b] - features(x)[b, i]).square().sum(1)
            d = torch.where(labels[b] == labels[b, i], d, d + fill)
            order = [j for j in d.argsort().tolist() if d[j] < torch.inf]
            adj[b, i, order[:k]] = True
        return adj
    return nearest_inside


@pytest.mark.parametrize("name, wrong, words", [
    ("places", lambda grid: tensors.places(grid) * 1.0, "They count rows and columns: whole numbers."),
    ("mean_of_sources", lambda adj, x: adj.mT.to(x) @ x / tensors.degree(adj)[..., None], "Rows and columns are exch"),
    ("mean_of_sources", lambda adj, x: torch.einsum("bji,bjc->bic", adj.to(x), x)
     / tensors.degree(adj)[..., None].clamp(min=1), "Rows and columns are exchanged"),
    ("max_relative_gradient", winner_without_sources, "It has no winner: no gradient."),
    ("in_heads", transposed_heads, "were transposed"),
    ("grapher", graph_of_x, "x said who is near"),
    ("threshold_graph", quantile_graph, "keeps a share 1 - q of the pairs exactly"),
    ("nearest_inside", inside(lambda x: x, torch.inf), "where are the unit features?"),
    ("nearest_inside", inside(tensors.unit, 50.0), "reached into others to have k"),
    ("join", lambda x, m, z, labels: torch.stack([x, m, z[:, labels[0]]], -1).flatten(2), "labels of the first image"),
])
def test_a_students_mistake_is_named(name, wrong, words):
    lesson = owner(name)
    answers = {task.name: task.right for task in lesson.checks().TASKS}
    report = check(lesson, {**answers, name: wrong})
    assert not report.done and words in " ".join(report.text.split()), report.text


@pytest.mark.parametrize("name", ["max_relative", "means", "soft_threshold", "strongest"])
def test_a_gradient_that_is_missing_is_said_once(name):
    lesson = owner(name)
    answers = {task.name: task.right for task in lesson.checks().TASKS}

    def cut(*given):
        return answers[name](*given).detach()

    report = check(lesson, {**answers, name: cut})
    assert not report.done and report.text.count("The numbers are right") == 1, report.text
