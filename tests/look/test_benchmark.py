"""The benchmark's tables and picture, on the smallest models; no figure of time is tested."""

import os
import re
import signal

import pytest
import torch
from PIL import Image

from vig_minimal import create_model, list_constructors, list_models
from vig_minimal.look import benchmark, benchmark_paper
from vig_minimal.look.compare import graph_cost

TINY = ["--rounds", "1", "--threads", "1"]


def run(capsys, *argv):
    benchmark.main([*map(str, argv), *TINY])
    return capsys.readouterr().out


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith("|") and not line.startswith("|---")]


@pytest.mark.parametrize("name", ["vig_nano", "cvig_nano"])
def test_the_table_of_ratios(capsys, name):
    header, row = rows(run(capsys, name, "--batch", 2))
    assert header[0] == "model" and row[0] == name and len(row) == len(header) == 8
    assert all(float(cell.replace(",", "")) > 0 for cell in row[1:])


def test_two_classifiers_are_both_trained(capsys):
    model = benchmark.create_model("cvig_nano", dim=16, depth=1, img_size=16, patch=4, distillation=True).train()
    benchmark.forward_backward(model, torch.randn(4, 3, 16, 16))
    assert model.distilled.weight.grad.abs().sum() > 0 and model.head[4].weight.grad.abs().sum() > 0


def here(what, measure, *about):
    return measure(*about)


def test_the_table_of_graphs_has_every_constructor(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cost, "in_own_process", here)  # a process of its own takes seconds to start
    out = tmp_path / "graphs.png"
    text = run(capsys, "--graphs", "--grids", 8, 6, "--batch", 1, "--out", out)
    header, *lines = rows(text)
    assert header[1:] == ["36 nodes: ms, share, MiB", "64 nodes: ms, share, MiB"]
    assert [line[0] for line in lines] == list_constructors()
    assert all(float(cell.split(",")[0]) >= 0 and "%" in cell for line in lines for cell in line[1:])
    assert Image.open(out).width > 500 and f"wrote {out}" in text


def test_a_graph_for_which_memory_ran_out_has_no_figure(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cost, "in_own_process", lambda *about: None if about[3] > 6 else (1.0, 0.5, 2.0))
    _, first, *_ = rows(run(capsys, "--graphs", "--grids", 6, 8, 9, "--out", tmp_path / "graphs.png"))
    assert first[1:] == ["1.00, 50%, 2", "-", "-"]


def test_graphs_are_built_of_the_same_features_in_every_run(monkeypatch):
    seen = []
    monkeypatch.setattr(graph_cost, "best_times", lambda parts, nodes, *_: seen.append((parts[0](nodes), nodes)) or
                        (1.0, 2.0))
    for grid in (6, 6, 28):
        torch.rand(1)  # a state that differs
        graph_cost.graph_figure("cluster_knn", grid, 1, 1, "cpu", 1)
    (graph, nodes), (again, same), (of_784, _) = seen
    assert torch.equal(nodes, same) and nodes.shape == (1, 36, 192) and torch.equal(graph.index, again.index)
    assert of_784.adj().shape == (1, 784, 784)


def test_the_papers_figures_stand_beside_ours(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "in_own_process", lambda *_: (50.0, 1.0))
    monkeypatch.setattr(benchmark_paper, "SIZES", {"a table": [("vig_nano", {}, "ViG-nano", 0.933098 / 2, 1.0, "7")]})
    monkeypatch.setattr(benchmark_paper, "SPEEDS", {"vig_nano": (25.0, 100.0, None, 1, 1, 1, 1, 1)})
    text = run(capsys, "--paper", "--batches", 1, 8, 16)
    assert "| ViG-nano: `vig_nano` | 0.466549 | 0.93 | 2.000 | 1 | 0.06 |" in text
    assert "| vig_nano | 25.0 / 50.0 = 2.0000 | 100.0 / 50.0 = 0.5000 | - / 50.0 |" in text
    assert "| without the image itself: CIFAR-10, SVHN, CIFAR-100 | `cnn2gnn_resnet34` | 96.21, 96.49, 79.63 |" in text


def test_the_papers_models_are_models_of_this_project():
    assert all(name in list_models() for models in benchmark_paper.SIZES.values() for name, *_ in models)
    assert all(name in list_models() and len(speeds) == len(benchmark_paper.BATCHES)
               for name, speeds in benchmark_paper.SPEEDS.items())
    assert all(name in list_models() for _, _, names, _ in benchmark_paper.SCORES for name in names)


