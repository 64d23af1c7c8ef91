"""Models that run with a student's functions, and the race of lesson 12."""

import loops
import pytest
import tensors
import torch
from answering import finish

from vig_minimal import create_model
from vig_minimal.constructors import knn, lrgc
from vig_minimal.graphs import aggregate
from vig_minimal.learn import race
from vig_minimal.learn.answers import FOLDER, NEEDED, load
from vig_minimal.learn.lessons import find, owner
from vig_minimal.learn.use import use_lessons
from vig_minimal.models import convs

TINY = {"dim": 16, "depth": 2, "num_classes": 5, "img_size": 16, "patch": 4}


def step(model, images):
    """Logits, and the gradient of every parameter."""
    model.zero_grad()
    logits = model(images)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("answers", [loops, tensors], ids=["loops", "tensors"])
@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano", "svig_nano", "cvig_nano"])
def test_a_model_is_the_same_with_their_functions(name, answers):
    for number in NEEDED:
        finish(FOLDER, find(number), answers)
    torch.manual_seed(0)
    model, images = create_model(name, **TINY).double().train(), torch.randn(2, 3, 16, 16).double()
    for block in model.blocks if name == "lrgc_nano" else ():  # a start at which some edges are cut
        torch.nn.init.normal_(block.grapher.constructor.query.weight, std=0.3)
        torch.nn.init.normal_(block.grapher.constructor.query.bias)
    torch.manual_seed(1)
    logits, gradients = step(model, images)
    before = knn.nearest_sources, aggregate.maximum, convs.interleave, lrgc.LRGC.scores, lrgc.alpha_of
    torch.manual_seed(1)
    with use_lessons(FOLDER):
        theirs, their_gradients = step(model, images)
    assert before == (knn.nearest_sources, aggregate.maximum, convs.interleave, lrgc.LRGC.scores, lrgc.alpha_of)
    assert torch.allclose(logits, theirs, atol=1e-6)
    for parameter, gradient in gradients.items():
        assert torch.allclose(gradient, their_gradients[parameter], atol=1e-5), parameter


def test_it_is_their_functions_that_run():
    for number in NEEDED:
        finish(FOLDER, find(number), tensors)
    calls = []

    def counted(name, function):
        return lambda *given: calls.append(name) or function(*given)

    for name in ("nearest", "max_relative", "interleave", "scores", "soft_threshold", "strongest"):
        names = load(FOLDER / owner(name).file)
        names[name] = counted(name, names[name])
    with use_lessons(FOLDER):
        create_model("vig_nano", **TINY)(torch.randn(2, 3, 16, 16))
        assert calls == ["nearest", *["max_relative"] * 2, "interleave"] * 2  # aggregation: image by image
        calls.clear()
        create_model("lrgc_nano", **TINY)(torch.randn(2, 3, 16, 16))
        assert calls == ["scores", "soft_threshold", *["strongest"] * 2, "interleave"] * 2


def test_lessons_that_are_not_done_are_named():
    finish(FOLDER, find(3), loops)
    finish(FOLDER, find(6), loops)
    with pytest.raises(ValueError, match="needs lessons 3, 5, 6 and 8, and 5 and 8 are not done; .* learn 5"):
        with use_lessons(FOLDER):
            pass


def test_the_race_trains_with_their_graph_and_prints_a_table(capsys):
    results = race.race(loops.my_graph, images=100, epochs=1, tests=50)
    printed = capsys.readouterr().out
    assert list(results) == ["none", "random", "knn", "yours"] and all(0 <= right <= 1 for right in results.values())
    rows = [line.split() for line in printed.splitlines()[-4:]]
    assert [row[0] for row in rows] == list(results)
    assert [float(row[3]) for row in rows] == [1.0, 13.5, 13.5, 15.0]  # sources: k from 9 to 18; row and column
    assert printed.isascii()
