"""train.py as a user types it: what it writes, going on exactly, and one sentence for everything that cannot work."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import Subset
from torchvision import models

from vig_minimal import train
import vig_minimal
from commands import own_folder, refused, rows  # noqa: F401
from helpers import image_folder, same_tensors
from vig_minimal import create_model, list_models
from vig_minimal.data.datasets import open_data
from vig_minimal.models.released import load_released
from vig_minimal.training import checkpoint, resolve, run_log
from vig_minimal.training.config import OPTIONS, RunConfig, parse
from vig_minimal.training.metrics import TopK
from vig_minimal.training.recipes import get_recipe
from vig_minimal.training.tasks import SingleLabel

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--set", "dim=16", "--set", "depth=2", "--img-size", "16", "--set", "patch=4", "--limit", "32",
        "--batch-size", "16", "--device", "cpu", "--workers", "0"]


def run(*argv, model="lrgc_nano"):
    train.main(["--model", model, *TINY, *map(str, argv)])


# ---- a run ---------------------------------------------------------------------------------------------------------


def test_a_run_from_the_command_line_writes_what_it_promises(tmp_path):
    argv = ["--model", "lrgc", *TINY, "--epochs", "2", "--output", "out"]
    torch_2_6 = ["-W", "ignore:Implicitly cleaning up"]  # a folder of its own
    command = [sys.executable, "-W", "error", *torch_2_6, str(ROOT / "train.py"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for text in ("lrgc_nano (family lrgc, size of the recipe demo)", "parameters", "GMACs",
                 "shapes: 10 classes, 32 training images", "2 epochs of 2 steps", "learning rate", "MiB of memory",
                 "16 images a step (global) = 16 a process × 1 process × 1 part", "epoch 0/2",
                 "epoch 2/2", "images/s", "top-5", "neighbours", "best top-1"):
        assert text in done.stdout
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", "best.pt", "config.json", "last.pt", "metrics.csv",
                                                   "previous.pt"]

    table = rows(tmp_path / "out")
    assert [row["epoch"] for row in table] == ["0", "1", "2"] and [row["step"] for row in table] == ["0", "2", "4"]
    assert (table[0]["neighbours_0"], table[0]["neighbours_1"]) == ("16", "16")  # fully connected before the first step
    assert table[0]["train_loss"] == "" and float(table[2]["train_loss"]) > 0 and float(table[2]["val_top5"]) <= 100

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["name"] == "lrgc_nano" and config["config"]["dim"] == 16 and config["recipe"]["epochs"] == 2

    best = torch.load(tmp_path / "out" / "best.pt", weights_only=True)
    assert best["classes"][0] == "disc" and best["mean"] == (0.5, 0.5, 0.5) and "training" not in best
    model = create_model(best["name"], dim=16, depth=2, img_size=16, patch=4)
    load_released(model, tmp_path / "out" / "best.pt")
    assert same_tensors(model.state_dict(), best["model"])


def test_a_run_that_was_killed_goes_on_to_bit_identical_weights(monkeypatch, capsys):
    random = ["--epochs", 3, "--drop-path", 0.2, "--set", "epsilon=0.2", "--set", "k=2"]  # with draws inside the model
    run(*random, "--output", "straight", model="vig_nano")
    save = checkpoint.save

    def killed_after_epoch_1(path, state, keep=None):
        save(path, state, keep)
        if state["epoch"] == 1 and path.name == "last.pt":
            raise KeyboardInterrupt

    same = [*random, "--output", "halves", "--resume", "auto"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(checkpoint, "save", killed_after_epoch_1)
        run(*same, model="vig_nano")
    assert end.value.code == 130 and "interrupted" in capsys.readouterr().err
    with open("halves/metrics.csv", "a") as file:
        file.write("2,4,0.001,2.3")  # cut short by the crash
    run(*same, model="vig_nano")
    assert "resumed after epoch 1" in " ".join(capsys.readouterr().out.split())
    straight, halves = (checkpoint.load(f"{folder}/last.pt") for folder in ("straight", "halves"))
    assert straight["epoch"] == 3 and same_tensors(straight, halves)
    assert rows("straight") == rows("halves")

    run(*same, model="vig_nano")  # nothing is left to do, and nothing changes
    assert same_tensors(checkpoint.load("halves/last.pt"), halves) and len(rows("halves")) == 4


def test_a_notebook_has_the_last_row_and_the_scores():
    row = train.main(["--model", "vig_nano", *TINY, "--epochs", "2", "--output", "out"])
    assert row["epoch"] == 2 and {"train_loss", "val_top1"} <= row.keys()
    assert float(rows("out")[-1]["val_top1"]) == pytest.approx(row["val_top1"], rel=1e-5)
    scores = train.main(["--resume", "out/last.pt", "--eval-only", "--device", "cpu"])
    assert scores["top1"] == row["val_top1"] and scores["loss"] == pytest.approx(row["val_loss"])
    again = train.main(["--resume", "out/last.pt", "--device", "cpu"])  # it is finished
    assert again["epoch"] == 2 and again["val_top1"] == row["val_top1"]


def test_the_seed_decides(capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("--epochs", 1, "--output", name, "--seed", seed)
    a, b, c = (checkpoint.load(f"{name}/last.pt")["model"] for name in "abc")
    assert same_tensors(a, b) and not same_tensors(a, c)


def test_evaluation_only_gives_the_figures_of_training_and_leaves_the_run_alone(capsys):
    run("--epochs", 1, "--output", "out")
    last = rows("out")[-1]
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    capsys.readouterr()
    # the checkpoint knows the rest
    train.main(["--resume", "out/last.pt", "--eval-only", "--limit", "32", "--device", "cpu"])
    out = capsys.readouterr().out
    assert f"top-1 {float(last['val_top1']):5.2f} %" in out and f"loss {float(last['val_loss']):.3f}" in out
    new = {Path("out/confusion.csv"), Path("out/confusion.png")}
    assert {path: path.stat().st_mtime_ns for path in {*Path("out").iterdir()} - new} == before
    assert os.listdir(".") == ["out"]


def test_an_evaluation_may_have_another_graph_but_no_other_weights(capsys):
    run("--epochs", 1, "--output", "out", "--model", "vig_nano")
    again = ["--resume", "out/last.pt", "--limit", "32", "--device", "cpu", "--eval-only", "--set"]
    train.main([*again, "graph=full"])
    assert "changed graph knn → full" in capsys.readouterr().out
    for argv, message in (([*again, "dim=48"], "its weights do not fit this model; of another shape: position"),
                          ([*again, "graph=lrgc"], "choose a value of graph that changes no weight"),
                          ([*again[:-2], "--set", "graph=full"], "trained with graph=knn")):
        with pytest.raises(SystemExit) as end:
            train.main(argv)
        assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("trained, other", [("knn", "random"), ("random", "knn"), ("lrgc", "full")])
def test_an_evaluation_may_take_another_graph_than_one_with_weights_or_draws(capsys, trained, other):
    run("--epochs", 1, "--output", "out", "--set", f"graph={trained}", model="vig_nano")
    train.main(["--resume", "out/last.pt", "--limit", "32", "--device", "cpu", "--eval-only", "--set",
                f"graph={other}"])
    assert f"changed graph {trained} → {other}" in capsys.readouterr().out
    assert Path("out/confusion-changed.csv").exists() and not Path("out/confusion.csv").exists()


def test_an_evaluation_on_other_images_leaves_the_runs_confusion_matrix(capsys, tmp_path):
    one, other = (image_folder(tmp_path / name, count=count) for name, count in (("one", 8), ("other", 4)))
    argv = ["--batch-size", "8", "--device", "cpu", "--workers", "0"]
    train.main(["--model", "vig_nano", *TINY[:-6], *argv, "--data-dir", str(one), "--epochs", "1", "--output", "out"])
    again = ["--resume", "out/last.pt", "--eval-only", *argv]
    train.main(again)
    before = Path("out/confusion.csv").read_bytes()
    train.main([*again, "--data-dir", str(other)])
    assert Path("out/confusion.csv").read_bytes() == before and Path("out/confusion-changed.csv").exists()


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(capsys):
    Path("out").mkdir()
    for name in ("last.pt.0a1b2c3d.tmp", "notes.tmp"):
        Path("out", name).write_text("half")
    run("--epochs", 1, "--output", "out")
    assert not Path("out/last.pt.0a1b2c3d.tmp").exists() and Path("out/notes.tmp").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(capsys, monkeypatch):
    def refuses(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(checkpoint, "lock", refuses)
    said = refused(capsys, "--model", "lrgc_nano", *TINY, "--output", "out")
    assert "out: cannot be written (Permission denied); choose another --output" in said


def test_an_evaluation_reads_no_training_image(capsys, tmp_path):
    """Broken ones do not matter to it, nor that they are fewer than a batch."""
    data = image_folder(tmp_path / "data", count=8)
    argv = ["--data-dir", str(data), "--batch-size", "8", "--device", "cpu", "--workers", "0"]
    train.main(["--model", "vig_nano", *TINY[:-6], *argv, "--epochs", "1", "--output", "out"])
    for path in sorted(data.glob("train/*/*"))[:-2]:
        path.unlink()
    for path in data.glob("train/*/*"):
        path.write_text("no image")
    for path in data.glob("train"):
        (path / "cat").mkdir(exist_ok=True)
        (path / "cat" / "0.png").write_text("no image")
    capsys.readouterr()
    train.main(["--resume", "out/last.pt", "--eval-only", *argv])
    said = " ".join(capsys.readouterr().out.split())
    assert "2 classes, 16 validation images" in said and "top-1" in said and "training image" not in said


def test_a_column_that_comes_later_stands_below_its_own_name(tmp_path):
    """COCO's figures of small objects are there only where an image shows one."""
    table = []
    for row in ({"epoch": 0, "a": 1.5}, {"epoch": 1, "small": 2.5, "a": 3.5}, {"epoch": 2, "a": 4.5}):
        table.append(row)
        run_log.write_table(tmp_path / "metrics.csv", table)
    assert rows(tmp_path) == [{"epoch": "0", "a": "1.5", "small": ""}, {"epoch": "1", "a": "3.5", "small": "2.5"},
                              {"epoch": "2", "a": "4.5", "small": ""}]


