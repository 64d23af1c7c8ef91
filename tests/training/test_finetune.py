"""Fine-tuning: the file tells the model, the head is new, earlier blocks learn more slowly or, frozen, not at all."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vig_minimal import train
from commands import own_folder, refused, rows  # noqa: F401
from helpers import image_folder, on_meta
from vig_minimal import create_model
from vig_minimal.models import registry
from vig_minimal.models.registry import recognise
from vig_minimal.training.engine import create_optimiser, rate_scales
from vig_minimal.training.recipes import get_recipe
from vig_minimal.training.resume import from_weights

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
TINY = ["--img-size", "16", "--set", "patch=4", "--set", "dim=16", "--set", "depth=2", "--batch-size", "4", "--device",
        "cpu", "--workers", "0"]


def run(*argv):
    train.main([str(arg) for arg in argv])


# ---- which model a file is of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, patch, size", [
    ("vig_nano", 8, 64), ("vig_ti", 16, 224), ("vig_s", 16, 384), ("vig_b", 16, 224), ("pvig_nano", 2, 64),
    ("pvig_ti", 4, 224), ("pvig_s", 4, 224), ("pvig_m", 4, 224), ("pvig_b", 4, 224), ("gkgnet_s", 4, 448)])
def test_bare_weights_tell_the_model_by_their_shapes(name, patch, size, monkeypatch, tmp_path):
    state = on_meta(name, img_size=size).state_dict()
    monkeypatch.setattr(registry, "load", lambda path: {"state_dict": state})
    found = recognise("x.pth")
    assert (found["name"], found["config"]) == (name, {"patch": patch, "img_size": (size, size)})
    (tmp_path / "x.pth").touch()
    trained = from_weights({"init_from": str(tmp_path / "x.pth")}).recipe  # the crop of the released configuration
    assert trained.eval_crop == {"pvig_b": 0.95, "gkgnet_s": 0.0}.get(name, 0.9)
    assert found["said"].startswith(f"{name}, by the shapes") and ("svig" in found["said"]) == (
        name in ("vig_ti", "vig_nano"))


@pytest.mark.parametrize("file, name", [("vig_ti", "vig_ti"), ("svig_ti_0.89_0.03", "vig_ti"), ("pvig_ti", "pvig_ti"),
                                        ("gkgnet_s_224", "gkgnet_s")])
def test_released_names_tell_it_too(file, name, monkeypatch):
    path = GOLDEN / f"{file}.npz"
    if not path.exists():
        pytest.skip(f"no reference data at {path}")
    reference = np.load(path)
    shapes = zip(reference["keys"].tolist(), json.loads(str(reference["shapes"])), strict=True)
    monkeypatch.setattr(registry, "load", lambda _: {f"module.{key}": torch.empty(shape, device="meta")
                                                     for key, shape in shapes})
    assert recognise("x.pth")["name"] == name and recognise.__doc__


@pytest.mark.parametrize("state", [{}, {"state_dict": {"fc.weight": torch.zeros(2, 2)}}])
def test_other_weights_are_of_no_known_model(state, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda path: state)
    assert recognise("x.pth") == {}


# ---- layer-wise decay -----------------------------------------------------------------------------------------------


def test_earlier_blocks_have_lower_rates():
    scales = rate_scales(create_model("vig_nano", dim=16, depth=3, img_size=16, patch=4), 0.5)
    parts = {name: scales[next(key for key in scales if key.startswith(name))]
             for name in ("stem", "position", "blocks.0", "blocks.1", "blocks.2", "head")}
    assert list(parts.values()) == [0.125, 0.125, 0.25, 0.5, 1, 1]
    scales = rate_scales(create_model("pvig_nano"), 0.5)  # blocks 1, 1, 2, 1; a downsampling goes with the block before
    assert scales["stages.1.downsample.0.weight"] == 0.5 ** 4 and scales["stages.2.blocks.1.ffn.fc1.0.weight"] == 0.5


@pytest.mark.parametrize("name", ["pvig_s", "gkgnet_s"])
def test_a_pyramid_has_its_twelve_blocks_rates_with_or_without_labels(name):
    """0.75 a block, worked out by hand; GKGNet's cross levels, beside the blocks, learn as fast as its classifiers."""
    scales = rate_scales(on_meta(name), 0.75)
    by_hand = {"stem": 0.0317, "position": 0.0317, "stages.0.blocks.0": 0.0422, "stages.0.blocks.1": 0.0563,
               "stages.1.downsample": 0.0563, "stages.1.blocks.0": 0.0751, "stages.2.blocks.0": 0.1335,
               "stages.2.blocks.5": 0.5625, "stages.3.downsample": 0.5625, "stages.3.blocks.0": 0.75,
               "stages.3.blocks.1": 1.0}
    by_hand |= {"cross": 1.0, "widen": 1.0, "labels": 1.0, "of_labels": 1.0} if name == "gkgnet_s" else {"head": 1.0}
    for part, rate in by_hand.items():
        found = [scale for key, scale in scales.items() if key.startswith(f"{part}.") or key == part]
        assert found and found == pytest.approx([rate] * len(found), abs=5e-5), part


