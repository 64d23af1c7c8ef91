"""Sources and batches of segmentation: masks as they are stored, bad folders, image and mask through the same steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import CATEGORIES, coco_folder, thing
from PIL import Image

from vig_minimal.data.data_recipe import DataRecipe
from vig_minimal.data.decoding import DataError
from vig_minimal.data.dense.mask_batches import MaskImages, MaskTraining, MaskValidation, scaled_part
from vig_minimal.data.segmentation import CocoMasks, SceneMasks, VocMasks, drawn, mask_folders, read_mask
from vig_minimal.data.synthetic import Shapes
from vig_minimal.training.recipes import get_recipe

MASK = np.array([[0, 1, 255], [2, 1, 0]], np.uint8)


def save(path, array=MASK):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def folder_of(root, splits=("train", "val"), images=2, mask=MASK, classes=None):
    for split in splits:
        for i in range(images):
            save(root / split / "images" / f"{i}.png", np.full((*mask.shape, 3), 20 * i, np.uint8))
            save(root / split / "masks" / f"{i}.png", mask)
    if classes:
        (root / "classes.txt").write_text("\n".join(classes))
    return root


def test_a_mask_is_read_with_and_without_a_palette(tmp_path):
    with_palette = Image.new("P", (3, 2))
    with_palette.putdata(MASK.flatten().tolist())
    with_palette.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    with_palette.save(tmp_path / "palette.png")
    save(tmp_path / "grey.png")
    save(tmp_path / "sixteen.png", MASK.astype(np.uint16))
    for name in ("palette", "grey", "sixteen"):
        mask = read_mask(tmp_path / f"{name}.png", 3)
        assert mask.dtype == torch.uint8 and mask.tolist() == MASK.tolist(), name


def test_a_folder_with_train_and_val_and_names(tmp_path):
    train, val, remarks = mask_folders(str(folder_of(tmp_path, classes=("sky", "sea", "land"))), 0)
    assert train.classes == ["sky", "sea", "land"] and (len(train), len(val)) == (2, 2) and remarks == []
    image, mask = train[1]
    assert image.size == (3, 2) and image.getpixel((0, 0)) == (20, 20, 20) and mask.tolist() == MASK.tolist()


def test_a_flat_folder_is_split_and_its_classes_are_numbers(tmp_path):
    folder_of(tmp_path, splits=(".",), images=10)
    train, val, [remark] = mask_folders(str(tmp_path), 0)
    assert (len(train), len(val)) == (8, 2) and train.classes == ["0", "1", "2"] and "20%" in remark
    assert set(train.paths).isdisjoint(val.paths)
    assert mask_folders(str(tmp_path), 0)[1].paths == val.paths != mask_folders(str(tmp_path), 1)[1].paths


def without(path):
    return lambda root: (root / path).unlink()


@pytest.mark.parametrize("spoil, words", [
    (without("train/masks/1.png"), "train/images/1.png: has no mask in masks/"),
    (without("val/images/0.png"), "val/masks/0.png: has no image in images/"),
    (lambda root: save(root / "train/masks/0.png", np.zeros((5, 3), np.uint8)), "0.png: 3×5 pixels, and its image"),
    (lambda root: save(root / "train/masks/0.png", np.zeros((2, 3, 3), np.uint8)), "masks/0.png: a mask in RGB"),
    (lambda root: save(root / "val/masks/1.png", np.full((2, 3), 7, np.uint8)), "masks/1.png: class number 7, and"
                                                                                " classes are numbered from 0 to 2"),
    (lambda root: (root / "val/masks/1.png").write_bytes(b"no picture"), "masks/1.png: a mask that cannot be read"),
    (lambda root: save(root / "train/images/1.bmp"), "another file has this name with another ending"),
    (lambda root: [file.unlink() for file in (root / "val").glob("*/*")], "val: no images"),
    (lambda root: (root / "val").rename(root / "rest"), "a folder for segmentation holds"),
    (lambda root: (root / "val/masks").rename(root / "val/mask"),
     "val/masks: no such folder; a folder for segmentation"),
    (lambda root: (root / "classes.txt").write_text("a\n"), "class number 1, and classes are numbered from 0 to 0"),
])
def test_bad_folders(tmp_path, spoil, words):
    spoil(folder_of(tmp_path, classes=("a", "b", "c")))
    with pytest.raises(DataError, match=words):
        mask_folders(str(tmp_path), 0)


@pytest.mark.parametrize("images, mask, words", [(1, MASK, "1 image only"), (4, 0 * MASK, "one class only")])
def test_flat_folders_with_too_little(tmp_path, images, mask, words):
    with pytest.raises(DataError, match=words):
        mask_folders(str(folder_of(tmp_path, splits=(".",), images=images, mask=mask)), 0)


def test_scenes_hold_their_shapes_and_the_background():
    source = SceneMasks((64, 64), 20, "train")
    assert source.classes[0] == "background" and len(source.classes) == 11
    image, mask = source[3]  # its main shape has class 3
    _, objects = Shapes((64, 64), 20, "train", "boxes")[3]
    assert image.shape == (3, 64, 64) and mask.shape == (64, 64)
    for own, label in zip(objects["masks"], objects["labels"].tolist()):
        assert (mask[own] == label + 1).all()
    assert (mask == 0).sum() == (~objects["masks"].any(0)).sum()


def test_smaller_objects_of_coco_lie_on_top_and_crowds_below(tmp_path):
    large = thing(10, CATEGORIES[0]["id"]) | {"bbox": [0, 0, 20, 20], "area": 400,
                                             "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}
    small = thing(10, CATEGORIES[1]["id"]) | {"bbox": [5, 5, 5, 5], "area": 25,
                                             "segmentation": [[5, 5, 10, 5, 10, 10, 5, 10]]}
    crowd = large | {"iscrowd": 1, "bbox": [0, 0, 24, 24], "area": 576, "segmentation": {
        "size": [24, 32], "counts": [0, 576, 192]}}  # the first 24 columns
    for order in ([large, small, crowd], [crowd, small, large]):
        source = CocoMasks(coco_folder(tmp_path / str(len(list(tmp_path.iterdir()))), order), "train2017")
        _, mask = source[0]
        by_id = sorted(category["id"] for category in CATEGORIES)
        first, second = (by_id.index(CATEGORIES[i]["id"]) + 1 for i in (0, 1))
        assert source.classes[0] == "background" and mask.shape == (24, 32)
        assert mask[7, 7] == second and mask[2, 2] == first and mask[22, 22] == 255 and mask[3, 30] == 0


def test_later_objects_lie_on_top():
    masks = torch.tensor([[[1, 1, 0]], [[0, 1, 0]]])
    assert drawn(masks, torch.tensor([5, 3])).tolist() == [[5, 3, 0]]


def test_voc_2012(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    save(root / "JPEGImages" / "a.jpg", np.zeros((2, 3, 3), np.uint8))
    save(root / "SegmentationClass" / "a.png")
    source = VocMasks(str(tmp_path), "train")
    assert len(source.classes) == 21 and source[0][1].tolist() == MASK.tolist() and source.paths[0].endswith("a.jpg")


def marked(height=20, width=30):
    """An image whose red is 200 exactly where its mask is 1."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[4:9, 6:16] = 1
    return torch.stack([200 * mask, mask, mask]), mask


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.3, 0.8), (1.0, 1.0)])
def test_image_and_mask_go_through_the_same_scale_and_cut(factor, place):
    image, mask = marked()
    part, own = scaled_part(image, mask, factor, (24, 24), place, fill=7)
    assert part.shape == (3, 24, 24) and own.shape == (24, 24) and set(own.unique().tolist()) <= {0, 1, 255}
    inside = own != 255
    assert (part[:, ~inside] == 7).all()
    agree = ((part[0] > 100) == (own == 1))[inside].float().mean()
    assert agree > 0.95  # interpolated pixels at the edges aside
    high, wide = (min(24, round(factor * side)) for side in (20, 30))
    assert inside.sum() == high * wide


