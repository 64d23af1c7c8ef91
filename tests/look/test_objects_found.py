"""What detectors find, in Python, as commands and drawn; and how many sources of a patch lie inside an object."""

import csv
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

import vig_minimal
from vig_minimal import Graph
from vig_minimal.data.synthetic import CLASSES, Shapes
from vig_minimal.look import explain, explore, predict
from vig_minimal.look.explore_layers import Layer
from vig_minimal.look.objects import found as drawing
from vig_minimal.look.objects.found import Found, detect, draw_found
from vig_minimal.look.objects.reading import centre_patch, detector_layers, inside, read_from, seen
from vig_minimal.look.panels import PALETTE
from vig_minimal.models.detection import create_detector
from vig_minimal.training import checkpoint

SMALL = {"num_classes": 10, "img_size": 64, "channels": 8, "box_head": 16, "mask_layers": 1, "proposals": 6,
         "samples": 8}
BODIES = {"cvig_nano": {"dim": 16, "depth": 2, "patch": 8},
          "pvig_nano": {"dim": (8, 8, 16, 16), "depth": (1, 1, 1, 1), "patch": 4}}


def kept(path, name="cvig_nano"):
    """The path of a checkpoint, as train.py writes it, of a detector that finds something everywhere."""
    torch.manual_seed(0)
    model = create_detector(name, **SMALL, **BODIES[name])
    with torch.no_grad():
        for part in model.roi_heads.box_predictor.children():
            part.weight *= 1e-3
        model.roi_heads.box_predictor.cls_score.bias[5] = 9.0  # crosses
    checkpoint.save(path, {"name": name, "config": asdict(model.config), "classes": list(CLASSES),
                           "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "multi_label": False,
                           "recipe": {"eval_crop": 0.9}, "model": model.state_dict()})
    return str(path)


def rectangle(left, top, right, bottom, size=(40, 60), name="cross", score=0.9):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return Found(name, score, (left, top, right, bottom), mask)


# ---- does an object read from itself?


def test_a_patch_is_inside_where_its_middle_is():
    # the image was 40 × 60 and is seen at 80 × 120; patches of 16: middles at 8, 24, … there, and 4, 12, … here
    one = rectangle(10, 0, 30, 13)
    expected = torch.zeros(5, 8, dtype=torch.bool)
    expected[:2, 1:4] = True  # columns of middle 12, 20 and 28, rows of 4 and 12
    assert torch.equal(inside(one.mask, (5, 8), 16, (2.0, 2.0)), expected)
    # the last row and column of patches may be padding
    assert not inside(torch.ones(40, 60, dtype=torch.bool), (6, 8), 16, (2.0, 2.0))[5].any()


def test_the_patch_under_the_centre_or_the_nearest_of_the_object():
    assert centre_patch(rectangle(10, 0, 30, 13), (5, 8), 16, (2.0, 2.0)) == (0, 2)  # centre (20, 6.5)
    ring = rectangle(4, 2, 56, 38)
    ring.mask[6:34, 8:50] = False  # of its middle; patches left: the outermost
    row, column = centre_patch(ring, (5, 8), 16, (2.0, 2.0))
    assert inside(ring.mask, (5, 8), 16, (2.0, 2.0))[row, column] and (row, column) in ((0, 3), (4, 3), (0, 4), (4, 4))
    nothing = ring._replace(mask=torch.zeros(40, 60, dtype=torch.bool))
    assert centre_patch(nothing, (5, 8), 16, (2.0, 2.0)) == (2, 3)  # centre (30, 20)


def test_sources_inside_are_counted_in_directed_graphs():
    weights = torch.zeros(1, 40, 40)
    target = 0 * 8 + 2
    weights[0, target, [1, 2, 11, 20, 39]] = 1  # (0,1), (0,2), (1,3) inside; (2,4), (4,7) not
    weights[0, [3, 9, 10], target] = 1  # others read from it: these do not count
    layer = Layer("layer 0", Graph(40, weights=weights), (5, 8))
    assert read_from(layer, (0, 2), rectangle(10, 0, 30, 13).mask, 16, (2.0, 2.0)) == (5, 3, pytest.approx(6 / 40))


def test_pooled_sources_of_later_stages_count_by_their_own_middles():
    # stage 1 of a pyramid: patches of 2 × 2 of the first stage, sources pooled by 2: each covers 4 × 4 of 16 pixels
    weights = torch.zeros(1, 8, 2)
    weights[0, 5, :] = 1
    layer = Layer("layer 1", Graph(2, weights=weights), (2, 4), pool=2, scale=2)
    mask = torch.zeros(64, 128, dtype=torch.bool)
    mask[:, 64:] = True  # the middle of the second source alone, (32, 96)
    assert read_from(layer, (3, 2), mask, 16, (1.0, 1.0)) == (2, 1, 0.5)
    assert read_from(layer, (0, 0), mask, 16, (1.0, 1.0)) == (0, 0, 0.5)


@pytest.mark.parametrize("name", BODIES)
def test_layers_lie_on_the_image_as_the_backbone_sees_it(tmp_path, name):
    model, image = vig_minimal.load(kept(tmp_path / "best.pt", name)), torch.zeros(3, 40, 90, dtype=torch.uint8)
    image[0, 10:20, 30:60] = 255
    _, graphs = detect(model, [image], return_graphs=True)
    pixels, scale = seen(model, image)
    assert pixels.shape[1] % 8 == pixels.shape[2] % 8 == 0 and scale[1] == pytest.approx(64 / 90, 0.02)
    layers = detector_layers(model, pixels, graphs)
    assert [layer.grid[0] * layer.grid[1] for layer in layers] == [graph.num_targets for graph in graphs]
    red = pixels[0] > 128
    rows, columns = red.any(1).nonzero(), red.any(0).nonzero()
    places = rows[0] / scale[0], (rows[-1] + 1) / scale[0], columns[0] / scale[1], (columns[-1] + 1) / scale[1]
    assert [float(place) for place in places] == pytest.approx([10, 20, 30, 60], abs=2)


