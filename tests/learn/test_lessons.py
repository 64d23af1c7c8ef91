"""The twelve lessons and what their checks find: right answers in three ways, known mistakes, other mistakes."""

import ast
import re
from types import SimpleNamespace

import loops
import pytest
import tensors
import torch
from answering import functions

from vig_minimal.learn.check import check
from vig_minimal.learn.checks import labels, partitions
from vig_minimal.learn.lessons import LESSONS, owner
from vig_minimal.learn.task import Open, draw
from vig_minimal.learn.where import place
from vig_minimal.models.cnn2graph import CNN2GNN

lessons = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


def right(lesson) -> dict:
    """The package's own answers to a lesson."""
    return {task.name: task.right for task in lesson.checks().TASKS}


def flat(text: str) -> str:
    return " ".join(text.split())


def sentences(lesson) -> list[str]:
    """The sentences of all known mistakes of a lesson."""
    return [sentence for task in lesson.checks().TASKS
            for sentence, _ in (task.rules if isinstance(task, Open) else task.mistakes)]


def said(text: str) -> list[str]:
    """The sentences of known mistakes, of any lesson, that a report has."""
    return sorted({s for lesson in LESSONS for s in sentences(lesson) if flat(s) in flat(text)})


# ---- the files


@lessons
def test_a_file_is_short_and_has_what_a_lesson_needs(lesson):
    text = lesson.text()
    lines = text.splitlines()
    assert len(lines) <= 90 and max(map(len, lines)) <= 120
    assert text.startswith(f'"""Lesson {lesson.number}: {lesson.title}.\n') and "\nSymbols: " in text
    names = functions(lesson)
    assert 1 <= len(names) <= 3 and names == [task.name for task in lesson.checks().TASKS]
    for function in [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]:
        assert "(B, " in ast.get_docstring(function) or "whole numbers" in ast.get_docstring(function), function.name
        assert function.returns and all(argument.annotation for argument in function.args.args), function.name
    assert re.search(r'\n\n\nif __name__ == "__main__":\n    from vig_minimal\.learn import (race, )?show\n', text)


def test_functions_have_names_of_their_own_and_earlier_ones_come_from_earlier_lessons():
    names = [name for lesson in LESSONS for name in functions(lesson)]
    assert len(names) == len(set(names))
    for lesson in LESSONS:
        for call in re.findall(r"earlier\(\s*__file__, ([^)]+)\)", lesson.text()):
            used = ast.literal_eval(f"[{call}]")
            assert all(owner(name).number < lesson.number for name in used)
            assert all(lesson.text().count(name) > 2 or lesson.number in (6, 7, 9, 11, 12) for name in used)


@lessons
def test_hints_and_places_are_there(lesson):
    checks = lesson.checks()
    hints = sum(checks.HINTS.values(), ())
    assert list(checks.HINTS) == functions(lesson) and all(checks.HINTS.values())
    assert 3 <= len(hints) <= 5 and len(sentences(lesson)) >= 4
    for text in (*hints, *sentences(lesson), *(getattr(task, "returns", "") for task in checks.TASKS)):
        assert text.isascii() and "  " not in text
    for task in checks.TASKS:
        for name in task.where:
            file, line = place(name)
            word = name.split(".")[-1]
            assert any(word in text for text in file.read_text(encoding="utf-8").splitlines()[line - 1:line + 2]), name


# ---- what the checks say


@lessons
def test_as_given_it_is_not_written_yet(lesson):
    names = {"__name__": "lesson", "__file__": lesson.file}
    exec(compile(lesson.text(), lesson.file, "exec"), names)
    report = check(lesson, names)
    assert not report.done and "not written yet" in report.text and not said(report.text)


@lessons
@pytest.mark.parametrize("answers", [None, loops, tensors], ids=["the package's", "loops", "tensors"])
def test_right_answers_pass(lesson, answers):
    report = check(lesson, vars(answers) if answers else right(lesson))
    assert report.done, report.text
    assert report.text.count("right") == len(lesson.checks().TASKS)


