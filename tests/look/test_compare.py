"""compare: which cells there are, what is measured of them, the tables, and what happens when it is cut off."""

import csv
import itertools
import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from vig_minimal import train
from helpers import directed_edges
from vig_minimal import Graph
from vig_minimal.data.datasets import open_data
from vig_minimal.look.compare import cells, command, measures, table
from vig_minimal.look.compare.cells import Study, Variant, variants_of
from vig_minimal.look.predict import load

TINY = ["--limit", "32", "--epochs", "1", "--", "--img-size", "32", "--set", "dim=16", "--set", "depth=2"]

ROOT = Path(__file__).resolve().parents[2]


def here(study, cell, say):
    """Train in this process: one of its own takes seconds to start."""
    train.main([*study.arguments(cell.variant, cell.seed), "--output", str(cell.folder / "run"), "--resume", "auto"])


def finished(tmp_path, scores):
    """Cells with made-up results. scores: variant to the score of each seed, None where it is not finished."""
    study, made = Study("vig_nano", (), tmp_path), {}
    variants = [Variant(name, (f"graph={name}",)) for name in scores]
    made = study.cells(variants, range(3))
    for cell in made:
        score = scores[cell.variant.name][cell.seed]
        if score is not None:
            cell.folder.mkdir(parents=True)
            figures = dict.fromkeys(table.COLUMNS, 2.0) | {"eval_ms": 3.0 + cell.seed, "homophily": math.nan}
            cell.result.write_text(json.dumps({"score_name": "top-1 %", "score": score, **figures}))
    return made, variants


def test_variants_are_all_combinations_and_are_named_by_what_differs():
    assert variants_of(["knn", "none"], [], []) == [Variant("knn", ("graph=knn",)), Variant("none", ("graph=none",))]
    both = variants_of(["knn"], ["mr", "gin"], ["k=4,9", "dropout=0.1"])
    assert [variant.name for variant in both] == ["conv=mr k=4", "conv=mr k=9", "conv=gin k=4", "conv=gin k=9"]
    assert both[0].fields == ("graph=knn", "conv=mr", "k=4", "dropout=0.1")
    assert [name for name, _ in variants_of([], [], ["depth=(1, 2),(2, 2)"])] == ["depth=(1, 2)", "depth=(2, 2)"]
    for wrong in ("k", "k=", "=4"):
        with pytest.raises(ValueError, match="a field of the model and its values"):
            variants_of([], [], [wrong])


def test_the_first_seed_of_all_variants_comes_first(tmp_path):
    study = Study("vig_nano", ("--epochs", "2"), tmp_path)
    made = study.cells(variants_of(["knn", "none"], [], ["k=4"]), [3, 1])
    assert [(cell.variant.name, cell.seed) for cell in made] == [("knn", 3), ("none", 3), ("knn", 1), ("none", 1)]
    assert made[0].folder == tmp_path / "graph=knn,k=4" / "seed-3"
    said = " ".join(study.arguments(made[0].variant, 3))
    assert said == "--model vig_nano --set graph=knn --set k=4 --seed 3 --epochs 2"


