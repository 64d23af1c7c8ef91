"""A resumed run is the same run: what a checkpoint keeps, what may change, and what is refused in one sentence."""

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vig_minimal import train
from commands import at_call, own_folder, refused, rows  # noqa: F401
from helpers import image_folder, same_tensors
from vig_minimal import create_model, load
from vig_minimal.models.pyramid import PyramidConfig
from vig_minimal.models.registry import CONFIGS
from vig_minimal.training import checkpoint, recipes
from vig_minimal.training.resolve import Start
from vig_minimal.training.resume import claim_folder, merged
from vig_minimal.training.tasks import SingleLabel

SMALL = ["--img-size", "16", "--limit", "32", "--batch-size", "16", "--device", "cpu", "--workers", "0"]
VIG = ["--model", "vig_nano", *SMALL, "--set", "dim=16", "--set", "depth=2", "--set", "k=2", "--set", "patch=4"]
GKGNET = ["--model", "gkgnet", *SMALL, "--set", "dim=(8,16)", "--set", "depth=(1,1)", "--set", "pool=(2,1)"]


def run(*argv):
    train.main([str(arg) for arg in argv])


def interrupt():
    raise KeyboardInterrupt


def killed(monkeypatch, *argv, before):
    """Run until just before the call of `before`, (module, name), as a kill would end it."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(*before, at_call(1, None, interrupt))
        run(*argv)


@pytest.mark.parametrize("model", [VIG, GKGNET], ids=["one label", "several labels"])
def test_a_finished_run_says_so_and_changes_nothing(capsys, model):
    argv = [*model, "--epochs", 1, "--output", "out", "--resume", "auto"]
    run(*argv)
    before = {path: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}
    capsys.readouterr()
    run(*argv)
    assert "this run is finished: best " in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in Path("out").iterdir() if path.name != ".lock"}


def test_a_kill_before_the_first_checkpoint_leaves_no_second_row(monkeypatch):
    argv = [*VIG, "--epochs", 1, "--output", "out", "--resume", "auto"]
    killed(monkeypatch, *argv, before=(checkpoint, "save"))
    assert [row["epoch"] for row in rows("out")] == ["0"] and not Path("out/last.pt").exists()
    run(*argv)
    assert [row["epoch"] for row in rows("out")] == ["0", "1"]


@pytest.mark.slow
def test_a_resumed_run_keeps_what_was_given_and_nothing_more():
    run("--model", "vig_nano", *SMALL, "--epochs", 1, "--output", "out")
    given = checkpoint.load("out/last.pt")["given"]
    run("--resume", "out/last.pt", "--epochs", 2)
    assert checkpoint.load("out/last.pt")["given"] == given | {"epochs": 2}


def older(path, k):
    """Give the config of a checkpoint the k that older versions wrote where nobody had chosen one."""
    state = checkpoint.load(path)
    assert state["config"]["k"] is None
    checkpoint.save(path, state | {"config": state["config"] | {"k": k}})


@pytest.mark.slow
@pytest.mark.parametrize("name, k", [("vig_nano", 2), ("svig_nano", 2), ("lrgc_nano", 2), ("cvig_nano", 2),
                                     ("pvig_nano", 9), ("gkgnet_nano", 9)])
def test_a_checkpoint_of_an_older_version_goes_on_as_before(name, k, capsys):
    sizes = GKGNET[len(SMALL) + 2:] if isinstance(CONFIGS[name], PyramidConfig) else ["--set", "dim=16", "--set",
                                                                                     "depth=2", "--set", "patch=8"]
    argv = ["--model", name, *SMALL, *sizes]
    for folder in ("whole", "old"):
        run(*argv, "--epochs", 1, "--output", folder)
    for file in ("last.pt", "best.pt"):
        older(f"old/{file}", k)
    with torch.no_grad():
        images = torch.randn(2, 3, 16, 16)
        model, twin = load("old/best.pt"), create_model(name, **checkpoint.load_run("old/best.pt")["config"]).eval()
        assert model.config == twin.config and model.config.k is None
        twin.load_state_dict(model.state_dict())
        assert torch.equal(model(images), twin(images))
        assert model(torch.randn(2, 3, 32, 32)).isfinite().all()  # k follows the size
    run("--eval-only", "--resume", "old/best.pt")
    for folder in ("whole", "old"):
        run(*argv, "--epochs", 2, "--output", folder, "--resume", "auto")
    whole, resumed = checkpoint.load("whole/last.pt"), checkpoint.load("old/last.pt")
    assert resumed["config"] == whole["config"] and resumed["config"]["k"] is None
    assert all(torch.equal(whole["model"][key], value) for key, value in resumed["model"].items())
    data = "shapes-multi" if name == "gkgnet_nano" else "shapes"
    run("--init-from", "old/last.pt", "--data", data, *SMALL, "--img-size", 32, "--epochs", 1, "--output", "larger")
    assert checkpoint.load("larger/last.pt")["config"]["k"] is None


def test_a_chosen_k_that_equals_the_schedule_goes_on_too():
    argv = [*VIG[:-2], "--set", "patch=8", "--output", "out", "--resume", "auto"]
    for epochs in (1, 2):
        run(*argv, "--epochs", epochs)  # k=2, and 4 nodes have it by themselves
    assert checkpoint.load("out/last.pt")["config"]["k"] == 2 and checkpoint.load("out/last.pt")["epoch"] == 2


@pytest.mark.parametrize("content", [b"epoch,a\nzero,0\n", b"\xff\xfe\x00", b"\n", None])
def test_a_table_that_is_damaged_or_gone_is_written_again_from_the_checkpoint(content):
    argv = [*VIG, "--output", "out", "--resume", "auto"]
    run(*argv, "--epochs", 1)
    before, table = rows("out"), Path("out/metrics.csv")
    table.unlink() if content is None else table.write_bytes(content)
    run(*argv, "--epochs", 2)
    assert [row["epoch"] for row in rows("out")] == ["0", "1", "2"]
    assert before == rows("out")[:2]


# ---- checkpoints of a wrong kind -----------------------------------------------------------------------------------

LEFT_OUT = "left out"
WRONG = [LEFT_OUT, None, 3, "x", [3], {"x": 3}, torch.zeros(2, 3)]
PARTS = ["name", "config", "classes", "recipe", "epoch", "step", "steps", "best", "model", "training", "config/dim",
         "config/graph", "config/k", "recipe/epochs", "recipe/lr", "recipe/crop", "recipe/mean", "best/epoch",
         "best/top1", "model/pos", "training/model", "training/model/pos", "training/average", "training/optimiser",
         "training/losses", "training/history", "given", "training/optimiser/param_groups"]


def replaced(state, place, value):
    """The state with another value at a place, as "training/model", or without it."""
    name, _, rest = place.partition("/")
    name = int(name) if name.isdigit() else next(key for key in state if str(key).startswith(name))
    if rest:
        value = replaced(state[name], rest, value)
    return {key: value if key == name else part for key, part in state.items() if key != name or value is not LEFT_OUT}


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_a_state_of_wrong_types_shapes_or_keys_is_one_sentence(capsys, monkeypatch, every):
    run(*VIG, "--epochs", 1, "--output", "out")
    state, accepted = torch.load("out/last.pt"), []
    capsys.readouterr()
    for place, value in list(itertools.product(PARTS, WRONG))[::every]:
        monkeypatch.setattr(checkpoint, "load", lambda _: replaced(state, place, value))
        try:
            said = refused(capsys, *VIG, "--resume", "out/last.pt")
            assert "out/last.pt: " in said or place.startswith(("config", "recipe")), said
        except pytest.fail.Exception:
            accepted.append(f"{place} {value}")
            capsys.readouterr()
    # a field left out has its default or follows from what was given, as if the checkpoint were older than the field
    possible = ["config/graph left out", "config/k left out", "config/dim left out", "step 3", "best/epoch 3",
                "best/top1 3", "recipe/epochs left out", "recipe/epochs 3", "recipe/lr left out", "recipe/lr None",
                "recipe/lr 3", "recipe/mean left out", "training/losses {'x': 3}"]
    assert " + ".join(case for case in accepted if case not in possible) == ""


# ---- a run that went wrong -----------------------------------------------------------------------------------------


def test_a_run_that_diverged_goes_on_from_before_it_went_wrong_with_another_rate(capsys, monkeypatch):
    argv = [*VIG, "--limit", 64, "--batch-size", 8, "--epochs", 1, "--output", "out"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(train, "learning_rate", lambda step, *_: 1e30 if step else 1e-3)  # breaks in the second
        run(*argv, "--lr", "1000", "--save-every", 1)
    said = capsys.readouterr().err
    assert end.value.code == 1 and "not finite" in said and "epoch 1, step 3, learning rate 1.00e+30" in said
    assert "the last good checkpoint is out/previous.pt, of epoch 0 and step 1" in said  # last.pt has the bad weights
    assert "resume it with --resume out/previous.pt" in said and said.count("\n") == 1
    run("--resume", "out/previous.pt", "--lr", "1e-3", "--device", "cpu")
    assert "epoch 1/1" in capsys.readouterr().out
    assert [row["epoch"] for row in rows("out")] == ["0", "1"]


def test_nothing_is_written_by_a_step_that_is_not_finite(capsys, monkeypatch):
    monkeypatch.setattr(SingleLabel, "losses", lambda self, outputs, targets, images: {
        "cross_entropy": outputs.sum() * torch.nan})
    with pytest.raises(SystemExit) as end:
        run(*VIG, "--epochs", 3, "--output", "out", "--save-every", 1)
    assert end.value.code == 1 and "no checkpoint was written before" in capsys.readouterr().err
    assert torch.load("out/last.pt")["step"] == 0 and not Path("out/best.pt").exists()


# ---- a checkpoint of another version -------------------------------------------------------------------------------


def earlier(path):
    """Make a checkpoint what it was before it kept what was given and its rows."""
    state = torch.load(path)
    training = {name: value for name, value in state.pop("training", {}).items() if name != "history"}
    del state["given"]
    state["flags"] = {name: value for name, value in state["flags"].items() if name not in ("init_from", "multi_label")}
    torch.save(state | ({"training": training} if training else {}), path)


@pytest.mark.slow
@pytest.mark.parametrize("model", [VIG, GKGNET], ids=["one label", "several labels"])
def test_an_earlier_one_is_evaluated_and_started_from_and_not_gone_on_with(capsys, model):
    run(*model, "--epochs", 1, "--output", "out")
    for name in ("last.pt", "best.pt"):
        earlier(f"out/{name}")
    capsys.readouterr()
    run("--resume", "out/best.pt", "--eval-only", *SMALL)
    last = rows("out")[-1]
    key, name = ("mAP", "mAP") if "val_mAP" in last else ("top1", "top-1")
    assert f"{name} {float(last[f'val_{key}']):5.2f} %" in capsys.readouterr().out
    run("--init-from", "out/best.pt", *model[2:8], "--epochs", 1, "--output", "other", "--device", "cpu")
    capsys.readouterr()
    assert "has the weights to use only, or is of an earlier version" in refused(
        capsys, "--resume", "out/last.pt", "--device", "cpu")


def test_one_that_came_to_something_else_is_refused_by_the_name_of_the_field(capsys, monkeypatch):
    run(*VIG, "--epochs", 1, "--output", "out")
    capsys.readouterr()
    demo = dict(recipes.RECIPES)["demo"]
    monkeypatch.setitem(recipes.RECIPES, "demo", replace(demo, weight_decay=0.02))
    said = refused(capsys, "--resume", "out/last.pt", "--device", "cpu", "--epochs", "2")
    assert "out/last.pt: trained with weight_decay=0.05, and this run has weight_decay=0.02" in said


# ---- the checkpoint alone ------------------------------------------------------------------------------------------


def test_the_checkpoint_alone_goes_on_exactly(capsys, monkeypatch, tmp_path):
    """Seed, data, limit, recipe and fields that equal a preset's (patch 8 would be guessed as 2) are all kept."""
    data = image_folder(tmp_path / "data", count=8)
    argv = ["--model", "vig_nano", "--data-dir", data, "--img-size", 16, "--set", "patch=8", "--set", "k=1", "--set",
            "depth=2", "--limit", 12, "--batch-size", 4, "--epochs", 2, "--seed", 5, "--amp", "--drop-path", 0.2,
            "--save-every", 1, "--workers", 0, "--device", "cpu"]
    run(*argv, "--output", "whole")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(train, "update", at_call(3, train.update, interrupt))
        run(*argv, "--output", "cut")
    (tmp_path / "elsewhere").mkdir()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        run("--resume", tmp_path / "cut" / "last.pt", "--device", "cpu")
    assert "resumed after epoch 0 and 2 steps" in " ".join(capsys.readouterr().out.split())
    whole, cut = (torch.load(f"{name}/last.pt") for name in ("whole", "cut"))
    assert whole["flags"].pop("data_dir") == cut["flags"].pop("data_dir") == str(data)
    assert same_tensors(whole, cut) and whole["flags"]["seed"] == 5


