"""Drawing the graph: the picture shows the sources of the chosen target, and wrong input is one sentence."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from vig_minimal import Graph, create_model
from vig_minimal.data.synthetic import CLASSES, Shapes
from vig_minimal.look import explore, panels
from vig_minimal.look.explore_layers import Layer
from vig_minimal.look.panels import colours, patch_box, picture, sheet, tint
from vig_minimal.look.predict import Transform, load, open_image, predict, probabilities
from vig_minimal.training import checkpoint

NANO = {"img_size": 32, "patch": 8, "dim": 16, "depth": 2}  # a grid of 4 × 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of an untrained model."""
    model = create_model("lrgc_nano", **NANO)
    path = tmp_path_factory.mktemp("explore") / "last.pt"
    checkpoint.save(path, {"name": "lrgc_nano", "config": asdict(model.config), "classes": list(CLASSES),
                           "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "recipe": {"eval_crop": 1.0},
                           "model": model.state_dict()})
    return path


def patch_mean(panel: Image.Image, grid: tuple[int, int], row: int, column: int) -> np.ndarray:
    left, top, right, bottom = patch_box(panel, grid, row, column)
    return np.asarray(panel, float)[top:bottom + 1, left:right + 1].mean((0, 1))


# ---- drawing


def test_patches_tile_the_picture():
    panel, grid = Image.new("RGB", (50, 31)), (3, 7)
    covered = np.zeros((31, 50), int)
    for row in range(3):
        for column in range(7):
            left, top, right, bottom = patch_box(panel, grid, row, column)
            covered[top:bottom + 1, left:right + 1] += 1
    assert (covered == 1).all()


def test_tint_colours_its_patches_alone():
    panel = Image.new("RGB", (40, 20), (100, 100, 100))
    tinted = tint(panel, np.array([[0, 1, 0.5, 0]]), "red")
    found = [patch_mean(tinted, (1, 4), 0, column).round().astype(int).tolist() for column in range(4)]
    assert found == [[100, 100, 100], [255, 0, 0], [178, 50, 50], [100, 100, 100]]


def test_a_small_image_is_enlarged():
    image, _ = Shapes(32, 1)[0]
    panel = picture(image, 256)
    assert panel.size == (256, 256) and panel.getpixel((255, 0)) == tuple(image[:, 0, 31].tolist())


def test_a_sheet_holds_panels_captions_and_title():
    panels = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    page = np.asarray(sheet(panels, ["a caption wider than its panel", "two\nlines", ""], columns=2, title="title"))
    for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255]):
        assert (page == colour).all(-1).sum() == 30 * 20
    assert (page.max(-1) < 64).any()  # text


# ---- which patches are drawn


def test_the_sources_of_the_target_are_tinted_by_weight():
    # rows are targets: target 5 reads from 2 (heavy) and 7 (light); 9 reads from 5, which must not show
    weights = torch.zeros(1, 12, 12)
    weights[0, 5, 2], weights[0, 5, 7], weights[0, 9, 5], weights[0, 9, 0] = 0.8, 0.2, 0.5, 0.5
    panel, grid = Image.new("RGB", (40, 30), (60, 60, 60)), (3, 4)
    drawn = panels.draw_sources(panel, weights[0, 5].view(grid))
    redness = np.array([[patch_mean(drawn, grid, row, column)[0] for column in range(4)] for row in range(3)]).ravel()
    assert redness[2] > redness[7] + 20 > 60 + 20
    assert set(np.delete(redness, [2, 7])) == {15.0}  # dark


def test_a_target_without_sources_is_drawn_dark():
    graph = Graph(4, weights=torch.zeros(1, 4, 4))
    image = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    page = np.asarray(explore.explore(image, [Layer("layer 0", graph, (2, 2))], (2, 2), (0, 0)))
    assert (page == 50).all(-1).sum() > 256 * 256 * 0.7


def test_boolean_and_indexed_graphs_are_drawn_alike():
    index = torch.tensor([[[0, 1], [1, 3], [2, 0], [3, 2]]])
    indexed = Graph(4, index=index)
    boolean = Graph(4, weights=indexed.adj())
    image, _ = Shapes(16, 1)[0]
    layers = [Layer("layer 0", graph, (2, 2)) for graph in (indexed, boolean)]
    pages = [np.asarray(explore.explore(image, [layer], (2, 2), (0, 1))) for layer in layers]
    assert (pages[0] == pages[1]).all()


# ---- the command


def test_a_scene_with_a_checkpoint(saved, tmp_path, capsys):
    explore.main(["shapes:3", "--checkpoint", str(saved), "--out", str(tmp_path / "graph.png")])
    printed = capsys.readouterr().out
    with Image.open(tmp_path / "graph.png") as page:
        assert page.width >= 3 * 256 and page.height > 256
    # LRGC starts fully connected: 16 neighbours in both layers
    rows = [line.split() for line in printed.splitlines()[2:4]]
    assert rows == [["0", "16.0", "16", "16"], ["1", "16.0", "16", "16"]]
    (best, probability), *_ = predict(load(saved), Shapes(32, 4, "val")[3][0])
    assert f"\nhighest probabilities: {best} {probability:.3f}, " in printed