@lessons
def test_each_known_mistake_gets_its_own_sentence_and_no_other(lesson):
    for task in lesson.checks().TASKS:
        for sentence, wrong in () if isinstance(task, Open) else task.mistakes:
            report = check(lesson, {**right(lesson), task.name: wrong})
            assert not report.done and said(report.text) == [sentence], f"{task.name}: {sentence}\n{report.text}"
            assert max(map(len, report.text.splitlines())) < 80 and report.text.isascii()


BROKEN_RULES = [
    (lambda nodes, grid: None, "None"),
    (lambda nodes, grid: [nodes], "one tensor"),
    (lambda nodes, grid: torch.zeros(len(nodes), nodes.shape[1], 4, dtype=torch.int64), "numbers of the sources"),
    (lambda nodes, grid: torch.ones(nodes.shape[1], nodes.shape[1]), "One graph for all images"),
    (lambda nodes, grid: torch.ones(len(nodes), 2, 2), "its shape should be (3, 12, 12)"),
    (lambda nodes, grid: nodes @ nodes.mT / 0, "NaNs"),
    (lambda nodes, grid: torch.rand(len(nodes), nodes.shape[1], nodes.shape[1]) > 0.5, "Two calls"),
    (lambda nodes, grid: nodes @ nodes.mT > (nodes @ nodes.mT).mean(), "dimension 0"),
    (lambda nodes, grid: torch.zeros(len(nodes), nodes.shape[1], nodes.shape[1]), "No target has a source"),
    (lambda nodes, grid: torch.eye(nodes.shape[1]).expand(len(nodes), -1, -1), "That is `none`"),
    (lambda nodes, grid: (nodes @ nodes.mT).exp(), "complete graph"),
    (lambda nodes, grid: tensors.adjacency(tensors.nearest(nodes, 5), nodes.shape[1]), "That is k-NN"),
    (lambda nodes, grid: torch.roll(torch.eye(12), 1, 1).expand(len(nodes), -1, -1), "on the grid (3, 4) alone"),
]


@pytest.mark.parametrize("graph, words", BROKEN_RULES, ids=[words for _, words in BROKEN_RULES])
def test_a_graph_of_ones_own_that_breaks_a_rule_is_told_which(graph, words):
    report = check(LESSONS[11], {"my_graph": graph})
    assert not report.done and len(said(report.text)) == 1 and words in flat(report.text), report.text
    assert len(BROKEN_RULES) == len(LESSONS[11].checks().TASKS[0].rules)


