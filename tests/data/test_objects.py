"""COCO with boxes and masks: targets by hand, one sentence for every defect; flips and scaling of drawn objects."""

import tarfile
from pathlib import Path

import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.ops import masks_to_boxes

from helpers import coco_folder, thing
from vig_minimal.data.coco_voc import CocoObjects, coco
from vig_minimal.data.data_recipe import DataRecipe
from vig_minimal.data.datasets import Scenes, open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.data.object_batches import ObjectImages, ObjectTraining, ObjectValidation, mirrored, scaled
from vig_minimal.data.synthetic import Shapes

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini.tar"
SQUARE = [[1, 2, 11, 2, 11, 10, 1, 10]]  # as the box of `thing`


def shown(image, category, mask=SQUARE, **fields):
    return thing(image, category, segmentation=mask, **fields)


def test_an_object_has_label_box_mask_area_and_crowd(tmp_path):
    crowd = {"size": [24, 32], "counts": [24 * 3 + 5, 7, 24 - 7, 7, 24 * 28 - 12]}  # rows 5 to 11 of columns 3 and 4
    objects = [shown(10, 90, area=33.5), shown(10, 7, crowd, box=(3, 5, 2, 7), iscrowd=1), shown(12, 1)]
    source, _ = coco(str(coco_folder(tmp_path, objects)), boxes=True)
    assert source.classes == ["person", "train", "toothbrush"]
    assert source.targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    image, target = source[0]
    assert image.size == (32, 24) and target["labels"].tolist() == [3, 2] and target["iscrowd"].tolist() == [0, 1]
    assert target["boxes"].tolist() == [[1, 2, 11, 10], [3, 5, 5, 12]] and target["area"].tolist() == [33.5, 14]
    drawn = torch.zeros(2, 24, 32, dtype=torch.uint8)
    drawn[0, 2:10, 1:11] = drawn[1, 5:12, 3:5] = 1
    assert torch.equal(target["masks"], drawn)
    assert source[2][1]["area"].tolist() == [80]  # without one, the mask's
    assert [int(source[i][1]["image_id"]) for i in range(3)] == [0, 1, 2]


def test_an_image_without_objects_has_an_empty_target(tmp_path):
    target = coco(str(coco_folder(tmp_path, [shown(10, 1)])), boxes=True)[0][1][1]
    shapes = {name: tuple(value.shape) for name, value in target.items()}
    assert shapes == {"boxes": (0, 4), "labels": (0,), "masks": (0, 24, 32), "area": (0,), "iscrowd": (0,),
                      "image_id": ()}
    image = torch.zeros(3, 24, 32, dtype=torch.uint8)
    for _, moved in (mirrored(image, target), *(scaled(image, target, factor, (0, 0), 9) for factor in (0.5, 2))):
        assert {name: tuple(value.shape) for name, value in moved.items()} == shapes


def test_images_rank_by_id_and_not_by_place(tmp_path):
    def reverse(content):
        return content | {"images": content["images"][::-1]}

    source = CocoObjects(coco_folder(tmp_path, [shown(10, 1)], change=reverse), "train2017")
    assert [int(source[i][1]["image_id"]) for i in range(3)] == [2, 1, 0] and len(source[2][1]["boxes"]) == 1


@pytest.mark.parametrize("mask, says", [
    (None, "None in 0.jpg (a mask is a list of polygons"),
    ([], "polygons of at least three points"),
    ([[1, 2, 3, 4]], "polygons of at least three points"),
    ([[1, 2, 3, 4, 5, "6"]], "polygons of at least three points"),
    ([[1, 2, 3, 4, 5, float("nan")]], "polygons of at least three points"),
    ([7, 8], "polygons of at least three points"),
    ({"size": [24, 32], "counts": [5, 6]}, "that cover 11 pixels: this image has 24×32 = 768"),
    ({"size": [32, 24], "counts": [768]}, "run lengths of size [32, 24]"),
    ({"size": [24, 32], "counts": [-1, 769]}, "run lengths of size"),
    ({"size": [24, 32], "counts": ["768"]}, "run lengths of size"),
    ({"size": [24, 32], "counts": 768}, "run lengths of size"),
    ({"size": 24, "counts": [768]}, "run lengths of size"),
    ({"size": [24, 32], "counts": "Pi0"}, "compressed to text"),
])
def test_a_broken_mask_is_named_in_one_sentence(tmp_path, mask, says):
    folder = coco_folder(tmp_path, [shown(10, 1), shown(10, 1, mask)])
    with pytest.raises(DataError) as error:
        coco(str(folder), boxes=True)
    said = str(error.value)
    assert "instances_train2017.json: 1 objects with a broken mask, as " in said and says in said
    assert said.endswith("repair or remove them") and "\n" not in said