def test_throughput_is_a_table_and_a_picture(capsys, tmp_path):
    out = tmp_path / "speed.png"
    text = run(capsys, "--throughput", "vig_nano", "cvig_nano", "--batches", 2, 1, "--out", out)
    header, first, second, header_of_memory, *memory = rows(text)
    assert header == header_of_memory == ["model", "b = 1", "b = 2"]
    assert [first[0], second[0]] == ["vig_nano", "cvig_nano"]
    assert all(float(cell) > 0 for cell in (*first[1:], *second[1:]))
    # weights (4 MB) and more, but nothing of this process, which holds at least torch
    assert all(500 > float(row[2]) >= float(row[1]) > 4 for row in memory)
    width, height = Image.open(out).size
    assert width > 500 and height > 300 and f"wrote {out}" in text and list(tmp_path.iterdir()) == [out]


def too_large(name, batch, *_):
    if batch > 2:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    return 10.0 * batch, 1.0


def killed(name, batch, *_):
    if batch > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 5.0, 1.0


def fails(*_):
    torch.ones(2) @ torch.ones(3)


@pytest.mark.parametrize(("figure", "expected"), [(too_large, [10.0, 20.0, None, None]),
                                                  (killed, [5.0, None, None, None])])
def test_out_of_memory_ends_a_models_row(monkeypatch, figure, expected):
    """Also where the system ends the process."""
    monkeypatch.setattr(benchmark, "figure", figure)
    results = benchmark.throughput(["vig_nano"], [1, 2, 4, 8])
    assert [figure and figure[0] for figure in results["vig_nano"]] == expected
    text = benchmark.table(results, [1, 2, 4, 8], 0)
    assert text.splitlines()[-1] == f"| vig_nano | {' | '.join('-' if x is None else str(x) for x in expected)} |"
    assert benchmark.table(results, [1, 2, 4, 8], 1).endswith("| - | - |")


def test_what_counts_as_out_of_memory():
    assert benchmark.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not benchmark.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def ends(*_):
    raise SystemExit(3)


@pytest.mark.parametrize(("figure", "message"), [
    (ends, "vig_nano, batch 1: its process ended with code 3"), (fails, "vig_nano, batch 1: RuntimeError: .*size"),
])
def test_another_failure_is_an_error_and_no_out_of_memory(monkeypatch, capsys, tmp_path, figure, message):
    monkeypatch.setattr(benchmark, "figure", figure)
    with pytest.raises(SystemExit) as end:
        run(capsys, "--throughput", "vig_nano", "--batches", 1, 8, "--out", tmp_path / "speed.png")
    assert end.value.code == 2 and not list(tmp_path.iterdir())
    assert re.search(message, capsys.readouterr().err)


def test_a_picture_without_any_figure_is_still_drawn():
    page = benchmark.chart({"vig_nano": [None, None]}, [1, 2], "nothing fits")
    assert page.width > 500 and page.height > 300


@pytest.mark.parametrize(("argv", "message"), [
    (["vig_nan"], "unknown model 'vig_nan'"), (["--throughput", "resnet"], "unknown model 'resnet'"),
    (["--throughput", "vig_nano", "--batches", "0"], "must be at least 1"),
    (["--grids", "0", "--graphs"], "must be at least 1"),
    (["--throughput", "vig_nano", "--out", "nowhere/x.png"], "nowhere/x.png: the picture cannot be written"),
    (["--throughput", "vig_nano", "--out", "x.txt"], "x.txt: the picture cannot be written; give a name that ends in"),
    (["vig_nano", "--img-size", "63"], "img_size=63"), (["vig_nano", "--img-size", "0"], "img_size=0"),
    (["vig_nano", "--device", "gpu"], "invalid choice: 'gpu'"),
    (["vig_nano", "--amp"], "--amp with --throughput or --paper"),
    (["--graphs", "--paper"], "each go alone"),
])
def test_bad_input_is_a_sentence(capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        benchmark.main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2 and re.search(re.escape(message), error) and "Traceback" not in error
    assert error.startswith("benchmark: error: ") and error.count("\n") == 1


def test_a_model_without_patches_has_no_floor(capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main(["cnn2gnn_nano"])
    assert end.value.code == 2 and "no floor to compare with" in capsys.readouterr().err
    floor = benchmark.Floor(create_model("gkgnet_nano", num_classes=4))
    assert floor(torch.randn(2, 3, 64, 64)).shape == (2, 4)
