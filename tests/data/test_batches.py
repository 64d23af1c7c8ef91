"""Batches: the order of images, the shares of processes, and independence of the number of processes and workers."""

import itertools
from collections import Counter

import pytest
import torch

from helpers import image_folder
from vig_minimal.data.augment import normalise
from vig_minimal.data.batches import TrainingBatches, TrainingOrder, images_of_epoch
from vig_minimal.data.datasets import open_data
from vig_minimal.data.loading import PreparedImages, StoredImages, validation_order
from vig_minimal.training.recipes import Recipe

CPU = torch.device("cpu")


def shares(world):
    """(rank, world) of every process."""
    return [(rank, world) for rank in range(world)]


def test_the_shares_of_all_processes_make_up_the_batches_of_one():
    alone = list(TrainingOrder(22, Recipe(batch_size=6), 3))
    thirds = [list(TrainingOrder(22, Recipe(batch_size=6), 3, share)) for share in shares(3)]
    assert len(alone) == 3 and all(len(batch) == 6 for batch in alone)
    assert [a + b + c for a, b, c in zip(*thirds)] == alone
    assert len({index for batch in alone for _, index, _ in batch}) == 18


def test_another_epoch_or_seed_is_another_order():
    order = TrainingOrder(50, Recipe(batch_size=10), 0)
    first = list(order)
    assert list(order) == first
    order.epoch = 1
    second = [[index for _, index, _ in batch] for batch in order]
    assert second != [[index for _, index, _ in batch] for batch in first]
    assert list(TrainingOrder(50, Recipe(batch_size=10), 1)) != first


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 12])
def test_validation_covers_every_image_once(world, count):
    orders = [validation_order(count, 2, share) for share in shares(world)]
    seen = Counter(index for order in orders for batch in order for _, index, _ in batch)
    assert seen == Counter(range(count))
    assert all(len(order) == len(list(order)) for order in orders)


def test_batches_are_the_same_however_many_processes_and_workers_make_them(tmp_path):
    folder = image_folder(tmp_path, count=4)
    recipe = Recipe(batch_size=4, crop="resized")
    source = open_data("imagefolder", str(folder), (16, 16), None).train

    def batches(share, workers, epoch):
        images = PreparedImages(source, (16, 16), 0.9, recipe, seed=5)
        return list(TrainingBatches(images, 2, recipe, 5, share, CPU, workers).epoch(epoch))

    alone = batches((0, 1), 0, 1)
    halves = [batches(share, 1, 1) for share in shares(2)]
    assert len(alone) == 2
    for (images, labels), (a, a_labels), (b, b_labels) in zip(alone, *halves):
        assert torch.equal(images, torch.cat([a, b])) and torch.equal(labels, torch.cat([a_labels, b_labels]))
    other_epoch = batches((0, 1), 0, 2)
    assert not torch.equal(alone[0][0], other_epoch[0][0])


def numbered(count=40, size=16):
    """Images of random pixels in memory, and their numbers as labels."""
    pixels = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return StoredImages(pixels, torch.arange(count))


def test_each_step_draws_its_own_flips_and_shifts():
    """Of one image over and over: batches differ by their draws alone."""
    source = StoredImages(numbered(1).images.expand(40, -1, -1, -1), torch.zeros(40, dtype=torch.int64))
    steps = [images for images, _ in TrainingBatches(source, 1, Recipe(batch_size=8, crop="pad"), 0, (0, 1), CPU,
                                                     0).epoch(0)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(steps, 2))


def test_images_are_shifted_where_the_recipe_pads_and_there_alone():
    source = numbered()
    for crop in ("pad", "resized"):  # images in memory are those of an evaluation crop, or cropped already
        recipe = Recipe(batch_size=40, crop=crop, flip=False)
        (images, labels), = TrainingBatches(source, 40, recipe, 0, (0, 1), CPU, 0).epoch(0)
        plain = normalise(source.images[labels], recipe.mean, recipe.std)
        same = [torch.equal(*pair) for pair in zip(images, plain)]
        assert all(same) if crop == "resized" else sum(same) < 8  # of 5 × 5 shifts one is none


def test_half_of_the_batches_are_mixed_by_cutmix():
    recipe, kinds = Recipe(batch_size=2, crop="resized", flip=False, mixup=1.0, cutmix=1.0), []
    source = numbered(1600, 4)
    for images, targets in TrainingBatches(source, 1600, recipe, 0, (0, 1), CPU, 0).epoch(0):
        first, second = normalise(source.images[targets.sum(0).nonzero()[:, 0]], recipe.mean, recipe.std) if (
            targets.sum(0).count_nonzero() == 2) else (images[0], images[1])
        kinds.append(all((pixel in (one, other)) for pixel, one, other in zip(
            images[0].flatten().tolist(), first.flatten().tolist(), second.flatten().tolist())))
    assert len(kinds) == 800 and abs(sum(kinds) / 800 - 0.5) < 4 * 0.5 / 800**0.5


def test_repeated_images_come_as_different_copies():
    batch, *_ = TrainingOrder(300, Recipe(batch_size=12, repeats=3), 0)
    copies = {}
    for place, (_, index, copy) in enumerate(batch):
        copies.setdefault(index, []).append(copy)
        assert copy == place // 4  # all first copies, then all second ones: mixup's pairs are of two images
    assert len(copies) == 4 and all(numbers == [0, 1, 2] for numbers in copies.values())


@pytest.mark.parametrize("count, repeats, expected", [(1000, 3, 768), (400, 3, 256), (255, 3, 255), (1000, 1, 1000)])
def test_repeated_augmentation_takes_a_multiple_of_256_images(count, repeats, expected):
    assert images_of_epoch(count, repeats) == expected  # as DeiT's sampler


def test_what_is_erased_is_not_mixed(tmp_path, monkeypatch):
    """Erasing comes last: a box of one image must not show, at half its strength, in its partner."""
    data = open_data("imagefolder", str(image_folder(tmp_path / "data", count=4, size=(16, 16))), (16, 16), None)
    recipe = Recipe(batch_size=8, mixup=0.8, erasing=1.0, crop="pad", flip=False)
    marked = []

    def erase(image, box, generator):
        top, left, height, width = box
        image[:, top:top + height, left:left + width] = 1000.0
        marked.append(height * width)

    monkeypatch.setattr("vig_minimal.data.batches.erase", erase)
    images = PreparedImages(data.train, (16, 16), 1.0, recipe, 0)
    (mixed, _), = TrainingBatches(images, 2, recipe, 0, (0, 1), CPU, 0).epoch(0)
    assert len(marked) == 8 and (mixed == 1000).sum() == 3 * sum(marked) and (mixed[mixed != 1000] < 10).all()
