"""Training CNN2GNN: named losses, anchors, resuming, evaluation without training images, several processes."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vig_minimal import train
from commands import PROCESSES, finish, free_port, join, own_folder, refused, rows  # noqa: F401
from helpers import image_folder, same_tensors
from vig_minimal import create_model
from vig_minimal.data.anchors import Anchors
from vig_minimal.data.datasets import open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.look import attention as relations
from vig_minimal.look.predict import load
from vig_minimal.models.cnn2graph import CNN2Graph
from vig_minimal.training import checkpoint
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes, start
from vig_minimal.training.engine import create_run
from vig_minimal.training.recipes import get_recipe
from vig_minimal.training.tasks import BipartiteScores, BipartiteTask, proxy_distance

ONE = Processes(torch.device("cpu"))
TINY = ["--img-size", "16", "--limit", "40", "--batch-size", "10", "--device", "cpu", "--workers", "0"]
LOSSES = ("images", "anchors", "proxies", "anchor_triplet", "proxy_triplet", "anchor_proxy_triplet",
          "proxy_contrastive")


def run(*argv, model="cnn2transformer"):
    train.main(["--model", model, *TINY, *map(str, argv)])


@pytest.mark.parametrize("model", ["cnn2gnn", "cnn2transformer", "cnn2mean", "cnn2max", "resnet"])
def test_a_run_logs_every_loss_term_and_the_scores_of_proxy_collapse(capsys, model):
    run("--epochs", "1", "--output", "out", model=model)
    said = capsys.readouterr().out
    assert f"{model}_nano (family {model}" in said and "best top-1" in said
    last = rows("out")[-1]
    if model == "resnet":
        assert "train_images" not in last
        return
    assert "3 ln 10" in said and "proxies apart" in said
    assert sum(float(last[f"train_{name}"]) for name in LOSSES) == pytest.approx(float(last["train_loss"]), rel=1e-4)
    assert 0 < float(last["val_proxy_distance"]) <= 2
    assert ("val_strongest" in last) == (model in ("cnn2gnn", "cnn2transformer"))
    assert checkpoint.load_run(Path("out/best.pt"))["anchors"] and last["neighbours_0"] == "20"


def test_cross_entropy_alone_has_no_other_terms():
    run("--epochs", "1", "--output", "out", "--contrastive", "0", "--anchors-per-class", "2",
        "--proxies-per-class", "3", "--set", "aggregate_self=False", "--set", "omega=max")
    last = rows("out")[-1]
    assert all(float(last[f"train_{name}"]) == 0 for name in LOSSES[3:]) and float(last["train_images"]) > 0
    state = checkpoint.load_run(Path("out/last.pt"))
    assert len(state["anchors"]) == 20 and state["model"]["proxies"].shape == (30, 256) and state["model"]["stored"]


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_weights_and_evaluates_without_its_anchors(capsys, monkeypatch, tmp_path):
    image_folder(tmp_path / "data", count=6)
    argv = ["--data-dir", "data", "--epochs", "2", "--batch-size", "4", "--save-every", "1", "--keep-every", "1"]

    def run_nano(*more):  # for a folder, the family's own choice is the paper's size
        run(*argv, *more, model="cnn2transformer_nano")

    run_nano("--output", "whole")

    class PowerCut(Exception):
        pass

    def save(path, state, **options):
        checkpoint_save(path, state, **options)
        if state["step"] == 4 and Path(path).name == "last.pt":  # in the second epoch
            raise PowerCut

    checkpoint_save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(PowerCut):
        run_nano("--output", "parts")
    monkeypatch.setattr(checkpoint, "save", checkpoint_save)
    run_nano("--output", "parts", "--resume", "auto")
    whole, parts = (checkpoint.load_run(Path(folder, "last.pt")) for folder in ("whole", "parts"))
    assert same_tensors(whole["training"], parts["training"]) and same_tensors(whole["model"], parts["model"])
    assert [Path(name).parts[:2] for name in whole["anchors"]] == 2 * [("data", "train")]
    assert [Path(name).parent.name for name in whole["anchors"]] == ["cat", "dog"]
    assert Path("whole/epoch-000.pt").exists() and Path("whole/epoch-002.pt").exists()
    capsys.readouterr()
    for name in whole["anchors"]:
        os.remove(name)  # exporting a model needs no training images
    train.main(["--resume", "whole/last.pt", "--eval-only", "--data-dir", "data", "--batch-size", "4", "--device",
                "cpu"])
    assert f"top-1 {float(rows('whole')[-1]['val_top1']):5.2f} %" in capsys.readouterr().out
    message = refused(capsys, "--resume", "whole/last.pt", "--data-dir", "data", "--batch-size", "4", "--epochs", "3")
    assert "its anchors are other images" in message


def test_a_moved_folder_has_the_same_anchors(tmp_path):
    image_folder(tmp_path / "data", count=6)
    argv = ["--batch-size", "4", "--output", "out"]
    run("--data-dir", "data", "--epochs", 1, *argv, model="cnn2mean_nano")
    train.main(["--resume", "out/last.pt", "--epochs", "2", "--device", "cpu"])
    os.rename("data", "moved")
    train.main(["--resume", "out/last.pt", "--data-dir", "moved", "--epochs", "3", "--device", "cpu"])
    assert checkpoint.load_run(Path("out/last.pt"))["epoch"] == 3


def test_a_run_begun_on_windows_goes_on(tmp_path):
    image_folder(tmp_path / "data", count=6)
    argv = ["--data-dir", "data", "--batch-size", "4", "--output", "out"]
    run(*argv, "--epochs", 1, model="cnn2mean_nano")
    state = checkpoint.load_run(Path("out/last.pt"))
    assert all("\\" not in name for name in state["anchors"])
    state["anchors"] = ["C:\\photos\\" + name.replace("/", "\\") for name in state["anchors"]]
    checkpoint.save(Path("out/last.pt"), state)
    train.main(["--resume", "out/last.pt", "--epochs", "2", "--device", "cpu"])
    assert checkpoint.load_run(Path("out/last.pt"))["epoch"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["0.99", "0"])
def test_anchors_in_the_middle_of_an_epoch_are_those_of_the_saved_weights(monkeypatch, decay):
    def save(path, state, **options):
        checkpoint_save(path, state, **options)
        if state["step"] == 7 and Path(path).name == "last.pt":  # the third of four steps
            shutil.copy(path, "middle.pt")

    checkpoint_save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save)
    run("--epochs", "2", "--output", "out", "--save-every", "1", "--ema-decay", decay, model="cnn2gnn_nano")
    model = load("middle.pt")
    with torch.no_grad():
        expected = model.backbone(anchors(per_class=1).as_they_are())
    torch.testing.assert_close(model.anchors, expected, rtol=1e-4, atol=1e-4)


def test_storing_anchors_leaves_frozen_parts_in_evaluation():
    model = create_model("cnn2gnn_nano", num_classes=2, img_size=16).train()
    frozen = next(part for part in model.backbone.modules() if isinstance(part, torch.nn.BatchNorm2d)).eval()
    model.store_anchors(torch.randn(len(model.anchors), 3, 16, 16))
    assert model.training and model.backbone.training and not frozen.training


def test_a_process_without_validation_images_has_scores_too():
    model = create_model("cnn2gnn_nano", num_classes=3, img_size=16)
    task = BipartiteTask(None, 0.0, 1.0, ONE)
    task.begin_evaluation(model)

    class Two:  # the other process has an image, which is right
        def sum(self, values):
            return values + 1

        def gather(self, value):
            return [value, torch.zeros(2, 1, dtype=torch.int64)]

    scores = task.scores().compute(Two())
    assert scores["top1"] == scores["strongest"] == 100 and scores["proxy_distance"] == proxy_distance(model)


def anchors(seed=0, per_class=2, **changes):
    recipe = replace(get_recipe("demo"), **changes)
    data = open_data("shapes", None, (16, 16), 40)
    return Anchors(data.train, data.classes, per_class, (16, 16), recipe, seed, ONE.device)


def test_anchors_have_one_augmentation_an_epoch():
    some = anchors(color_jitter=0.4)
    assert torch.equal(some.augmented(3), anchors(color_jitter=0.4).augmented(3))
    assert not torch.equal(some.augmented(3), some.augmented(4))
    plain = some.as_they_are()
    assert plain.shape == (20, 3, 16, 16) and torch.equal(plain, anchors(color_jitter=0.4).as_they_are())
    assert [index % 10 for index in some.indices] == [label for label in range(10) for _ in range(2)]
    assert anchors(seed=1).names != some.names == anchors().names


@pytest.mark.parametrize("crop", ["resized", "pad"])  # drawn where images are prepared, and for the whole batch
def test_each_augmentation_of_the_anchors_is_another_in_the_next_epoch(crop):
    some = anchors(crop=crop, flip=0.0, color_jitter=0.0)
    assert not torch.equal(some.augmented(3), some.augmented(4))


def test_in_evaluation_anchors_are_the_images_themselves():
    some = anchors(color_jitter=0.4, rand_augment=9.0)
    data = open_data("shapes", None, (16, 16), 40)
    pixels = torch.stack([data.train[index][0] for index in some.indices]).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (some.recipe.mean, some.recipe.std))
    expected = (pixels - mean) / std
    torch.testing.assert_close(some.as_they_are(), expected)
    model = create_model("cnn2transformer_nano", num_classes=10, img_size=16, anchors_per_class=2)
    BipartiteTask(some, 0.0, 1.0, ONE).begin_evaluation(model.train())
    with torch.no_grad():
        torch.testing.assert_close(model.anchors, model.eval().backbone(expected))


def test_classes_need_as_many_images_as_anchors(capsys, tmp_path):
    with pytest.raises(DataError, match="class disc has 4 training images, too few for 5 anchors"):
        anchors(per_class=5)
    image_folder(tmp_path / "data", count=3)
    message = refused(capsys, "--model", "cnn2gnn_nano", *TINY, "--data-dir", "data", "--limit", "6", "--batch-size",
                      "2", "--set", "anchors_per_class=4")
    assert "class cat has 3 training images, too few for 4 anchors; add images, or use fewer" in message


@pytest.mark.parametrize(("argv", "says"), [
    (["--model", "cnn2gnn_nano", "--mixup", "0.2"], "without triplets; give --mixup 0"),
    (["--model", "cnn2gnn_nano", "--multi-label"], "an anchor represents one class"),
    (["--model", "cnn2gnn_nano", "--data", "shapes-multi"], "several labels or none"),
    (["--model", "cnn2gnn_nano", "--accumulation", "5"], "--accumulation 5: cnn2gnn_nano's triplets are of the whole"),
    (["--model", "vig_nano", "--backbone-weights", "torchvision"], "vig_nano has no ResNet"),
    (["--task", "detection", "--backbone-weights", "torchvision"], "start a detector's backbone with --init-from"),
    (["--model", "cnn2gnn_nano", "--backbone-weights", "torchvision"], "there are none of the nano backbone"),
    (["--model", "cnn2gnn_nano", "--backbone-weights", "gone.pth"], "gone.pth"),
    (["--model", "cnn2gnn_nano", "--drop-path", "0.1"], "cnn2gnn_nano has no field 'drop_path'"),
    (["--model", "cnn2gnn_nano", "--contrastive", "-1"], "--contrastive -1: must be at least 0"),
    (["--model", "cnn2gnn_nano", "--keep-every", "0"], "--keep-every 0: must be at least 1"),
    (["--model", "cnn2gnn_nano", "--set", "heads=3"], "must divide"),
    (["--model", "cnn2gnn_nano", "--anchors-per-class", "0"], "--anchors-per-class 0: must be at least 1"),
    (["--model", "vig_nano", "--proxies-per-class", "2"], "vig_nano has no field 'proxies_per_class'"),
])
def test_what_does_not_go_together_is_one_sentence(capsys, argv, says):
    assert says in refused(capsys, *argv, *TINY)


def test_cross_entropy_alone_may_come_in_parts():
    run("--epochs", "1", "--output", "out", "--contrastive", "0", "--accumulation", "2", model="cnn2gnn")
    assert all(float(rows("out")[-1][f"train_{name}"]) == 0 for name in LOSSES[3:])


def test_a_checkpoint_of_another_number_of_classes_is_refused(capsys, tmp_path):
    run("--epochs", "1", "--output", "out")
    image_folder(tmp_path / "data", count=20)
    capsys.readouterr()
    message = refused(capsys, "--resume", "out/last.pt", "--data-dir", "data", "--img-size", "16", "--batch-size", "10")
    assert "trained with num_classes=10, and this run has num_classes=2" in message


# ---- many processes ------------------------------------------------------------------------------------------------


def gradients(processes):
    """Gradients of one step on this process's share of eight images, with batch norm in evaluation mode."""
    torch.manual_seed(0)
    model = create_model("cnn2transformer_nano", num_classes=3, img_size=16, proxies_per_class=2).double()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.train = lambda mode=True, norm=norm: norm
            norm.training = False
    images, labels = torch.randn(8, 3, 16, 16).double(), torch.tensor([0, 1, 2, 0, 1, 2, 2, 1])
    model.anchor_images = torch.randn(3, 3, 16, 16).double()
    task = BipartiteTask(None, 0.0, 1.0, processes)
    run = create_run(model, task, RunConfig(recipe=replace(get_recipe("demo"), ema_decay=0.0)), processes)
    share = slice(processes.rank * 8 // processes.world, (processes.rank + 1) * 8 // processes.world)
    run.parallel.train()
    losses = task.losses(run.parallel(images[share]), labels[share], images[share])
    sum(losses.values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def gradients_of_one(rank, port, folder):
    join(rank, 2, port)
    processes = start("cpu")
    torch.save(gradients(processes), f"{folder}/{rank}.pt")
    processes.leave()


def test_gradients_of_a_split_batch_are_those_of_the_whole(tmp_path):
    port = free_port()
    started = [PROCESSES.Process(target=gradients_of_one, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for process in started:
        process.start()
    assert [finish(process) for process in started] == [0, 0]
    whole = gradients(ONE)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, expected in whole.items():
            torch.testing.assert_close(shared[name], expected, rtol=1e-9, atol=1e-12, msg=name)
    assert whole["proxies"].abs().max() > 0


# ---- proxy collapse and the attention command ----------------------------------------------------------------------


def test_scores_of_proxy_collapse():
    model: CNN2Graph = create_model("cnn2transformer_nano", num_classes=3, img_size=16, proxies_per_class=2)
    model.proxies.data = torch.zeros(6, 256)
    for row, (place, value) in enumerate([(0, 1.0), (0, 2.0), (1, 1.0), (1, 3.0), (0, -1.0), (2, 1.0)]):
        model.proxies.data[row, place] = value  # classes 0 and 1 at a right angle, as is a proxy of class 2
    assert proxy_distance(model) == pytest.approx(2**0.5)
    model.proxies.data[5] = model.proxies.data[1]
    assert proxy_distance(model) == 0
    scores = BipartiteScores(model)
    attention = torch.eye(6)[[1, 2, 5, 0]]  # strongest are proxies of classes 0, 1, 2, 0
    scores.update((torch.eye(3)[[0, 1, 2, 1]], attention), torch.tensor([0, 1, 2, 1]))
    result = scores.compute(ONE)
    assert result["strongest"] == 75 and result["top1"] == 100 and result["proxy_distance"] == 0


def test_attention_by_class_is_the_mean_over_images_of_a_class():
    model = create_model("cnn2gnn_nano", num_classes=3, img_size=16, anchors_per_class=2, proxies_per_class=3).eval()
    model.store_anchors(torch.randn(6, 3, 16, 16))
    images, labels = torch.randn(7, 3, 16, 16), torch.tensor([0, 2, 2, 0, 0, 2, 0])  # none of class 1
    batches = iter([(images[:4], labels[:4]), (images[4:], labels[4:])])
    proxies, anchor_share = relations.attention_by_class(model, batches)
    weights = model(images, return_graphs=True)[1][0].weights[0]  # (7, 6 + 9)
    for i in range(3):
        for j in range(3):
            mine = [n for n in range(7) if labels[n] == i]
            of_proxies = sum(weights[n, 6 + 3 * j + p] for n in mine for p in range(3)) / max(len(mine), 1)
            of_anchors = sum(weights[n, 2 * j + p] for n in mine for p in range(2)) / max(len(mine), 1)
            assert float(proxies[i, j]) == pytest.approx(float(of_proxies), abs=1e-5)
            assert float(anchor_share[i, j]) == pytest.approx(float(of_anchors), abs=1e-5)
    assert proxies.sum(1).tolist() == pytest.approx([1, 0, 1], abs=1e-5)


@pytest.mark.slow
def test_pictures_of_a_run(capsys):
    run("--epochs", "1", "--output", "out", "--keep-every", "1")
    capsys.readouterr()
    relations.main(["out/best.pt", "--limit", "20", "--out", "attention.png"])
    assert "of attention goes to the own class" in capsys.readouterr().out and Path("attention.png").exists()
    relations.main(["out/epoch-000.pt", "out/epoch-001.pt", "--limit", "20", "--embeddings", "--out", "e.png"])
    assert Path("e.png").exists()
    run("--epochs", "1", "--output", "plain", model="resnet")
    capsys.readouterr()
    for argv, says in ((["plain/best.pt"], "has no anchors and proxies"), (["gone.pt"], "gone.pt"),
                       (["out/best.pt", "--limit", "0"], "at least 1 image"),
                       (["out/best.pt", "--data", "shapes-multi"], "give the data it was trained on")):
        with pytest.raises(SystemExit) as end:
            relations.main(argv)
        err = capsys.readouterr().err
        assert end.value.code == 2 and says in err and err.count("\n") == 1
