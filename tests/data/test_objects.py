"""COCO with boxes and masks: targets by hand, one sentence for every defect; flips and scaling of drawn objects."""

import tarfile
from pathlib import Path

import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.ops import masks_to_boxes

from helpers import coco_folder, thing
from vig_minimal.data.coco_voc import CocoObjects, coco, coco_labels
from vig_minimal.data.data_recipe import DataRecipe
from vig_minimal.data.datasets import Scenes, open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.data.dense.object_batches import ObjectImages, ObjectTraining, ObjectValidation, mirrored, scaled
from vig_minimal.data.synthetic import Shapes

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini.tar"
SQUARE = [[1, 2, 11, 2, 11, 10, 1, 10]]  # as the box of `thing`


def shown(image, category, mask=SQUARE, **fields):
    return thing(image, category, segmentation=mask, **fields)


def test_an_object_has_label_box_mask_area_and_crowd(tmp_path):
    crowd = {"size": [24, 32], "counts": [24 * 3 + 5, 7, 24 - 7, 7, 24 * 28 - 12]}  # rows 5 to 11 of columns 3 and 4
    objects = [shown(10, 90, area=33.5), shown(10, 7, crowd, box=(3, 5, 2, 7), iscrowd=1), shown(12, 1)]
    source, _ = coco(str(coco_folder(tmp_path, objects)), CocoObjects)
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
    target = coco(str(coco_folder(tmp_path, [shown(10, 1)])), CocoObjects)[0][1][1]
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
    ("mask", "'mask' in 0.jpg (a mask is a list of polygons"),
    ([[]], "polygons of at least three points"),
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
    ({"size": [24, 32], "counts": "56"}, "that cover 11 pixels: this image has 24×32 = 768"),
    ({"size": [24, 32], "counts": "Ph"}, "a text that is cut short"),
    ({"size": [24, 32], "counts": "Ph 0"}, "a text that is no run lengths"),
    ({"size": [24, 32], "counts": "Ph\u732b0"}, "run lengths"),
])
def test_a_broken_mask_is_named_in_one_sentence(tmp_path, mask, says):
    folder = coco_folder(tmp_path, [shown(10, 1), shown(10, 1, mask)])
    with pytest.raises(DataError) as error:
        coco(str(folder), CocoObjects)
    said = str(error.value)
    assert "instances_train2017.json: 1 objects with a broken mask, as " in said and says in said
    assert said.endswith("repair or remove them") and "\n" not in said


def test_an_image_of_another_size_than_annotated_is_named(tmp_path):
    def spoil(content, **sides):
        return content | {"images": [image | sides for image in content["images"]]}

    source = CocoObjects(coco_folder(tmp_path / "a", [shown(10, 1)], change=lambda c: spoil(c, width=40)), "train2017")
    with pytest.raises(DataError, match=r"annotations are for 40×24 pixels, and it has 32×24$"):
        source[0]
    with pytest.raises(DataError, match="3 images without a height and a width"):
        CocoObjects(coco_folder(tmp_path / "b", [], change=lambda c: spoil(c, width=None)), "train2017")


def test_an_object_without_a_mask_or_a_box_is_named_as_that(tmp_path):
    for place, (fields, says) in enumerate([({"segmentation": []}, "1 objects without a mask (segmentation), which"),
                                            ({"segmentation": None}, "1 objects without a mask (segmentation), which"),
                                            ({"bbox": None}, "1 objects without a box, as annotations[1]: bbox None"),
                                            ({"bbox": []}, "1 objects without a box, as annotations[1]: bbox []")]):
        folder = coco_folder(tmp_path / str(place), [shown(10, 1), shown(10, 1) | fields])
        with pytest.raises(DataError) as error:
            coco(str(folder), CocoObjects)
        assert says in str(error.value) and "in 0.jpg" in str(error.value)
        assert coco(str(folder), coco_labels)[0].targets[0].tolist() == [1, 0, 0]  # labels are there