def test_a_part_of_the_same_size_is_the_image():
    image, mask = marked(24, 24)
    part, own = scaled_part(image, mask, 1.0, (24, 24), (0.4, 0.6), fill=7)
    assert torch.equal(part, image) and torch.equal(own, mask)


@pytest.mark.parametrize("scale_range", [0.0, 2.0])
def test_batches_mirror_scale_and_cut_image_and_mask_alike(scale_range):
    image, mask = marked()
    image[1] = 4 * torch.arange(30)  # green is the column, times 4; the mask lies in columns 6 to 15
    recipe, keys = replace(get_recipe("segmentation"), scale_range=scale_range), [(epoch, 0, 0) for epoch in range(20)]
    images, masks, _ = MaskImages([(image, mask)], (24, 24), 1.0, recipe, seed=0)[keys]
    turned = set()
    for part, own in zip(images, masks, strict=True):
        inside = own != 255
        assert ((part[0] > 100) == (own == 1))[inside].float().mean() > 0.95  # interpolated edges aside
        assert ((part[1][own == 1] >= 20) & (part[1][own == 1] <= 64)).all()
        row = part[1][inside.any(1)][0][inside.any(0)].int()
        turned.add(bool(row[0] > row[-1]))
        if scale_range == 0:
            assert inside.sum() == 20 * 24 and ((part[1] // 4 >= 6) & (part[1] // 4 <= 15))[own == 1].all()
    assert turned == {False, True}
    whole, same, _ = MaskImages([(image, mask)], (24, 24), 1.0)[keys[:1]]
    assert torch.equal(whole[0], image) and torch.equal(same[0], mask)  # evaluation takes whole images


def test_a_part_lies_where_its_place_says():
    """(down, right), from 0 to 1: of a smaller image in the part, and of the part in a larger image."""
    image, mask = marked()
    _, small = scaled_part(image, mask, 0.5, (24, 28), (1.0, 0.0), fill=7)
    inside = torch.zeros(24, 28, dtype=torch.bool)
    inside[14:, :15] = True  # 10 × 15 pixels, at the bottom on the left
    assert torch.equal(small != 255, inside)
    _, large = scaled_part(image, mask, 2.0, (24, 28), (0.25, 1.0), fill=7)
    twice = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)  # 40 × 60
    assert torch.equal(large, twice[4:28, 32:])
    _, both = scaled_part(image, mask, 1.0, (10, 40), (0.5, 0.5), fill=7)  # cut above and below, filled at the sides
    assert torch.equal(both[:, 5:35], mask[5:15]) and (both[:, :5] == 255).all() and (both[:, 35:] == 255).all()


def prepared(recipe, count=300, side=40):
    """Training images and masks of one white square that fills its image, but for a column on the left."""
    image, mask = torch.full((3, side, side), 255, dtype=torch.uint8), torch.ones(side, side, dtype=torch.uint8)
    image[:, :, 0], mask[:, 0] = 0, 0
    images = MaskImages([(image, mask)] * count, (side, side), 1.0, recipe, seed=2)
    return images[[(0, i, 0) for i in range(count)]]


def test_half_of_the_parts_are_mirrored():
    images, masks, _ = prepared(DataRecipe(), 200)
    left = [bool((mask[:, 0] == 0).all()) for mask in masks]
    right = [bool((mask[:, -1] == 0).all()) for mask in masks]
    assert all(a != b for a, b in zip(left, right)) and 70 < sum(left) < 130
    assert all(((image[0] == 0) == (mask == 0)).all() for image, mask in zip(images, masks))
    assert all((mask[:, 0] == 0).all() for mask in prepared(DataRecipe(flip=False), 20)[1])


def test_images_are_scaled_by_a_half_to_twice_and_surrounded_by_the_mean():
    images, masks, _ = prepared(DataRecipe(scale_range=2.0, flip=False, mean=(0.1, 0.2, 0.6)))
    sides = torch.tensor([int((mask != 255).any(1).sum()) for mask in masks]) / 40  # 1 where it was larger
    assert sides.min() < 0.54 and sides.min() >= 0.5 and abs(int((sides < 1).sum()) / 300 - 1 / 3) < 0.1
    assert abs(int((sides < 0.75).sum()) / 300 - 1 / 6) < 0.08  # uniform
    small = [(image, mask) for image, mask in zip(images, masks) if (mask == 255).any()]
    assert all((image[:, mask == 255] == 76).all() for image, mask in small)  # 255 times 0.3
    first = torch.tensor([int((mask != 255).any(1).nonzero()[0]) for _, mask in small])
    last = torch.tensor([39 - int((mask != 255).any(1).nonzero()[-1]) for _, mask in small])
    assert abs(float((first / (first + last)).mean()) - 0.5) < 0.12 and (first == 0).any() and (last == 0).any()


def test_batches_of_masks_are_normalised_and_in_whole_numbers():
    source = SceneMasks((32, 32), 6, "val")
    recipe, place = DataRecipe(batch_size=3, flip=False, mean=(0.2, 0.4, 0.6), std=(0.5, 1.0, 2.0)), torch.device("cpu")
    training = MaskTraining(MaskImages(source, (32, 32), 1.0, recipe, 0), 11, recipe, 0, (0, 1), place, 0)
    validation = MaskValidation(MaskImages(source, (32, 32), 1.0), recipe, (0, 1), place, 0)
    expected = {image.sum().item(): (image, mask) for image, mask in (source[i] for i in range(6))}
    seen = 0
    for batches in (training.epoch(0), validation):
        for images, masks in batches:
            for image, mask in zip(images, masks, strict=True):
                std, mean = (torch.tensor(values)[:, None, None] for values in (recipe.std, recipe.mean))
                pixels = (255 * (image * std + mean)).round().long()
                stored, classes = expected[pixels.sum().item()]
                assert torch.equal(pixels, stored.long()) and torch.equal(mask, classes.long())
                seen += 1
    assert seen == 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_has_the_size_of_its_upright_image(tmp_path, orientation):
    """EXIF's orientations from 5 on exchange width and height."""
    root = folder_of(tmp_path, splits=(".",), images=2, mask=MASK.T if orientation >= 5 else MASK)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (root / "images").iterdir():
        Image.new("RGB", (3, 2)).save(path, exif=exif)
    train, _, _ = mask_folders(str(root), 0)
    image, mask = train[0]
    assert image.size == tuple(mask.shape)[::-1] == ((2, 3) if orientation >= 5 else (3, 2))
    if orientation in (1, 8):
        for path in (root / "masks").iterdir():
            save(path, MASK if orientation >= 5 else MASK.T)
        with pytest.raises(DataError, match="and its image"):
            mask_folders(str(root), 0)
