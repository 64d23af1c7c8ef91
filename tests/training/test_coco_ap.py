"""COCO's average precision against a slow loop, and against COCO's own figures where they are at hand."""

import gzip
import json
import random
import tarfile
from pathlib import Path

import pytest

from reference import detection as reference
from vig_minimal.training.coco_ap import coco_ap

SHARED = Path(__file__).resolve().parents[3] / "shared"
FIGURES = {"AP": ("", 100), "AP50": ("", 100), "AP75": ("", 100), "APs": ("s", 100), "APm": ("m", 100),
           "APl": ("l", 100), "AR1": ("", 1), "AR10": ("", 10), "AR100": ("", 100), "ARs": ("s", 100),
           "ARm": ("m", 100), "ARl": ("l", 100)}
CATEGORIES = [7, 3, 90]  # not in order, with gaps


def rectangle(box, height, width):
    """Run lengths of a box of whole numbers, without runs of length 0 inside."""
    left, top, w, h = box
    runs, place = [], 0
    for column in range(left, left + w):
        runs += [column * height + top - place, h]
        place = column * height + top + h
    return {"size": [height, width], "counts": [*runs, height * width - place]}


def scene(kind, seed, count=12, images=(5, 2, 9)):
    """Ground truth and detections with ties in score and IoU, crowds, all ranges of sizes, and an image without any."""
    draw = random.Random(seed)
    height, width = (200, 150) if kind == "bbox" else (24, 20)

    def box():
        longest = 140 if kind == "bbox" else 19
        w, h = draw.choice([draw.randint(1, longest), draw.randint(1, 20)]), draw.randint(1, longest)
        return [draw.randint(0, width - w), draw.randint(0, height - h), w, h]

    truth = {"images": [{"id": i, "height": height, "width": width} for i in (*images, 11)],
             "categories": [{"id": c} for c in (*CATEGORIES, 4)], "annotations": []}
    found = []
    for image in images:
        for _ in range(count):
            b, c = box(), draw.choice(CATEGORIES)
            # the area of an annotation is that of its mask, not of its box
            area = b[2] * b[3] * draw.choice([1, 0.7]) * (1 if kind == "bbox" else 40)
            truth["annotations"].append({"image_id": image, "category_id": c, "bbox": b, "area": area,
                                         "iscrowd": int(draw.random() < 0.15),
                                         "segmentation": rectangle(b, height, width)})
            for _ in range(draw.randint(0, 3)):  # near it, more than one, some of another category
                left, top = (min(max(b[i] + draw.randint(-2, 2), 0), side - b[i + 2])
                             for i, side in ((0, width), (1, height)))
                near = [left, top, b[2], b[3]]
                found.append((image, c if draw.random() < 0.9 else draw.choice(CATEGORIES), near))
        found += [(image, draw.choice(CATEGORIES), box()) for _ in range(3)]
    draw.shuffle(found)
    return truth, [{"image_id": i, "category_id": c, "bbox": b, "score": draw.randint(0, 9) / 9,
                    "segmentation": rectangle(b, height, width)} for i, c, b in found]


def oracle(truth, found, kind):
    """The twelve figures by slow loops."""
    size = truth["images"][0]["height"], truth["images"][0]["width"]

    def plain(entry):
        mask = reference.decode(entry["segmentation"]["counts"], *size) if kind == "segm" else None
        return {"image": entry["image_id"], "category": entry["category_id"], "box": entry["bbox"], "mask": mask,
                "area": entry.get("area"), "crowd": bool(entry.get("iscrowd")), "score": entry.get("score")}

    objects, detections = ([plain(entry) for entry in entries] for entries in (truth["annotations"], found))
    images, categories = ([entry["id"] for entry in truth[name]] for name in ("images", "categories"))
    result = {}
    for name, (area, most) in FIGURES.items():
        thresholds = {"AP50": [0.5], "AP75": [0.75]}.get(name, reference.THRESHOLDS)
        pairs = [reference.average_precision(images, categories, objects, detections, kind, t, area, most)
                 for t in thresholds]
        values = [pair[name.startswith("AR")] for pair in pairs]
        result[name] = None if values[0] is None else sum(values) / len(values)
    return result


@pytest.mark.parametrize("kind, seed", [("bbox", 0), ("bbox", 1), ("bbox", 2), ("segm", 3)])
def test_figures_are_those_of_slow_loops(kind, seed):
    truth, found = scene(kind, seed, count=12 if kind == "bbox" else 5)
    ours, theirs = coco_ap(truth, found, kind), oracle(truth, found, kind)
    assert 0.05 < theirs["AP"] < theirs["AP50"] < 1 and theirs["AR1"] < theirs["AR10"]
    assert {name: ours[name] for name in FIGURES} == pytest.approx(theirs, abs=1e-12)
    assert ours["per_category"].keys() == {3, 4, 7, 90} and ours["per_category"][4] is None


