"""Odd and broken image files: converted to RGB, or named and replaced by another image, or the end of the run."""

import io
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from commands import TINY, fell, finish, said, start
from helpers import image_folder
from vig_minimal.data import decoding
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


def write_broken(folder, name):
    (folder / name).write_bytes({"cut.jpg": jpeg()[:700], "empty.jpg": b""}[name])


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
    Image.fromarray(np.array([[-100, 0, 100, 300]], np.int32)).save(folder / "whole.tif")
    Image.fromarray(np.array([[0.5, np.nan, 1.5, -np.inf, np.inf, 1]], np.float32)).save(folder / "float.tif")
    Image.fromarray(np.array([[7, 7]], np.int32)).save(folder / "flat.tif")
    return {"whole.tif": "-100 to 300 as black to white", "float.tif": "0.5 to 1.5 as black to white",
            "flat.tif": "7 to 7 as black to white",
            "cmyk.jpg": "CMYK", "deep.png": "16 bit", "palette.png": "partly transparent",
            "glass.png": "partly transparent", "turned.jpg": "rotated by EXIF"}


def test_grey_of_16_bits_may_be_transparent(tmp_path):
    grey = np.array([[0, 10_000, 30_000, 60_000]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "opaque.png")
    content = (tmp_path / "opaque.png").read_bytes()
    chunk = b"tRNS" + (30_000).to_bytes(2, "big")
    chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    place = content.index(b"IDAT") - 4
    (tmp_path / "clear.png").write_bytes(content[:place] + chunk + content[place:])
    opaque, clear = (read_image(tmp_path / f"{name}.png") for name in ("opaque", "clear"))
    assert np.asarray(opaque)[0, :, 0].tolist() == [0, 39, 117, 233] and opaque.info["was"] == "16 bit"
    assert np.asarray(clear)[0, :, 0].tolist() == [0, 39, 255, 233]
    assert clear.info["was"] == "16 bit, partly transparent"


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
    assert pixels["whole.tif"][0, :, 0].tolist() == [0, 64, 128, 255]
    assert pixels["float.tif"][0, :, 0].tolist() == [0, 0, 255, 0, 255, 128] and (pixels["flat.tif"] == 0).all()
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


# kept in memory; read every epoch
@pytest.mark.parametrize("crop", [pytest.param("pad", marks=pytest.mark.slow), "resized"])
def test_broken_training_images_are_replaced_and_listed(tmp_path, crop):
    folder = folder_with(tmp_path, ["cut.jpg", "empty.jpg"])
    odd = write_odd(folder / "train" / "cat")
    write_odd(folder / "val" / "dog")
    argv = ["--data-dir", "data", "--crop", crop, "--batch-size", 16, "--epochs", 2, "--workers", 1, "--output", "out"]
    assert finish(start(tmp_path, *TINY, *argv)) == 0, said(tmp_path)
    whole = said(tmp_path).replace("\n  ", " ")  # lines that were broken for the terminal, in one piece
    lines = [line for line in whole.splitlines() if " images that" in line or " images converted" in line]
    broken, train, val = sorted(lines)  # each once, though there are two epochs
    assert broken.startswith("2 training images that cannot be read, replaced by others: ")
    assert all(f"data/train/dog/{name}" in broken for name in ("cut.jpg", "empty.jpg"))
    for line, split, place in ((train, "training", "train/cat"), (val, "validation", "val/dog")):
        assert line.startswith(f"8 {split} images converted to RGB: ")
        assert all(f"data/{place}/{name} ({was})" in line for name, was in odd.items())
    listed = (tmp_path / "out" / "bad_images.tsv").read_text().splitlines()
    assert len(listed) == 18 and any(line.startswith("data/train/dog/empty.jpg\treplaced\tan empty") for line in listed)


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_one_in_a_hundred_end_the_run(tmp_path, workers):
    folder_with(tmp_path, ["cut.jpg", "empty.jpg"], count=90)  # 2 of 182
    argv = ["--data-dir", "data", "--crop", "resized", "--batch-size", 90, "--workers", workers, "--output", "out"]
    assert finish(start(tmp_path, *TINY, *argv)) == 1
    error = said(tmp_path).split("train.py: error: ")[1]
    assert "more than 1% of the 182 training images are broken" in error and "empty.jpg" in error
    assert not fell(tmp_path)


def test_a_replacement_follows_from_the_seed_and_the_key(tmp_path):
    folder = folder_with(tmp_path, ["empty.jpg"], count=30)
    source = open_data("imagefolder", str(folder), (8, 8), None).train
    (broken,) = [i for i, path in enumerate(source.paths) if path.endswith("empty.jpg")]
    images = PreparedImages(source, (8, 8), 1.0, Recipe(crop="pad"), seed=0, skip=True)
    batches = [images[[(epoch, broken, 0)]] for epoch in (0, 0, 1, 2, 3)]
    assert all(batch.notes[0].name.endswith("empty.jpg") and batch.notes[0].broken for batch in batches)
    assert torch.equal(batches[0].images, batches[1].images)
    assert any(not torch.equal(batches[0].images, batch.images) for batch in batches[2:])
    with pytest.raises(DataError, match="an empty file"):
        PreparedImages(source, (8, 8), 1.0)[[(0, broken, 0)]]


def test_missing_files_and_system_errors_are_not_broken_images(tmp_path, monkeypatch):
    folder = image_folder(tmp_path / "data", count=4)
    source = open_data("imagefolder", str(folder), (8, 8), None).train
    os.remove(source.paths[0])
    os.remove(source.paths[1])
    os.mkdir(source.paths[1])
    images = PreparedImages(source, (8, 8), 1.0, Recipe(crop="pad"), skip=True)
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        images[[(0, 0, 0)]]
    assert images[[(0, 1, 0)]].notes[0].text.startswith("no file, but a folder")
    source.paths[0] = str(folder / "val" / "cat" / "0.png")

    def no_memory(image):
        raise MemoryError

    monkeypatch.setattr(decoding, "upright_rgb", no_memory)
    with pytest.raises(DataError, match=r"0.png: cannot be read \(not enough memory\)"):
        images[[(0, 0, 0)]]
