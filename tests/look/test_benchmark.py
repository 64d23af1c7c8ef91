"""The benchmark's tables and picture, on the smallest models; no figure of time is tested."""

import os
import re
import signal

import pytest
import torch
from PIL import Image

from vig_minimal import create_model
from vig_minimal.look import benchmark

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


def test_the_table_of_graphs(capsys):
    header, small, large = rows(run(capsys, "--graphs", "--grids", 6, 8, "--batch", 2))
    assert header[1].startswith("vig_ti: k-NN") and header[2].startswith("cvig_ti: k-means and k-NN")
    assert [small[0], large[0]] == ["36", "64"] and all(float(cell) >= 0 for cell in small[1:])


def test_graphs_are_built_of_the_same_features_in_every_run(monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, "best_times", lambda builders, nodes, *_: seen.append((builders, nodes)))
    for grid in (6, 6, 28):
        torch.rand(1)  # a state that differs
        benchmark.graph_times(grid, 1, 1, "cpu")
    (builders, nodes), (_, again), (of_784, _) = seen
    assert torch.equal(nodes, again) and nodes.shape == (1, 36, 192) and [len(b) for b in builders] == [12, 12, 12]
    assert builders[1][0].clusters == 4 and of_784[1][0].clusters == 6
    plain, inside = builders[0][0](nodes), builders[1][0](nodes)
    assert plain.adj().shape == inside.adj().shape == (1, 36, 36)


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
    (["vig_nano", "--device", "gpu"], "invalid choice: 'gpu'"), (["vig_nano", "--amp"], "--amp with --throughput"),
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
