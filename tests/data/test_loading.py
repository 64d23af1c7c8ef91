"""Loading: the model's size, RGB, what is kept in memory, and unreadable images by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from helpers import image_folder
from vig_minimal.data import loading
from vig_minimal.data.batches import TrainingBatches, ValidationBatches
from vig_minimal.data.datasets import open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.data.loading import PreparedImages, StoredImages, centre_crop, store_if_it_fits
from vig_minimal.look.predict import Transform
from vig_minimal.training.recipes import Recipe, get_recipe

CPU = torch.device("cpu")


def test_validation_images_are_centre_cropped_to_the_models_size():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200  # a square in the middle
    prepared = PreparedImages([(Image.fromarray(pixels), 1)], (10, 10), eval_crop=1.0)
    images, labels, _ = prepared[[(0, 0, 0)]]
    assert images.shape == (1, 3, 10, 10) and images.dtype == torch.uint8 and (images == 200).all()
    assert labels.tolist() == [1]
    wide = PreparedImages([(Image.fromarray(pixels), 1)], (8, 24), eval_crop=0.9)[[(0, 0, 0)]][0]
    assert wide.shape == (1, 3, 8, 24)


@pytest.mark.parametrize("width, height, side, share, shorter, longer", [
    (500, 375, 224, 0.9, 248, 330), (375, 500, 224, 0.9, 248, 330), (333, 501, 224, 0.9, 248, 373),
    (640, 480, 224, 0.875, 256, 341), (100, 90, 33, 0.95, 34, 37), (50, 41, 64, 1.0, 64, 78)])
def test_the_evaluation_crop_is_that_of_the_released_preprocessing(width, height, side, share, shorter, longer):
    """timm: the shorter side becomes the whole part of side / share, the longer follows, both cut to whole pixels."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    scaled = transforms.Resize(shorter, transforms.InterpolationMode.BICUBIC)(image)
    assert sorted(scaled.size) == [shorter, longer]
    released = np.asarray(transforms.CenterCrop(side)(scaled))
    assert np.array_equal(np.asarray(centre_crop(image, (side, side), share)), released)


def test_an_oblong_crop_covers_its_size_from_any_image():
    for width, height in ((500, 375), (64, 64), (31, 97), (3, 5)):
        image = torch.ones(3, height, width, dtype=torch.uint8)
        for size in ((40, 56), (56, 40), (7, 90)):
            for share in (0.9, 1.0):
                assert (centre_crop(image, size, share) == 1).all(), "beyond the image lies black"


def test_a_crop_of_0_is_the_whole_image():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, :15], pixels[:, 45:] = 200, 100  # what a centre crop would cut off
    image, = PreparedImages([(Image.fromarray(pixels), 1)], (8, 8), eval_crop=0.0)[[(0, 0, 0)]][0]
    assert image.shape == (3, 8, 8) and (image[:, :, 0] > 190).all() and (abs(image[:, :, 7].int() - 100) < 10).all()
    assert get_recipe("gkgnet").eval_crop == 0
    transform = Transform((8, 8), 0.0)
    assert torch.equal(transform.crop(Image.fromarray(pixels)), image)


def test_tensors_and_grey_images_become_rgb():
    grey = Image.fromarray(np.full((16, 16), 7, np.uint8))
    for image in (grey, torch.full((3, 16, 16), 7, dtype=torch.uint8)):
        assert (PreparedImages([(image, 0)], (16, 16), 1.0)[[(0, 0, 0)]][0] == 7).all()
        cropped = PreparedImages([(image, 0)], (16, 16), 1.0, Recipe(crop="resized"))[[(0, 0, 0)]][0]
        assert cropped.shape == (1, 3, 16, 16)


def test_small_data_is_kept_in_memory_and_gives_the_same_images(tmp_path, monkeypatch):
    source = open_data("imagefolder", str(image_folder(tmp_path)), (16, 16), None).val
    images = PreparedImages(source, (16, 16), 0.9)
    stored = store_if_it_fits(images, 0, 1, CPU)
    assert isinstance(stored, StoredImages) and len(stored) == 6
    both = (ValidationBatches(split, Recipe(batch_size=4), (0, 1), CPU, 0) for split in (stored, images))
    for (a, b), (c, d) in zip(*both, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    for changing in ({"crop": "resized"}, {"crop": "pad", "rand_augment": 9.0}, {"crop": "pad", "color_jitter": 0.4}):
        random = PreparedImages(source, (16, 16), 0.9, Recipe(**changing))
        assert store_if_it_fits(random, 0, 1, CPU) is random  # other crops or colours every epoch
    assert isinstance(store_if_it_fits(PreparedImages(source, (16, 16), 0.9, Recipe(crop="pad")), 0, 1, CPU),
                      StoredImages)  # flips and shifts are those of batches
    monkeypatch.setattr(loading, "MEMORY_LIMIT", 6 * 3 * 16 * 16)
    assert isinstance(store_if_it_fits(images, 0, 1, CPU), StoredImages)
    assert store_if_it_fits(images, 0, 2, CPU) is images  # two processes would keep two copies


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(tmp_path, workers):
    folder = image_folder(tmp_path, fmt="jpg")
    broken = folder / "train" / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    source = open_data("imagefolder", str(folder), (16, 16), None).train
    images = PreparedImages(source, (16, 16), 0.9, Recipe(crop="resized"))
    with pytest.raises(DataError, match=r"dog/1\.jpg: this image is broken"):
        images[[(0, i, 0) for i in range(6)]]
    with pytest.raises(DataError, match=r"dog/1\.jpg: this image is broken \(.+\); repair"):
        list(TrainingBatches(images, 2, Recipe(batch_size=6), 0, (0, 1), CPU, workers).epoch(0))


def test_a_broken_image_of_a_limited_set_is_named_too(tmp_path):
    folder = image_folder(tmp_path, count=6)
    source = open_data("imagefolder", str(folder), (16, 16), 1).train
    path = source.dataset.paths[source.indices[0]]
    open(path, "w").close()
    with pytest.raises(DataError) as error:
        PreparedImages(source, (16, 16), 1.0)[[(0, 0, 0)]]
    assert str(error.value).startswith(path)


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_thin_image_the_middle_is_seen(turned):
    """What lies far outside the crop goes first, or it would be scaled to gigabytes."""
    image = torch.randint(256, (3, 4, 4000), dtype=torch.uint8)
    middle = image[:, :, 1500:2500]
    if turned:
        image, middle = image.mT, middle.mT
    for size in ((16, 16), (8, 12)):
        found = centre_crop(image, size, 0.9)
        assert found.shape[1:] == size and torch.equal(found, centre_crop(middle, size, 0.9))
