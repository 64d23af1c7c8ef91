"""The plain and the fast form of everything: the same values, graphs and gradients, in float64 to 1e-12."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vig_minimal
from helpers import ADAPTVIG, PYRAMID, TINY, directed_groups, features, graph_of_kind, script
from vig_minimal import Graph, create_model, list_constructors, list_models, plain
from vig_minimal.constructors import CONSTRUCTORS, KNN
from vig_minimal.graphs import aggregate
from vig_minimal.graphs.aggregate import aggregate_max, aggregate_mean, aggregate_sum, max_relative
from vig_minimal.graphs.kmeans import kmeans
from vig_minimal.graphs.plain import fast_form, is_plain
from vig_minimal.models.convs import CONVS
from vig_minimal.models.pyramid import relative_positions
from vig_minimal.models.vig import ViGConfig
from vig_minimal.training.config import parse

ROOT = Path(__file__).resolve().parents[1]
GRID, DIM = (4, 6), 16  # not square
ISOTROPIC = TINY | {"img_size": (16, 24), "depth": 3, "drop_path": 0.2}
STAGES = PYRAMID | {"img_size": (16, 24), "depth": (1, 2)}
IMAGE = {"num_classes": 5, "img_size": 32, "stem": "imagenet"}
FIELDS = {"vig": ISOTROPIC, "svig": ISOTROPIC, "lrgc": ISOTROPIC, "cvig": ISOTROPIC, "pvig": STAGES, "gkgnet": STAGES,
          "adaptvig": ADAPTVIG | {"img_size": (16, 24), "drop_path": 0.2, "distillation": True}}
FAMILIES = sorted({name.split("_")[0]: name for name in list_models("*_nano")}.items())


def assert_alike(work: Callable[[], list[Tensor]]) -> None:
    """Run `work` in both forms, from the same seed: the same tensors, whole numbers and bools to the last."""
    results = []
    for on in (True, False):
        torch.manual_seed(1)
        with plain(on):
            assert is_plain() == on
            results.append(work())
    assert len(results[0]) == len(results[1]) > 0
    for in_plain, in_fast in zip(*results, strict=True):
        assert in_plain.dtype == in_fast.dtype
        torch.testing.assert_close(in_fast, in_plain, rtol=1e-12, atol=1e-12)


def gradients(loss: Tensor, wrt: list[Tensor]) -> list[Tensor]:
    """Those that there are, as shares of the largest number in them if that is above 1."""
    found = [part for part in torch.autograd.grad(loss, wrt, allow_unused=True) if part is not None]
    largest = max(1.0, *(float(part.abs().max()) for part in found))
    return [part / largest for part in found]


def parts_of(graph: Graph) -> list[Tensor]:
    """All tensors of a graph."""
    found = [value for value in vars(graph).values() if isinstance(value, Tensor)]
    return [graph.adj(), *found]


def randomised(module: nn.Module) -> nn.Module:
    """Float64 with random parameters, so that no two scores tie."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family, name", FAMILIES)
def test_every_family_of_models_gives_the_same(family, name, training):
    model = randomised(create_model(name, **FIELDS.get(family, IMAGE))).train(training)
    images = torch.randn(3, 3, *model.config.img_size, dtype=torch.float64, requires_grad=True)
    if getattr(model, "aggregate", None) is not None:
        model.store_anchors(torch.randn(5, 3, *model.config.img_size, dtype=torch.float64))

    def step() -> list[Tensor]:
        logits, graphs = model(images, return_graphs=True)
        logits = logits if isinstance(logits, tuple) else (logits,)
        loss = sum(part.square().sum() for part in logits)
        return [*logits, *(part for graph in graphs for part in parts_of(graph)),
                *gradients(loss, [images, *model.parameters()])]

    assert_alike(step)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("name", list_constructors())