def test_a_run_goes_on_when_nobody_reads_what_it_prints(capsys, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    unheard = []
    monkeypatch.setattr(run_log.tqdm, "write", gone)
    monkeypatch.setattr(run_log, "unheard", lambda: unheard.append(1))
    run("--epochs", 1, "--output", "out")
    assert unheard and [row["epoch"] for row in rows("out")] == ["0", "1"]


def test_bfloat16_and_no_average(capsys):
    run("--epochs", 1, "--output", "out", "--amp", "--ema-decay", "0", "--no-flip")
    state = checkpoint.load("out/last.pt")
    assert "bfloat16" in capsys.readouterr().out and state["training"]["average"] is None
    assert same_tensors(state["model"], state["training"]["model"])


def test_a_dry_run_says_what_the_whole_takes_and_writes_nothing(capsys):
    run("--dry-run", "--limit", "128", "--epochs", "7")
    out = " ".join(capsys.readouterr().out.split())
    assert "7 epochs of 8 steps would take about" in out and "MiB of memory a process" in out and "first step" in out
    assert "epoch 1/" not in out and not os.listdir(".")


def test_the_papers_recipe_runs_with_everything_on(capsys):
    run("--recipe", "lrgc", "--epochs", 2, "--accumulation", 2, "--grad-checkpoint", "--amp", "fp16",
        "--color-jitter", 0.2, "--save-every", 1, "--set", "drop_path=0.1", "--output", "out", "--optimiser", "sgd",
        "--schedule", "step", "--decay-epochs", 0.5, 1, "--scale-lr", "--detect-anomaly", "--workers", 1)
    out = capsys.readouterr().out
    assert "8 a process × 1 process × 2 parts" in out and "rand_augment 9" in out and "decay_epochs 0.5 1" in out
    assert "learning rate 0.000125" in out and "float16" in out and len(rows("out")) == 3  # 2e-3 · 16 / 256
    config = json.loads(Path("out/config.json").read_text())
    assert config["recipe"]["mixup"] == 0.8 and config["recipe"]["repeats"] == 3


def test_a_teacher_of_the_same_classes_can_be_learnt_from(capsys):
    torch.save(models.squeezenet1_1(num_classes=10).state_dict(), "teacher.pt")
    argv = ["--teacher", "squeezenet1_1", "--epochs", 1, "--img-size", 32, "--set", "patch=8"]
    run(*argv, "--teacher-weights", "teacher.pt", "--output", "out")
    assert "teacher squeezenet1_1" in capsys.readouterr().out
    assert checkpoint.load("out/last.pt")["flags"]["teacher_weights"] == os.path.abspath("teacher.pt")
    assert "ImageNet's 1000 classes" in refused(capsys, *map(str, argv), "--recipe", "demo", "--limit", "32")
    for number, foreign in enumerate(({"model": "resnet"}, {3: torch.zeros(1)})):
        torch.save(foreign, f"{number}.pt")
        assert f"{number}.pt: does not fit squeezenet1_1" in refused(
            capsys, *map(str, argv), "--teacher-weights", f"{number}.pt", "--recipe", "demo", "--limit", "32")


def test_a_run_that_is_never_right_has_its_files_all_the_same(capsys, monkeypatch):
    nothing = {"loss": 1.0, "top1": 0.0, "top5": 0.0}
    monkeypatch.setattr(TopK, "compute", lambda *_: nothing)
    run("--epochs", 2, "--output", "out")
    assert torch.load("out/best.pt")["epoch"] == 1
    assert "best top-1 0.00 % at epoch 1 of 2" in " ".join(capsys.readouterr().out.split())


def test_the_checkpoint_to_go_on_from_is_the_last_to_be_written(monkeypatch):
    written, save = [], checkpoint.save

    def noted(path, state, **options):
        written.append(Path(path).name)
        save(path, state, **options)

    monkeypatch.setattr(checkpoint, "save", noted)
    run("--epochs", 1, "--output", "out", "--keep-every", 1)
    assert [name for name in written if name != "best.pt"] == ["epoch-000.pt", "last.pt", "epoch-001.pt", "last.pt"]


def test_what_looks_wrong_is_said(tmp_path):
    data = open_data("imagefolder", str(image_folder(tmp_path / "data")), (16, 16), None)
    assert run_log.warnings(data) == []
    dogs = replace(data, train=Subset(data.train, [3, 4, 5]))
    assert run_log.warnings(dogs) == ["warning: no training image of 1 class: cat"]
    assert run_log.warnings(replace(data, val=Subset(Subset(data.val, [0, 5, 1]), [0, 2]))) == [
        "warning: no validation image of 1 class: dog"]
    chance = SingleLabel.chance(10)
    assert run_log.first_loss(2.4, *chance) == "first step: loss 2.400, chance level 2.303 (ln 10)"
    assert "far above it" in run_log.first_loss(9.0, *chance)
    assert "far" not in run_log.first_loss(2.4, *chance) + run_log.first_loss(0.1, *chance)  # weights may be trained


@pytest.mark.slow
def test_a_compiled_model_trains_and_its_checkpoint_is_like_any_other(capsys):
    run("--epochs", 1, "--output", "out", "--compile")
    train.main(["--resume", "out/last.pt", "--eval-only", "--limit", "32", "--device", "cpu"])
    assert f"top-1 {float(rows('out')[-1]['val_top1']):5.2f} %" in capsys.readouterr().out


def test_compiling_without_a_compiler_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "/no/compiler")
    assert "--compile: torch needs a C++ compiler, and /no/compiler is not there" in refused(capsys, *TINY, "--compile")
    assert not os.path.exists("runs")
    run("--epochs", 1, "--output", "out")
    state = torch.load("out/last.pt")
    torch.save(state | {"flags": state["flags"] | {"compile": True}}, "compiled.pt")
    train.main(["--resume", "compiled.pt", "--eval-only", "--device", "cpu"])  # which compiles nothing