# ---- drawing


def test_boxes_masks_and_names_are_drawn():
    image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    page = draw_found(image, [rectangle(10, 12, 40, 30)], CLASSES)
    factor, colour = page.width // 60, np.array(ImageColor.getrgb(PALETTE[CLASSES.index("cross")]))
    pixels = np.asarray(page, int)
    assert factor == 10
    assert (pixels[12 * factor, 15 * factor:35 * factor] == colour).all()  # the box's upper edge
    assert (pixels[20 * factor, 10 * factor] == colour).all() and (pixels[5, 5] == 90).all()
    mixed = 0.45 * colour + 0.55 * 90
    assert np.abs(pixels[21 * factor, 25 * factor] - mixed).max() < 1.5  # the mask
    name = pixels[12 * factor - 17:12 * factor - 1, 10 * factor + 3:10 * factor + 50]
    assert (name == colour).all(-1).any() and (np.abs(name - colour).sum(-1) > 150).any()  # letters on the colour


def test_names_of_neighbours_do_not_hide_each_other(monkeypatch):
    texts = []
    image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    draw = drawing.ImageDraw.ImageDraw.text
    monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "text", lambda self, place, *rest: (
        texts.append(place), draw(self, place, *rest)))
    draw_found(image, [rectangle(10, 12, 40, 30, score=0.9 - 0.1 * i) for i in range(6)], CLASSES)
    rows = sorted(y for _, y in texts)
    assert len(rows) == 6 and min(b - a for a, b in zip(rows, rows[1:])) >= drawing.LINE
    assert all(0 <= x < 600 and 0 <= y <= 400 - drawing.LINE for x, y in texts)


# ---- the commands


def test_python_and_the_table_say_the_same(tmp_path, capsys):
    path, out, page = kept(tmp_path / "best.pt"), tmp_path / "found.csv", tmp_path / "found.png"
    model = vig_minimal.load(path)
    image = Shapes((64, 64), 4, "val", "boxes")[3][0]
    found = vig_minimal.predict(model, image)
    assert not model.training and found and {one.name for one in found} == {"cross"}
    assert found == sorted(found, key=lambda one: -one.score) and all(one.mask.shape == (64, 64) for one in found)
    assert vig_minimal.predict(model, [image, image[:, :40]], threshold=1.0) == [[], []]
    # the model itself says the same
    [answer] = model([model.transform(image)])
    kept_ones = answer["scores"] >= 0.5
    assert [one.score for one in found] == pytest.approx(answer["scores"][kept_ones].tolist(), rel=1e-4)
    predict.main(["shapes:3", "--checkpoint", path, "--csv", str(out), "--out", str(page)])
    said = capsys.readouterr().out
    assert said.startswith(f"shapes:3: cross {found[0].score:.3f}, ") and f"wrote {page}" in said
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["cross"] * len(found)
    assert [float(rows[0][side]) for side in predict.SIDES] == pytest.approx(found[0].box, abs=0.06)
    assert Image.open(page).width >= 400
    predict.main(["shapes:3", "--checkpoint", path, "--csv", str(out), "--threshold", "1"])
    assert "shapes:3: no object has a score of 1" in capsys.readouterr().out
    assert out.read_text().splitlines() == ["file,rank,class,score,left,top,right,bottom", "shapes:3,,,,,,,"]


@pytest.mark.parametrize("name", BODIES)
def test_explore_draws_objects_and_says_what_they_read(tmp_path, capsys, name):
    path, page = kept(tmp_path / "best.pt", name), tmp_path / "page.png"
    explore.main(["shapes:3", "--checkpoint", path, "--out", str(page)])
    said = capsys.readouterr().out
    assert "sources inside the object / sources of the patch under its centre" in said and "\nchance" in said
    assert Image.open(page).width > 300
    explore.main(["shapes:3", "--checkpoint", path, "--out", str(page), "--node", "1,2", "--layers", "0"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        explore.main(["shapes:3", "--checkpoint", path, "--threshold", "1"])
    assert "no object has a score of 1; give a lower --threshold" in capsys.readouterr().err


def test_a_classifier_draws_no_boxes(tmp_path, capsys):
    model = vig_minimal.create_model("vig_nano", img_size=16, patch=4, dim=16, depth=1, k=2)
    checkpoint.save(tmp_path / "best.pt", {
        "name": "vig_nano", "config": asdict(model.config), "classes": list(CLASSES), "mean": (0.5,) * 3,
        "std": (0.5,) * 3, "recipe": {"eval_crop": 0.9}, "model": model.state_dict()})
    with pytest.raises(SystemExit):
        predict.main(["shapes:3", "--checkpoint", str(tmp_path / "best.pt"), "--out", str(tmp_path / "a.png")])
    assert "--out: draws the objects of a detector" in capsys.readouterr().err


@pytest.mark.parametrize("run", [lambda path: explain.main(["--checkpoint", path]),
                                 lambda path: explore.main(["shapes:3", "--checkpoint", path, "--html", "page.html"])],
                         ids=["explain", "explore --html"])
def test_what_takes_classifiers_alone_says_so(tmp_path, monkeypatch, capsys, run):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run(kept(tmp_path / "best.pt"))
    assert end.value.code == 2
    assert "holds a detector or a network for segmentation; predict and explore" in capsys.readouterr().err