def test_only_the_hundred_highest_scores_of_an_image_and_category_count():
    truth = {"images": [{"id": 1}], "categories": [{"id": 1}],
             "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]}
    wrong = [{"image_id": 1, "category_id": 1, "bbox": [50, 50, 9, 9], "score": 0.9}] * 99
    right = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.1}
    assert coco_ap(truth, [*wrong, right])["AP"] == pytest.approx(1 / 100)
    assert coco_ap(truth, [*wrong, wrong[0], right])["AP"] == 0
    # of equal scores, those given first stay
    assert coco_ap(truth, [right | {"score": 0.9}, *wrong, wrong[0]])["AR100"] == 1
    assert coco_ap(truth, [*wrong, wrong[0], right | {"score": 0.9}])["AR100"] == 0


@pytest.mark.parametrize("area, ranges", [
    (32**2 - 1, "s"), (32**2, "sm"), (32**2 + 1, "m"), (96**2 - 1, "m"), (96**2, "ml"), (96**2 + 1, "l")])
def test_an_object_at_the_limit_of_two_ranges_is_in_both(area, ranges):
    """COCO: small up to 32², medium from there to 96², large from there on, limits included."""
    box = [0, 0, 40, 40] if area < 2000 else [0, 0, 96, 96]
    truth = {"images": [{"id": 1}], "categories": [{"id": 1}],
             "annotations": [{"image_id": 1, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}]}
    found = coco_ap(truth, [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}])
    assert {name for name in "sml" if found[f"AP{name}"] is not None} == set(ranges)
    assert all(found[f"AP{name}"] == 1 for name in ranges)


def test_nothing_to_find_and_nothing_found():
    truth, found = scene("bbox", 0)
    nothing = coco_ap(truth, [])
    assert all(nothing[name] == 0 for name in ("AP", "AP50", "AR100")) and nothing["per_category"][7] == 0
    empty = coco_ap(truth | {"annotations": []}, found)
    assert all(empty[name] is None for name in FIGURES) and set(empty["per_category"].values()) == {None}


def test_masks_without_a_pixel_find_nothing():
    """An empty mask shares nothing with an object of 2 pixels: its IoU is 0."""
    truth = {"images": [{"id": 1, "height": 4, "width": 4}], "categories": [{"id": 1}],
             "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 2], "area": 2, "iscrowd": 0,
                              "segmentation": rectangle([0, 0, 1, 2], 4, 4)}]}
    empty = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"size": [4, 4], "counts": [16]}}
    figures = coco_ap(truth, [empty], "segm")
    assert figures["AP"] == figures["AR100"] == 0


def test_what_does_not_fit_is_said():
    truth, found = scene("bbox", 0)
    with pytest.raises(ValueError, match="choose bbox or segm"):
        coco_ap(truth, found, "box")
    for wrong in ({"image_id": 1234}, {"category_id": 1234}):
        with pytest.raises(ValueError, match="1234"):
            coco_ap(truth, [found[0] | wrong])
    for wrong in ({"size": [40, 34], "counts": [1, 2, 3]}, {"size": [1, 2], "counts": [2]}, [[1, 2, 3, 4]], "text"):
        with pytest.raises(ValueError, match="run lengths|polygons"):
            coco_ap(truth, [found[0] | {"segmentation": wrong}], "segm")
    with pytest.raises(ValueError, match="cut short"):
        coco_ap(truth, [found[0] | {"segmentation": {"size": [200, 150], "counts": "abc"}}], "segm")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_those_of_the_official_evaluation(kind):
    if not (SHARED / "golden" / "coco_ap.json.gz").exists():
        pytest.skip("no ../shared/golden/coco_ap.json.gz, which has COCO's own figures")
    golden = json.loads(gzip.decompress((SHARED / "golden" / "coco_ap.json.gz").read_bytes()))
    with tarfile.open(SHARED / "data" / "coco_mini.tar") as tar:
        truth = json.load(tar.extractfile("coco_mini/annotations/instances_val2017.json"))
    size = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    found = [{"image_id": image, "category_id": category, "bbox": box, "score": score,
              "segmentation": {"size": size[image], "counts": counts}}
             for image, category, box, score, counts in golden["detections"]]
    ours, theirs = coco_ap(truth, found, kind), golden["expected"][kind]
    assert len(found) == 1088 and theirs.keys() == ours.keys()
    assert {str(key): value for key, value in ours.pop("per_category").items()} == pytest.approx(
        theirs.pop("per_category"), abs=1e-9)
    assert ours == pytest.approx(theirs, abs=1e-9)
