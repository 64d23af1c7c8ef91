"""What a trained model says of images: in Python, as a command, and the same numbers as in evaluation."""

import csv
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from vig_minimal import train
import vig_minimal
from helpers import image_folder
from vig_minimal import create_model
from vig_minimal.data.synthetic import CLASSES, Shapes
from vig_minimal.look import predict as command
from vig_minimal.training import checkpoint, tasks

TINY = {"vig_nano": {"img_size": 16, "patch": 4, "dim": 16, "depth": 2, "k": 2},
        "gkgnet_nano": {"img_size": 32, "patch": 2, "dim": (8, 8, 16, 16), "depth": (1, 1, 1, 1)},
        "cnn2gnn_nano": {"img_size": 16}}


def kept(path, name="vig_nano", classes=("cat", "dog", "owl"), eval_crop=0.8, mean=(0.4, 0.5, 0.6)):
    """The path of a checkpoint, as train.py writes it, of an untrained model."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=len(classes), **TINY[name])
    if hasattr(model, "proxies"):
        model.store_anchors(torch.randn(len(classes), 3, 16, 16))
    for layer in ("of_labels", "of_patches"):  # GKGNet's last ones, else all its scores would be 0 or 1
        [parameter.data.mul_(0.05) for parameter in getattr(model, layer, torch.nn.Identity()).parameters()]
    checkpoint.save(path, {"name": name, "config": asdict(model.config), "classes": list(classes), "mean": mean,
                           "std": (0.2, 0.3, 0.4), "multi_label": name == "gkgnet_nano",
                           "recipe": {"eval_crop": eval_crop}, "model": model.state_dict()})
    return str(path)


def noise(height=30, width=50, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def run(capsys, *argv):
    """The lines that the command prints on stdout, and all of stderr."""
    command.main([str(arg) for arg in argv])
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err


# ---- in Python


def test_three_lines_say_what_a_photo_shows(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "photo.png")
    model = vig_minimal.load(kept(tmp_path / "best.pt"))
    answer = vig_minimal.predict(model, tmp_path / "photo.png")
    assert model.classes == ["cat", "dog", "owl"] and not model.training and model.name == "vig_nano"
    # by hand: scaled until 0.8 of it covers 16 by 16, cropped, normalised
    image = TF.resize(Image.open(tmp_path / "photo.png"), [20, 33], TF.InterpolationMode.BICUBIC)
    image = TF.normalize(TF.to_tensor(TF.center_crop(image, [16, 16])), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    torch.testing.assert_close(model.transform(tmp_path / "photo.png"), image)
    expected = model(image[None])[0].softmax(0)
    assert [name for name, _ in answer] == [model.classes[i] for i in expected.argsort(descending=True)]
    assert [value for _, value in answer] == pytest.approx(expected.sort(descending=True).values.tolist(), rel=1e-5)
    assert vig_minimal.predict(model, tmp_path / "photo.png", top=1) == answer[:1]


def test_an_image_may_be_a_path_a_picture_or_a_tensor(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "photo.png")
    model, picture = vig_minimal.load(kept(tmp_path / "best.pt")), Image.open(tmp_path / "photo.png")
    expected = vig_minimal.predict(model, str(tmp_path / "photo.png"))
    assert vig_minimal.predict(model, picture) == expected
    pixels = TF.pil_to_tensor(picture)
    # torch scales a tensor and Pillow a picture: not quite the same pixels
    of_tensor = vig_minimal.predict(model, pixels)
    assert dict(of_tensor) == pytest.approx(dict(expected), abs=2e-3) and of_tensor != expected
    assert vig_minimal.predict(model, pixels / 255) == of_tensor
    both = vig_minimal.predict(model, [picture, pixels], batch_size=1)
    assert both == [expected, of_tensor]
    assert vig_minimal.predict(model, torch.stack([pixels, pixels]), batch_size=1) == [of_tensor, of_tensor]
    assert vig_minimal.predict(model, []) == []


@pytest.mark.parametrize("name, view", [("vig_nano", "single"), ("gkgnet_nano", "multi")])
def test_a_scene_has_the_name_that_the_commands_take(name, view, tmp_path):
    model = vig_minimal.load(kept(tmp_path / "best.pt", name))
    image, _ = Shapes(model.transform.size, 10, "val", view)[9]
    expected = vig_minimal.predict(model, image, threshold=0)
    assert vig_minimal.predict(model, "shapes:9", threshold=0) == expected
    assert vig_minimal.predict(model, ["shapes:9", image], threshold=0, batch_size=1) == [expected, expected]
    with pytest.raises(ValueError, match="shapes:x: after shapes: comes the number of a scene"):
        vig_minimal.predict(model, "shapes:x")


@pytest.mark.parametrize("mode, suffix", [("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("I;16", "png"),
                                          ("P", "gif")])
def test_a_picture_of_any_kind_is_read_as_its_file_is(mode, suffix, tmp_path):
    path = tmp_path / f"photo.{suffix}"
    if mode == "I;16":
        Image.fromarray(noise(channels=1).astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(noise()).convert(mode).save(path)
    model = vig_minimal.load(kept(tmp_path / "best.pt"))
    assert vig_minimal.predict(model, Image.open(path)) == vig_minimal.predict(model, path)


def test_a_rotated_photo_is_turned_upright(tmp_path):
    model, exif = vig_minimal.load(kept(tmp_path / "best.pt")), Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by a quarter
    Image.fromarray(noise()).save(tmp_path / "lying.png", exif=exif)
    upright = Image.fromarray(np.rot90(noise(), -1).copy())
    assert vig_minimal.predict(model, tmp_path / "lying.png") == vig_minimal.predict(model, upright)


def test_training_mode_stays_and_answers_are_those_of_evaluation(tmp_path):
    model, image = vig_minimal.load(kept(tmp_path / "best.pt")), torch.from_numpy(noise()).permute(2, 0, 1)
    expected = vig_minimal.predict(model, image)
    assert vig_minimal.predict(model.train(), image) == expected and model.training
    assert vig_minimal.predict(model.eval(), image) == expected  # no statistics moved


def test_of_several_labels_all_probable_ones_are_named(tmp_path):
    model = vig_minimal.load(kept(tmp_path / "best.pt", "gkgnet_nano", [f"c{i}" for i in range(8)]))
    image = torch.from_numpy(noise()).permute(2, 0, 1)
    scores = model(model.transform(image)[None])[0].sigmoid()
    threshold = scores.sort().values[5].item() - 1e-6  # three are above
    answer = vig_minimal.predict(model, image, threshold=threshold)
    assert dict(answer) == pytest.approx({f"c{i}": scores[i].item() for i in scores.topk(3).indices.tolist()}, rel=1e-5)
    assert vig_minimal.predict(model, image, threshold=1.0) == []
    assert len(vig_minimal.predict(model, image, top=1, threshold=0.0)) == 8


def test_models_with_anchors_answer_without_training_images(tmp_path):
    model = vig_minimal.load(kept(tmp_path / "best.pt", "cnn2gnn_nano"))
    image = torch.from_numpy(noise()).permute(2, 0, 1)
    expected = model(model.transform(image)[None]).softmax(1)[0]
    assert dict(vig_minimal.predict(model, image)) == pytest.approx(dict(zip(model.classes, expected.tolist())))


@pytest.mark.parametrize("image, says", [
    (torch.zeros(3, 8, 8) - 0.1, "not normalised"), (torch.eye(8).expand(3, 8, 8) + 0.1, "not normalised"),
    (torch.zeros(2, 8, 8), r"\(2, 8, 8\) of torch.float32 is no image"),
    (torch.zeros(3, 8, 8, dtype=torch.int64), "torch.int64 is no image"), (torch.zeros(8, 8), r"give \(3, H, W\)"),
    (torch.zeros(3, 0, 8), "is no image"), (np.zeros((8, 8, 3)), "a ndarray is no image; give a path"),
    ("gone.png", "gone.png: no such image"), ([torch.zeros(3, 8, 8), None], "a NoneType is no image"),
])
def test_what_is_no_image_is_one_sentence(image, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        vig_minimal.predict(vig_minimal.load(kept(tmp_path / "best.pt")), image)


def test_a_model_without_classes_is_told_how_to_get_them():
    with pytest.raises(ValueError, match=r"vig_minimal.load\(path\)"):
        vig_minimal.predict(create_model("vig_nano"), torch.zeros(3, 64, 64))


@pytest.mark.parametrize("change, says", [
    ({"mean": 0.5}, "no right 'mean'"), ({"classes": ["a"]}, "names 1 classes, and its model has 3"),
    ({"recipe": {"eval_crop": "x"}}, "no right 'eval_crop'"), ({"model": {}}, "holds no weights"),
])
def test_a_checkpoint_that_cannot_be_used_is_refused(change, says, tmp_path):
    state = checkpoint.load(kept(tmp_path / "best.pt"))
    checkpoint.save(tmp_path / "other.pt", state | change)
    with pytest.raises(checkpoint.CheckpointError, match=says):
        vig_minimal.load(tmp_path / "other.pt")


# ---- the command


def test_links_to_folders_are_followed_each_image_once_and_nothing_hidden(tmp_path):
    image_folder(tmp_path / "data", count=1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "data" / "val")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "data" / "val" / "cat")
    (tmp_path / "photos" / "around").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    found = [os.path.realpath(path) for path in command.find_images([str(tmp_path / "photos")], [])]
    assert sorted(found) == [str(tmp_path / "data" / "val" / name / "0.png") for name in ("cat", "dog")]


def test_files_folders_and_scenes(tmp_path, capsys):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a.jpg", "more/c.PNG"]):
        Image.fromarray(noise(seed=i)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    path, photos = kept(tmp_path / "best.pt"), tmp_path / "photos"
    lines, _ = run(capsys, photos / "b.png", photos, "shapes:3", "--checkpoint", path, "--top", 2)
    names = [str(photos / name) for name in ("b.png", "a.jpg", "more/c.PNG")] + ["shapes:3"]
    assert [line.split(": ")[0] for line in lines] == names  # b.png once
    model = vig_minimal.load(path)
    for line, image in zip(lines, [*names[:3], Shapes((16, 16), 4, "val")[3][0]], strict=True):
        (first, p), (second, q), _ = vig_minimal.predict(model, image)
        assert line.endswith(f": {first} {p:.3f}, {second} {q:.3f}")


def test_broken_files_are_listed_and_skipped(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(noise()).save(photos / "whole.jpg")
    (photos / "cut.jpg").write_bytes((photos / "whole.jpg").read_bytes()[:900])
    (photos / "empty.png").touch()
    path = kept(tmp_path / "best.pt")
    lines, error = run(capsys, photos, "--checkpoint", path, "--batch-size", 1, "--csv", tmp_path / "found.csv")
    assert len(lines) == 2 and lines[0].startswith(str(photos / "whole.jpg"))
    said, cut, empty = error.splitlines()
    assert said == "skipped 2 of 3 images:" and f"{photos / 'cut.jpg'}: image file is truncated" in cut
    assert empty.strip() == f"{photos / 'empty.png'}: an empty file"
    assert {row["file"] for row in table(tmp_path / "found.csv")} == {str(photos / "whole.jpg")}


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_for_each_image_and_class(tmp_path, capsys):
    Image.fromarray(noise()).save(tmp_path / "an, image.png")
    path, out = kept(tmp_path / "best.pt", classes=("ça", 'a "b"', "c,d")), tmp_path / "found.csv"
    run(capsys, tmp_path / "an, image.png", "--checkpoint", path, "--csv", out)
    answer = vig_minimal.predict(vig_minimal.load(path), tmp_path / "an, image.png")
    assert [(row["file"], int(row["rank"]), row["class"]) for row in table(out)] == [
        (str(tmp_path / "an, image.png"), rank, name) for rank, (name, _) in enumerate(answer, 1)]
    assert [float(row["probability"]) for row in table(out)] == pytest.approx([p for _, p in answer], rel=1e-5)


def test_several_labels_or_none(tmp_path, capsys):
    path, out = kept(tmp_path / "best.pt", "gkgnet_nano", CLASSES), tmp_path / "found.csv"
    lines, _ = run(capsys, "shapes:3", "--checkpoint", path, "--threshold", 0, "--csv", out)
    assert lines[0].count(", ") == 9 and len(table(out)) == 10
    image = Shapes((32, 32), 4, "val", "multi")[3][0]
    best, score = vig_minimal.predict(vig_minimal.load(path), image, threshold=0.0)[0]
    lines, _ = run(capsys, "shapes:3", "--checkpoint", path, "--threshold", 1, "--csv", out)
    assert lines[0] == f"shapes:3: no class has 1, the highest is {best} {score:.3f}"
    assert table(out) == [{"file": "shapes:3", "rank": "", "class": "", "probability": ""}]


@pytest.mark.parametrize("argv, says", [
    (["gone.png"], "gone.png: no such image or folder"), (["."], ".: no image in this folder"),
    (["cut.png"], "cut.png: not an image that Pillow can read"), (["shapes:x"], "shapes:x: after shapes:"),
    (["shapes:0", "--checkpoint", "gone.pt"], "gone.pt: no such checkpoint"), (["shapes:0", "--top", "0"], "--top 0"),
    (["shapes:0", "--threshold", "2"], "--threshold 2.0: from 0 to 1"), (["shapes:0", "--batch-size", "0"], "at least"),
    (["shapes:0", "--csv", "nowhere/a.csv"], "--csv nowhere/a.csv: no such folder"),
    (["shapes:0", "--csv", "folder"], "--csv folder: a folder; name"),
    (["shapes:0", "--device", "tpu"], "--device tpu"),
])
def test_wrong_input_is_one_sentence(argv, says, tmp_path, monkeypatch, capsys):
    path = kept(tmp_path / "best.pt")
    (tmp_path / "here" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    if argv == ["cut.png"]:
        Path("cut.png").write_text("no picture")
    with pytest.raises(SystemExit) as end:
        command.main(["--checkpoint", path, *argv])
    printed = capsys.readouterr()
    assert end.value.code == 2 and printed.out == "" and not list(Path(".").glob("*.csv"))
    assert printed.err.startswith("predict: error: ") and says in printed.err and printed.err.count("\n") == 1


# ---- the same numbers as in evaluation


@pytest.mark.parametrize("model, data", [("vig_nano", ["--data-dir", "data"]), ("cnn2gnn_nano", ["--data-dir", "data"]),
                                         ("vig_nano", ["--data", "shapes-multi", "--multi-label", "--limit", "6"])])
def test_answers_are_those_of_eval_only(model, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "data", count=3, size=(20, 27))
    small = ["--set", "dim=16", "--set", "depth=2", "--set", "k=2", "--set", "patch=4"] if model == "vig_nano" else []
    train.main(["--model", model, *data, "--img-size", "16", *small, "--epochs", "1", "--batch-size", "4",
                "--eval-crop", "0.7", "--output", "out", "--device", "cpu", "--workers", "0"])
    several, seen = "--multi-label" in data, []
    scores = tasks.MultiLabel if several else tasks.TopK
    update = scores.update
    monkeypatch.setattr(scores, "update", lambda self, logits, targets: (
        seen.append(logits.sigmoid() if several else logits.softmax(1)), update(self, logits, targets)))
    train.main(["--resume", "out/last.pt", "--eval-only", "--device", "cpu", "--workers", "0"])
    capsys.readouterr()
    expected, path = torch.cat(seen), "out/last.pt"  # (images, classes)
    sources = [f"shapes:{i}" for i in range(6)] if several else ["data/val"]
    run(capsys, *sources, "--checkpoint", path, "--threshold", 0, "--batch-size", 5, "--csv", "found.csv")
    classes, rows = vig_minimal.load(path).classes, table("found.csv")
    assert len(rows) == expected.numel() and len({row["probability"] for row in rows}) > len(rows) // 2
    found = torch.zeros(len(expected), len(classes))
    places = {name: i for i, name in enumerate(dict.fromkeys(row["file"] for row in rows))}
    for row in rows:
        found[places[row["file"]], classes.index(row["class"])] = float(row["probability"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
