"""The benchmark's tables and picture, on the smallest models; no figure of time is tested."""

import math
import re

import pytest
import torch
from PIL import Image
from vig_minimal import benchmark, throughput

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
    model = throughput.create_model("cvig_nano", dim=16, depth=1, img_size=16, patch=4, distillation=True).train()
    benchmark.forward_backward(model, torch.randn(4, 3, 16, 16))
    assert model.distilled.weight.grad.abs().sum() > 0 and model.head[4].weight.grad.abs().sum() > 0


def test_the_table_of_graphs(capsys):
    header, small, large = rows(run(capsys, "--graphs", "--grids", 6, 8, "--batch", 2))
    assert "vig_ti: k-NN" in header[1] and "cvig_ti: k-means and k-NN" in header[2]
    assert [small[0], large[0]] == ["36", "64"] and all(float(cell) >= 0 for cell in small[1:])


def test_throughput_is_a_table_and_a_picture(capsys, tmp_path):
    out = tmp_path / "speed.png"
    text = run(capsys, "--throughput", "vig_nano", "cvig_nano", "--batches", 2, 1, "--out", out)
    header, first, second, header_of_memory, *memory = rows(text)
    assert header == header_of_memory == ["model", "b = 1", "b = 2"]
    assert [first[0], second[0]] == ["vig_nano", "cvig_nano"]
    assert all(float(cell) > 0 for cell in (*first[1:], *second[1:]))
    assert all(float(row[2]) >= float(row[1]) > 50 for row in memory)
    assert Image.open(out).width > 500 and f"wrote {out}" in text and list(tmp_path.iterdir()) == [out]


def test_out_of_memory_ends_a_models_row(monkeypatch):
    def evaluate(model, batch, rounds, amp):
        if batch > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return 10.0 * batch

    sent = []
    monkeypatch.setattr(throughput, "evaluate", evaluate)
    pipe = type("Pipe", (), {"send": lambda self, figure: sent.append(figure)})()
    throughput._measure(pipe, "vig_nano", [1, 2, 4, 8], 1, "cpu", 1, False, {})
    assert [figure and figure[0] for figure in sent] == [10.0, 20.0, None]
    assert throughput.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not throughput.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def dies(pipe, name, batches, *_):
    pipe.send((5.0, 1.0))
    raise SystemExit(9)  # as a process that the system ends


def test_a_process_that_the_system_ends_is_out_of_memory(monkeypatch):
    monkeypatch.setattr(throughput, "_measure", dies)
    results = throughput.throughput(["vig_nano"], [1, 8, 16], 1, "cpu", 1, False, {})
    assert results == {"vig_nano": [(5.0, 1.0), None, None]}
    text = throughput.table(results, [1, 8, 16], 0)
    assert text.splitlines()[-1] == "| vig_nano | 5.0 | - | - |"
    assert throughput.table(results, [1, 8, 16], 1).endswith("| 1 | - | - |")


def test_a_picture_without_any_figure_is_still_drawn():
    page = throughput.chart({"vig_nano": [None, None]}, [1, 2], "nothing fits")
    assert page.width > 500 and not math.isnan(page.height)


@pytest.mark.parametrize(("argv", "message"), [
    (["vig_nan"], "unknown model 'vig_nan'"), (["--throughput", "resnet"], "unknown model 'resnet'"),
    (["--throughput", "vig_nano", "--batches", "0"], "must be at least 1"),
    (["--grids", "0", "--graphs"], "must be at least 1"),
    (["--throughput", "vig_nano", "--out", "nowhere/x.png"], "nowhere/x.png"),
    (["vig_nano", "--img-size", "63"], "img_size=63"),
])
def test_bad_input_is_a_sentence(capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        benchmark.main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2 and re.search(re.escape(message), error) and "Traceback" not in error