def test_no_run_is_ever_overwritten(capsys):
    for _ in range(2):
        run("--epochs", 1)
    assert sorted(os.listdir("runs")) == ["lrgc_nano-shapes", "lrgc_nano-shapes-2"]
    run("--epochs", 1, "--resume", "auto")  # the latest of them
    assert "resumed after epoch 1 of runs/lrgc_nano-shapes-2/last.pt" in " ".join(capsys.readouterr().out.split())
    assert "holds a run already" in refused(capsys, "--output", "runs/lrgc_nano-shapes", *TINY)


# ---- which model, which size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "data", "names"), [
    ([], "shapes", ("lrgc_nano", "demo")),
    (["--model", "vig"], "imagefolder", ("vig_ti", "vig")),
    (["--model", "svig", "--recipe", "demo"], "cifar10", ("svig_nano", "demo")),
    (["--model", "lrgc"], "cifar10", ("lrgc_ti", "lrgc")),
    (["--model", "lrgc_nano"], "cifar10", ("lrgc_nano", "demo")),
    (["--model", "vig_ti"], "shapes", ("vig_ti", "demo")),
    (["--model", "gkgnet"], "shapes-multi", ("gkgnet_nano", "demo_multi")),
    (["--model", "gkgnet"], "coco", ("gkgnet_s", "gkgnet")),
    (["--model", "gkgnet"], "voc2007", ("gkgnet_s", "gkgnet_voc")),
    (["--model", "pvig"], "imagefolder", ("pvig_ti", "vig")),
    (["--model", "cvig_b"], "imagefolder", ("cvig_b", "cvig")),
    (["--model", "cvig_b_784"], "imagefolder", ("cvig_b_784", "cvig")),
    (["--model", "cnn2gnn"], "cifar10", ("cnn2gnn_resnet18", "cnn2graph")),
    (["--model", "resnet"], "cifar100", ("resnet_18", "cnn2graph_100")),
    (["--model", "cnn2mean"], "shapes", ("cnn2mean_nano", "demo")),
])
def test_model_and_recipe_decide_about_each_other(argv, data, names):
    assert resolve.choose_names(replace(RunConfig.of(parse(argv)), data=data), None) == names
    assert names[0] in list_models()