def test_a_cell_is_measured_on_the_images_that_its_seed_keeps_for_validation(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    study = Study("vig_nano", ("--data-dir", str(tmp_path), "--img-size", "16", "--batch-size", "8"), tmp_path)
    settings = study.settle(Variant("knn", ("graph=knn",)))
    of_run = [open_data("imagefolder", str(tmp_path), (16, 16), None, seed).val for seed in (0, 1)]
    measured = [cells.data_of(settings, seed).val for seed in (0, 1)]
    assert [data.paths for data in measured] == [data.paths for data in of_run]
    assert measured[0].paths != measured[1].paths


def test_a_comparison_is_trained_measured_and_never_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "train", here)
    monkeypatch.setattr(measures, "PROBE", 4)
    monkeypatch.setattr(measures, "ROUNDS", 1)
    argv = ["--graphs", "none", "knn", "--seeds", "0", "1", "--output", str(tmp_path), *TINY]
    command.main(argv)
    assert "Missing" not in (said := capsys.readouterr().out)
    with open(tmp_path / "compare.csv") as file:
        lines = list(csv.DictReader(file))
    assert [(line["variant"], line["seed"]) for line in lines] == [("none", "0"), ("knn", "0"), ("none", "1"),
                                                                   ("knn", "1")]
    for line in lines:
        assert 0 <= float(line["score"]) <= float(line["best"]) <= 100 and line["score_name"] == "top-1 %"
        assert all(float(line[name]) > 0 for name in measures.COSTS)
        assert math.isnan(float(line["length"])) == (line["variant"] == "none")
    assert float(lines[0]["degree"]) == 1 and float(lines[1]["degree"]) == 13.5  # k grows from 9 to 18
    about, cell = json.loads((tmp_path / "compare.json").read_text()), tmp_path / "graph=knn" / "seed-1"
    settings = Study(about["model"], tuple(about["flags"]), tmp_path).settle(Variant("knn", ("graph=knn",)))
    model = load(cell / "run" / "last.pt")
    trained = measures.graphs(model, *measures.probe(model, settings, cells.data_of(settings)))
    found = json.loads((cell / "result.json").read_text())
    assert {name: found[name] for name in trained} == pytest.approx(trained, nan_ok=True)  # its costs change no figure
    page = (tmp_path / "compare.md").read_text()
    assert "| none | 2 of 2 |" in page
    assert page.startswith("vig_nano on shapes, at most 32 training images; epochs 1; seeds 0 1; 4 of 4 runs\n")
    whole = page.replace(" \\\n   ", "")  # the command is one line again
    assert f"python -m vig_minimal compare --graphs none knn --seeds 0 1 --output {tmp_path} --limit 32" in whole
    assert Image.open(tmp_path / "compare.png").width > 500

    told = [line for line in said.splitlines() if ", seed " in line]
    assert told[::2] == [f"{name}, seed {seed}: run {2 * seed + place} of 4"
                         for seed in (0, 1) for place, name in ((1, "none"), (2, "knn"))]
    assert all(": top-1 % " in line and line.endswith(" left") for line in told[1::2])

    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("a finished cell is trained again"))
    command.main(argv)
    with pytest.raises(SystemExit) as end:
        command.main([*argv[:6], "2", *argv[6:8], *["3" if part == "1" else part for part in TINY]])
    error = capsys.readouterr().err
    assert end.value.code == 2 and "holds a comparison with flags --epochs 1 --limit 32" in error.splitlines()[-1]


def test_a_run_that_fails_is_said_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def fails(study, cell, say):
        if cell.variant.name == "none":
            raise ValueError("train.py ended with code 1 (no memory)")
        here(study, cell, say)

    monkeypatch.setattr(command, "train", fails)
    monkeypatch.setattr(measures, "PROBE", 2)
    monkeypatch.setattr(measures, "ROUNDS", 1)
    with pytest.raises(SystemExit) as end:
        command.main(["--graphs", "none", "knn", "--output", str(tmp_path), *TINY])
    out = capsys.readouterr().out
    assert end.value.code == 1
    assert "train.py ended with code 1 (no memory)" in out and "Missing: none (seed 0)." in out
    assert "| knn | 1 of 1 |" in out and out.endswith("compare.md, compare.csv, compare.png\n")


def test_where_every_run_fails_no_picture_is_spoken_of(tmp_path, monkeypatch, capsys):
    def fails(study, cell, say):
        raise ValueError("train.py ended with code 2 (no such image)")

    monkeypatch.setattr(command, "train", fails)
    with pytest.raises(SystemExit) as end:
        command.main(["--graphs", "none", "--output", str(tmp_path), *TINY])
    assert end.value.code == 1 and capsys.readouterr().out.endswith("compare.md, compare.csv\n")
    assert not (tmp_path / "compare.png").exists()


