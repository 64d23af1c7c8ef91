"""Drawing the graph: the picture shows the sources of the chosen target, and wrong input is one sentence."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

import vig_minimal
from vig_minimal import Graph, create_model
from vig_minimal.data.synthetic import CLASSES, Shapes
from vig_minimal.look import explore, explore_layers, panels, patch_sources
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


def inner_colour(panel: Image.Image, grid: tuple[int, int], row: int, column: int) -> tuple[int, ...]:
    """The colour in the middle of a patch, which no outline reaches."""
    left, top, right, bottom = patch_box(panel, grid, row, column)
    return panel.getpixel(((left + right) // 2, (top + bottom) // 2))


def test_sources_have_an_outline_and_the_colour_of_their_weight_and_all_else_is_the_plain_image():
    # rows are targets: target 5 reads from 2 (heavy) and 7 (light); 9 reads from 5, which must not show
    weights, grid, grey = torch.zeros(1, 12, 12), (3, 4), (60, 60, 60)
    weights[0, 5, 2], weights[0, 5, 7], weights[0, 9, 5], weights[0, 9, 0] = 0.8, 0.2, 0.5, 0.5
    panel = Image.new("RGB", (80, 60), grey)
    for heaviest in (None, 0.8, 1.6):
        drawn = panels.draw_sources(panel, weights[0, 5].view(grid), heaviest)
        for node in set(range(12)) - {2, 7}:
            left, top, right, bottom = patch_box(panel, grid, *divmod(node, 4))
            assert (np.asarray(drawn)[top:bottom + 1, left:right + 1] == grey).all()
        heavy, light = (inner_colour(drawn, grid, *divmod(node, 4)) for node in (2, 7))
        ink, white = ImageColor.getrgb(panels.OUTLINE), (255, 255, 255)
        assert [drawn.getpixel((x, 10)) for x in (40, 41, 42)] == [ink, ink, white]  # the left edge of patch 2
        if heaviest is None:
            tone = [round(60 + panels.PALE * (value - 60)) for value in ImageColor.getrgb(panels.SOURCE)]
            assert heavy == light and np.abs(np.subtract(heavy, tone)).max() <= 1
        else:
            share = [0.8 / heaviest, 0.2 / heaviest]
            opacity = [panels.PALE + (panels.STRONG - panels.PALE) * value for value in share]
            tones = [60 + alpha * (panels.shades(panels.WEIGHTS, np.array(value)) - 60)
                     for alpha, value in zip(opacity, share)]
            assert np.abs(np.array([heavy, light]) - tones).max() <= 1 and heavy != light


def test_neighbouring_sources_share_one_outline():
    read = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    drawn = panels.draw_sources(Image.new("RGB", (60, 40), (60, 60, 60)), read)
    row = [drawn.getpixel((x, 10)) for x in range(60)]
    ink = ImageColor.getrgb(panels.OUTLINE)
    assert [x for x, colour in enumerate(row) if colour == ink] == [0, 1, 38, 39]


def test_a_scale_is_there_only_where_edges_have_weights():
    bool_row, float_ones = torch.tensor([True, False]), torch.tensor([1.0, 0.0])
    assert patch_sources.scale_of([bool_row, float_ones, torch.zeros(2)]) is None
    assert patch_sources.scale_of([bool_row, torch.tensor([0.25, 0.0])]) == 1
    assert patch_sources.scale_of([torch.tensor([0.25, 0.5])]) == 0.5
    assert patch_sources.source_entry(None)[1] == "its sources"
    assert patch_sources.source_entry(0.6952)[1] == "its sources, by weight from 0 to 0.695"


def test_a_target_without_sources_and_the_plain_photo():
    """The first panel is the image alone; the second has the red frame and nothing else."""
    layer = Layer("layer 0", Graph(4, weights=torch.zeros(1, 4, 4)), (2, 2))
    page = np.asarray(explore.explore(torch.full((3, 16, 16), 200, dtype=torch.uint8), [(layer, (0, 0))], (2, 2)))
    top = 8 + panels.LINE
    first, second = page[top:top + 256, 8:264], page[top:top + 256, 272:528]
    assert (first == 200).all()
    changed = (second != 200).any(-1)
    assert not changed[128:].any() and not changed[:, 128:].any() and not changed[5:123, 5:123].any() and changed.any()


def test_a_legend_breaks_lines_and_holds_every_swatch():
    entries = [(panels.square(colour), text) for colour, text in (("#112233", "one"), ("#445566", "another text"))]
    wide, narrow = panels.legend(entries, 400), panels.legend(entries, 100)
    assert wide.height == panels.LINE and narrow.height == 2 * panels.LINE and narrow.width < wide.width
    for key in (wide, narrow):
        found = set(map(tuple, np.asarray(key).reshape(-1, 3).tolist()))
        assert {(0x11, 0x22, 0x33), (0x44, 0x55, 0x66)} <= found
    scale = panels.ramp(("#000000", "#ffffff"))
    assert [scale.getpixel((x, 5)) for x in (0, scale.width - 1)] == [(0, 0, 0), (255, 255, 255)]


def test_boolean_and_indexed_graphs_are_drawn_alike():
    index = torch.tensor([[[0, 1], [1, 3], [2, 0], [3, 2]]])
    indexed = Graph(4, index=index)
    boolean = Graph(4, weights=indexed.adj())
    image, _ = Shapes(16, 1)[0]
    layers = [Layer("layer 0", graph, (2, 2)) for graph in (indexed, boolean)]
    pages = [np.asarray(explore.explore(image, [(layer, (0, 1))], (2, 2))) for layer in layers]
    assert (pages[0] == pages[1]).all()


# ---- heat maps: attention and hyperedges


def attending(**fields) -> torch.nn.Module:
    torch.manual_seed(1)
    return create_model("vig_nano", **NANO, conv="attention", **fields).eval()


@pytest.mark.parametrize("graph", ["full", "knn"])
@torch.no_grad()
def test_attention_becomes_the_weights_of_the_edges(graph):
    """Mean over heads of softmax_j(q_i·k_j / √d) over the edges, computed again in a loop."""
    model, image = attending(graph=graph), torch.randn(1, 3, 32, 32)
    with explore_layers.attentions(model) as attention:
        _, graphs = model(image, return_graphs=True)
    layers = explore_layers.layers_of(model.config, graphs, attention)
    assert len(attention) == len(layers) == 2 and not any(m._forward_hooks for m in model.modules())
    h = model.blocks[0].grapher.fc1(model.stem(image))
    conv, nodes = model.blocks[0].grapher.conv, h[0].flatten(1).T  # (N, C)
    q, k = (layer(nodes).view(16, 4, 4) for layer in (conv.query, conv.key))  # N, heads, d
    for i in range(16):
        expected = torch.zeros(16)
        sources = graphs[0].adj()[0, i].nonzero()[:, 0].tolist()
        for head in range(4):
            exps = {j: torch.exp(q[i, head] @ k[j, head] / 2) for j in sources}
            for j in sources:
                expected[j] += exps[j] / sum(exps.values()) / 4
        torch.testing.assert_close(layers[0].row((i // 4, i % 4)), expected)


def test_with_groups_and_hyperedges_the_graph_stays_as_it_is():
    for graph in ("group_knn", "hypergraph"):
        model = attending(graph=graph)
        with torch.no_grad(), explore_layers.attentions(model) as attention:
            _, graphs = model(torch.randn(1, 3, 32, 32), return_graphs=True)
        layers = explore_layers.layers_of(model.config, graphs, attention)
        assert all(layer.graph is graph for layer, graph in zip(layers, graphs, strict=True))


@pytest.mark.parametrize("every", [1, 2])
def test_a_hyperedge_is_drawn_by_membership(every, tmp_path, monkeypatch):
    drawn, path = [], tmp_path / "best.pt"
    model = create_model("vig_nano", **NANO, graph="hypergraph", graph_every=every)
    checkpoint.save(path, {"name": "vig_nano", "config": asdict(model.config), "classes": list(CLASSES),
                           "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "recipe": {"eval_crop": 1.0},
                           "model": model.state_dict()})
    monkeypatch.setattr(explore, "draw_sources", lambda panel, weights, heaviest: drawn.append(weights) or panel)
    explore.main(["shapes:3", "--checkpoint", str(path), "--hyperedge", "2", "--out", str(tmp_path / "graph.png")])
    model = load(path)
    inputs = model.transform(Shapes(32, 4, "val")[3][0])[None]
    seen = []  # what each constructor reads
    for block in model.blocks:
        if block.grapher.constructor is not None:
            block.grapher.constructor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        _, graphs = model(inputs, return_graphs=True)
    assert len(drawn) == len(graphs) == 2 and len(seen) == 2 // every
    for l, weights in enumerate(drawn):
        first = l // every * every  # the block whose constructor makes the graph
        u = model.blocks[first].grapher.constructor.memberships(seen[l // every])[0, :, 2]
        assert torch.equal(weights.flatten() > 0, graphs[l].member[0, :, 2])
        torch.testing.assert_close(weights.flatten(), torch.where(u > 0.01, u, 0))
    assert not torch.allclose(drawn[0], drawn[0].flatten()[0])


# ---- draw, for notebooks


@pytest.mark.parametrize("name, fields", [("lrgc_nano", {}), ("vig_nano", {"graph": "group_knn"}), ("cvig_nano", {})])
def test_draw_shows_the_nodes_that_are_asked_for(name, fields):
    torch.manual_seed(2)
    model = create_model(name, **NANO, **fields)
    one, two = vig_minimal.draw(model, "shapes:3"), vig_minimal.draw(model, "shapes:3", [(0, 0), (3, 1)], layer=0)
    assert isinstance(one, Image.Image) and (two.width, two.height) > (one.width, 256) and model.training
    image = Shapes(32, 4, "val")[3][0]
    assert np.array_equal(vig_minimal.draw(model, image, np.array([2, 2]), layer=-1), one)  # the middle, the last block
    plain = picture(image, 256)
    top = 8 + panels.LINE
    assert np.array_equal(one.crop((8, top, 264, top + 256)), plain)
    if not fields:
        model.eval()
        with torch.no_grad():
            _, graphs = model((image / 127.5 - 1)[None], return_graphs=True)
        for number, target in enumerate([(0, 0), (3, 1)]):
            row = graphs[0].adj()[0, target[0] * 4 + target[1]].view(4, 4)
            panel = two.crop((8 + (number + 1) * 264, top, 264 + (number + 1) * 264, top + 256))
            for node in np.ndindex(4, 4):
                if node != target:
                    same = inner_colour(panel, (4, 4), *node) == inner_colour(plain, (4, 4), *node)
                    assert same != bool(row[node]), (target, node)


@pytest.mark.parametrize("name, arguments, says", [
    ("lrgc_nano", {"layer": 2}, "layer=2: the blocks of this model are 0 to 1"),
    ("lrgc_nano", {"layer": -3}, "layer=-3: the blocks"),
    ("lrgc_nano", {"nodes": (4, 0)}, r"nodes=\(4, 0\): row and column of a patch, \(0, 0\) to \(3, 3\)"),
    ("lrgc_nano", {"nodes": []}, r"nodes=\[\]: give row and column"),
    ("lrgc_nano", {"nodes": [(0, 0), (0,)]}, r"nodes=\(0,\): row and column"),
    ("lrgc_nano", {"image": "nothing.jpg"}, "nothing.jpg: no such image"),
    ("resnet_nano", {}, "no classifier with a graph over patches")])
def test_draw_refuses_in_one_sentence(name, arguments, says):
    fields = NANO if name == "lrgc_nano" else {"img_size": 32}
    with pytest.raises(ValueError, match=says) as error:
        vig_minimal.draw(create_model(name, **fields), **{"image": "shapes:3"} | arguments)
    assert "\n" not in str(error.value)


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
    (["."], "no file, but a folder"),
    (["shapes:x"], "shapes:x: after shapes: comes the number"),
    (["shapes:0", "--model", "lrgc_nan"], "unknown model 'lrgc_nan'; did you mean lrgc_nano"),
    (["shapes:0", "--node", "8,0"], "--node 8,0: takes ROW,COLUMN of a patch, from 0,0 to 7,7"),
    (["shapes:0", "--node", "3"], "--node 3: takes ROW,COLUMN"),
    (["shapes:0", "--layers", "0,6"], "--layers 0,6: takes numbers of this model's layers, 0 to 5, with"),
    (["shapes:0", "--layers", "a"], "--layers a: takes numbers of this model's layers, 0 to 5, with commas"),
    (["shapes:0", "--label", "star"], "--label: in lrgc_nano's graphs no label is a node; choose one of GKGNet's"),
    (["shapes:0", "--model", "cvig_nano", "--partitions", "--node", "1,1"],
     "--partitions and --node: one picture shows one of them"),
    (["shapes:0", "--hyperedge", "0", "--html", "p.html"], "--hyperedge and --html: the page shows all of them"),
    (["shapes:0", "--graph", "hypergraph", "--hyperedge", "0", "--node", "1,1"], "--hyperedge and --node: one picture"),
    (["shapes:0", "--hyperedge", "0"], "--hyperedge 0: this model has none; choose --graph hypergraph"),
    (["shapes:0", "--graph", "hypergraph", "--hyperedge", "25"], "--hyperedge 25: this model has 0 to 15"),
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
    top = 8 + panels.LINE  # of the legend
    panel = page.crop((8 + 264, top, 8 + 264 + 256, top + 256))  # the second panel; the first is the image
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