def test_a_flags_help_tells_its_default():
    told = {name: re.search(r"default:? ([\w.]+)", field.metadata["help"]) for name, field in OPTIONS.items()}
    told = {name: found[1] for name, found in told.items() if found and OPTIONS[name].default is not None}
    assert told == {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in {
        "eval_split": "val", "seed": 0, "device": "auto", "timeout": 5.0}.items()}
    assert all(told[name] == f"{getattr(RunConfig(), name)}".removesuffix(".0") for name in told)
    assert (RunConfig().bad_images, parse(["--amp"])["amp"]) == ("skip", "bf16")


@pytest.mark.parametrize("argv", [["-m", "vig_minimal"], ["-c", "import vig_minimal"]])
def test_help_does_not_wait_for_torch(argv):
    done = subprocess.run([sys.executable, "-X", "importtime", *argv], cwd=ROOT, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and len(imported) > 20 and not imported & {"torch", "torchvision"}


def test_the_package_has_its_public_names():
    assert vig_minimal.create_model is create_model and set(vig_minimal.__all__) <= set(dir(vig_minimal))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vig_minimal.nothing


@pytest.mark.parametrize(("argv", "data", "model", "size", "patch"), [
    ([], "shapes", "lrgc_nano", (64, 64), 8),
    ([], "cifar10", "lrgc_nano", (32, 32), 4),
    ([], "stl10", "vig_nano", (96, 96), 16),
    ([], "cifar10", "vig_ti", (32, 32), 2),
    ([], "imagefolder", "vig_ti", (224, 224), 16),
    (["--img-size", "64", "96"], "imagefolder", "vig_nano", (64, 96), 8),
    (["--img-size", "32", "--set", "patch=8"], "shapes", "vig_nano", (32, 32), 8),
    (["--img-size", "20"], "shapes", "vig_nano", (20, 20), 2),
])
def test_the_patch_keeps_the_grid_near_the_presets(argv, data, model, size, patch):
    config = RunConfig.of(parse(argv) | {"data": data, "model": model, "recipe_name": "demo"})
    fields = resolve.choose_fields(replace(config, recipe=get_recipe("demo")), None)
    assert (fields["img_size"], fields["patch"]) == (size, patch)


def test_set_takes_numbers_and_words():
    argv = [part for setting in ("k=6", "conv=gin", "epsilon=0.2", "drop_path=0.3") for part in ("--set", setting)]
    config = RunConfig.of(parse(argv) | {"data": "shapes", "model": "vig_nano", "recipe_name": "vig"})
    fields = resolve.choose_fields(replace(config, recipe=get_recipe("vig")), None)
    assert {name: fields[name] for name in ("k", "conv", "epsilon", "drop_path")} == {
        "k": 6, "conv": "gin", "epsilon": 0.2, "drop_path": 0.3}


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "message"), [
    (["--model", "lrgc_nan"], "unknown model 'lrgc_nan'; did you mean lrgc_nano"),
    (["--model", "vit"], "unknown model 'vit'"),
    (["--recipe", "gkgnet"], "--recipe gkgnet: made for models of size s, which lrgc does not have; give a full name,"
                             " one of lrgc_nano, lrgc_ti"),
    (["--model", "vig", "--recipe", "cnn2graph"], "made for models of size resnet18, which vig does not have"),
    (["--data", "mnist"], "unknown data set 'mnist'. There are: shapes, imagefolder, cifar10"),
    (["--recipe", "best"], "unknown recipe 'best'. There are: demo"),
    (["--set", "depht=3"], "no field 'depht'; did you mean depth"),
    (["--set", "depth"], "--set depth: it takes FIELD=VALUE"),
    (["--set", "num_classes=3"], "num_classes follows from the data"),
    (["--set", "dim=wide"], "dim"),
    (["--set", "graph=tree"], "unknown graph 'tree'"),
    (["--img-size", "20", "--set", "patch=16"], "img_size=20"),
    (["--img-size", "63"], "img_size=63"),
    (["--img-size", "0"], "--img-size 0: must be at least 1 and at most 8,192"),
    (["--img-size", "64", "64", "64"], "--img-size (64, 64, 64): one side, or height and width"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1 and at most 1,000,000"),
    (["--batch-size", "-8"], "--batch-size -8: must be at least 1"),
    (["--batch-size", "1"], "at least 2 for batch norm"),
    (["--batch-size", "64", "--limit", "32"], "larger than an epoch of this data, 32 training images"),
    (["--batch-size", "300", "--limit", "500", "--repeats", "3"], "data, 256 training images with --repeats 3"),
    (["--batch-size", "many"], "invalid int value: 'many'"),
    (["--epochs", "0"], "--epochs 0: must be at least 1 and at most 1,000,000"),
    (["--lr", "-1"], "--lr -1: must be more than 0 and at most 1,000"),
    (["--limit", "0"], "--limit 0: must be at least 1"),
    (["--save-every", "0"], "--save-every 0: must be at least 1"),
    (["--accumulation", "3"], "× 3 parts (--accumulation) must get as many images"),
    (["--mixup", "0.8", "--batch-size", "9", "--limit", "90"], "an even number, since mixup and CutMix pair them"),
    (["--batch-size", "4", "--accumulation", "8", "--limit", "32"], "8 parts (--accumulation) must get as many images"),
    (["--freeze", "--resume", "auto"], "--freeze: keeps the loaded weights; name them with --init-from FILE"),
    (["--sync-bn", "--limit", "64"], "--sync-bn: torch has synchronised batch norm for GPUs only"),
    (["--teacher", "oracle", "--limit", "64"], "--teacher oracle: torchvision has no such classifier"),
    (["--amp", "int8"], "--amp int8: choose one of bf16, fp16"),
    (["--decay-epochs", "50", "10"], "decay_epochs=(50.0, 10.0): must increase"),
    (["--rand-augment", "99"], "--rand-augment 99: must be at least 0 and at most 10"),
    (["--dry-run", "--eval-only", "--resume", "x.pt"], "one of them"),
    (["--workers", "-1"], "--workers -1"),
    (["--device", "tpu7"], "--device tpu7"),
    (["--data", "imagefolder"], "--data-dir"),
    (["--data-dir", "nowhere"], "nowhere: no such folder"),
    (["--resume", "nowhere/last.pt"], "nowhere/last.pt: no such checkpoint"),
    (["--eval-only"], "--resume PATH"),
    (["--colour"], "unrecognized arguments: --colour; did you mean --color-jitter?"),
])
def test_bad_flags_are_one_sentence(capsys, argv, message):
    assert message in refused(capsys, *argv)
    assert not os.listdir(".")