def test_a_cell_of_another_process_is_left_alone(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "graph=knn" / "seed-0"
    folder.mkdir(parents=True)
    code = (f"import fcntl, time; f = open({str(folder / '.lock')!r}, 'a+'); fcntl.lockf(f, fcntl.LOCK_EX);"
            " print('locked', flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        monkeypatch.setattr(command, "train", lambda *_: pytest.fail("trains what another process trains"))
        command.main(["--graphs", "knn", "--output", str(tmp_path), *TINY])
    finally:
        holder.kill()
        holder.wait()
    assert "knn, seed 0: another process works on it" in capsys.readouterr().out


def test_a_dry_run_says_how_long_it_takes_and_writes_nothing(tmp_path, capsys):
    argv = ["--graphs", "none", "knn", "--seeds", "0", "1", "--output", str(tmp_path / "new")]
    command.main([*argv, "--dry-run", *TINY])
    out = capsys.readouterr().out
    assert out.count("2 cells to do, about") == 2 and "in all about" in out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv, message", [
    (["--graphs", "knnn"], "compare: error: unknown graph 'knnn'; did you mean knn?"),
    (["--convs", "mrr"], "compare: error: conv='mrr'"),
    (["--set", "clusters=2"], "compare: error: clusters is read by graph='cluster_knn' alone"),
    (["--set", "k"], "compare: error: --set k: takes a field"),
    (["--model", "resnet_nano", "--set", "heads=1"], "compare: error: --model resnet_nano: it has no patches"),
    (["--model", "vig_nan"], "compare: error: unknown model 'vig_nan'"),
    (["--graphs", "knn", "--epochs", "0"], "compare: error: --epochs 0: must be at least 1"),
    (["--graphs", "knn", "--", "--nonsense"], "compare: error: unrecognized arguments: --nonsense"),
])
def test_bad_input_is_a_sentence_before_anything_is_trained(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command.main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith(message) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ---- the table -----------------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed(tmp_path):
    made, (knn, other, late) = finished(tmp_path, {"knn": [60.0, 64.0, 62.0], "svga": [61.0, 67.0, 64.0],
                                                   "none": [None, 60.0, None]})
    first, second, third = table.rows_of(made, knn)
    assert (first.mean, first.deviation, first.seeds) == (62, 2, 3)
    # pairs: 1, 3, 2; their deviation is 1, so the mean's error is 1 / √3
    assert (second.difference, second.error) == (2, pytest.approx(1 / math.sqrt(3)))
    assert third.difference == -4 and math.isnan(third.error) and math.isnan(third.deviation)
    assert first.figures["eval_ms"] == 4 and first.figures["degree"] == 2  # the median time
    text = table.markdown(made, knn, "vig_nano on shapes", "python …")
    assert "| variant | seeds | top-1 % | − knn | parameters |" in text and "homophily" not in text
    assert "| svga | 3 of 3 | 64.00 ± 3.00 | +2.00 ± 0.58 | 2 |" in text
    assert "| none | 1 of 3 | 60.00 | −4.00 | 2 |" in text and "| knn | 3 of 3 | 62.00 ± 2.00 | – |" in text
    assert text.endswith("\n\nMissing: none (seed 0), none (seed 2).\n")
    assert text.startswith("vig_nano on shapes\n\n```sh\npython …\n```\n\n| variant |")
    heading = next(line for line in text.splitlines() if line.startswith("| variant"))
    for column in heading.strip("| ").split(" | ")[1:]:  # each is explained
        assert f"\n* {column}: " in text


def test_a_missing_seed_leaves_its_pair_out_of_difference_and_error(tmp_path):
    made, (knn, svga, mgc) = finished(tmp_path, {"knn": [60.0, None, 62.0], "svga": [61.0, 70.0, 66.0],
                                                 "mgc": [None, 50.0, 60.0]})
    _, second, third = table.rows_of(made, knn)
    # two pairs, 1 and 4: their deviation is 3 / √2, and the mean's error 3 / 2; the third seed has no pair
    assert (second.seeds, second.difference, second.error) == (3, 2.5, pytest.approx(1.5))
    assert (third.seeds, third.difference) == (2, -2) and math.isnan(third.error)  # one pair


@pytest.mark.parametrize("waited, shown, marked", [
    ((0.0, 0.05, 0.0), 4, False), ((0.5, 0.0, 0.0), 4.5, False), ((0.0, 0.5, 0.5), 3, False),
    ((0.2, 0.5, 0.5), 4, True)])
def test_times_beside_other_work_are_left_out_or_marked(tmp_path, waited, shown, marked):
    made, (knn,) = finished(tmp_path, {"knn": [60.0, 64.0, 62.0]})
    for cell, share in zip(made, waited):  # eval ms is 3, 4 and 5
        cell.result.write_text(json.dumps(cell.read() | {"waited": share}))
    row, = table.rows_of(made, knn)
    assert (row.figures["eval_ms"], row.disturbed, row.seeds) == (shown, marked, 3)
    text = table.markdown(made, knn, "", "")
    assert (r"| 4.0\* |" in text) == marked == (table.DISTURBED in text)
    assert table.picture(made, knn, "vig_nano", []).width > 500


def test_waiting_is_counted(monkeypatch, tmp_path):
    before = measures.waiting()
    assert 0 <= before <= measures.waiting()
    monkeypatch.setattr(measures, "Path", lambda _: tmp_path)
    (tmp_path / "1").mkdir()
    assert measures.waiting() == 0  # no such files, as on macOS
    for thread, nanoseconds in (("1", 5 * 10**8), ("2", 10**9)):
        (tmp_path / thread).mkdir(exist_ok=True)
        (tmp_path / thread / "schedstat").write_text(f"123 {nanoseconds} 7")
    assert measures.waiting() == 1.5


def test_names_in_the_picture_hide_neither_one_another_nor_a_dot():
    rng = random.Random(0)
    places = {f"a name {i}": (rng.uniform(80, 300), rng.uniform(110, 350)) for i in range(15)}
    dots = [(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
    boxes = table.boxes_of_names(608, places, dots)
    assert boxes.keys() == places.keys()
    for (name, box), (other, another) in itertools.combinations(boxes.items(), 2):
        assert not table.overlap(box, another), (name, other)
    assert not any(table.overlap(box, dot) for box in boxes.values() for dot in dots)
    long, = table.boxes_of_names(608, {"a name that fits on neither side of its dot" * 2: (300, 200)}, []).values()
    assert long[0] == 308  # it is cut off
    alone, = table.boxes_of_names(608, {"alone": (300, 200)}, [(295, 195, 305, 205)]).values()
    assert alone[0] == 308 and (alone[1] + alone[3]) / 2 == 200  # to the right of its dot


def test_an_empty_comparison_has_a_table_and_a_picture_needs_one_cell(tmp_path):
    made, variants = finished(tmp_path, {"knn": [None] * 3, "none": [None, None, 50.0]})
    page = table.picture(made, variants[0], "vig_nano", ["one cell"])
    assert page.width > 500
    (tmp_path / "graph=none" / "seed-2" / "result.json").unlink()
    assert "| knn | 0 of 3 | – | – |" in table.markdown(made, variants[0], "", "")
    assert table.as_csv(made) == "variant,seed\n"


# ---- measures ------------------------------------------------------------------------------------------------------


class Fake(nn.Module):
    """A model of two given graphs on a grid of 2 × 3 patches, whose features are given too."""

    def __init__(self, made, features):
        super().__init__()
        self.config, self.made, self.features = SimpleNamespace(depth=2, grid=(2, 3)), made, features

    def forward(self, images, return_graphs):
        return None, self.made

    def forward_features(self, images):
        return self.features


def test_measures_of_graphs_are_those_of_a_loop_over_all_edges():
    edges = [directed_edges(2, 6, 6) for _ in range(2)]
    features = torch.randn(2, 4, 2, 3)
    masks = [torch.zeros(2, 4, 6, dtype=torch.bool) for _ in range(2)]  # of two objects; a patch has 2 × 2 pixels
    masks[0][0, :2, :3] = True   # patch 0 wholly, patch 1 by half
    masks[0][1, 2:, 4:] = True   # patch 5
    masks[1][0, :, 0] = True     # patches 0 and 3 by half
    of_patch = [[0, 0, -1, -1, -1, 1], [0, -1, -1, 0, -1, -1]]
    result = measures.graphs(Fake([Graph(6, weights=edge) for edge in edges], features), torch.zeros(2, 3, 4, 6), masks)

    length, count, same, of_object, shared, either = 0.0, 0, 0, 0, 0, 0
    for layer in range(2):
        for b in range(2):
            for i in range(6):
                for j in range(6):
                    if i == j:
                        continue
                    if edges[layer][b, i, j]:
                        length += math.hypot(i // 3 - j // 3, i % 3 - j % 3)
                        count += 1
                        if of_patch[b][i] >= 0:
                            of_object += 1
                            same += of_patch[b][i] == of_patch[b][j]
                    if layer == 1:
                        shared += bool(edges[0][b, i, j] and edges[1][b, i, j])
                        either += bool(edges[0][b, i, j] or edges[1][b, i, j])
    assert result["length"] == pytest.approx(length / count) and result["homophily"] == pytest.approx(same / of_object)
    assert result["overlap"] == pytest.approx(shared / either)
    assert result["degree"] == pytest.approx(float(torch.stack(edges).sum(-1).double().mean()))
    spread = [(x - x.mean((1, 2), keepdim=True)).norm() / x.norm() for x in features]
    assert result["diversity"] == pytest.approx(float(sum(spread) / 2))


def test_without_masks_and_without_edges_there_is_nothing_to_measure():
    own = Graph(6, index=torch.arange(6)[None, :, None])
    result = measures.graphs(Fake([own, own], torch.ones(1, 4, 2, 3)), torch.zeros(1, 3, 4, 6), None)
    assert result["degree"] == 1 and result["diversity"] == 0
    assert all(math.isnan(result[name]) for name in ("length", "homophily", "overlap"))


def test_the_last_line_of_a_log_has_its_continuation(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("an earlier run\n")
    begun = log.stat().st_size
    assert cells.last_line(log, begun) == ""
    log.write_text("an earlier run\nepoch 1/2\nepoch 1/2  step 3/8  loss 2.3\n  about 4 s left\n\n")
    assert cells.last_line(log, begun) == "epoch 1/2 step 3/8 loss 2.3 about 4 s left"


def test_each_minute_the_last_line_of_a_run_is_shown(tmp_path, monkeypatch):
    class Fake:
        """A train.py that prints a line and ends at the third look at it."""

        def __init__(self, command, stdout, **_):
            self.looks, self.log = 0, stdout

        def wait(self, seconds):
            assert seconds == 60
            self.looks += 1
            print(f"step {self.looks}", file=self.log, flush=True)
            if self.looks < 3:
                raise subprocess.TimeoutExpired("train.py", seconds)
            return 0

    monkeypatch.setattr(cells.subprocess, "Popen", Fake)
    study, said = Study("vig_nano", (), tmp_path), []
    cell, = study.cells(variants_of(["knn"], [], []), [0])
    cell.folder.mkdir(parents=True)
    cells.train(study, cell, said.append)
    assert said == ["step 1", "step 2"]


# ---- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(tmp_path):
    argv = [sys.executable, "-m", "vig_minimal", "compare", "--graphs", "none", "--limit", "640", "--epochs", "4",
            "--output", str(tmp_path), "--", "--set", "dim=16", "--set", "depth=1", "--img-size", "32"]
    process = subprocess.Popen(argv, cwd=ROOT)
    metrics = tmp_path / "graph=none" / "seed-0" / "run" / "metrics.csv"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143 and not (tmp_path / "graph=none" / "seed-0" / "result.json").exists()
    subprocess.run(argv, cwd=ROOT, check=True)
    log = " ".join((tmp_path / "graph=none" / "seed-0" / "log.txt").read_text().split())
    assert "ended by a signal" in log and "resumed after epoch" in log
    assert json.loads((tmp_path / "graph=none" / "seed-0" / "result.json").read_text())["epochs"] == 4


@pytest.mark.slow
def test_what_train_py_refuses_is_said(tmp_path):
    study = Study("vig_nano", ("--limit", "8", "--batch-size", "16"), tmp_path)
    cell, = study.cells(variants_of(["knn"], [], []), [0])
    cell.folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="train.py ended with code 2 .train.py: error: --batch-size 16: larger than"):
        cells.train(study, cell, print)