def test_every_parameter_is_in_one_group_with_its_scale():
    model = create_model("gkgnet_nano")  # blocks 1, 1, 2, 1
    groups = create_optimiser(model, get_recipe("finetune")).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group["scale"] for group in groups for parameter in group["params"]}
    assert found.keys() == set(names.values()) and sum(len(group["params"]) for group in groups) == len(names)
    assert found["stem.layers.0.weight"] == pytest.approx(0.75 ** 5) and found["cross.0.fc1.0.weight"] == 1
    assert found["stages.2.blocks.0.ffn.fc1.0.weight"] == pytest.approx(0.75 ** 2)
    assert len(create_optimiser(model, get_recipe("gkgnet")).param_groups) == 2


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_pets(tmp_path_factory):
    """A folder with a model of cats and dogs, trained once."""
    folder = tmp_path_factory.mktemp("of_pets")
    image_folder(folder / "pets", count=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        run("--model", "vig_nano", *TINY, "--set", "conv=sage", "--data-dir", "pets", "--epochs", 1, "--output",
            "pets_run")
    return folder


@pytest.fixture
def trained(of_pets, own_folder):  # noqa: F811
    """A copy of it in the test's own folder."""
    shutil.copytree(of_pets, ".", dirs_exist_ok=True)
    return torch.load("pets_run/best.pt")


def small(*argv):
    return ["--batch-size", 4, "--device", "cpu", "--workers", 0, *argv]


def test_the_checkpoint_tells_all_and_the_last_layer_is_new(trained, capsys):
    image_folder(Path("birds"), train=("crow", "dove"), val=("crow", "dove"), count=4)
    run("--data-dir", "birds", "--init-from", "pets_run/last.pt", *small("--epochs", 1, "--output", "birds_run"))
    said = " ".join(capsys.readouterr().out.split())
    assert "vig_nano, as the checkpoint says; new: the last layer" in said and "recipe finetune: 1 epoch of" in said
    assert "first step: loss" in said
    assert "model vig_nano: " in said and "family" not in said
    state = torch.load("birds_run/last.pt")
    kept = {name: value for name, value in trained["config"].items() if name != "drop_path"}
    assert {name: state["config"][name] for name in kept} == kept and state["config"]["drop_path"] == 0.1
    assert state["classes"] == ["crow", "dove"] and state["recipe"]["layer_decay"] == 0.75
    assert (state["recipe"]["eval_crop"], state["mean"]) == (trained["recipe"]["eval_crop"], trained["mean"])
    run("--resume", "birds_run/last.pt", "--eval-only", "--device", "cpu")
    assert len(rows("birds_run")) == 2


@pytest.mark.parametrize("more", [[], ["--scale-lr"], ["--recipe", "finetune"]])
def test_a_command_given_again_goes_on(trained, capsys, more):
    torch.save(torch.load("pets_run/last.pt") | {"recipe": trained["recipe"] | {"eval_crop": 0.8}}, "pets_run/crop.pt")
    argv = ["--data-dir", "pets", "--init-from", "pets_run/crop.pt", *small("--resume", "auto", *more)]
    run(*argv, "--epochs", 1)
    run(*argv, "--epochs", 2)
    said = " ".join(capsys.readouterr().out.split())
    assert "output runs/vig_nano-imagefolder" in said and "resumed after epoch 1" in said
    state = torch.load("runs/vig_nano-imagefolder/last.pt")
    assert state["epoch"] == 2 and state["recipe"]["eval_crop"] == 0.8


def test_a_run_of_another_model_is_not_gone_on_with(trained, capsys):
    data = ["--data-dir", "pets", *small("--epochs", 1)]
    run("--model", "lrgc_nano", *TINY, *data, "--output", "other")
    capsys.readouterr()
    said = refused(capsys, *map(str, data), "--init-from", "pets_run/last.pt", "--output", "other", "--resume", "auto")
    assert "other/last.pt: trained with init_from=None, and this run has init_from=" in said
    assert torch.load("other/last.pt")["name"] == "lrgc_nano"


def test_a_run_that_goes_on_needs_the_file_no_more(trained, capsys):
    argv = ["--data-dir", "pets", "--init-from", "pets_run/best.pt", *small("--output", "out", "--resume", "auto")]
    run(*argv, "--epochs", 1)
    Path("pets_run/best.pt").write_bytes(b"damaged")
    run(*argv, "--epochs", 2)
    os.remove("pets_run/best.pt")
    run(*argv, "--epochs", 3)
    assert torch.load("out/last.pt")["epoch"] == 3
    capsys.readouterr()
    without = [str(arg) for arg in argv if arg not in ("--output", "out")]
    assert "--init-from pets_run/best.pt: no such file" in refused(capsys, *without)  # of which model?


@pytest.mark.parametrize("change, says", [
    ({"name": "foo", "config": {}, "recipe": None}, "unknown model 'foo'"), ({"recipe": None}, ""),
    ({"recipe": [1]}, "of another version")])
def test_a_foreign_file_is_a_sentence_or_taken(trained, capsys, change, says):
    torch.save(torch.load("pets_run/last.pt") | change, "foreign.pt")
    capsys.readouterr()
    argv = ["--data-dir", "pets", "--init-from", "foreign.pt", *small("--dry-run")]
    assert says in refused(capsys, *map(str, argv)) if says else run(*argv) is None


def test_another_size_resizes_the_positions(trained, capsys):
    run("--data-dir", "pets", "--init-from", "pets_run/last.pt", "--img-size", 24, *small("--dry-run"))
    said = " ".join(capsys.readouterr().out.split())
    assert "24×24 pixels in patches of 4: 6×6 nodes" in said and "new: nothing" in said


@pytest.mark.slow
def test_frozen_weights_and_statistics_stay_to_the_bit(trained):
    image_folder(Path("birds"), train=("crow", "dove", "owl"), val=("crow", "dove", "owl"), count=4)
    run("--data-dir", "birds", "--init-from", "pets_run/last.pt", "--freeze", *small("--epochs", 2, "--output", "out"))
    before, after = torch.load("pets_run/last.pt")["model"], torch.load("out/last.pt")
    same = {name for name, value in after["model"].items() if name in before and torch.equal(before[name], value)}
    body = {name for name in before if not name.startswith("head.")}
    assert body <= same and "head.0.0.weight" not in same and after["flags"]["freeze"]
    assert len(after["training"]["optimiser"]["param_groups"]) == 2
    run("--resume", "out/last.pt", "--epochs", 3, "--device", "cpu")  # still frozen
    assert all(torch.equal(torch.load("out/last.pt")["model"][name], before[name]) for name in body)


def test_what_is_missing_is_found_before_training(capsys):
    for argv, message in ((["--init-from"], "no such file"),
                          (["--teacher", "resnet18", "--teacher-weights"], "no such checkpoint"),
                          (["--model", "cnn2gnn_nano", "--backbone-weights"], "no such checkpoint")):
        assert f"none.pth: {message}" in refused(capsys, "--limit", 64, *argv, "none.pth")
    assert "--freeze: keeps the loaded weights" in refused(capsys, "--freeze")
    torch.save(create_model("lrgc_nano").state_dict(), "bare.pth")
    assert "name the model with --model" in refused(capsys, "--data-dir", "nowhere", "--init-from", "bare.pth")
    run("--model", "lrgc_nano", "--init-from", "bare.pth", "--limit", 8, *small("--dry-run"))  # it is named: that works
    assert "from bare.pth: weights; new: nothing" in " ".join(capsys.readouterr().out.split())