WRONG = [
    ("to_nodes", lambda image, patch: tensors.to_nodes(image.flip(3), patch)),
    ("places", lambda grid: tensors.places(grid) * 2),
    ("degree", lambda adj: tensors.degree(adj) + 1),
    ("mean_of_sources", lambda adj, x: 1.01 * tensors.mean_of_sources(adj, x)),
    ("unit", lambda x: tensors.unit(x.float()).double()),  # seven digits are not enough
    ("squared_distances", lambda x, y: tensors.squared_distances(x, y) + 1e-6),
    ("nearest", lambda x, k: tensors.nearest(x, k) if x.shape[1] == 4 else tensors.nearest(x, k) * 0),
    ("dilated", lambda x, k, d: tensors.nearest(x, k * d)[..., k * d - k * d // d:].flip(-1)),
    ("neighbours", lambda k, depth: [k] * depth),
    ("max_relative", lambda x, y, adj: tensors.max_relative(x, y, adj).relu()),
    ("max_relative", lambda x, y, adj: tensors.max_relative(x, y.detach(), adj)),  # half of its gradient
    ("soft_threshold", lambda score, tau: tensors.soft_threshold(2 * score, 2 * tau)),
    ("standardise", lambda s: tensors.standardise(s).abs()),
    ("attention", lambda z, w_left, w_right, a: tensors.attention(z, w_left, 2 * w_right, a)),
    ("join", lambda x, m, z, labels: tensors.join(x, x, z, labels)),
    ("group_nearest", lambda d, s, k, groups: tensors.group_nearest(d, s, k, groups).flip(1)),
]


@pytest.mark.parametrize("name, wrong", WRONG, ids=[f"{name} {i}" for i, (name, _) in enumerate(WRONG)])
def test_a_mistake_that_nobody_knows_gets_the_table_and_no_praise(name, wrong):
    lesson = owner(name)
    report = check(lesson, {**right(lesson), name: wrong})
    assert not report.done and not said(report.text) and "No known mistake" in report.text
    assert re.search(r"^> |^Its shape|no gradient comes back to y", report.text, re.MULTILINE), report.text
    assert max(map(len, report.text.splitlines())) < 80


def odd(value):
    return lambda x, k: value


@pytest.mark.parametrize("wrong, words", [
    (odd(None), "returns None"),
    (odd("nodes"), "returns a str"),
    (odd(torch.zeros(1, 4, 2)), "It holds float32; it should hold integers"),
    (odd((torch.zeros(1), torch.zeros(1))), "It returns 2 tensors, and one tensor should come"),
    (lambda x, k: tensors.nearest(x.mul_(2), k), "changes its argument x"),
    (lambda x: x, "takes 1 positional argument but 2 were given"),
    (7, "has no function nearest"),
])
def test_what_is_no_answer_at_all_is_said(wrong, words):
    report = check(LESSONS[2], {**right(LESSONS[2]), "nearest": wrong})
    assert not report.done and words in flat(report.text), report.text


# ---- the examples of the texts, and the promises of the checks


def test_examples_are_true():
    t = torch.tensor
    for name, arguments, result in [
        ("to_nodes", (torch.arange(16).view(1, 1, 4, 4).double(), 2),
         [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]),
        ("places", ((2, 3),), [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]),
        ("adjacency", (t([[[0, 1], [2, 1], [0, 3], [3, 3]]]), 4),
         [[[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]]]),
        ("mean_of_sources", (t([[[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]]]) > 0,
                             t([[[1.0, 0], [3, 2], [5, -2], [7, 4]]])), [[[2, 1], [4, 0], [4, 2], [7, 4]]]),
        ("unit", (t([[[3.0, 4], [0, 0], [0, -2], [1, 0]]]),), [[[0.6, 0.8], [0, 0], [0, -1], [1, 0]]]),
        ("squared_distances", (t([[[0.0, 0], [3, 4], [0, 1], [1, 1]]]), t([[[0.0, 0], [3, 0]]])),
         [[[0, 9], [25, 16], [1, 10], [2, 5]]]),
        ("nearest", (t([[[1, 0], [8, 1], [0, 1], [-1, 0.5]]]), 2), [[[0, 1], [1, 0], [2, 3], [3, 2]]]),
        ("neighbours", (9, 4), [9, 12, 15, 18]),
        ("dilations", (9, 10, 196), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]),
        ("dilations", (9, 10, 49), [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]),
        ("max_relative", (t([[[1.0, 0], [3, 2], [5, -2], [7, 4]]]),) * 2 + (
            t([[[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]]) > 0,), [[[4, 2], [-2, -2], [0, 0], [0, 0]]]),
        ("interleave", (t([[[1.0, 2]]]), t([[[10.0, 20]]])), [[[1, 10, 2, 20]]]),
        ("in_heads", (t([[[1.0, 2, 3, 4]]]), t([[[1.0], [1]], [[1], [-1]]])), [[[3, -1]]]),
        ("soft_threshold", (t([-2.0, -1, 0, 3]), t(-1.0)), [0, 0, 0.2270, 0.5939]),
        ("scores", (t([[[1.0, 0], [0, 1], [1, 1], [0, 0]]]), t([[1.0, 0], [0, 1]]), t([[0.0, 1], [0, 0]])),
         [[[0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]]),
        ("assign", (t([[[0.0], [1], [4], [9]]]), t([[[1.0], [5]]])), [[0, 0, 1, 1]]),
        ("assign", (t([[[0.0], [1], [4], [9]]]), t([[[4.0], [99]]])), [[0, 0, 0, 1]]),
        ("means", (t([[[0.0], [1], [4], [9]]]), t([[0, 0, 1, 0]]), 2), [[[3.3333], [4]]]),
        ("attention", (t([[[0.0], [1]]]), t([[1.0]]), t([[1.0]]), t([1.0])), [[[0.2689, 0.7311]] * 2]),
        ("attention", (t([[[-2.0], [1]]]), t([[1.0]]), t([[1.0]]), t([1.0])), [[[0.3543, 0.6457], [0.0998, 0.9002]]]),
        ("join", (t([[[1.0, 2]]]), t([[[10.0, 20]]]), t([[[5.0, 6], [100, 200]]]), t([[1]])),
         [[[1, 10, 100, 2, 20, 200]]]),
        ("group_nearest", (t([[[1.0, 0, 0, 1]]]), t([[[1.0, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]]]), 1, 2),
         [[[[0]], [[1]]]]),
        ("read_patches", (t([[[1.0, 0, 0, 1]]]), t([[[1.0, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]]]),
                          t([[[[0]], [[1]]]])), [[[0, 0, 0, 0]]]),
        ("read_patches", (t([[[1.0, 0, 0, 1]]]), t([[[1.0, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]]]),
                          t([[[[2]], [[0]]]])), [[[-1, 1, 1, -1]]]),
        ("read_proxies", (t([[1.0]]), t([[2.0], [4]]), t([[10.0]]), t([[1.0]]), t([[1.0]]), t([0.0])), [[14]]),
    ]:
        for found in (right(owner(name))[name](*arguments), getattr(tensors, name)(*arguments)):
            assert torch.allclose(torch.as_tensor(found).double(), t(result).double(), atol=1e-4), (name, found)


def test_examples_in_sentences_are_true():
    x = torch.tensor([[[1.0, 0], [3, 2], [5, -2], [7, 4]]])
    adj = torch.tensor([[[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]]) > 0
    of_x, of_y = tensors.max_relative_gradient(x, x, adj, torch.ones_like(x))
    assert of_x.tolist() == [[[-1, -1], [-1, -1], [0, 0], [-1, -1]]]
    assert of_y.tolist() == [[[1, 1], [0, 1], [1, 0], [1, 1]]]
    x = torch.tensor([[[1.0], [3], [5], [7]]])
    alpha = torch.zeros(1, 4, 4)
    alpha[0, 0], alpha[0, 3] = torch.tensor([0.5, 0, 0.5, 0.1]), torch.tensor([0.5, 0.5, 0, 0])
    assert tensors.strongest(x, alpha)[0, [0, 3]].flatten().tolist() == [2, 0]
    assert tensors.similarity(torch.tensor([[[2.0, 0], [1, 0], [0, 3], [-1, 0]]]))[0, 0].tolist() == pytest.approx(
        [0, 0, -2, -4], abs=1e-6)


def test_proxies_are_read_as_the_package_does():
    x, anchors, proxies = draw(1, 3, 4), draw(2, 5, 4), draw(3, 5, 4)
    layer = CNN2GNN(SimpleNamespace(heads=1, aggregate_self=True), 4).double()
    mine = labels.read_proxies(x, anchors, proxies, layer.w1.weight, layer.w2.weight, layer.a[0])
    assert torch.allclose(mine, layer(x, anchors, proxies)[0])


def test_at_most_one_partition_of_an_image_is_empty():
    empty = []
    for x, centroids in partitions.STARTS:
        d = partitions.distances(x, centroids)
        for own, d_image in zip(d.argmin(2), d, strict=True):
            empty.append(centroids.shape[1] - len(own.unique()))
            assert (own == own[d_image.amin(1).argmax()]).sum() > 1
    assert set(empty) == {0, 1}