def test_what_cannot_change_is_refused_and_what_can_is_said(capsys):
    run(*VIG, "--epochs", 1, "--output", "out", "--seed", 3)
    capsys.readouterr()
    for flag, what in ((["--seed", 0], "trained with seed=3, and this run has seed=0"), (["--amp"], "amp=bf16"),
                       (["--compile"], "compile=True"), (["--mixup", 0.5], "mixup=0.0, and this run has mixup=0.5"),
                       (["--weight-decay", 0.5], "weight_decay"), (["--optimiser", "sgd"], "optimiser=adamw")):
        assert what in refused(capsys, "--resume", "out/last.pt", "--device", "cpu", *flag)
    run("--resume", "out/last.pt", "--device", "cpu", "--epochs", 3, "--lr", 1e-4, "--save-every", 1)
    said = " ".join(capsys.readouterr().out.split())
    assert "changed save_every None → 1; epochs 1 → 3; lr 0.0015 → 0.0001; warmup_epochs 0.1 → 0.3" in said
    assert "0000000" not in said  # 3 × 0.1 is not 0.3 to the last digit
    assert torch.load("out/last.pt")["flags"]["seed"] == 3 and rows("out")[-1]["epoch"] == "3"
    run(*VIG, "--epochs", 1, "--output", "zero")
    capsys.readouterr()
    said = refused(capsys, "--resume", "zero/last.pt", "--seed", 7)
    assert "zero/last.pt: trained with seed=0, and this run has seed=7" in said