def test_every_constructor_and_convolution_gives_the_same(name, conv):
    if name == "group_knn" and conv == "edge":
        pytest.skip("EdgeConv's MLP mixes all channels, which group k-NN keeps apart")
    config = ViGConfig(dim=DIM, depth=2, num_classes=3, img_size=(16, 24), patch=4, graph=name, conv=conv)
    x, convolution = features(3, GRID[0] * GRID[1], DIM).requires_grad_(), randomised(CONVS[conv](DIM, DIM))
    for module in CONSTRUCTORS[name][0](config):
        for training in (True, False):
            randomised(module).train(training)

            def step(module=module) -> list[Tensor]:
                graph = module(x, GRID)
                y = convolution(x.mT.unflatten(2, GRID), graph)
                others = [function(x, graph) for function in (aggregate_mean, aggregate_max)]
                loss = sum((part * (2 + part)).sum() for part in (y, *others))
                wrt = [x, *module.parameters(), *convolution.parameters()]
                return [y, *others, *parts_of(graph), *gradients(loss, wrt)]

            assert_alike(step)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("function", [max_relative, aggregate_max, aggregate_sum, aggregate_mean])
@pytest.mark.parametrize("kind", ["edges", "weights", "index", "groups"])
@pytest.mark.parametrize("num_sources", [7, 5])
def test_every_aggregation_over_directed_graphs_gives_the_same(kind, function, ties, num_sources):
    graph = directed_groups(2, 7, num_sources) if kind == "groups" else graph_of_kind(kind, 2, 7, num_sources)
    x, y = (torch.randn(2, n, 6, dtype=torch.float64) * 2 for n in (7, num_sources))
    if ties:  # of equal sources the first wins
        x, y = x.round(), y.round()
        if kind == "weights":
            graph = Graph(num_sources, weights=graph.weights.detach().round().requires_grad_())
    x, y = x.requires_grad_(), y.requires_grad_()
    wrt = [x, y, *([graph.weights] if kind == "weights" else [])]

    def work() -> list[Tensor]:
        m = function(x, replace(graph, sources=y))
        return [m, *gradients((m * (3 + m)).sum(), wrt)]

    assert_alike(work)


def test_of_equal_sources_the_first_takes_the_whole_gradient_in_both_forms():
    y = torch.ones(1, 4, 3, dtype=torch.float64, requires_grad=True)
    every = torch.ones(1, 2, 4, dtype=torch.bool)
    for graph in (Graph(4, weights=every), Graph(4, weights=every.double()),
                  Graph(4, index=torch.tensor([[[2, 0, 1], [2, 3, 0]]]))):
        first = 0 if graph.index is None else 2
        for on in (True, False):
            with plain(on):
                gradient, = torch.autograd.grad(aggregate_max(y, graph).sum(), y)
            assert gradient[0, :, 0].nonzero().flatten().tolist() == [first] and gradient.sum() == 6


@pytest.mark.parametrize("k, empty", [(1, False), (4, False), (6, True), (20, True)])
def test_k_means_gives_the_same(k, empty):
    x = torch.randn(5, 24, 3, dtype=torch.float64)
    start = 10 * torch.randn(k, 3, dtype=torch.float64) if empty else x[:, :k]  # no node goes to some of them
    for init in (start, "random", "k-means++"):
        assert_alike(lambda init=init: list(kmeans(x, k, init=init)))