def test_an_image_of_another_size_than_annotated_is_named(tmp_path):
    def spoil(content, **sides):
        return content | {"images": [image | sides for image in content["images"]]}

    source = CocoObjects(coco_folder(tmp_path / "a", [shown(10, 1)], change=lambda c: spoil(c, width=40)), "train2017")
    with pytest.raises(DataError, match=r"32×24 pixels, and its annotations are for 40×24"):
        source[0]
    with pytest.raises(DataError, match="3 images without a height and a width"):
        CocoObjects(coco_folder(tmp_path / "b", [], change=lambda c: spoil(c, width=None)), "train2017")


def rectangles(*boxes, size=(24, 32), value=200):
    """An image with rectangles of that value, and its target."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = 1
    target = {"boxes": torch.tensor(boxes).float(), "labels": torch.arange(1, len(boxes) + 1), "masks": masks,
              "area": masks.sum((1, 2)).float(), "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
              "image_id": torch.tensor(5)}
    return value * masks.amax(0).expand(3, -1, -1), target


def test_a_flip_is_that_of_the_drawn_objects():
    image, target = mirrored(*rectangles((2, 3, 9, 20), (12, 1, 32, 6)))
    again, drawn = rectangles((23, 3, 30, 20), (0, 1, 20, 6))
    assert torch.equal(image, again) and all(torch.equal(target[name], drawn[name]) for name in drawn)


@pytest.mark.parametrize("factor, place, boxes, kept", [
    (0.5, (0, 0), [(1, 2, 5, 10), (6, 1, 16, 3)], [1, 2]),
    (0.5, (1, 1), [(17, 14, 21, 22), (22, 13, 32, 15)], [1, 2]),
    (2, (0, 0), [(4, 8, 20, 24), (24, 4, 32, 12)], [1, 2]),       # both are cut
    (2, (1, 0.5), [(0, 0, 4, 16)], [1]),                          # the second is outside
    (1, (0.3, 0.3), [(2, 4, 10, 20), (12, 2, 32, 6)], [1, 2]),
])
def test_scaling_is_that_of_the_drawn_objects(factor, place, boxes, kept):
    image, target = scaled(*rectangles((2, 4, 10, 20), (12, 2, 32, 6)), factor, place, fill=0)
    again, drawn = rectangles(*boxes)
    assert target["labels"].tolist() == kept and int(target["image_id"]) == 5
    assert all(torch.equal(target[name], drawn[name]) for name in ("boxes", "masks", "area"))
    assert ((image > 100) == (again > 100)).float().mean() > 0.99  # edges are blurred


def test_what_is_dropped_takes_its_crowd_flag_along():
    image, target = rectangles((2, 4, 10, 20), (12, 2, 32, 6))
    _, target = scaled(image, target | {"iscrowd": torch.tensor([0, 1])}, 2, (1, 0.5), fill=0)
    assert target["iscrowd"].tolist() == [0] and len(target["boxes"]) == 1
    image, target = rectangles((12, 2, 32, 6), (2, 4, 10, 20))
    assert scaled(image, target | {"iscrowd": torch.tensor([0, 1])}, 2, (1, 0.5), fill=0)[1]["iscrowd"].tolist() == [1]


def test_scale_jitter_shrinks_as_often_as_it_enlarges():
    """--scale-jitter s: factors are even from 1 − s to 1 + s; here read off a box that stays inside."""
    image, target = rectangles((45, 45, 55, 55), size=(100, 100))
    images = ObjectImages([(image, target)], (100, 100), 1.0, DataRecipe(scale_jitter=0.4, flip=False), seed=0)
    moved = images.__getitems__([(0, 0, copy) for copy in range(300)]).labels
    factors = torch.tensor([float(after["boxes"][0, 2] - after["boxes"][0, 0]) / 10 for after in moved])
    assert 0.55 < factors.min() < 0.65 and 1.35 < factors.max() < 1.45
    assert abs(factors.mean() - 1) < 4 * 0.8 / (12 * 300) ** 0.5


@pytest.mark.parametrize("factor", [0.6, 0.83, 1.27, 1.9])
def test_boxes_of_scaled_scenes_hold_their_masks(factor):
    for index, (image, target) in enumerate(Scenes(Shapes((48, 60), 12, "train", "boxes"))):
        moved, after = scaled(image, target, factor, (index / 11, 1 - index / 11), fill=127)
        assert moved.shape == image.shape and len(after["boxes"]) == len(after["masks"]) == len(after["labels"])
        assert len(after["boxes"]) == len(target["boxes"]) or factor > 1
        if len(after["boxes"]):  # tips thinner than a pixel may be lost
            off = (after["boxes"] - masks_to_boxes(after["masks"]) - torch.tensor([0, 0, 1, 1])).abs()
            assert off.max() < 2.5 and off.mean() < 0.7
        assert (after["boxes"] >= -factor).all() and (after["boxes"] <= torch.tensor([60, 48] * 2) + factor).all()


def test_training_images_follow_seed_and_key_alone():
    source = Scenes(Shapes(32, 40, "train", "boxes"))
    images = ObjectImages(source, (32, 32), 1.0, DataRecipe(scale_jitter=0.5), seed=3)
    keys = [(0, index, 0) for index in range(40)]
    batch, again = images.__getitems__(keys), images.__getitems__(keys[::-1])
    assert all(torch.equal(a, b) for a, b in zip(batch.images, again.images[::-1]))
    other = images.__getitems__([(1, index, 0) for index in range(40)])  # of another epoch
    assert not any(torch.equal(a, b) for a, b in zip(batch.images, other.images))
    flips = ObjectImages(source, (32, 32), 1.0, DataRecipe(), seed=3).__getitems__(keys)
    same = sum(torch.equal(image, source[i][0]) for i, image in enumerate(flips.images))
    assert 10 < same < 30 and all(torch.equal(image, source[i][0]) or torch.equal(image.flip(2), source[i][0])
                                  for i, image in enumerate(flips.images))
    plain = ObjectImages(source, (32, 32), 1.0).__getitems__(keys)  # evaluation
    assert all(torch.equal(image, source[i][0]) for i, image in enumerate(plain.images))


def test_converted_images_are_noted_in_training_and_validation():
    class Converted(Scenes):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            image = TF.to_pil_image(image)
            image.info["was"] = "CMYK"
            return image, target

    recipe, place = DataRecipe(batch_size=2), (torch.device("cpu"), 0)
    images = ObjectImages(Converted(Shapes(32, 4, "val", "boxes")), (32, 32), 1.0)
    training, validation = ObjectTraining(images, 10, recipe, 0, (0, 1), *place), ObjectValidation(
        images, recipe, (0, 1), *place)
    for batches in (training.epoch(0), validation):
        assert len(list(batches)) == 2
    assert training.notes.keys() == validation.notes.keys() == {f"image {i}" for i in range(4)}
    assert {note.text for note in validation.notes.values()} == {"CMYK"}


def test_objects_of_coco(tmp_path):
    if not MINI.exists():
        pytest.skip(f"no photos at {MINI}")
    with tarfile.open(MINI) as archive:
        archive.extractall(tmp_path)
    data = open_data("coco", str(tmp_path / "coco_mini"), (64, 64), None, boxes=True)
    assert not data.multi_label and len(data.classes) == 80 and len(data.train) == len(data.val) == 100
    for split, objects, crowds in ((data.train, 746, 6), (data.val, 712, 5)):
        targets = [split[i][1] for i in range(100)]
        assert sum(len(target["boxes"]) for target in targets) == objects
        assert sum(int(target["iscrowd"].sum()) for target in targets) == crowds
        near = []
        for target in targets:
            seen = target["masks"].amax((1, 2)) > 0
            around = masks_to_boxes(target["masks"][seen]) + torch.tensor([0, 0, 1, 1])
            near += [*((around - target["boxes"][seen]).abs().amax(1) <= 3).tolist(), *[False] * int((~seen).sum())]
        assert len(near) == objects and sum(near) > 0.93 * objects