def test_a_task_and_its_data_come_back_by_themselves(capsys):
    model = ["--model", "pvig_nano", *GKGNET[2:], "--multi-label"]
    run(*model, "--epochs", 1, "--output", "out")
    run("--resume", "auto", "--output", "out", "--epochs", 2, "--device", "cpu")
    run("--resume", "out/best.pt", "--eval-only")
    assert torch.load("out/last.pt")["flags"]["data"] == "shapes-multi"
    assert [row["epoch"] for row in rows("out")] == ["0", "1", "2"]
    assert capsys.readouterr().out.count("mAP ") >= 4


def test_other_images_are_refused_within_an_epoch_and_said_before_one(capsys, tmp_path):
    data = image_folder(tmp_path / "data", count=8)
    argv = [*VIG, "--data-dir", data, "--limit", 12, "--batch-size", 4, "--output", "out", "--save-every", 1]
    run(*argv, "--epochs", 1)
    (data / "val" / "cat" / "0.png").rename(data / "val" / "cat" / "new.png")
    Path("middle").mkdir()
    state = torch.load("out/previous.pt")
    assert state["step"] == 3 and state["epoch"] == 0
    checkpoint.save("middle/last.pt", state | {"step": 2})
    capsys.readouterr()
    assert "its images are not those of now" in refused(capsys, "--resume", "middle/last.pt", "--device", "cpu")
    run("--resume", "out/last.pt", "--device", "cpu", "--epochs", 2)
    said = " ".join(capsys.readouterr().out.split())
    assert "the images are not those of the checkpoint's run (training 12 → 12, validation 16 → 16)" in said


