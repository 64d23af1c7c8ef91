"""Data sets, pictures and batches: sizes, order, shares of processes, and every kind of data that cannot be used."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from helpers import image_folder
from vig_minimal.data import datasets as data_module
from vig_minimal.data import loading as pictures_module
from vig_minimal.data.augment import flip_and_shift, normalise, random_resized_box
from vig_minimal.data.batches import TrainingBatches, TrainingOrder, ValidationBatches, ValidationOrder
from vig_minimal.data.datasets import fetch, open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.data.loading import Broken, PreparedImages, StoredImages, store_if_it_fits
from vig_minimal.data.seeds import generator, mixed_seed
from vig_minimal.training.distributed import Processes
from vig_minimal.training.recipes import Recipe

CPU = torch.device("cpu")


def processes(world):
    return [Processes(rank, world, rank, world, CPU) for rank in range(world)]


# ---- seeds ---------------------------------------------------------------------------------------------------------


def test_mixed_seed_tells_its_parts_apart():
    seeds = [mixed_seed(*parts) for parts in [(0,), (0, 0), (0, 1), (1, 0), ("order", 0), ("crop", 0), (11,), (1, 1)]]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed("order", 3, 7) == 6241691514264616680  # on every machine and in every version


# ---- augmentations -------------------------------------------------------------------------------------------------


def test_flip_and_shift_move_every_pixel_where_they_say():
    images = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8)
    mirror, down, right = torch.tensor([False, True, True]), torch.tensor([0, 1, -3]), torch.tensor([0, -2, 2])
    out = flip_and_shift(images, mirror, down, right)
    for b in range(3):
        for row in range(4):
            for column in range(5):
                r = min(max(row - int(down[b]), 0), 3)
                c = min(max(column - int(right[b]), 0), 4)
                c = 4 - c if mirror[b] else c
                assert torch.equal(out[b, :, row, column], images[b, :, r, c])


def test_random_boxes_lie_inside_and_vary():
    source = generator("test")
    boxes = [random_resized_box(40, 60, source) for _ in range(300)]
    for top, left, height, width in boxes:
        assert top >= 0 and left >= 0 and top + height <= 40 and left + width <= 60
        assert 0.06 < height * width / 2400 <= 1 and 0.7 < width / height < 1.43
    assert min(h * w for _, _, h, w in boxes) < 400 and max(h * w for _, _, h, w in boxes) > 1500
    assert random_resized_box(10, 1000, source)[2] == 10  # no trial can fit: the middle, as far as proportions allow


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = normalise(images, mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0))
    torch.testing.assert_close(normalised.flatten(), torch.tensor([-1.0, 0.0, 0.5]))


# ---- order and shares ----------------------------------------------------------------------------------------------


def test_shares_of_all_processes_are_the_batches_of_one():
    (alone,) = (list(TrainingOrder(22, Recipe(batch_size=6), 3, p.share)) for p in processes(1))
    shares = [list(TrainingOrder(22, Recipe(batch_size=6), 3, p.share)) for p in processes(3)]
    assert len(alone) == 3 and all(len(batch) == 6 for batch in alone)
    assert [a + b + c for a, b, c in zip(*shares)] == alone
    assert len({index for batch in alone for _, index, _ in batch}) == 18


def test_another_epoch_or_seed_is_another_order():
    order = TrainingOrder(50, Recipe(batch_size=10), 0, processes(1)[0].share)
    first = list(order)
    assert list(order) == first
    order.epoch = 1
    second = [[index for _, index, _ in batch] for batch in order]
    assert second != [[index for _, index, _ in batch] for batch in first]
    assert list(TrainingOrder(50, Recipe(batch_size=10), 1, processes(1)[0].share)) != first


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 12])
def test_validation_covers_every_image_once(world, count):
    orders = [ValidationOrder(count, 2, p.share) for p in processes(world)]
    seen = Counter(index for order in orders for batch in order for _, index, _ in batch)
    assert seen == Counter(range(count))
    assert all(len(order) == len(list(order)) for order in orders)


def test_batches_are_the_same_however_many_processes_and_workers_make_them(tmp_path):
    folder = image_folder(tmp_path, count=4)
    recipe = Recipe(batch_size=4, crop="resized")
    source = open_data("imagefolder", str(folder), (16, 16), None).train

    def batches(p, workers, epoch):
        pictures = PreparedImages(source, (16, 16), 0.9, recipe, seed=5)
        return list(TrainingBatches(pictures, 2, recipe, 5, p.share, p.device, workers).epoch(epoch))

    alone = batches(processes(1)[0], 0, 1)
    halves = [batches(p, 1, 1) for p in processes(2)]
    assert len(alone) == 2
    for (images, labels), (a, a_labels), (b, b_labels) in zip(alone, *halves):
        assert torch.equal(images, torch.cat([a, b])) and torch.equal(labels, torch.cat([a_labels, b_labels]))
    other_epoch = batches(processes(1)[0], 0, 2)
    assert not torch.equal(alone[0][0], other_epoch[0][0])


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_a_picture_takes_the_middle_and_the_models_size():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200  # a square in the middle
    pictures = PreparedImages([(Image.fromarray(pixels), 1)], (10, 10), eval_crop=1.0)
    images, labels, _ = pictures.__getitems__([(0, 0, 0)])
    assert images.shape == (1, 3, 10, 10) and images.dtype == torch.uint8 and (images == 200).all()
    assert labels.tolist() == [1]
    wide = PreparedImages([(Image.fromarray(pixels), 1)], (8, 24), eval_crop=0.9).__getitems__([(0, 0, 0)])[0]
    assert wide.shape == (1, 3, 8, 24)


def test_tensors_and_grey_pictures_become_rgb():
    grey = Image.fromarray(np.full((16, 16), 7, np.uint8))
    for picture in (grey, torch.full((3, 16, 16), 7, dtype=torch.uint8)):
        assert (PreparedImages([(picture, 0)], (16, 16), 1.0).__getitems__([(0, 0, 0)])[0] == 7).all()
        cropped = PreparedImages([(picture, 0)], (16, 16), 1.0, Recipe(crop="resized")).__getitems__([(0, 0, 0)])[0]
        assert cropped.shape == (1, 3, 16, 16)


def test_small_data_is_kept_in_memory_and_gives_the_same_pictures(tmp_path, monkeypatch):
    source = open_data("imagefolder", str(image_folder(tmp_path)), (16, 16), None).val
    pictures = PreparedImages(source, (16, 16), 0.9)
    stored = store_if_it_fits(pictures, 0, 1, CPU)
    assert isinstance(stored, StoredImages) and len(stored) == 6
    p, recipe = processes(1)[0], Recipe(batch_size=4)
    both = (ValidationBatches(split, recipe, p.share, p.device, 0) for split in (stored, pictures))
    for (a, b), (c, d) in zip(*both, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    random = PreparedImages(source, (16, 16), 0.9, Recipe(crop="resized"))
    assert store_if_it_fits(random, 0, 1, CPU) is random  # another part every epoch
    monkeypatch.setattr(pictures_module, "MEMORY_LIMIT", 6 * 3 * 16 * 16)
    assert isinstance(store_if_it_fits(pictures, 0, 1, CPU), StoredImages)
    assert store_if_it_fits(pictures, 0, 2, CPU) is pictures  # two processes would keep two copies


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(tmp_path, workers):
    folder = image_folder(tmp_path, fmt="jpg")
    broken = folder / "train" / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    source = open_data("imagefolder", str(folder), (16, 16), None).train
    pictures = PreparedImages(source, (16, 16), 0.9, Recipe(crop="resized"))
    assert isinstance(pictures.__getitems__([(0, i, 0) for i in range(6)]), Broken)
    with pytest.raises(DataError, match=r"dog/1\.jpg: this image is broken \(.+\); repair"):
        list(TrainingBatches(pictures, 2, Recipe(batch_size=6), 0, (0, 1), processes(1)[0].device, workers).epoch(0))


def test_a_broken_picture_of_a_limited_set_is_named_too(tmp_path):
    folder = image_folder(tmp_path, count=6)
    source = open_data("imagefolder", str(folder), (16, 16), 1).train
    path = source.dataset.samples[source.indices[0]][0]
    open(path, "w").close()
    assert PreparedImages(source, (16, 16), 1.0).__getitems__([(0, 0, 0)]).sentence.startswith(path)


# ---- data sets -----------------------------------------------------------------------------------------------------


def test_shapes_follow_limit_and_size():
    data = open_data("shapes", None, (16, 24), 30)
    assert (len(data.train), len(data.val), len(data.classes)) == (30, 30, 10) and data.train[0][0].shape == (3, 16, 24)
    assert len(open_data("shapes", None, (16, 16), None).val) == data_module.SHAPES_VAL


def test_a_limited_folder_is_always_the_same_choice(tmp_path):
    folder = str(image_folder(tmp_path, count=8))
    a, b = (open_data("imagefolder", folder, (16, 16), 5) for _ in range(2))
    assert a.train.indices == b.train.indices and len(set(a.train.indices)) == len(a.train) == 5 and len(a.val) == 16
    assert len(open_data("imagefolder", folder, (16, 16), 99).train) == 16


def broken_folder(kind, root):
    if kind == "train and val differ":
        return image_folder(root, val=("cat", "fox"))
    if kind == "no class":
        return image_folder(root, train=(), val=())
    if kind == "one class":
        return image_folder(root, train=("cat",), val=("cat",))
    if kind == "empty class":
        return image_folder(root, count=0)
    if kind == "no val":
        folder = image_folder(root)
        (folder / "val").rename(folder / "test")
        return folder
    return root / "nowhere"


@pytest.mark.parametrize(("kind", "message"), [
    ("train and val differ", r"different classes \(only in train/: dog; only in val/: fox\)"),
    ("no class", "train: no class; it needs"), ("one class", r"one class only \(cat\)"),
    ("empty class", "no valid file for the classes"),
    ("no val", "val: no such folder"), ("missing", "nowhere: no such folder"),
])
def test_folders_that_cannot_be_trained_on(tmp_path, kind, message):
    with pytest.raises(DataError, match=message):
        open_data("imagefolder", str(broken_folder(kind, tmp_path)), (16, 16), None)


def test_other_data_that_cannot_be_used():
    with pytest.raises(DataError, match="unknown data set 'cifar': there are shapes, imagefolder, cifar10"):
        open_data("cifar", None, (32, 32), None)
    with pytest.raises(DataError, match="--data-dir"):
        open_data("imagefolder", None, (32, 32), None)
    with pytest.raises(DataError, match="limit=0"):
        open_data("shapes", None, (32, 32), 0)


def test_a_download_that_fails_is_a_sentence(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"cifar10 is not complete .* \(no network\)"):
        fetch("cifar10", str(tmp_path))
    with pytest.raises(DataError, match="cifar10 is not complete"):
        open_data("cifar10", str(tmp_path), (32, 32), None)


def test_downloaded_sets_open_through_torchvision(monkeypatch):
    class Digits(list):
        """Stands in for torchvision's SVHN, which names no classes."""

        def __init__(self, root, download, split):
            digits = [(Image.new("RGB", (32, 32)), label) for label in range(10)]
            super().__init__(digits * (2 if split == "train" else 1))

    monkeypatch.setitem(data_module.DOWNLOADS, "svhn", (Digits, {"split": "train"}, {"split": "test"}))
    data = open_data("svhn", None, (32, 32), 15)
    assert data.classes == [str(digit) for digit in range(10)] and (len(data.train), len(data.val)) == (15, 10)


def test_a_missing_package_is_named(monkeypatch):
    def needs_scipy(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setitem(data_module.DOWNLOADS, "svhn", (needs_scipy, {}, {}))
    with pytest.raises(DataError, match="pip install scipy"):
        open_data("svhn", None, (32, 32), None)
