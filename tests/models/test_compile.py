"""torch.compile: the same numbers as in eager mode, and no graph break."""

import math
import os
import re
import shutil

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code

from helpers import FAMILIES, PYRAMID, TINY
from vig_minimal import create_model, list_constructors
from vig_minimal.graphs.draws import part_of_batch

SHALLOW = {**TINY, "depth": 1}
# a compiler takes seconds for each, and unrolls all rounds of the plain k-means
pytestmark = [pytest.mark.fast_form, pytest.mark.slow]


def assert_same_step(name: str, backend: str) -> None:
    """One training step of a compiled model, without a graph break, gives the plain model's loss and gradients."""
    model = create_model(name, **SHALLOW).double()
    for parameter in model.parameters():  # away from where scores are exactly 0 and messages tie
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    results = []
    for function in (model, torch.compile(model, backend=backend, fullgraph=True)):
        model.zero_grad()
        torch.manual_seed(0)
        loss = function(images).square().mean()
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_model_trains_the_same(name):
    assert_same_step(name, "aot_eager")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_model_evaluates_the_same(name):
    model = create_model(name, **SHALLOW).double().eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-8, atol=1e-8)


def test_one_program_serves_all_parts_of_a_batch():
    programs, model = [], create_model("vig_nano", **SHALLOW | {"depth": 2}, drop_path=0.5, dropout=0.5, epsilon=0.5)
    compiled = torch.compile(model, backend=lambda program, inputs: programs.append(program) or program)
    images = torch.randn(8, 3, 16, 16)
    for network in (model, compiled):  # batch norm stays, so that an image does not depend on its part
        network.train().apply(lambda part: part.eval() if isinstance(part, nn.BatchNorm2d) else None)
    for first in (0, 2, 4, 6):
        outputs = []
        for network in (model, compiled):
            torch.manual_seed(0)
            with part_of_batch(first, 8):
                outputs.append(network(images[first:first + 2]))
        torch.testing.assert_close(*outputs)
    assert len(programs) == 1


@pytest.mark.parametrize("name, fields, operation", [
    ("vig_nano", {}, "search"), ("vig_nano", {}, "smallest"), ("svig_nano", {}, "search"), ("svig_nano", {}, "above"),
    ("lrgc_nano", {}, None),
    ("cvig_nano", {}, "lloyd"),
    ("vig_nano", {"graph": "hypergraph"}, "fuzzy_c_means")])
def test_on_a_cpu_searches_without_weights_and_rounds_are_one_operation(name, fields, operation):
    programs, model = [], create_model(name, **SHALLOW | fields)
    compiled = torch.compile(model, backend=lambda program, inputs: programs.append(program) or program)
    compiled(torch.randn(3, 3, 16, 16))
    program, = programs
    called = re.findall(r"vig_minimal\.(\w+)", str(program.graph))
    can_tell = hasattr(torch.compiler, "is_exporting")  # not torch 2.6
    assert operation in called if operation and can_tell else not called


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [*FAMILIES, "cvig_nano", "pvig_nano", "gkgnet_nano"])
def test_a_third_batch_size_compiles_nothing_new(name, training):
    # torch takes the first size as fixed, and at the second compiles for all
    tiny = PYRAMID if name in ("pvig_nano", "gkgnet_nano") else TINY
    programs, model = [], create_model(name, **tiny).train(training)
    compiled = torch.compile(model, backend=lambda program, inputs: programs.append(program) or program, fullgraph=True)
    for batch in (4, 3, 7, 2, 5):
        compiled(torch.randn(batch, 3, 16, 16))
    assert len(programs) == 2


@pytest.mark.parametrize("graph", [name for name in list_constructors() if name not in ("knn", "threshold", "lrgc")])
def test_every_constructor_is_compiled_whole(graph):
    model = create_model("vig_nano", **SHALLOW, graph=graph).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-8, atol=1e-8)


@pytest.fixture
def compiler():
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        pytest.skip("torch.compile on a CPU needs a C++ compiler, and there is none")


@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano"])
def test_a_model_compiled_to_machine_code_trains_the_same(name, compiler):
    assert_same_step(name, "inductor")


@pytest.mark.parametrize("training", [False, True])
def test_lrgc_compiled_to_machine_code_makes_no_messages(training, compiler):
    model = create_model("lrgc_nano", dim=32, depth=1, num_classes=3).train(training)  # 64 nodes
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)

    def step():
        with torch.set_grad_enabled(training):
            logits = torch.compile(model)(images)
            if training:
                logits.sum().backward()

    programs = run_and_get_code(step)[1]
    shapes = [list(map(int, re.findall(r"\d+", sizes)))
              for program in programs for sizes in re.findall(r"empty_strided_cpu\(\(([^)]*)\)", program)]
    assert shapes and max(map(math.prod, shapes)) < 2 * 64 * 32 * 32, "messages, or half of them, are a tensor"