# ---- numbers that cannot be meant ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "value", "message"), [
    ("--mixup", "1e15", "--mixup 1e+15: must be at least 0 and at most 100"), ("--cutmix", "nan", "--cutmix nan: must"),
    ("--repeats", 10 ** 21, "at most 1,000"), ("--epochs", 10 ** 400, "must be at least 1 and at most 1,000,000"),
    ("--set", "depth=1000000007", "--set depth=1000000007: at most 1,000"), ("--set", "dim=10**9", "dim"),
    ("--set", "dim=1000000007", "--set dim=1000000007: at most 10,000"),
    ("--eval-crop", 1e-9, "0, or at least 0.1 and at most 1"),
    ("--set", "dim=(8, 100000)", "--set dim=(8, 100000): at most 10,000"), ("--device", "meta", "--device meta"),
    ("--set", "depth=" + "(" * 300, "depth"), ("--set", "threshold=1e400", "threshold=inf: must be a finite number"),
    ("--set", "k=9" + "9" * 5000, "k"), ("--lr", "1e30", "--lr 1e+30: must be more than 0 and at most 1,000"),
    ("--img-size", 10 ** 6, "--img-size 1000000: must be"), ("--workers", 10 ** 6, "at least 0 and at most 256"),
    ("--img-size", 4096, "4096×4096 pixels in patches of 4: more than 131,072 nodes"), ("--timeout", 0, "--timeout 0"),
    ("--limit", 10 ** 12, "at most 10,000,000"), ("--accumulation", 10 ** 30, "at most 1,000,000"),
    ("--data-dir", "", "--data-dir: an empty name"), ("--output", "", "--output: an empty name"),
    ("--model", "", "--model: an empty name"), ("--recipe", "", "--recipe: an empty name"),
    ("--resume", "", "--resume: an empty name"), ("--seed", 10 ** 400, "--seed"),
    ("--device", "", "--device"), ("--warmup-lr", "inf", "at most 1,000"),
    ("--anchors-per-class", 10 ** 9, "--anchors-per-class 1000000000: must be at least 1 and at most 10,000"),
    ("--decay-epochs", "nan", "--decay-epochs nan: must be more than 0"),
])
def test_a_number_that_cannot_be_meant_is_refused_with_its_range(capsys, flag, value, message):
    assert message in refused(capsys, *VIG, flag, value)