@pytest.mark.parametrize(("change", "message"), [
    ({"val": ("cat", "fox")}, "different classes"), ({"train": (), "val": ()}, "no class"),
    ({"train": ("cat",), "val": ("cat",)}, "one class only"), ({"count": 0}, "no images ("),
])
def test_bad_folders_are_one_sentence(capsys, tmp_path, change, message):
    image_folder(tmp_path / "data", **change)
    assert message in refused(capsys, "--model", "vig_nano", "--data-dir", "data")
    assert os.listdir(".") == ["data"]


@pytest.mark.parametrize("crop", ["pad", "resized"])  # kept in memory, decoded as needed
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_names_its_file(capsys, tmp_path, crop, split):
    broken = image_folder(tmp_path / "data", count=4) / split / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    argv = ["--model", "vig_nano", "--data-dir", "data", "--epochs", 1, *TINY, "--batch-size", 2, "--crop", crop,
            "--bad-images", "error"]
    argv = [*map(str, argv), "--workers", "1"]
    if crop == "pad" or split == "val":
        assert f"data/{split}/dog/2.png: this image is broken" in refused(capsys, *argv)
        return
    with pytest.raises(SystemExit) as end:  # found while training: there is a checkpoint to go on from
        train.main(argv)
    said = capsys.readouterr().err
    assert end.value.code == 1 and "data/train/dog/2.png: this image is broken" in said
    assert "the last good checkpoint is runs/vig_nano-imagefolder/last.pt" in said and said.count("\n") == 1


