"""Segmentation as a task of train.py: loss, mIoU, resuming, two processes, looking at it, and what is refused."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from commands import at_call, free_port, join, own_folder, refused, rows  # noqa: F401
from helpers import same_tensors
from PIL import Image

import vig_minimal
from vig_minimal import train
from vig_minimal.data.segmentation import read_mask
from vig_minimal.atomic_files import load
from vig_minimal.look import explore, predict
from vig_minimal.training.engine import learning_rate
from vig_minimal.training.recipes import get_recipe
from vig_minimal.training.tasks import SegmentationTask

SMALL = ["--model", "vig_nano", "--img-size", "64", "--device", "cpu", "--workers", "0", "--limit", "8",
         "--batch-size", "4", *(part for field in ("dim=16", "depth=1", "patch=16") for part in ("--set", field))]
TINY = [*SMALL, "--task", "segmentation", "--set", "channels=8", "--set", "width=8"]


def interrupt():
    raise KeyboardInterrupt


def test_the_loss_is_the_mean_over_all_pixels_and_unknown_ones_count_0():
    logits, targets = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(0, 3, (2, 4, 5))
    targets[0, :2] = 255
    logits.requires_grad_()
    loss = SegmentationTask("abc").losses(logits, targets, logits)["cross_entropy"]
    total = 0.0
    for b, y, x in np.ndindex(2, 4, 5):
        if targets[b, y, x] != 255:
            row = logits[b, :, y, x]
            total += (row.exp().sum().log() - row[targets[b, y, x]]).item()
    assert loss.item() == pytest.approx(total / 40)
    [gradient] = torch.autograd.grad(loss, logits)
    assert (gradient[0, :, :2] == 0).all() and (gradient[1] != 0).all()


def test_poly_falls_as_the_power_of_what_is_left():
    recipe = get_recipe("segmentation")
    assert (recipe.lr, recipe.weight_decay, recipe.scale_range, recipe.flip) == (2e-4, 1e-4, 2.0, True)
    total = 10 * recipe.epochs
    for step in (0, 1, total // 3, total - 1, total):
        assert learning_rate(step, 10, recipe) == pytest.approx(2e-4 * (1 - step / total) ** 0.9)


def test_a_run_writes_miou_and_resumes_to_the_same_bits_within_an_epoch(monkeypatch):
    argv = [*TINY, "--epochs", "2", "--save-every", "1", "--flip", "--scale-range", "2", "--drop-path", "0.2"]
    train.main([*argv, "--output", "whole"])
    assert {"val_mIoU", "val_accuracy", "train_loss", "neighbours_0"} <= rows("whole")[2].keys()
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(train, "update", at_call(4, train.update, interrupt))
        train.main([*argv, "--output", "cut"])
    assert ended.value.code == 130 and load("cut/last.pt")["step"] == 3
    train.main([*argv, "--output", "cut", "--resume", "auto"])
    whole, rest = (load(f"{folder}/last.pt") for folder in ("whole", "cut"))
    assert same_tensors(whole["model"], rest["model"]) and whole["step"] == rest["step"] == 4
    assert whole["flags"]["task"] == "segmentation" and whole["classes"][0] == "background"


def test_the_first_loss_is_that_of_a_guess(capsys):
    train.main([*TINY, "--dry-run"])
    said = capsys.readouterr().out
    loss = float(said.partition("first step: loss ")[2].partition(",")[0])
    assert loss == pytest.approx(math.log(11), rel=0.05)


def on_two(rank, port, folder):
    join(rank, 2, port)
    os.chdir(folder)
    train.main([*TINY, "--epochs", "1", "--output", "two"])


@pytest.mark.slow
def test_two_processes_see_every_image_once(tmp_path):
    mp.start_processes(on_two, (free_port(), str(tmp_path)), 2, start_method="forkserver")
    alone = train.main(["--resume", "two/last.pt", "--eval-only", "--device", "cpu", "--workers", "0"])
    for name in ("mIoU", "accuracy"):
        assert float(rows("two")[1][f"val_{name}"]) == pytest.approx(alone[name], rel=1e-5)
    assert load("two/last.pt")["step"] == 2


def test_an_evaluation_writes_the_confusion_of_pixels(capsys):
    train.main([*TINY, "--epochs", "1", "--output", "out"])
    train.main(["--resume", "out/last.pt", "--eval-only", "--device", "cpu", "--workers", "0"])
    table = [line.split(",") for line in Path("out/confusion.csv").read_text().splitlines()]
    assert sum(int(count) for row in table[1:] for count in row[1:]) == 8 * 64 * 64
    assert "IoU of classes in percent: " in capsys.readouterr().out
    assert "holds a detector or a network for segmentation" in refused(capsys, *TINY, "--init-from", "out/last.pt")


def test_it_starts_from_a_classifier(capsys):
    train.main([*SMALL, "--data", "shapes", "--epochs", "1", "--output", "labels"])
    train.main([*TINY, "--init-from", "labels/last.pt", "--dry-run"])
    assert "new: neck, head" in " ".join(capsys.readouterr().out.split())


def test_a_folder_of_ones_own_and_looking_at_it(capsys):
    for split in ("train", "val"):
        for i in range(4):
            mask = np.zeros((70, 90), np.uint8)
            mask[10:40, 20:60], mask[50:, :] = 1, 255
            for part, array in (("images", np.stack([200 * (mask == 1), mask, mask], 2).astype(np.uint8)),
                                ("masks", mask)):
                Path("own", split, part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(f"own/{split}/{part}/{i}.png")
    Path("own/classes.txt").write_text("ground\nbox\n")
    train.main([*TINY, "--data-dir", "own", "--epochs", "1", "--output", "out"])
    assert load("out/last.pt")["classes"] == ["ground", "box"]
    model = vig_minimal.load("out/best.pt")
    regions = vig_minimal.predict(model, "own/val/images/0.png")
    assert sum(region.share for region in regions) == pytest.approx(1)
    assert all(region.mask.shape == (70, 90) for region in regions)
    predict.main(["own/val/images/0.png", "--checkpoint", "out/best.pt", "--csv", "found.csv"])
    mask, said = read_mask("masks/0.png", 2), capsys.readouterr().out
    for name, share, own in regions:
        assert torch.equal(mask == ["ground", "box"].index(name), own) and f"{name} {share:.3f}" in said
    assert Image.open("segments.png").width > 100 and "share" in Path("found.csv").read_text()
    explore.main(["own/val/images/0.png", "--checkpoint", "out/best.pt", "--out", "graph.png"])
    assert Image.open("graph.png").size > (100, 100)


@pytest.mark.parametrize("flags, says", [
    (["--data", "shapes"], "shapes has no masks of classes; shapes-masks and maskfolder and voc2012 and coco have"),
    (["--mixup", "0.5"], "its augmentations are --flip and --scale-range"),
    (["--scale-jitter", "0.5"], "its augmentations are --flip and --scale-range"),
    (["--every", "1"], "--every: keeps graphs of classifiers"),
    (["--multi-label"], "--multi-label and --task segmentation: choose one"),
    (["--model", "gkgnet_nano"], "needs the patches"),
    (["--set", "width=0"], "at least 1"),
    (["--data-dir", "nowhere"], "a folder for segmentation holds"),
])
def test_what_it_cannot_learn_is_refused(capsys, flags, says):
    assert says in refused(capsys, "--task", "segmentation", "--device", "cpu", *flags)


def test_other_tasks_refuse_its_data(capsys):
    assert "give --task segmentation" in refused(capsys, "--task", "labels", "--data", "shapes-masks")


def test_cross_entropy_leaves_out_what_torch_leaves_out():
    logits, targets = torch.randn(1, 4, 3, 3), torch.randint(0, 4, (1, 3, 3))
    targets[0, 0] = 255
    ours = SegmentationTask("abcd").losses(logits, targets, logits)["cross_entropy"]
    assert ours.item() == pytest.approx(F.cross_entropy(logits, targets, ignore_index=255).item() * 6 / 9)
