"""Multi-label training from the command line: what it prints and writes, its losses, and what it refuses."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vig_minimal import train
from commands import own_folder, refused, rows  # noqa: F401
from helpers import image_folder, same_tensors
from vig_minimal import create_model
from vig_minimal.data.datasets import open_data, oversampled
from vig_minimal.data.decoding import DataError
from vig_minimal.training import checkpoint
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes
from vig_minimal.training.config import parse
from vig_minimal.training.losses import asymmetric_loss, smooth_bce
from vig_minimal.training.metrics import multilabel_metrics
from vig_minimal.training.recipes import get_recipe
from vig_minimal.training.resolve import choose_data
from vig_minimal.training.config import RunConfig
from vig_minimal.training.tasks import MultiLabelTask, choose_task

ONE = Processes(torch.device("cpu"))
SMALL = ["--img-size", "16", "--limit", "32", "--batch-size", "16", "--device", "cpu", "--workers", "0"]
TINY = [*SMALL, "--set", "dim=(8,16)", "--set", "depth=(1,1)", "--set", "pool=(2,1)"]


def run(*argv, model="gkgnet"):
    train.main(["--model", model, *TINY, *map(str, argv)])


def test_a_run_prints_and_writes_the_multi_label_metrics(capsys):
    run("--epochs", "2", "--output", "out")
    said = " ".join(capsys.readouterr().out.split())
    for text in ("gkgnet_nano (family gkgnet", "shapes-multi: 10 classes, 32 training images", "mAP ", "CF1 ", "OF1 ",
                 "top-3 CF1 ", "AP of classes in percent: ", "best mAP ", "probability ½ for each of 10 classes"):
        assert text in said, text
    table = rows("out")
    assert [row["epoch"] for row in table] == ["0", "1", "2"]
    for row in table[1:]:
        parts = float(row["train_smooth"]) + float(row["train_asymmetric"])
        assert float(row["train_loss"]) == pytest.approx(parts, rel=1e-4)
        assert 0 < float(row["val_mAP"]) <= 100 and row["val_OF1_top3"] != ""
    assert table[0]["train_smooth"] == ""
    state = checkpoint.load_run(Path("out/best.pt"))
    with open("out/per_class_ap.csv", newline="") as file:
        aps = {row["class"]: float(row["AP"]) for row in csv.DictReader(file)}
    assert list(aps) == state["classes"]
    # APs of the best epoch: their mean is its mAP
    assert sum(aps.values()) / len(aps) == pytest.approx(state["best"]["mAP"], abs=1e-3)


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_weights(capsys, monkeypatch):
    run("--epochs", "2", "--output", "whole")
    whole = checkpoint.load_run(Path("whole/last.pt"))
    step = whole["step"] // 2

    class PowerCut(Exception):
        pass

    def save(path, state, **options):
        checkpoint_save(path, state, **options)
        if state["step"] == step and Path(path).name == "last.pt":
            raise PowerCut

    checkpoint_save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(PowerCut):
        run("--epochs", "2", "--output", "parts")
    monkeypatch.setattr(checkpoint, "save", checkpoint_save)
    run("--epochs", "2", "--output", "parts", "--resume", "auto")
    parts = checkpoint.load_run(Path("parts/last.pt"))
    assert same_tensors(whole["training"], parts["training"]) and parts["multi_label"] is True
    assert [row["train_smooth"] for row in rows("whole")] == [row["train_smooth"] for row in rows("parts")]
    capsys.readouterr()
    train.main(["--resume", "whole/last.pt", "--eval-only", *TINY])  # knows its model, task and data
    assert f"mAP {float(rows('whole')[-1]['val_mAP']):5.2f} %" in capsys.readouterr().out


def test_training_images_can_be_evaluated_too(capsys):
    run("--epochs", "1", "--output", "out", "--ema-decay", "0")
    capsys.readouterr()
    train.main(["--resume", "out/last.pt", "--eval-only", "--eval-split", "train", *TINY])
    said = capsys.readouterr().out
    state = checkpoint.load_run(Path("out/last.pt"))
    model = create_model(state["name"], **state["config"]).eval()
    model.load_state_dict(state["model"])
    images, targets = map(torch.stack, zip(*open_data("shapes-multi", None, (16, 16), 32).train))
    with torch.no_grad():
        scores = model((images / 255 - 0.5) / 0.5).double().sigmoid()
    assert f"mAP {multilabel_metrics(scores, targets)['mAP']:5.2f} %" in said
    assert "--eval-split: goes with --eval-only" in refused(capsys, "--eval-split", "train")


def test_a_plain_model_learns_several_labels_if_asked(capsys):
    run("--epochs", "1", "--output", "out", "--multi-label", model="pvig_nano")
    assert "shapes-multi" in capsys.readouterr().out
    assert float(rows("out")[-1]["val_mAP"]) > 0
    assert checkpoint.load_run(Path("out/last.pt"))["multi_label"] is True


@pytest.mark.equation("gkgnet", "loss")
@pytest.mark.parametrize("name", ["gkgnet", "gkgnet_voc"])
def test_the_asymmetric_loss_weighs_ten_times_unless_a_flag_says_otherwise(name):
    data = open_data("shapes-multi", None, (16, 16), 8)
    logits, targets = torch.randn(4, 3), torch.tensor([[1, 0, -1], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    for recipe, weight in ((get_recipe(name), 10), (replace(get_recipe(name), asymmetric=1.0), 1)):
        config = RunConfig(task="labels", recipe=recipe)
        task = choose_task(config, create_model("gkgnet_nano").config, data, None, ONE)
        losses = task.losses(logits, targets, None)
        assert torch.equal(losses["asymmetric"], weight * asymmetric_loss(logits, targets))
        assert torch.equal(losses["smooth"], smooth_bce(logits, targets, 0.1))


@pytest.mark.equation("gkgnet", "loss")
def test_losses_are_those_of_the_recipe_and_ignore_sizes():
    logits, targets = torch.randn(4, 3), torch.tensor([[1, 0, -1], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    task = MultiLabelTask(["a", "b", "c"], label_smoothing=0.2, asymmetric=3.0)
    losses = task.losses(logits, targets, None)
    assert torch.equal(losses["smooth"], smooth_bce(logits, targets, 0.2))
    assert torch.equal(losses["asymmetric"], 3 * asymmetric_loss(logits, targets))
    with_sizes = torch.stack([targets, torch.randint(3, targets.shape)], 1)  # (B, 2, classes)
    assert all(torch.equal(a, b) for a, b in zip(losses.values(), task.losses(logits, with_sizes, None).values()))
    metric = task.scores()
    metric.update(logits[:3], with_sizes[:3])
    metric.update(logits[3:], with_sizes[3:])
    result = metric.compute(ONE)
    assert result["loss"] == pytest.approx(sum(losses.values()).item(), rel=1e-6)
    expected = multilabel_metrics(logits.double().sigmoid(), targets)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert any(name.startswith("mAP_") for name in result)


@pytest.mark.slow
def test_weights_of_a_pyramid_start_gkgnet(capsys, tmp_path):
    run("--epochs", "1", "--output", "pyramid", "--data", "shapes", "--ema-decay", "0", model="pvig_nano")
    capsys.readouterr()
    run("--epochs", "1", "--output", "out", "--init-from", "pyramid/last.pt", "--lr", "1e-30",
        "--warmup-lr", "0", "--min-lr", "0", "--weight-decay", "0")
    said = " ".join(capsys.readouterr().out.split())
    assert "start from pyramid/last.pt: pvig_nano, as the checkpoint says; new: labels, cross, widen," in said
    theirs, ours = (checkpoint.load_run(tmp_path / folder / "last.pt")["model"] for folder in ("pyramid", "out"))
    taken = [key for key in theirs if not key.startswith("head") and "running" not in key and "num" not in key]
    assert taken and all(torch.allclose(theirs[key], ours[key], atol=1e-6) for key in taken)
    torch.save(create_model("vig_nano").state_dict(), "vig.pt")
    message = refused(capsys, "--model", "gkgnet", *TINY, "--init-from", "vig.pt")
    assert "vig.pt does not fit this model" in message and "stages.0" in message


# ---- what does not go together -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "says"), [
    (["--model", "gkgnet", "--data", "shapes"], "of shapes has exactly one label; choose one of shapes-multi"),
    (["--model", "gkgnet", "--data-dir", "photos"], "an image of imagefolder has exactly one"),
    (["--model", "pvig_nano", "--multi-label", "--data", "shapes"], "pvig_nano: multi-label classification, and"),
    (["--model", "pvig_nano", "--data", "shapes-multi"], "single-label classification, and an image of shapes"),
    (["--model", "gkgnet", "--mixup", "0.8"], "give --mixup 0 --cutmix 0"),
    (["--model", "gkgnet", "--teacher", "resnet18"], "give --teacher none"),
    (["--model", "cvig_nano", "--multi-label", "--set", "distillation=True"], "--set distillation=False"),
    (["--model", "gkgnet", "--oversample", "0.01"], "shapes-multi has none; leave it 0, or use coco or voc2007"),
    (["--model", "gkgnet", "--oversample", "2"], "--oversample 2: must be at least 0 and less than 1"),
    (["--model", "gkgnet", "--asymmetric", "-1"], "--asymmetric -1: must be at least 0"),
    (["--model", "gkgnet", "--set", "graph=knn"], "groups=1 makes it plain k-NN"),
    (["--model", "gkgnet", "--set", "dim=(6,12,24,48)"], "multiples of 4"),
    (["--model", "gkgnet", "--img-size", "2", "--set", "patch=2"], "too few to pool"),
])
def test_what_does_not_go_together_is_one_sentence(capsys, argv, says):
    assert says in refused(capsys, *argv)


def test_multi_label_data_is_marked_as_such():
    data = open_data("shapes-multi", None, (16, 16), 20)
    assert data.multi_label and not open_data("shapes", None, (16, 16), 20).multi_label
    assert data.train[3][1].shape == (10,) and data.train[3][1].sum() >= 1
    with pytest.raises(DataError, match="has none"):
        oversampled(data, 0.1)


def test_an_image_folder_is_not_read_before_the_task_is_checked(capsys, tmp_path):
    image_folder(tmp_path / "photos")
    assert "exactly one" in refused(capsys, "--model", "gkgnet", "--data-dir", tmp_path / "photos")
    assert choose_data(RunConfig.of(parse(["--model", "gkgnet", "--data-dir", "photos"])), None) == "imagefolder"