def test_checkpoints_that_do_not_fit_are_one_sentence(capsys):
    run("--epochs", 1, "--output", "out")
    last = Path("out/last.pt")
    capsys.readouterr()

    def resumed(*argv):
        return refused(capsys, *TINY, *argv, "--resume", last)

    assert "trained with model=lrgc_nano, and this run has model=vig_nano" in resumed("--model", "vig_nano")
    assert "trained with depth=2, and this run has depth=3" in resumed("--set", "depth=3")
    assert "trained with drop_path=0.0" in resumed("--drop-path", 0.5)
    assert "trained with ema_decay=0.99, and this run has ema_decay=0" in resumed("--ema-decay", "0")
    image_folder(Path("data"))
    said = resumed("--data-dir", "data", "--batch-size", 2)
    assert "trained with num_classes=10, and this run has num_classes=2" in said
    state = checkpoint.load(last)
    weights = {name: value for name, value in state.items() if name != "training"}
    checkpoint.save("weights.pt", weights)
    assert "has the weights to use only" in refused(capsys, *TINY, "--resume", "weights.pt")
    last.write_bytes(last.read_bytes()[:20_000])
    assert "cut short, damaged" in resumed()
    Path("out/previous.pt").write_bytes(b"")
    assert "cut short, damaged" in refused(capsys, "--model", "lrgc_nano", *TINY, "--resume", "auto", "--output", "out")
    torch.save({"model": print}, last)
    assert "refused, since loading it would run code" in resumed()
    torch.save(create_model("vig_nano").state_dict(), last)
    assert "not a checkpoint of train.py" in resumed()


@pytest.mark.slow
def test_a_port_in_use_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "RANK": "0", "WORLD_SIZE": "2",
                 "LOCAL_RANK": "0", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        done = subprocess.run([sys.executable, str(ROOT / "train.py"), *TINY], capture_output=True, text=True,
                              cwd=tmp_path, env=os.environ | place)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "EADDRINUSE" in done.stderr.splitlines()[-1]
