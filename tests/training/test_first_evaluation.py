"""Before the first step: batch norm starts at a batch's statistics, so an untrained network's loss is a guess's."""

import math

import pytest
import torch

from vig_minimal import train
from commands import own_folder, rows  # noqa: F401
from helpers import same_tensors
from vig_minimal.training import build
from vig_minimal.training.endings import Stopped

SMALL = ["--img-size", "32", "--limit", "32", "--batch-size", "16", "--workers", "0", "--device", "cpu",
         "--epochs", "1"]
TINY = ["--set", "dim=16", "--set", "depth=2", "--set", "patch=4"]


def first_loss(monkeypatch, *argv) -> float:
    """The validation loss of epoch 0."""
    def stop(*args, **more):
        raise Stopped

    monkeypatch.setattr(train, "train_one_epoch", stop)
    with pytest.raises(SystemExit):
        train.main([*argv, *SMALL, "--output", "out"])
    return float(rows("out")[0]["val_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("argv", [
    ["vig_nano", *TINY], ["svig_nano", *TINY], ["lrgc_nano", *TINY, "--amp"], ["cvig_nano", *TINY, "--ema-decay", "0"],
    ["lrgc_nano", "--set", "conv=sage", *TINY], ["pvig_nano"], ["resnet_nano"], ["cnn2gnn_nano"],
    ["cnn2mean_nano"]], ids=lambda argv: argv[0])
def test_the_first_validation_loss_is_near_that_of_a_guess(argv, monkeypatch):
    assert abs(first_loss(monkeypatch, "--model", *argv) - math.log(10)) < 1.2


def test_so_is_that_of_several_labels(monkeypatch):
    # 19 for a probability of ½ everywhere where no label is shown, 11 more for each label that is
    assert 15 < first_loss(monkeypatch, "--model", "gkgnet_nano") < 60


@pytest.mark.parametrize("average", [[], ["--ema-decay", "0"]])
def test_no_step_changes_by_the_statistics_at_the_start(average, monkeypatch):
    states = []
    for output in ("with", "without"):
        train.main(["--model", "lrgc_nano", *TINY, *SMALL, *average, "--output", output])
        states.append(torch.load(f"{output}/last.pt", weights_only=True)["training"])
        monkeypatch.setattr(build, "calibrate", lambda *_: None)
    given, plain = (state["model"] for state in states)
    statistics = {name for name in given if "running" in name}
    assert all(not torch.equal(given.pop(name), plain.pop(name)) for name in statistics)
    for name in [name for name in given if "tracked" in name]:
        assert given.pop(name) == plain.pop(name) + 1  # the first batch counts
    assert same_tensors(given, plain) and same_tensors(*(state["optimiser"] for state in states))


def test_norms_of_loaded_weights_keep_their_statistics():
    argv = ["--model", "vig_nano", *TINY, *SMALL]
    train.main([*argv, "--output", "first"])
    train.main([*argv, "--output", "second", "--init-from", "first/best.pt", "--keep-every", "1"])
    loaded, start = (torch.load(path, weights_only=True)["model"] for path in ("first/best.pt", "second/epoch-000.pt"))
    assert all(torch.equal(start[name], loaded[name]) for name in loaded if "running" in name)