def test_a_checkpoint_is_used(saved):
    model = load(saved)
    state = checkpoint.load(saved)["model"]
    assert model.name == "lrgc_nano" and not model.training and not model.multi_label
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert list(model.transform.mean) == list(model.transform.std) == [0.5, 0.5, 0.5]
    assert model.classes == list(CLASSES)


def test_a_photo_is_cut_to_the_models_size(tmp_path):
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255  # the middle third, which alone remains
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    image = open_image(str(tmp_path / "photo.png"), Transform((32, 32)))
    assert image.shape == (3, 32, 32) and image.dtype == torch.uint8 and image.float().mean() > 250


@pytest.mark.parametrize("argv, message", [
    (["missing.png"], "missing.png: no such image"),
    (["notes.txt"], "notes.txt: not an image"),
    (["."], "the image cannot be read"),
    (["shapes:x"], "shapes:x: after shapes: comes the number"),
    (["shapes:0", "--model", "lrgc_nan"], "unknown model 'lrgc_nan'; did you mean lrgc_nano"),
    (["shapes:0", "--node", "8,0"], "--node 8,0: takes ROW,COLUMN of a patch, from 0,0 to 7,7"),
    (["shapes:0", "--node", "3"], "--node 3: takes ROW,COLUMN"),
    (["shapes:0", "--layers", "0,6"], "--layers 0,6: takes numbers of this model's layers, 0 to 5, with"),
    (["shapes:0", "--layers", "a"], "--layers a: takes numbers of this model's layers, 0 to 5, with commas"),
    (["shapes:0", "--label", "star"], "--label: in lrgc_nano's graphs no label is a node; choose one of GKGNet's"),
    (["shapes:0", "--model", "cvig_nano", "--partitions", "--node", "1,1"], "leave --node out"),
    (["shapes:0", "--threshold", "0.3"], "--threshold: chooses among a detector's objects, and lrgc_nano is no"),
    (["shapes:0", "--partitions"], "--partitions: this model's nodes have none"),
    (["shapes:0", "--checkpoint", "missing.pt"], "missing.pt: no such checkpoint"),
    (["shapes:0", "--checkpoint", "other.pt"], "other.pt: not a checkpoint of train.py, it has no 'name'"),
    (["shapes:0", "--out", "nowhere/graph.png"], "nowhere/graph.png"),
    ([], "required: image"),
])
def test_wrong_input_is_one_sentence(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    checkpoint.save("other.pt", {"weight": torch.zeros(1)})
    with pytest.raises(SystemExit) as exit:
        explore.main(argv)
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    assert message in printed.err and printed.err.startswith("explore: error: ") and printed.err.count("\n") == 1


def test_a_checkpoint_of_another_model_is_refused(saved, capsys):
    with pytest.raises(SystemExit):
        explore.main(["shapes:0", "--model", "vig_nano", "--checkpoint", str(saved)])
    assert "a checkpoint of lrgc_nano, not of vig_nano" in capsys.readouterr().err


# ---- partitions


def test_partitions_keep_their_names_from_layer_to_layer():
    before = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    assert explore.follow(torch.tensor([2, 2, 2, 0, 0, 1, 1, 1]), before, 3).tolist() == before.tolist()
    assert explore.follow(torch.tensor([2, 2, 0, 0, 0, 1, 1, 1]), before, 3).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert explore.follow(before, None, 3) is before


def test_every_partition_has_its_colour(tmp_path, capsys):
    model = create_model("cvig_nano", img_size=32, patch=8, dim=16, depth=2, clusters=3).eval()
    image, _ = Shapes(32, 1)[0]
    model.transform, model.multi_label = Transform((32, 32)), False
    _, graphs = probabilities(model, image[None], return_graphs=True)
    page = explore.explore_partitions(image, [Layer("layer 0", graphs[0], (4, 4))])
    panel = page.crop((8 + 264, 8, 8 + 264 + 256, 8 + 256))  # the second panel; the first is the image
    plain = picture(image, 256)
    labels = graphs[0].labels[0].reshape(4, 4)
    for row in range(4):
        for column in range(4):
            tone = patch_mean(panel, (4, 4), row, column) - 0.4 * patch_mean(plain, (4, 4), row, column)
            expected = 0.6 * np.array(ImageColor.getrgb(colours(3)[labels[row, column]]))
            np.testing.assert_allclose(tone, expected, atol=1)


def test_partitions_are_drawn_by_the_command_or_refused(tmp_path, capsys):
    out = tmp_path / "parts.png"
    explore.main(["shapes:3", "--model", "cvig_nano", "--partitions", "--layers", "0,5", "--out", str(out)])
    assert Image.open(out).width > 3 * 256
    with pytest.raises(SystemExit) as end:
        explore.main(["shapes:3", "--model", "vig_nano", "--partitions", "--out", str(out)])
    assert end.value.code == 2 and "choose one of ClusterViG's" in capsys.readouterr().err


def test_models_without_patches_are_told_where_to_look(capsys):
    with pytest.raises(SystemExit) as end:
        explore.main(["shapes:1", "--model", "cnn2gnn_nano"])
    assert end.value.code == 2 and "python -m vig_minimal attention" in capsys.readouterr().err