def test_annotations_of_a_photo_as_it_is_stored_are_told_from_others(tmp_path):
    """Many programs draw boxes on the stored pixels, which EXIF then turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    source = CocoObjects(coco_folder(tmp_path, [shown(10, 1)]), "train2017")
    Image.new("RGB", (32, 24)).save(source.paths[0], exif=exif)
    with pytest.raises(DataError, match=r"for 32×24 pixels, and it has 24×32 as EXIF turns it; remove that orient"):
        source[0]
    Image.new("RGB", (24, 32)).save(source.paths[0])
    with pytest.raises(DataError, match=r"for 32×24 pixels, and it has 24×32$"):
        source[0]
    Image.new("RGB", (24, 32)).save(source.paths[0], exif=exif)
    assert source[0][0].size == (32, 24)


def test_sizes_and_ids_as_text_are_numbers(tmp_path):
    def spoil(content):
        for image in content["images"]:
            image |= {"id": str(image["id"]), "width": "32", "height": 24.0}
        return content

    source = CocoObjects(coco_folder(tmp_path, [shown(10.0, "90")], change=spoil), "train2017")
    image, target = source[0]
    assert source.shapes == [(24, 32)] * 3 and target["labels"].tolist() == [3] and target["masks"].sum() == 80


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


def test_what_is_known_of_an_object_goes_with_it():
    image, target = rectangles((2, 4, 10, 20), (24, 2, 32, 6), (3, 3, 6, 6))
    target["iscrowd"] = torch.tensor([0, 0, 1])
    _, moved = scaled(image, target, 2, (0, 0), fill=0)  # the second is outside
    assert moved["labels"].tolist() == [1, 3] and moved["iscrowd"].tolist() == [0, 1] and len(moved["boxes"]) == 2
    assert all(len(moved[name]) == 2 for name in ("masks", "area"))


def test_a_box_that_is_not_cut_stays_as_it_was_annotated():
    """Also at the edges, and beyond them by less than a pixel; one that is cut gets that of its mask."""
    image, target = rectangles((22, 2, 32, 6), (0, 0, 5, 9), (3, 20, 9, 24))
    target["boxes"] = torch.tensor([[22.4, 2.3, 31.6, 5.7], [-0.6, 0.2, 4.8, 8.9], [3.1, 19.9, 8.8, 24.8]])
    assert torch.equal(scaled(image, target, 1.0, (0, 0), fill=0)[1]["boxes"], target["boxes"])
    _, larger = scaled(image, target, 1.5, (0, 0), fill=0)  # 36 × 48 pixels, of which 24 × 32 are left
    assert larger["labels"].tolist() == [2]  # of the others nothing is left
    torch.testing.assert_close(larger["boxes"], 1.5 * target["boxes"][1:2])
    _, right = scaled(image, target, 1.5, (0, 1), fill=0)  # the part on the right
    torch.testing.assert_close(right["boxes"], 1.5 * target["boxes"][:1] - torch.tensor([16.0, 0, 16, 0]))


def test_images_are_made_smaller_as_often_as_larger():
    """Scaled by 1 − s to 1 + s: a full object then covers (1 − s)² to all of its image."""
    images = ObjectImages([rectangles((0, 0, 40, 40), size=(40, 40))] * 400, (40, 40), 1.0,
                          DataRecipe(scale_jitter=0.5), seed=1)
    covered = torch.stack([target["area"] for target in images[[(0, i, 0) for i in range(400)]].labels])
    sides = (covered.flatten() / 1600).sqrt()  # min(1, factor)
    assert 160 < (sides < 1).sum() < 240 and 0.5 <= sides.min() < 0.53 and sides.max() == 1
    assert 70 < (sides < 0.75).sum() < 130  # uniform


@pytest.mark.parametrize("factor", [0.6, 0.83, 1.27, 1.9])
def test_boxes_of_scaled_scenes_hold_their_masks(factor):
    for index, (image, target) in enumerate(Scenes((48, 60), 12, "train")):
        moved, after = scaled(image, target, factor, (index / 11, 1 - index / 11), fill=127)
        assert moved.shape == image.shape and len(after["boxes"]) == len(after["masks"]) == len(after["labels"])
        assert len(after["boxes"]) == len(target["boxes"]) or factor > 1
        if len(after["boxes"]):  # tips thinner than a pixel may be lost
            off = (after["boxes"] - masks_to_boxes(after["masks"]) - torch.tensor([0, 0, 1, 1])).abs()
            assert off.max() < 2.5 and off.mean() < 0.7
        assert (after["boxes"] >= -factor).all() and (after["boxes"] <= torch.tensor([60, 48] * 2) + factor).all()


def test_training_images_follow_seed_and_key_alone():
    source = Scenes(32, 40, "train")
    images = ObjectImages(source, (32, 32), 1.0, DataRecipe(scale_jitter=0.5), seed=3)
    keys = [(0, index, 0) for index in range(40)]
    batch, again = images[keys], images[keys[::-1]]
    assert all(torch.equal(a, b) for a, b in zip(batch.images, again.images[::-1]))
    other = images[[(1, index, 0) for index in range(40)]]  # of another epoch
    assert not any(torch.equal(a, b) for a, b in zip(batch.images, other.images))
    flips = ObjectImages(source, (32, 32), 1.0, DataRecipe(), seed=3)[keys]
    same = sum(torch.equal(image, source[i][0]) for i, image in enumerate(flips.images))
    assert 10 < same < 30 and all(torch.equal(image, source[i][0]) or torch.equal(image.flip(2), source[i][0])
                                  for i, image in enumerate(flips.images))
    for recipe in (None, DataRecipe(flip=False)):  # in evaluation; where nothing is mirrored
        plain = ObjectImages(source, (32, 32), 1.0, recipe)[keys]
        assert all(torch.equal(image, source[i][0]) for i, image in enumerate(plain.images))


def test_converted_images_are_noted_in_training_and_validation():
    class Converted(Scenes):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            image = TF.to_pil_image(image)
            image.info["was"] = "CMYK"
            return image, target

    recipe, place = DataRecipe(batch_size=2), (torch.device("cpu"), 0)
    images = ObjectImages(Converted(32, 4, "val"), (32, 32), 1.0)
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
    data = open_data("coco", str(tmp_path / "coco_mini"), (64, 64), None, task="detection")
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


def test_scenes_have_the_targets_of_coco():
    shapes, scenes = Shapes((32, 40), 5, "val", "boxes"), Scenes((32, 40), 5, "val")
    for i in range(5):
        (image, target), (drawn, own) = scenes[i], shapes[i]
        assert torch.equal(image, drawn) and int(target["image_id"]) == i
        assert torch.equal(target["boxes"], own["boxes"]) and torch.equal(target["labels"], own["labels"] + 1)
        assert torch.equal(target["masks"].bool(), own["masks"]) and target["masks"].dtype == torch.uint8
        assert torch.equal(target["area"], own["masks"].sum((1, 2)).float())
        assert target["iscrowd"].tolist() == [0] * len(own["boxes"])
