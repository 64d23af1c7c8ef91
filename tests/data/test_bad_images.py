"""Odd and broken image files: converted to RGB, or named and replaced by another image, or the end of the run."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from commands import TINY, fell, finish, said, start
from helpers import image_folder
from vig_minimal.data.datasets import open_data
from vig_minimal.data.decoding import DataError, read_image
from vig_minimal.data.loading import PreparedImages
from vig_minimal.training.recipes import Recipe

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def jpeg(**options):
    buffer = io.BytesIO()
    Image.fromarray(NOISE).resize((64, 48)).save(buffer, "jpeg", **options)
    return buffer.getvalue()


BROKEN = {  # name: content, and what the error says
    "truncated.jpg": (jpeg()[:700], "truncated"),
    "truncated.png": (None, "truncated|Truncated"),
    "empty.jpg": (b"", "an empty file"),
    "text.jpg": (b"this is a text", "not an image"),
    "header.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "."),
}


def write_broken(folder, name):
    path = folder / name
    content = BROKEN[name][0]
    if content is None:
        buffer = io.BytesIO()
        Image.fromarray(NOISE).save(buffer, "png")
        content = buffer.getvalue()[:200]
    path.write_bytes(content)
    return path


def write_odd(folder):
    """Write one file of each odd kind; return name to kind."""
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16)).save(folder / "deep.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.paste(1, (4, 0, 8, 8))
    palette.save(folder / "palette.png", transparency=0)
    Image.new("RGBA", (8, 8), (0, 0, 255, 128)).save(folder / "glass.png")
    turned = Image.new("RGB", (16, 8), "black")
    turned.paste((255, 255, 255), (0, 0, 16, 2))  # white on top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90°: white comes to the right
    turned.save(folder / "turned.jpg", exif=exif, quality=95)
    return {"cmyk.jpg": "CMYK", "deep.png": "16 bit", "palette.png": "partly transparent",
            "glass.png": "partly transparent", "turned.jpg": "rotated by EXIF"}


@pytest.mark.parametrize("name", BROKEN)
def test_an_unreadable_file_says_why(tmp_path, name):
    with pytest.raises(DataError, match=BROKEN[name][1]):
        read_image(write_broken(tmp_path, name))


def test_odd_files_are_read_right(tmp_path):
    kinds = write_odd(tmp_path)
    images = {name: read_image(tmp_path / name) for name in kinds}
    assert {name: image.info["was"] for name, image in images.items()} == kinds
    assert all(image.mode == "RGB" for image in images.values())
    pixels = {name: np.asarray(image).astype(int) for name, image in images.items()}
    assert abs(pixels["cmyk.jpg"] - [255, 0, 0]).max() < 12  # no cyan, all magenta and yellow: red
    assert (pixels["deep.png"] == 127).all()  # 32767 of 65535
    assert (pixels["palette.png"][:, :4] == 255).all() and (pixels["palette.png"][:, 4:] == [200, 0, 0]).all()
    assert abs(pixels["glass.png"] - [127, 127, 255]).max() <= 1  # half of white shines through
    turned = pixels["turned.jpg"]
    assert turned.shape == (16, 8, 3) and turned[:, -1].min() > 200 and turned[:, :4].max() < 60


def test_ordinary_files_have_no_remark(tmp_path):
    for name, image in (("rgb.png", Image.fromarray(NOISE)), ("grey.png", Image.fromarray(NOISE[..., 0])),
                          ("bits.png", Image.fromarray(NOISE[..., 0] > 127)),
                          ("palette.png", Image.fromarray(NOISE).quantize(16))):
        image.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.mode == "RGB" and "was" not in read.info
    assert np.array_equal(np.asarray(read_image(tmp_path / "rgb.png")), NOISE)


@pytest.mark.parametrize("factor", [1.5, 4])  # Pillow warns of the first, and refuses the second
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, factor):
    Image.fromarray(NOISE).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(NOISE[..., 0].size / factor))
    with pytest.raises(DataError, match="decompression bomb"):
        read_image(tmp_path / "bomb.png")


def folder_with(tmp_path, names, count=130):
    folder = image_folder(tmp_path / "data", count=count, size=(8, 8))
    for name in names:
        write_broken(folder / "train" / "dog", name)
    return folder


@pytest.mark.parametrize("crop", ["pad", "resized"])  # kept in memory; read every epoch
def test_broken_training_images_are_replaced_and_listed(tmp_path, crop):
    folder = folder_with(tmp_path, ["truncated.jpg", "empty.jpg"])
    odd = write_odd(folder / "train" / "cat")
    argv = ["--data-dir", "data", "--crop", crop, "--batch-size", 16, "--epochs", 2, "--workers", 1, "--output", "out"]
    assert finish(start(tmp_path, *TINY, *argv)) == 0, said(tmp_path)
    lines = [line for line in said(tmp_path).splitlines() if "training images" in line and line[0].isdigit()]
    assert len(lines) == 2, said(tmp_path)  # once, though there are two epochs
    assert lines[0].startswith("2 training images cannot be read and are replaced by others: ")
    assert all(f"data/train/dog/{name}" in lines[0] for name in ("truncated.jpg", "empty.jpg"))
    assert lines[1].startswith("5 training images are converted to RGB: ")
    assert all(f"data/train/cat/{name} ({was})" in lines[1] for name, was in odd.items())
    listed = (tmp_path / "out" / "bad_images.tsv").read_text().splitlines()
    assert len(listed) == 7 and any(line.startswith("data/train/dog/empty.jpg\treplaced\tan empty") for line in listed)


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_one_in_a_hundred_end_the_run(tmp_path, workers):
    folder_with(tmp_path, ["truncated.jpg", "empty.jpg"], count=90)  # 2 of 182
    argv = ["--data-dir", "data", "--crop", "resized", "--batch-size", 90, "--workers", workers, "--output", "out"]
    assert finish(start(tmp_path, *TINY, *argv)) == 2
    error = said(tmp_path).split("train.py: error: ")[1]
    assert "more than 1% of the 182 training images are broken" in error and "empty.jpg" in error
    assert not fell(tmp_path)


def test_a_replacement_follows_from_the_seed_and_the_key(tmp_path):
    folder = folder_with(tmp_path, ["text.jpg"], count=30)
    source = open_data("imagefolder", str(folder), (8, 8), None).train
    (broken,) = [i for i, (path, _) in enumerate(source.samples) if path.endswith("text.jpg")]
    images = PreparedImages(source, (8, 8), 1.0, Recipe(crop="pad"), seed=0, skip=True)
    batches = [images.__getitems__([(epoch, broken, 0)]) for epoch in (0, 0, 1, 2, 3)]
    assert all(batch.notes[0].name.endswith("text.jpg") and batch.notes[0].broken for batch in batches)
    assert torch.equal(batches[0].images, batches[1].images)
    assert any(not torch.equal(batches[0].images, batch.images) for batch in batches[2:])
    assert isinstance(PreparedImages(source, (8, 8), 1.0).__getitems__([(0, broken, 0)]), DataError)


def test_missing_files_and_system_errors_are_not_broken_images(tmp_path):
    folder = image_folder(tmp_path / "data", count=4)
    source = open_data("imagefolder", str(folder), (8, 8), None).train
    os.remove(source.samples[0][0])
    os.remove(source.samples[1][0])
    os.mkdir(source.samples[1][0])
    images = PreparedImages(source, (8, 8), 1.0, Recipe(crop="pad"), skip=True)
    assert "disappeared" in str(images.__getitems__([(0, 0, 0)]))
    assert "cannot be read (Is a directory)" in str(images.__getitems__([(0, 1, 0)]))
