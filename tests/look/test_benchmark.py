"""The benchmark's tables and picture, on the smallest models; no figure of time is tested."""

import os
import platform
import re
import signal

import pytest
import torch
from PIL import Image

from vig_minimal import create_model, list_constructors, list_models
from vig_minimal.look.benchmark import command, floor, graph_cost, memory, paper, profile, throughput
from vig_minimal.models.cost import count_parameters

TINY = ["--rounds", "1", "--threads", "1"]


def run(capsys, *argv):
    command.main([*map(str, argv), *TINY])
    return capsys.readouterr().out


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith("|") and not line.startswith("|---")]


@pytest.mark.parametrize("name", ["vig_nano", "cvig_nano"])
def test_the_table_of_ratios(capsys, name):
    header, row = rows(run(capsys, name, "--batch", 2))
    assert header[0] == "model" and row[0] == name and len(row) == len(header) == 8
    assert all(float(cell.replace(",", "")) > 0 for cell in row[1:])


def test_a_field_of_the_config_can_be_set(capsys):
    for graph in ("knn", "lrgc"):
        text = run(capsys, "vig_nano", "--batch", 2, "--set", f"graph={graph}", "--set", "depth=2")
        assert text.splitlines()[0].endswith(f", graph={graph}, depth=2")
        model = create_model("vig_nano", graph=graph, depth=2)
        assert int(rows(text)[1][1].replace(",", "")) == count_parameters(model)


def test_two_classifiers_are_both_trained(capsys):
    model = create_model("cvig_nano", dim=16, depth=1, img_size=16, patch=4, distillation=True).train()
    floor.forward_backward(model, torch.randn(4, 3, 16, 16))
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
    monkeypatch.setattr(throughput, "in_own_process", lambda *_: (50.0, 1.0))
    monkeypatch.setattr(paper, "SIZES", {"a table": [("vig_nano", {}, "ViG-nano", 0.933098 / 2, 1.0, "7")]})
    monkeypatch.setattr(paper, "SPEEDS", {"vig_nano": (25.0, 100.0, None, 1, 1, 1, 1, 1)})
    text = run(capsys, "--paper", "--batches", 1, 8, 16)
    assert "| ViG-nano: `vig_nano` | 0.466549 | 0.93 | 2.000 | 1 | 0.06 |" in text
    assert "| vig_nano | 25.0 / 50.0 = 2.0000 | 100.0 / 50.0 = 0.5000 | - / 50.0 |" in text
    assert "| without the image itself: CIFAR-10, SVHN, CIFAR-100 | `cnn2gnn_resnet34` | 96.21, 96.49, 79.63 |" in text


def test_the_papers_models_are_models_of_this_project():
    assert all(name in list_models() for models in paper.SIZES.values() for name, *_ in models)
    assert all(name in list_models() and len(speeds) == len(paper.BATCHES)
               for name, speeds in paper.SPEEDS.items())
    assert all(name in list_models() for _, _, names, _ in paper.SCORES for name in names)


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
    monkeypatch.setattr(throughput, "figure", figure)
    results = throughput.throughput(["vig_nano"], [1, 2, 4, 8])
    assert [figure and figure[0] for figure in results["vig_nano"]] == expected
    text = throughput.table(results, [1, 2, 4, 8], 0)
    assert text.splitlines()[-1] == f"| vig_nano | {' | '.join('-' if x is None else str(x) for x in expected)} |"
    assert throughput.table(results, [1, 2, 4, 8], 1).endswith("| - | - |")


def test_what_counts_as_out_of_memory():
    assert throughput.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not throughput.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def ends(*_):
    raise SystemExit(3)


@pytest.mark.parametrize(("figure", "message"), [
    (ends, "vig_nano, batch 1: its process ended with code 3"), (fails, "vig_nano, batch 1: RuntimeError: .*size"),
])
def test_another_failure_is_an_error_and_no_out_of_memory(monkeypatch, capsys, tmp_path, figure, message):
    monkeypatch.setattr(throughput, "figure", figure)
    with pytest.raises(SystemExit) as end:
        run(capsys, "--throughput", "vig_nano", "--batches", 1, 8, "--out", tmp_path / "speed.png")
    assert end.value.code == 2 and not list(tmp_path.iterdir())
    assert re.search(message, capsys.readouterr().err)


