"""Where training is started from: a thread, no streams, a folder with val/ alone, a small folder of one's own."""

import shutil
import sys
import threading
from pathlib import Path

import pytest

from vig_minimal import train
from commands import at_call, own_folder, refused, rows  # noqa: F401
from helpers import image_folder
from vig_minimal.training import checkpoint, resolve
from vig_minimal.training.config import RunConfig
from vig_minimal.training.recipes import get_recipe, override

SMALL = ["--set", "dim=16", "--set", "depth=2", "--img-size", "16", "--set", "patch=4", "--batch-size", "8", "--device",
         "cpu", "--workers", "0"]
SCENES = ["--model", "vig_nano", *SMALL, "--limit", "16", "--epochs", "1", "--output", "out"]


def interrupt():
    raise KeyboardInterrupt


def test_a_thread_trains_and_returns_the_last_row():
    returned = []
    thread = threading.Thread(target=lambda: returned.append(train.main(SCENES)))
    thread.start()
    thread.join()
    assert returned[0]["epoch"] == 1 and float(rows("out")[-1]["val_top1"]) == pytest.approx(returned[0]["val_top1"])


def test_without_stdout_and_stderr_it_trains(monkeypatch):
    """As under Windows' pythonw, or with >&- in a shell."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert train.main(SCENES)["epoch"] == 1


def test_every_n_steps_a_line_has_the_loss(capsys):
    train.main([*SCENES, "--log-every", "2", "--limit", "32", "--epochs", "2"])
    said = [line.split("  ") for line in capsys.readouterr().out.splitlines() if " step " in line and "/" in line]
    assert [parts[:2] for parts in said] == [["epoch 1/2", "step 2/8"], ["epoch 1/2", "step 4/8"],
                                             ["epoch 2/2", "step 6/8"], ["epoch 2/2", "step 8/8"]]
    means = [float(parts[2].removeprefix("loss ")) for parts in said]
    for epoch, row in enumerate(rows("out")[1:]):
        assert sum(means[2 * epoch:2 * epoch + 2]) / 2 == pytest.approx(float(row["train_loss"]), abs=2e-3)
    assert all(parts[3].endswith(" images/s") and parts[4].endswith(" left") for parts in said)


# ---- an evaluation of val/ reads nothing else ----------------------------------------------------------------------

WITHOUT_TRAIN = {
    "no train/": lambda train: shutil.rmtree(train),
    "an empty train/": lambda train: (shutil.rmtree(train), train.mkdir()),
    "classes without images": lambda train: [path.unlink() for path in train.glob("*/*")],
    "other classes": lambda train: (train / "cat").rename(train / "cow"),
}


@pytest.mark.parametrize("name", WITHOUT_TRAIN)
def test_an_evaluation_needs_val_alone(name, tmp_path, capsys):
    folder = image_folder(tmp_path / "data", count=4)
    row = train.main(["--model", "vig_nano", *SMALL, "--data-dir", "data", "--epochs", "1", "--output", "out"])
    WITHOUT_TRAIN[name](folder / "train")
    capsys.readouterr()
    argv = ["--resume", "out/last.pt", "--eval-only", "--device", "cpu"]
    assert train.main(argv)["top1"] == row["val_top1"]
    assert "warning" not in capsys.readouterr().out
    assert "data" in refused(capsys, *argv, "--eval-split", "train")
    (folder / "val" / "cat").rename(folder / "val" / "cow")
    assert "trained for other classes: where it has 'cat', the data has 'cow'" in refused(capsys, *argv)


# ---- epochs of small data ------------------------------------------------------------------------------------------


def config(steps: int, data="imagefolder", recipe="demo", **given) -> RunConfig:
    """What training comes to on data of so many steps an epoch."""
    own = {name: value for name, value in given.items() if name != "limit"}
    made = RunConfig(data=data, recipe_name=recipe, recipe=override(get_recipe(recipe), own), given=given)
    return resolve.enough_epochs(made, steps)[0]


# steps an epoch, what is given: epochs. demo has 2, demo_multi 5, finetune 20
EPOCHS = [
    (1, {}, 100), (6, {}, 100), (7, {}, 86), (11, {}, 55), (200, {}, 3), (300, {}, 2), (5000, {}, 2),
    (11, {"epochs": 2}, 2), (11, {"limit": 88}, 2), (11, {"data": "shapes"}, 2), (11, {"data": "cifar10"}, 2),
    (11, {"data": "coco", "recipe": "demo_multi"}, 55), (200, {"data": "coco", "recipe": "demo_multi"}, 5),
    (11, {"recipe": "finetune"}, 20), (11, {"recipe": "vig"}, 300),
]


@pytest.mark.parametrize("steps, given, epochs", EPOCHS)
def test_small_data_of_ones_own_get_enough_epochs(steps, given, epochs):
    made = config(steps, **given)
    assert made.recipe.epochs == epochs
    default = override(get_recipe(made.recipe_name), {"epochs": epochs})
    assert made.recipe == default  # its phases keep their shares
    assert made.given.get("epochs", default.epochs) == epochs


def test_given_phases_stay_as_given():
    made = config(11, warmup_epochs=1.0, lr=1e-2)
    assert (made.recipe.epochs, made.recipe.warmup_epochs, made.recipe.lr) == (55, 1.0, 1e-2)


def test_the_summary_says_so_and_a_resumed_run_stays_as_it_was(tmp_path, capsys, monkeypatch):
    image_folder(tmp_path / "data", count=8)
    argv = ["--model", "vig_nano", *SMALL, "--data-dir", "data"]
    train.main([*argv, "--dry-run"])
    said = capsys.readouterr().out
    assert "demo: 100 epochs of 2 steps" in said
    assert "epochs  100, not the recipe's 2: one has only 2 steps; --epochs N sets it" in said
    train.main([*argv, "--epochs", "2", "--dry-run"])
    assert "demo: 2 epochs of 2 steps" in (said := capsys.readouterr().out) and "\nepochs" not in said

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(resolve, "LEAST_STEPS", 6)
        patch.setattr(train, "close_epoch", at_call(2, train.close_epoch, interrupt))
        train.main([*argv, "--output", "out"])
    capsys.readouterr()
    row = train.main([*argv, "--output", "out", "--resume", "auto"])
    assert row["epoch"] == 3 and "changed" not in capsys.readouterr().out
    assert checkpoint.load_run(Path("out/last.pt"))["given"]["epochs"] == 3