def test_a_model_larger_than_any_memory_is_refused(capsys):
    assert "parameters, and at most 2,147,483,648 are allowed" in refused(
        capsys, "--model", "vig_nano", "--set", "dim=10000", "--set", "depth=30", "--device", "cpu")


def test_a_place_that_cannot_be_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "x")
    assert "invalid literal for int() with base 10: 'x'" in refused(capsys, *VIG)


@pytest.mark.parametrize("broken", [False, True])
def test_names_that_are_not_utf8_do_not_end_a_run(capsys, tmp_path, broken):
    data = image_folder(tmp_path / "data", train=("cat", "dog\udcff"), val=("cat", "dog\udcff"), count=60)
    odd = data / "train" / "cat" / "\udcfe.png"
    (data / "train" / "cat" / "0.png").rename(odd)
    odd.write_bytes(b"") if broken else Image.open(odd).convert("CMYK").save(odd.with_suffix(".jpg"))
    with open("said.txt", "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        run(*VIG, "--data-dir", data, "--limit", 120, "--epochs", 1, "--output", "out")
    assert "\\udcfe" in Path("out/bad_images.tsv").read_text() and len(rows("out")) == 2


def test_a_run_of_defaults_alone_is_resumed_and_weights_of_the_package_name_their_model():
    state = {"flags": {"data": "shapes", "seed": 7}, "given": {}}
    start = Start(Path("last.pt"), state, "lrgc_nano", {"dim": 16}, recipes.DEMO, "", resumes=True)
    assert merged(start, {"epochs": 3}) == {"epochs": 3}
    assert merged(replace(start, state=state | {"given": None}), {}) == {
        "model": "lrgc_nano", "fields": {"dim": 16}, "seed": 7, "multi_label": False}


@pytest.mark.parametrize("given", [{"output": "."}, {"output": ".", "resume": "elsewhere/last.pt"},
                                   {"output": ".", "resume": "elsewhere/last.pt", "eval_only": True}])
def test_the_folder_of_another_run_is_refused(given):
    Path("last.pt").touch()
    with contextlib.ExitStack() as resources, pytest.raises(ValueError, match="holds a run already"):
        claim_folder(given, resources)