def test_a_picture_without_any_figure_is_still_drawn():
    page = throughput.chart({"vig_nano": [None, None]}, [1, 2], "nothing fits")
    assert page.width > 500 and page.height > 300


@pytest.mark.parametrize(("argv", "message"), [
    (["vig_nan"], "unknown model 'vig_nan'"), (["--throughput", "resnet"], "unknown model 'resnet'"),
    (["--throughput", "vig_nano", "--batches", "0"], "must be at least 1"),
    (["--grids", "0", "--graphs"], "must be at least 1"),
    (["--throughput", "vig_nano", "--out", "nowhere/x.png"], "nowhere/x.png: the picture cannot be written"),
    (["--throughput", "vig_nano", "--out", "x.txt"], "x.txt: the picture cannot be written; give a name that ends in"),
    (["vig_nano", "--img-size", "63"], "img_size=63"), (["vig_nano", "--img-size", "0"], "img_size=0"),
    (["vig_nano", "--device", "gpu"], "invalid choice: 'gpu'"),
    (["vig_nano", "--amp"], "--amp goes with --throughput or --paper"),
    (["--graphs", "--paper"], "each go alone"), (["--memory", "--profile"], "each go alone"),
    (["--graphs", "--set", "k=4"], "--set goes with models"), (["vig_nano", "--set", "k"], "--set k: it takes FIELD=V"),
    (["vig_nano", "--set", "graph=sgva"], "unknown graph 'sgva'"),
    (["vig_nano", "--set", "widht=4"], "vig_nano has no field 'widht'"),
    (["vig_nano", "--measure"], "--measure goes with --memory"),
    (["vig_nano", "--batch", "1"], "--batch 1: in training, batch norm needs at least 2 images"),
    (["vig_nano", "--batch", "1", "--profile"], "--batch 1: in training"),
])
def test_bad_input_is_a_sentence(capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        command.main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2 and re.search(re.escape(message), error) and "Traceback" not in error
    assert error.startswith("benchmark: error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_a_model_without_patches_has_no_floor(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["cnn2gnn_nano"])
    assert end.value.code == 2 and "no floor to compare with" in capsys.readouterr().err
    for name in ("gkgnet_nano", "adaptvig_nano"):
        network = floor.Floor(create_model(name, num_classes=4))
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.fast_form
def test_the_profile_names_the_lines_and_counts_what_they_do(capsys):
    """Of the first linear layer of a Grapher: multiply-adds, bytes, calls."""
    model = create_model("vig_nano", depth=1).eval()
    parts = profile.profile(model, torch.randn(2, 3, 64, 64), profile.evaluate, rounds=3)
    part = parts["models/vig.py Grapher.forward", "convolution"]  # fc1 96 → 96 and fc2 192 → 96, on 64 nodes
    assert part.calls == 2 * 3 and part.macs == 3 * 2 * 64 * (96 * 96 + 192 * 96)
    nodes, weights = 2 * 64 * (96 + 96 + 192 + 96), (96 * 96 + 192 * 96) + 2 * 96
    assert part.bytes == 3 * 4 * (nodes + weights)
    assert ("fast/smallest.py smallest", "smallest") in parts and part.seconds > 0


def test_the_profiles_limit_is_the_slower_of_arithmetic_and_memory():
    parts = {("f", "a"): profile.Part(1, 2.0, macs=10, bytes=10), ("f", "b"): profile.Part(1, 1.0, macs=1, bytes=10),
             ("g", "c"): profile.Part(1, 4.0), ("g", "d"): profile.Part(1, 0.01, bytes=10)}
    assert profile.table(parts, images=1000, peak_macs=10, peak_bytes=20)[2:] == [
        "| g | c | 4.000 | 57.1% | 0.000 | - |",
        "| f | a | 2.000 | 28.5% | 1.000 | 2.0 |",
        "| f | b | 1.000 | 14.3% | 0.500 | 2.0 |",
        "| the rest |  | 0.010 | 0.1% | 0.500 | 0.0 |",
        "| all |  | 7.010 | 100.0% | 2.000 | 3.5 |"]


def test_expanded_tensors_are_read_once():
    assert profile.touched([torch.ones(3, 1).expand(3, 5), (torch.ones(2, dtype=torch.int64), None, 1.0)]) == 12 + 16


def test_the_profile_of_training_has_the_backward_pass(capsys, monkeypatch):
    monkeypatch.setattr(profile, "peaks", lambda device: (1e12, 1e10))
    text = run(capsys, "vig_nano", "--profile", "--batch", 2)
    assert "peaks: 1000 GMAC/s, 10.0 GB/s" in text and "vig_nano, evaluation" in text
    training = [row[:2] for row in rows(text.partition("vig_nano, training")[2])]
    assert ["backward", "convolution_backward"] in training and ["all", ""] in training


def test_a_step_is_the_weights_and_what_is_kept_of_each_image(capsys, monkeypatch):
    """16 bytes a parameter, and for each image itself and what is kept of it; a measured step stands beside that."""
    monkeypatch.setattr(memory, "in_own_process", lambda what, measure, *about: 2e3)
    header, row = rows(run(capsys, "vig_nano", "--memory", "--measure", "--batch", 1000))
    float32, half, checkpoints = (float(cell) for cell in row[1:4])
    assert float32 > half > checkpoints > 0
    for cell, kept in zip(row[4:], (half, checkpoints)):
        counted, measured = cell.split(", ")
        assert float(counted) == pytest.approx(16 * 933_098 / 1e9 + kept + 4 * 3 * 64**2 / 1e6, abs=0.06)
        assert measured == "2.00"


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other memory allocators keep what is freed")
@pytest.mark.parametrize("name, batch", [("vig_ti", 8), ("vig_s", 2)])  # most is of images; of parameters
def test_a_step_takes_what_was_counted(name, batch):
    model = create_model(name).train()
    images = torch.randn(4, 3, 224, 224)
    counted = memory.STATE * count_parameters(model) + batch * (images[0].nbytes + memory.kept(model, images, False))
    measured = throughput.in_own_process(name, memory.measured_step, name, batch, "cpu", 2, False, False, {})
    assert 1e6 * measured == pytest.approx(counted, rel=0.1)


def test_with_checkpoints_a_block_keeps_its_input():
    """Blocks of equal width keep equally much: so the count follows from that of the whole."""
    model, images = create_model("vig_nano").train(), torch.randn(4, 3, 64, 64)
    whole = memory.kept(model, images, False)
    blocks = [memory.kept(block, torch.randn(4, 96, 8, 8), False) for block in model.blocks]
    inputs = 5 * 4 * 64 * 96  # bytes; the first block's input is the stem's output
    assert max(blocks) - min(blocks) < 0.02 * max(blocks)
    expected = whole - sum(blocks) + inputs + max(blocks)
    assert memory.kept_with_checkpoints(model, images, False) == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_checkpoints_of_a_pyramid_and_of_two_classifiers():
    for name in ("pvig_nano", "cvig_nano", "gkgnet_nano"):
        model, images = create_model(name).train(), torch.randn(4, 3, 64, 64)
        assert 0 < memory.kept_with_checkpoints(model, images, True) < memory.kept(create_model(name), images, True)


def test_compiling_without_a_compiler_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/no/compiler")
    with pytest.raises(SystemExit) as end:
        command.main(["vig_nano", "--compile"])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert "--compile: torch needs a C++ compiler, and /no/compiler is not there" in error


def test_compiled_the_seconds_of_the_first_steps_are_told(capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    header, row = rows(run(capsys, "vig_nano", "--compile", "--batch", 2, "--rounds", 1))
    assert header[0] == "model, compiled" and header[-2:] == ["first eval s", "first train s"]
    assert len(header) == len(row) and all(float(seconds) >= 0 for seconds in row[-2:]) and len(compiled) == 1
