"""The sheet of augmentations: its panels show what the captions say, and wrong input is one sentence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vig_minimal.data.augment import OPERATIONS
from vig_minimal.data.synthetic import Shapes
from vig_minimal.look import augment_sheet


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(size: tuple[int, int], index: int = 3) -> Image.Image:
    return Image.fromarray(Shapes(size, index + 1)[index][0].permute(1, 2, 0).numpy())


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def values(image: Image.Image) -> np.ndarray:
    """(H, W, 3), whole numbers that can be subtracted."""
    return np.asarray(image).astype(int)


def test_the_sheet_shows_every_augmentation(monkeypatch):
    seen = []
    monkeypatch.setattr(augment_sheet, "sheet", lambda panels, captions, *_: seen.extend(zip(panels, captions)))
    augment_sheet.augment_sheet(scene((64, 64)), scene((64, 64), 4), seed=1)
    captions = [caption for _, caption in seen]
    assert len(seen) == 36 and all(panel.size == (192, 192) for panel, _ in seen)
    for name in (*OPERATIONS, "original", "partner", "RandAugment", "random resized crop", "flip and shift", "mixup",
                 "cutmix", "random erasing", "colour jitter"):
        assert any(caption.startswith(name) for caption in captions), name
    assert "Rotate\n+27.0 degrees" in captions and "Posterize\nbits kept: 1" in captions
    assert "Contrast\nfactor 0.19" in captions and "TranslateX\n+0.405 of the width" in captions


def test_label_weights_in_captions_are_those_of_the_pixels(monkeypatch):
    black, white = (Image.new("RGB", (40, 40), colour) for colour in ("black", "white"))
    for caption, panel in augment_sheet.mixes(black, white, 4, seeded()):
        own, other = (float(line.split()[-2]) for line in caption.splitlines()[1:])
        assert own + other == pytest.approx(1, abs=2e-3)
        assert values(panel).mean() / 255 == pytest.approx(other, abs=5e-3)


def test_drawn_operations_in_captions_are_those_applied():
    image = scene((48, 64))
    for caption, panel in augment_sheet.rand_augment_draws(image, 20, seeded(3)):
        left_alone = "neither operation applied" in caption
        assert not left_alone or np.array_equal(values(panel), values(image))
        if "Invert" in caption and caption.count("\n") == 1:
            assert np.array_equal(values(panel), 255 - values(image))


def test_command_on_a_scene_and_a_photo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scene((50, 90)).save("photo.png")
    pages = []
    for argv in (["photo.png", "--size", "32"], ["shapes:3", "--size", "32"], ["shapes:3", "--size", "32"],
                 ["shapes:3", "--size", "32", "--seed", "1"]):
        augment_sheet.main([*argv, "--out", "page.png"])
        assert capsys.readouterr().out == "wrote page.png\n"
        pages.append(values(Image.open("page.png")))
    assert min(pages[0].shape[:2]) > 6 * 192
    assert np.array_equal(pages[1], pages[2]) and not np.array_equal(pages[1], pages[3])


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as exit:
        augment_sheet.main(["--help"])
    assert exit.value.code == 0 and "example: python -m vig_minimal augment shapes:7" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_runs_under_the_name_of_augment():
    command = [sys.executable, "-m", "vig_minimal", "augment", "missing.png"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert ran.returncode == 2 and ran.stderr.startswith("augment: error: missing.png: no such image")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("argv, message", [
    (["missing.png"], "missing.png: no such image"),
    (["notes.txt"], "notes.txt: not an image"),
    (["cut.png"], "cut.png: image file is truncated"),
    (["."], "no file, but a folder"),
    (["shapes:x"], "shapes:x: after shapes: comes the number"),
    (["shapes:0", "--size", "8"], "--size 8: a side of 16 to 512 pixels"),
    (["shapes:0", "--size", "100000"], "--size 100000: a side of 16 to 512 pixels"),
    (["shapes:0", "--size", "x"], "argument --size: invalid int value: 'x'"),
    (["shapes:0", "--seed", "-1"], "--seed -1: a whole number, 0 or more"),
    (["shapes:0", "--size", "16", "--out", "nowhere/page.png"], "nowhere/page.png: the picture cannot be written"),
    (["shapes:0", "--size", "16", "--out", "page.xyz"], "page.xyz: the picture cannot be written"),
    (["shapes:0", "--size", "16", "--out", "page.psd"], "page.psd: the picture cannot be written"),
    (["shapes:0", "--size", "16", "--out", "."], ".: the picture cannot be written"),
    ([], "required: image"),
])
def test_wrong_input_is_one_sentence(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    noise(64, 64).save("whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(SystemExit) as exit:
        augment_sheet.main(argv)
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    assert message in printed.err and printed.err.startswith("augment: error: ") and printed.err.count("\n") == 1


def test_a_picture_of_a_bombs_size_is_refused(tmp_path, monkeypatch, capsys):
    noise(64, 64).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SystemExit) as exit:
        augment_sheet.main([str(tmp_path / "large.png")])
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and printed.startswith("augment: error: ") and printed.count("\n") == 1
