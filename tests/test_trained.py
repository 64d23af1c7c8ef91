"""Trained models of the package: found by name everywhere, honest about what they do not fit, and as good as stored.

`python tests/test_trained.py` prints what trained.json must hold for the files that are there.
"""

import io
import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # as a script; pytest has them

import train  # noqa: E402
import vig_minimal  # noqa: E402
from helpers import TINY, image_folder, script  # noqa: E402
from vig_minimal import atomic_files, create_model, list_models, load, trained_files  # noqa: E402
from vig_minimal.look import explain, explore, pack, predict  # noqa: E402
from vig_minimal.models.registry import recognise  # noqa: E402
from vig_minimal.models.released import init_from, load_released  # noqa: E402
from vig_minimal.training.recipes import get_recipe  # noqa: E402

CIFAR = ROOT.parent / "shared" / "data" / "cifar10.npz"
STORED = ROOT / "tests" / "trained.json"
EACH = 20  # validation images of each class


def checkpoint(path: Path, name: str = "lrgc_nano", classes=("cat", "crow", "dog", "dove", "owl"), scale: float = 1.0):
    """Write what train.py writes for an untrained tiny model, and return it."""
    model = create_model(name, **TINY)
    for weight in model.parameters():
        weight.data.mul_(scale)
    state = {"name": name, "config": asdict(model.config), "classes": list(classes), "mean": (0.4, 0.5, 0.6),
             "std": (0.2, 0.3, 0.4), "multi_label": False, "recipe": asdict(get_recipe("cifar")), "epoch": 3, "step": 9,
             "steps": 3, "best": {"epoch": 2, "top1": 50.0}, "model": model.state_dict(),
             "flags": {"data_dir": "/home/somebody/images", "recipe": "cifar", "seed": 4, "amp": "bf16"},
             "training": {"model": {}}}
    atomic_files.save(path, state)
    return state


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose only trained model is a tiny lrgc_nano; the working folder is empty."""
    monkeypatch.setattr(trained_files, "FOLDER", tmp_path / "weights")
    trained_files.FOLDER.mkdir()
    state = checkpoint(tmp_path / "best.pt")
    pack.pack(tmp_path / "best.pt", trained_files.FOLDER / "lrgc_nano-cifar10.pt")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return state


def ramps(size: tuple[int, int], count: int = 2) -> Tensor:
    """Fixed images (count, 3, *size), uint8: one wave for each channel, another direction for each image."""
    down, right = (torch.linspace(0, 1, side, dtype=torch.float64) for side in size)
    waves = [[127.5 + 127 * torch.sin(2 + 3 * channel + (5 + 4 * image) * down[:, None] - (6 - 9 * image) * right)
              for channel in range(3)] for image in range(count)]
    return torch.stack([torch.stack(channels) for channels in waves]).round().to(torch.uint8)


# ---- a file of the package ------------------------------------------------------------------------------------------


def test_a_file_holds_the_weights_in_float16_and_no_path(package, tmp_path):
    state = atomic_files.load(trained_files.FOLDER / "lrgc_nano-cifar10.pt")
    assert {value.dtype for value in state["model"].values() if value.is_floating_point()} == {torch.float16}
    for key, value in package["model"].items():
        assert torch.equal(state["model"][key], value.half() if value.is_floating_point() else value)
    assert state["flags"] == {"recipe": "cifar", "seed": 4} and "training" not in state and state["epoch"] == 3
    assert "/" not in repr({key: value for key, value in state.items() if key != "model"})


def test_damage_is_noticed(package):
    path = trained_files.FOLDER / "lrgc_nano-cifar10.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(atomic_files.CheckpointError, match="damaged"):
        load("lrgc_nano-cifar10")


@pytest.mark.parametrize("scale, most, says", [(1e6, 2_500_000, "beyond the range of float16: "),
                                               (1.0, 20_000, "bytes in float16, and a file of the package has at")])
def test_what_does_not_fit_a_file_leaves_the_old_one(tmp_path, monkeypatch, scale, most, says):
    checkpoint(tmp_path / "best.pt", scale=scale)
    (tmp_path / "old.pt").write_text("old")
    monkeypatch.setattr(pack, "MOST_BYTES", most)
    with pytest.raises(ValueError, match=says):
        pack.pack(tmp_path / "best.pt", tmp_path / "old.pt")
    assert (tmp_path / "old.pt").read_text() == "old"


def test_the_command_names_the_file_after_the_model(tmp_path, capsys):
    checkpoint(tmp_path / "best.pt")
    pack.main([str(tmp_path / "best.pt"), "pets", "--folder", str(tmp_path)])
    path = tmp_path / "lrgc_nano-pets.pt"
    assert capsys.readouterr().out == f"wrote {path}, {path.stat().st_size:,} bytes\n"


def test_pip_installs_every_kind_of_file_that_is_there():
    listed = re.search(r'"vig_minimal.weights" = \[(.*)\]', (ROOT / "pyproject.toml").read_text())[1]
    patterns = re.findall(r'"(.*?)"', listed)
    for path in (ROOT / "vig_minimal" / "weights").iterdir():
        assert path.suffix == ".py" or path.is_dir() or any(path.match(pattern) for pattern in patterns), path


# ---- by name, in Python ---------------------------------------------------------------------------------------------


def test_a_name_opens_the_model_in_float32(package):
    model, images = load("lrgc_nano-cifar10"), torch.rand(2, 3, 16, 16)
    other = create_model("lrgc_nano", **TINY)
    other.load_state_dict({key: value.half() for key, value in package["model"].items()})
    assert torch.equal(model(images), other.eval()(images)) and not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.classes == package["classes"] and model.name == "lrgc_nano" and model.seed == 4
    assert model.transform == predict.Transform((16, 16), 1.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("pretrained", [True, "cifar10"])
def test_pretrained_is_the_model_that_load_opens(package, pretrained):
    model, same = create_model("lrgc_nano", pretrained=pretrained), load("lrgc_nano-cifar10")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(images), same(images)) and not model.training
    assert (model.classes, model.transform, model.config) == (same.classes, same.transform, same.config)
    assert vig_minimal.predict(model, images[0], top=1)[0][0] in package["classes"]


def test_other_classes_give_a_new_last_layer_and_nothing_else(package):
    model, trained = create_model("lrgc_nano", pretrained=True, num_classes=3), load("lrgc_nano-cifar10")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(model.forward_features(images), trained.forward_features(images))
    assert model(images).shape == (2, 3) and model.classes == ["0", "1", "2"] and model.config.num_classes == 3
    same = create_model("lrgc_nano", pretrained=True, num_classes=5)
    assert torch.equal(same(images), trained(images)) and same.classes == package["classes"]


def test_another_size_resizes_the_position_embedding(package):
    model, images = create_model("lrgc_nano", pretrained=True, img_size=32, drop_path=0.3), torch.rand(2, 3, 32, 32)
    other = create_model("lrgc_nano", **TINY | {"img_size": 32})
    load_released(other, "lrgc_nano-cifar10")
    assert torch.equal(model(images), other.eval()(images))
    assert model.transform.size == (32, 32) and model.config.drop_path == 0.3


@pytest.mark.parametrize("fields", [{"dim": 32}, {"patch": 8}, {"depth": 3}, {"graph": "full"}, {"conv": "edge"}])
def test_fields_that_the_weights_do_not_fit_are_named(package, fields):
    given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    with pytest.raises(ValueError, match=re.escape(f"lrgc_nano-cifar10 do not fit lrgc_nano with {given}; ")):
        create_model("lrgc_nano", pretrained=True, **fields)


@pytest.mark.parametrize("name, pretrained, says", [
    ("lrgc_nano", "imagenet", "lrgc_nano has no trained weights of pretrained='imagenet'. There are: cifar10"),
    ("vig_ti", True, "at https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/vig_pytorch; load one with"
                     " vig_minimal.load_released(vig_minimal.create_model('vig_ti'), FILE)"),
    ("pvig_b", "imagenet", "Efficient-AI-Backbones"), ("svig_ti", True, "https://github.com/IsmaelElsharkawi/SViG"),
    ("gkgnet_s", True, "https://github.com/jin-s13/GKGNet"),
    ("lrgc_ti", True, "no trained weights in this package (it has lrgc_nano-cifar10), and none of its authors'"),
    ("vig_nano", True, "train it with train.py --model vig_nano"), ("lrgc_nan", True, "did you mean lrgc_nano or ")])
def test_what_is_not_there_says_what_is(package, name, pretrained, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        create_model(name, pretrained=pretrained)


def test_the_list_of_trained_models(package):
    assert list_models(pretrained=True) == ["lrgc_nano"] == list_models("lrgc*", pretrained=True)
    assert list_models("vig*", pretrained=True) == [] and "vig_ti" in list_models()
    assert trained_files.trained() == ["lrgc_nano-cifar10"] and trained_files.trained("vig_nano-*") == []


def test_a_file_of_that_name_comes_first_and_an_unknown_name_lists_all(package):
    with pytest.raises(ValueError, match="no such checkpoint, and no trained model: lrgc_nano-cifar10"):
        load("lrgc_nano-cifar100")
    state = checkpoint(Path("lrgc_nano-cifar10"), classes="abcde")
    assert load("lrgc_nano-cifar10").classes == state["classes"]


def test_every_model_is_an_entry_of_torch_hub(package):
    hub = script("hubconf.py")
    entries = [name for name, value in vars(hub).items() if callable(value) and not name.startswith("_")]
    assert sorted(entries) == sorted(list_models()) and "create_model" in hub.vig_ti.__doc__
    model = torch.hub.load(str(ROOT), "lrgc_nano", source="local", pretrained=True, num_classes=2)
    assert model.classes == ["0", "1"]


# ---- by name, in commands -------------------------------------------------------------------------------------------


def test_training_starts_from_a_name(package, capsys):
    assert recognise("lrgc_nano-cifar10")["name"] == "lrgc_nano"
    assert init_from(create_model("lrgc_nano", **TINY | {"num_classes": 2}), "lrgc_nano-cifar10") == ["head"]
    image_folder(Path("pets"), count=4)
    train.main(["--init-from", "lrgc_nano-cifar10", "--data-dir", "pets", "--batch-size", "4", "--device", "cpu",
                "--workers", "0", "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert "from lrgc_nano-cifar10: lrgc_nano, as the checkpoint says; new: head" in said
    with pytest.raises(SystemExit):
        train.main(["--init-from", "lrgc_nano-pets", "--data-dir", "pets"])
    assert "no such file, nor a trained model (lrgc_nano-cifar10)" in capsys.readouterr().err


def test_evaluation_takes_a_name_and_writes_beside_no_weights(package, capsys):
    image_folder(Path("pets"), train=package["classes"], val=package["classes"], count=1)
    train.main(["--resume", "lrgc_nano-cifar10", "--eval-only", "--data-dir", "pets", "--device", "cpu", "--workers",
                "0"])
    assert "float32" in capsys.readouterr().out
    assert Path("runs/lrgc_nano-cifar10/confusion.csv").exists() and os.listdir(trained_files.FOLDER) == [
        "lrgc_nano-cifar10.pt"]


def test_commands_without_a_checkpoint_say_which_model_they_take(package, capsys):
    predict.main(["shapes:3"])
    out, err = capsys.readouterr()
    assert err == "lrgc_nano-cifar10, with the classes cat, crow, dog, dove, owl\n" and out.startswith("shapes:3: ")
    explore.main(["shapes:3"])
    assert capsys.readouterr().out.startswith("lrgc_nano, lrgc_nano-cifar10: ")
    explain.main(["shapes:3"])
    assert capsys.readouterr().out.startswith("lrgc_nano, lrgc_nano-cifar10, shapes:3: ")
    explore.main(["shapes:3", "--html", "page.html"])
    assert "lrgc_nano-cifar10" in Path("page.html").read_text(encoding="utf-8")
    capsys.readouterr()
    explore.main(["shapes:3", "--model", "lrgc_nano"])
    assert capsys.readouterr().out.startswith("lrgc_nano, random weights: ")


# ---- the real ones --------------------------------------------------------------------------------------------------


def answers(name: str) -> str:
    """The classes, as digits, that a model gives to the first EACH validation images of each class. Skips without."""
    if not CIFAR.exists():
        pytest.skip(f"no CIFAR-10 at {CIFAR}")
    model = load(name)
    with np.load(CIFAR) as packed:
        data, offsets, labels, splits = (packed[key] for key in ("bytes", "offsets", "label", "split"))
    chosen = np.concatenate([np.flatnonzero((labels == label) & (splits == 1))[:EACH] for label in range(10)])
    images = [Image.open(io.BytesIO(data[offsets[i]:offsets[i + 1]].tobytes())) for i in chosen]
    with torch.inference_mode():
        logits = model(torch.stack([model.transform(image) for image in images]))
    return "".join(str(int(label)) for label in logits.argmax(1))


def logits(name: str) -> list[list[float]]:
    """What a model gives for `ramps`."""
    model = load(name)
    with torch.inference_mode():
        rows = model(torch.stack([model.transform(image) for image in ramps(model.transform.size)]))
    return [[round(value, 3) for value in row] for row in rows.tolist()]


NAMES = trained_files.trained()


def stored(name: str) -> dict:
    return json.loads(STORED.read_text())[name]


def test_every_trained_model_has_stored_answers_and_a_row_in_the_table():
    assert NAMES and sorted(json.loads(STORED.read_text())) == NAMES
    page = (ROOT / "vig_minimal" / "weights" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+-\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(2 * NAMES) and trained_files.DEFAULT in NAMES
    for name in NAMES:  # classes have equally many images: top-1 is their mean
        whole, classes = (row for of, row in rows if of == name)
        top1 = float(re.search(r"([\d.]+) %", whole)[1])
        assert sum(map(float, classes.split(" | "))) / 10 == pytest.approx(top1, abs=0.051), name


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_model_gives_what_it_gave(name):
    path = trained_files.located(name)
    assert path.stat().st_size <= pack.MOST_BYTES and load(name).classes[3] == "cat"
    torch.testing.assert_close(torch.tensor(logits(name)), torch.tensor(stored(name)["logits"]), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_model_answers_200_images_as_it_did(name):
    now, then = answers(name), stored(name)["answers"]
    truth = "".join(str(label) * EACH for label in range(10))
    assert len(now) == len(then) == 10 * EACH
    assert sum(a == b for a, b in zip(now, then)) >= 198  # another decoder of JPEGs may turn a close one
    assert sum(a == b for a, b in zip(then, truth)) == stored(name)["right"]


if __name__ == "__main__":
    truth = "".join(str(label) * EACH for label in range(10))
    print(json.dumps({name: {"logits": logits(name), "answers": (given := answers(name)),
                             "right": sum(a == b for a, b in zip(given, truth))} for name in NAMES}, indent=1))