@pytest.mark.parametrize("dim, grid, pool", [(16, (8, 8), 4), (16, (8, 12), 2), (48, (7, 7), 1), (48, (28, 20), 4)])
def test_relative_positions_are_the_same_to_the_last_bit(dim, grid, pool):
    tables = []
    for on in (True, False):
        with plain(on):
            tables.append(relative_positions(dim, grid, (grid[0] // pool) * (grid[1] // pool)))
    assert torch.equal(*tables)


# ---------------------------------------------------------------------------------------------------------- the switch


def test_plain_is_left_as_it_was_entered():
    before = is_plain()
    with plain():
        with plain(False):
            assert not is_plain()
        assert is_plain()
        with pytest.raises(ZeroDivisionError), plain(False):
            1 / 0
        assert is_plain()
    assert is_plain() == before and vig_minimal.plain is plain


def test_a_backward_pass_in_another_thread_is_plain_too():
    seen = []
    with plain():
        thread = threading.Thread(target=lambda: seen.append(is_plain()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_without_its_fast_form_a_definition_is_itself():
    def definition() -> int:
        return 1

    assert fast_form("no_such_file")(definition) is definition
    with pytest.raises(AttributeError, match="definition"):  # a file without that function is a slip
        fast_form("maximum")(definition)


def test_every_fast_form_has_a_definition_and_a_line_on_the_folders_first_page():
    package = ROOT / "vig_minimal"
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    marked = {name for text in sources for name in re.findall(r'@fast_form\("(\w+)"\)\n', text)}
    files = {path.stem for path in (package / "graphs" / "fast").glob("*.py")} - {"__init__"}
    listed = set(re.findall(r"^    (\w+)  ", (package / "graphs" / "fast" / "__init__.py").read_text(), re.MULTILINE))
    assert listed - {"file"} == files and marked == files - {"compiler", "search", "sparse"}


def test_the_plain_form_of_the_maximum_calls_nothing_of_fast():
    calls = []
    with plain():
        sys.setprofile(lambda frame, event, arg: calls.append(frame.f_code.co_filename) if event == "call" else None)
        try:
            max_relative(torch.randn(1, 5, 3), KNN(2)(torch.randn(1, 5, 3)))
        finally:
            sys.setprofile(None)
    assert any("aggregate.py" in name for name in calls) and not any(f"{os.sep}fast{os.sep}" in name for name in calls)


SCRIPT = """
import torch
from vig_minimal import create_model, list_constructors, plain
assert not any("graphs.fast" in name for name in __import__("sys").modules)
for name in ("vig_nano", "svig_nano", "lrgc_nano", "cvig_nano", "pvig_nano", "gkgnet_nano"):
    model = create_model(name, num_classes=3)
    model(torch.randn(2, 3, *model.config.img_size)).sum().backward()
for graph in list_constructors():
    torch.manual_seed(0)
    model = create_model("vig_nano", dim=16, depth=2, num_classes=3, img_size=(16, 24), patch=4, graph=graph).eval()
    print(graph, *model(torch.randn(2, 3, 16, 24)).flatten().tolist())
with plain():
    pass
"""


@pytest.mark.slow
def test_without_the_folder_fast_everything_works_and_gives_the_same(tmp_path):
    """What a reader leaves out can be deleted."""
    printed = []
    for fast in (True, False):
        copy = tmp_path / str(fast) / "vig_minimal"
        shutil.copytree(ROOT / "vig_minimal", copy, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
        script = SCRIPT.replace("assert not any", "assert any") if fast else SCRIPT
        if not fast:
            shutil.rmtree(copy / "graphs" / "fast")
        process = subprocess.run([sys.executable, "-c", script], cwd=copy.parent, capture_output=True, text=True,
                                 env=os.environ | {"PYTHONPATH": str(copy.parent)}, timeout=600)
        assert process.returncode == 0, process.stderr[-3000:]
        printed.append([line.split() for line in process.stdout.splitlines()])
    assert len(printed[0]) == len(list_constructors())
    for with_fast, without in zip(*printed, strict=True):
        assert with_fast[0] == without[0]
        torch.testing.assert_close(torch.tensor([float(n) for n in with_fast[1:]]),
                                   torch.tensor([float(n) for n in without[1:]]), rtol=1e-4, atol=1e-5)


def test_train_py_runs_in_plain_form_and_leaves_it(tmp_path, monkeypatch):
    seen, maximum = [], aggregate.maximum
    monkeypatch.setattr(aggregate, "maximum", lambda *about: seen.append(is_plain()) or maximum(*about))
    before = is_plain()
    script("train.py").main(["--plain", "--dry-run", "--device", "cpu", "--data", "shapes", "--limit", "8",
                             "--batch-size", "4", "--set", "depth=1", "--set", "dim=16", "--workers", "0",
                             "--output", str(tmp_path)])
    assert seen and all(seen) and is_plain() == before
    with pytest.raises(ValueError, match="choose one of them"):
        parse(["--plain", "--compile"])
