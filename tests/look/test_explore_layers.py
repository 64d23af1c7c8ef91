"""Figures 5 and 6 of GKGNet: what each group reads is drawn where it lies on the image, also in a pyramid."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor

from vig_minimal import Graph, create_model
from vig_minimal.data.synthetic import CLASSES, Shapes
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.look import explore, explore_layers, patch_sources
from vig_minimal.look.explore_layers import Layer
from vig_minimal.look.panels import LINE, patch_box, picture
from vig_minimal.look.patch_sources import GROUPS, OPACITY
from vig_minimal.look.predict import load, open_model, probabilities
from vig_minimal.training import checkpoint

TINY = {"img_size": 32, "patch": 2, "dim": (8, 8, 16, 16), "depth": (1, 1, 2, 1)}  # grids of 16, 8, 4 and 2
GREY = 95  # of a flat picture
PALE = round(GREY + patch_sources.PALE * (255 - GREY))  # of what no group reads


def flat(rows: int, columns: int, side: int = 16) -> torch.Tensor:
    """A grey image, `side` pixels a patch."""
    return torch.full((3, rows * side, columns * side), GREY, dtype=torch.uint8)


def mixed(group: int) -> tuple[int, ...]:
    """The colour of a grey patch that this group alone reads."""
    colour = np.array(ImageColor.getrgb(GROUPS[group]))
    return tuple((PALE + OPACITY * (colour - PALE)).round().astype(int).tolist())


def pixels(panel: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(panel).reshape(-1, 3).tolist()]


def patch_pixels(panel: Image.Image, grid: tuple[int, int], row: int, column: int) -> list[tuple[int, ...]]:
    left, top, right, bottom = patch_box(panel, grid, row, column)
    return pixels(panel.crop((left, top, right + 1, bottom + 1)))


def panels_of(page: Image.Image, number: int, width: int, height: int) -> list[Image.Image]:
    """The panels of a page's only row, with one line of legend and no title above it."""
    top = 8 + LINE
    return [page.crop((x, top, x + width, top + height)) for x in range(8, 8 + number * (width + 8), width + 8)]


def saved(path, name, classes, **fields) -> str:
    """A checkpoint of an untrained model, as train.py writes it."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=len(classes), **fields)
    checkpoint.save(path, {"name": name, "config": asdict(model.config), "classes": classes, "multi_label": True,
                           "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "recipe": {"eval_crop": 1.0},
                           "model": model.state_dict()})
    return str(path)


def layers_and_config(name, **fields):
    model = create_model(name, **fields).eval()
    with torch.inference_mode():
        graphs = model(torch.randn(1, 3, *model.config.img_size), return_graphs=True)[1]
    return explore_layers.layers_of(model.config, graphs), model.config


# ---- where nodes lie


@pytest.mark.parametrize("img_size", [32, (36, 28), (22, 34)], ids=str)
def test_a_source_covers_the_patches_that_are_pooled_into_it(img_size):
    """On even and odd grids, whose last patches may be in no source."""
    layers, config = layers_and_config("gkgnet_nano", **TINY | {"img_size": img_size})
    whole = config.grid
    stages = [stage for stage, depth in enumerate(config.depth) for _ in range(depth + 1)]  # blocks, cross level
    assert len(layers) == len(stages) == 9
    for layer, stage in zip(layers, stages, strict=True):
        values = torch.rand(2, layer.graph.num_sources)
        pool = 1 if layer.of_labels else config.pool[stage]
        expected = torch.zeros(2, *whole)
        for row in range(whole[0]):
            for column in range(whole[1]):
                i, j = row // 2 ** stage // pool, column // 2 ** stage // pool
                if i < config.grids[stage][0] // pool and j < config.grids[stage][1] // pool:
                    expected[:, row, column] = values[:, i * (config.grids[stage][1] // pool) + j]
        assert torch.equal(layer.spread(values, whole), expected)


def test_sources_lie_where_average_pooling_takes_them_from():
    grid, pool = (7, 6), 2
    layer = Layer("layer 0", Graph(9, weights=torch.zeros(1, 42, 9)), grid, pool)
    for source in range(9):
        nodes = torch.zeros(1, 1, *grid, requires_grad=True)
        F.avg_pool2d(nodes, pool).flatten()[source].backward()
        assert torch.equal(layer.spread(torch.eye(9)[source], grid) > 0, nodes.grad[0, 0] > 0)


@pytest.mark.parametrize("whole", [(16, 16), (7, 11)])
def test_the_node_follows_to_the_patch_that_covers_it(whole):
    panel = Image.new("RGB", (whole[1] * 4, whole[0] * 4))
    config = create_model("pvig_nano", **TINY | {"img_size": (whole[0] * 2, whole[1] * 2), "pool": (1, 1, 1, 1)}).config
    for stage, grid in enumerate(config.grids):
        num_nodes = grid[0] * grid[1]
        numbered = Graph(num_nodes, weights=torch.arange(1.0, num_nodes + 1).diag()[None])
        layer = Layer("", numbered, grid, scale=2 ** stage)
        for node in np.ndindex(*whole):
            row, column = layer.patch_at(node)
            assert row < grid[0] and column < grid[1]
            # the row of the adjacency is that of the patch, whose only source here is itself: it covers the node
            assert layer.row(node).nonzero().tolist() == [[row * grid[1] + column]]
            assert layer.spread(layer.row(node), whole)[node] > 0
            inner, outer = patch_box(panel, whole, *node), patch_box(panel, whole, row, column, layer.scale)
            assert outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
            assert outer[2] - outer[0] < 4 * layer.scale and outer[2] < panel.width and outer[3] < panel.height


def test_layers_are_counted_over_all_blocks_and_cross_levels_on_their_own():
    layers, _ = layers_and_config("gkgnet_nano", **TINY)
    assert [layer.name for layer in layers] == ["layer 0", "cross level 0", "layer 1", "cross level 1", "layer 2",
                                                "layer 3", "cross level 2", "layer 4", "cross level 3"]
    assert [layer.grid[0] for layer in layers] == [16, 16, 8, 8, 4, 4, 4, 2, 2]
    assert [layer.pool for layer in layers] == [4, 1, 2, 1, 1, 1, 1, 1, 1]
    layers, _ = layers_and_config("pvig_nano", **TINY)
    assert [layer.name for layer in layers] == [f"layer {i}" for i in range(5)]
    layers, config = layers_and_config("vig_nano", depth=2, dim=16)
    assert [(layer.name, layer.grid, layer.scale) for layer in layers] == [("layer 0", config.grid, 1),
                                                                           ("layer 1", config.grid, 1)]


# ---- what is drawn where


def hand_made() -> GroupGraph:
    """Target 2 reads from 1, 4 and 6 in group 0, and from 4 and 11 in group 1; the other rows read elsewhere."""
    index = torch.zeros(1, 2, 12, 3, dtype=torch.int64)
    index[0, 0, 2], index[0, 1, 2] = torch.tensor([1, 6, 4]), torch.tensor([11, 4, 4])
    index[0, 0, 4], index[0, 1, 4] = torch.tensor([2, 3, 9]), torch.tensor([2, 8, 9])
    return GroupGraph(12, index=index)


def test_patches_of_a_label_have_the_colour_of_their_group_and_no_others():
    layer = Layer("cross level 0", hand_made(), (3, 4), of_labels=True)
    page = patch_sources.explore_groups(flat(3, 4, 64), [(layer, 2)], (3, 4))
    image, *groups, both = panels_of(page, 4, 256, 192)
    assert set(pixels(image)) == {(GREY,) * 3}
    reads = {1, 4, 6}, {4, 11}
    for node in range(12):
        place = divmod(node, 4)
        for group in (0, 1):
            expected = mixed(group) if node in reads[group] else (PALE,) * 3
            assert set(patch_pixels(groups[group], (3, 4), *place)) == {expected}
        readers = [mixed(group) for group in (0, 1) if node in reads[group]]
        assert set(patch_pixels(both, (3, 4), *place)) == set(readers or [(PALE,) * 3])


def test_a_patch_of_several_groups_has_an_equal_part_of_each_colour():
    plain = Image.new("RGB", (96, 48), (PALE,) * 3)
    read = torch.tensor([[True, True], [True, False], [True, True]])[:, None]  # (3, 1, 2): all, then 0 and 2
    drawn = patch_sources.tint_groups(plain, read, GROUPS[:3])
    for column, groups in enumerate([(0, 1, 2), (0, 2)]):
        found = patch_pixels(drawn, (1, 2), 0, column)
        counts = [found.count(mixed(group)) / len(found) for group in range(3)]
        assert counts == pytest.approx([(group in groups) / len(groups) for group in range(3)], abs=0.05)
    small = patch_sources.tint_groups(Image.new("RGB", (8, 4), (PALE,) * 3), read[:2], GROUPS[:2])
    assert set(patch_pixels(small, (1, 2), 0, 0)) == {mixed(0), mixed(1)}  # also where it is as small as 4 pixels


def test_sources_of_a_patch_have_their_colours_and_a_red_line():
    """Target 4 is row 1, column 0. Its line to source 3 (row 0, column 3) runs through no other source's centre."""
    layer = Layer("layer 0", hand_made(), (3, 4))
    page = patch_sources.explore_groups(flat(3, 4, 64), [(layer, (1, 0))], (3, 4))
    panels = panels_of(page, 4, 256, 192)
    reads = set(), {2, 3, 9}, {2, 8, 9}, {2, 3, 8, 9}
    for panel, read in zip(panels, reads, strict=True):
        for node in range(12):
            row, column = divmod(node, 4)
            # a patch's lower right corner is crossed by no line, of those that start at row 1, column 0
            corner = panel.getpixel((column * 64 + 62, row * 64 + 62))
            if node != 4:  # which has the frame
                plain = {(GREY,) * 3} if panel is panels[0] else {(PALE,) * 3}
                assert corner in ({mixed(0), mixed(1)} if node in read else plain)
            # half way between the centres, if a line leads there
            middle = ((32 + column * 64 + 32) // 2, (96 + row * 64 + 32) // 2)
            if node in (2, 3, 8):
                assert (panel.getpixel(middle) == (255, 0, 0)) == (node in read), (node, middle)
        frame = (GREY,) * 3 if panel is panels[0] else (255, 0, 0)  # the first is the plain image
        assert panel.getpixel((0, 64)) == panel.getpixel((63, 127)) == frame
        assert panel is panels[0] or panel.getpixel((3, 80)) == (255, 255, 255)


def test_pooled_sources_are_drawn_over_the_patches_that_they_cover():
    """Stage 1 of 8 by 8 patches: 4 by 4 targets, and 2 by 2 sources of 4 by 4 patches of the first stage each."""
    index = torch.zeros(1, 2, 16, 1, dtype=torch.int64)
    index[0, 0, 5], index[0, 1, 5] = 2, 3  # of row 1, column 1, which covers the first stage's 2,2 to 3,3
    layer = Layer("layer 1", GroupGraph(4, index=index), (4, 4), pool=2, scale=2)
    page = patch_sources.explore_groups(flat(8, 8, 32), [(layer, (3, 2))], (8, 8))
    _, first, second, both = panels_of(page, 4, 256, 256)
    for row, column in np.ndindex(8, 8):
        spot = column * 32 + 22, row * 32 + 8  # where no line leads through
        if 2 <= row <= 3 and 2 <= column <= 3:
            continue
        assert first.getpixel(spot) == (mixed(0) if row >= 4 and column < 4 else (PALE,) * 3)
        assert second.getpixel(spot) == (mixed(1) if row >= 4 and column >= 4 else (PALE,) * 3)
        assert both.getpixel(spot) == (mixed(column // 4) if row >= 4 else (PALE,) * 3)
    for panel in (first, second, both):
        assert panel.getpixel((64, 64)) == panel.getpixel((127, 127)) == (255, 0, 0)  # the frame of 2,2 to 3,3
    assert first.getpixel(((96 + 64) // 2, (96 + 192) // 2)) == (255, 0, 0)  # from its centre to that of the source


def test_a_small_target_is_framed_around_and_not_hidden():
    panel = Image.new("RGB", (64, 64))
    patch_sources.frame(panel, (32, 32, 35, 35))
    assert set(pixels(panel.crop((32, 32, 36, 36)))) == {(0, 0, 0)}
    assert panel.getpixel((27, 27)) == panel.getpixel((40, 40)) == (255, 0, 0) != panel.getpixel((26, 26))


def test_one_panel_a_group_and_one_of_all_if_there_are_several():
    plain = Image.new("RGB", (64, 64))
    for groups in (1, 2, 8):
        reads = torch.eye(groups, 16, dtype=torch.bool)
        layer = Layer("cross level 0", GroupGraph(16, index=torch.zeros(1, groups, 1, 1, dtype=torch.int64)), (4, 4))
        panels, captions = patch_sources.draw_groups(plain, layer, reads, (4, 4), "patch")
        assert len(panels) == len(captions) == groups + (groups > 1)
        assert len({patch_pixels(panels[-1], (4, 4), *divmod(i, 4))[0] for i in range(groups)}) == groups
        assert captions[0] == "group 0: 1 patch"
    assert captions[-1] == "all groups: 8 different patches\n0 in several groups"


def test_captions_count_different_sources(monkeypatch):
    written = []
    monkeypatch.setattr(patch_sources, "sheet", lambda panels, captions, *rest: written.extend(captions))
    layer = Layer("layer 3", hand_made(), (3, 4))
    patch_sources.explore_groups(flat(3, 4), [(layer, (1, 0))], (3, 4))
    patch_sources.explore_groups(flat(3, 4), [(layer, 2)], (3, 4))
    assert written == ["layer 3: patch 1,0 of 3 by 4", "group 0: 3 sources", "group 1: 3 sources",
                       "all groups: 4 different sources\n2 in several groups",
                       "layer 3\n3 by 4 patches", "group 0: 3 patches", "group 1: 2 patches",
                       "all groups: 4 different patches\n1 in several groups"]


# ---- the command


def test_a_label_is_drawn_over_the_scene_with_all_its_shapes(tmp_path, capsys):
    out = tmp_path / "graph.png"
    number = next(i for i in range(20) if Shapes(64, 20, "val", "multi")[i][1].sum() > 1)
    explore.main([f"shapes:{number}", "--model", "gkgnet_nano", "--label", "star", "--layers", "3", "--out", str(out)])
    image, _ = Shapes(64, 20, "val", "multi")[number]
    single, _ = Shapes(64, 20, "val", "single")[number]
    page = Image.open(out)
    panel = page.crop((8, 8 + 3 * 17, 8 + 256, 8 + 3 * 17 + 256))  # below the title's two lines and the legend
    assert (np.asarray(panel) == np.asarray(picture(image, 256))).all() and not torch.equal(image, single)
    # the other panels show the sources that the graph has
    graph = probabilities(open_model("gkgnet_nano", None), image[None], return_graphs=True)[1][-1]
    expected, captions = patch_sources.draw_groups(picture(image, 256), Layer("", graph, (4, 4), scale=8),
                                                    graph.adj()[0, :, CLASSES.index("star")], (32, 32), "patch")
    for i, wanted in enumerate(expected):
        x = 8 + (i + 1) * 264
        assert (np.asarray(page.crop((x, 59, x + 256, 59 + 256))) == np.asarray(wanted)).all()
    rows = [line.split()[:6] for line in capsys.readouterr().out.splitlines()]
    degree = graph.degree().float()
    assert rows[1] == ["layer", "mean", "min", "max"] and [row[0] for row in rows[2::2]][:2] == ["0", "1"]
    assert rows[10] == ["cross", "level", "3", f"{degree.mean():.1f}", f"{degree.min():.0f}", f"{degree.max():.0f}"]
    assert rows[11][:2] == ["highest", "scores:"] and rows[12][0] == "wrote"


@pytest.mark.parametrize("name", ["pvig_nano", "gkgnet_nano"])
def test_a_patch_of_a_pyramid_is_drawn_in_every_stage(name, tmp_path, capsys):
    explore.main(["shapes:3", "--model", name, "--node", "31,0", "--out", str(tmp_path / "graph.png")])
    printed = capsys.readouterr().out
    assert "32 by 32 patches, 8 by 8 sources" in printed and "4 by 4 patches\n" in printed
    assert ("10 labels, 16 by 16 patches" in printed) == ("highest scores" in printed) == (name == "gkgnet_nano")
    with Image.open(tmp_path / "graph.png") as page:
        assert page.height > (5 if name == "gkgnet_nano" else 2) * 256
    explore.main(["shapes:3", "--model", name, "--layers", "4", "--out", str(tmp_path / "graph.png")])
    with Image.open(tmp_path / "graph.png") as page:
        assert page.height < 2 * 256


def test_the_source_panels_of_a_pyramid_are_those_of_its_graph():
    """Without groups: orange where the patch reads, the image elsewhere, r × r patches a source."""
    torch.manual_seed(1)
    layers, config = layers_and_config("pvig_nano", **TINY)
    page = explore.explore(torch.full((3, 32, 32), 200, dtype=torch.uint8), [(layers[1], (5, 9))], config.grid)
    panel = panels_of(page, 2, 256, 256)[1]
    row = layers[1].graph.adj()[0, 2 * 8 + 4].view(4, 4)  # the patch 2,4 of 8 by 8; sources of 2 × 2 patches
    assert layers[1].pool == 2 and 0 < row.sum() < 16
    for i, j in np.ndindex(16, 16):
        if (i // 2, j // 2) != (2, 4):
            red, _, blue = panel.getpixel((j * 16 + 8, i * 16 + 8))
            assert (red > 200 > blue if row[i // 4, j // 4] else red == blue == 200), (i, j)


def test_names_come_from_the_checkpoint_and_the_title_says_the_score(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(explore, "explore_groups", lambda image, rows, whole, title: titles.append(
        (rows[0][1], title)) or Image.new("RGB", (1, 1)))
    path = saved(tmp_path / "best.pt", "gkgnet_nano", ["a dog", *CLASSES], **TINY)
    model = load(path)
    shown = Shapes(32, 8, "val", "multi")[7][1]
    yes, no = CLASSES[int(shown.argmax())], CLASSES[int(shown.argmin())]
    image = (Shapes(32, 8, "val", "multi")[7][0] / 255 - torch.tensor(model.transform.mean).view(3, 1, 1))
    scores = model(image.div(torch.tensor(model.transform.std).view(3, 1, 1))[None])[0].sigmoid()
    for label, said in ((yes, ", and the scene shows it"), (no, ", and the scene does not show it"), ("a dog", "")):
        explore.main(["shapes:7", "--checkpoint", path, "--label", label, "--out", str(tmp_path / "graph.png")])
        number, title = titles[-1]
        assert number == model.classes.index(label)
        assert title.splitlines()[1] == f"label {label}: score {scores[number]:.3f}{said}"
    explore.main(["shapes:7", "--checkpoint", path, "--label", "3", "--out", str(tmp_path / "graph.png")])
    assert titles[-1][0] == 3 and titles[-1][1].splitlines()[1].startswith(f"label {CLASSES[2]}: ")


def test_what_a_photo_shows_is_not_known():
    assert explore.shows("photo.jpg", (32, 32), "star") is None and explore.shows("shapes:0", (32, 32), "dog") is None
    for index in range(4):
        shown = Shapes((24, 40), 4, "val", "multi")[index][1]
        assert [explore.shows(f"shapes:{index}", (24, 40), name) for name in CLASSES] == shown.bool().tolist()


def test_any_model_trained_on_several_labels_sees_all_shapes(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(explore, "probabilities", lambda model, crops, return_graphs:
                        seen.append(crops[0]) or probabilities(model, crops, return_graphs))
    out = str(tmp_path / "graph.png")
    number = next(i for i in range(20) if Shapes(32, 20, "val", "multi")[i][1].sum() > 1)
    explore.main([f"shapes:{number}", "--checkpoint", saved(tmp_path / "best.pt", "pvig_nano", list(CLASSES), **TINY),
                  "--out", out])
    explore.main([f"shapes:{number}", "--model", "lrgc_nano", "--out", out])
    assert torch.equal(seen[0], Shapes(32, 20, "val", "multi")[number][0])
    assert torch.equal(seen[1], Shapes(64, 20, "val", "single")[number][0])


@pytest.mark.parametrize("fields", [{}, {"groups": 1}, {"groups": 4}], ids=str)
def test_groups_of_an_isotropic_model(fields, tmp_path, capsys):
    path = saved(tmp_path / "best.pt", "vig_nano", list(CLASSES), graph="group_knn", depth=2, dim=16, **fields)
    explore.main(["shapes:3", "--checkpoint", path, "--out", str(tmp_path / "graph.png")])
    groups = fields.get("groups", 2)
    with Image.open(tmp_path / "graph.png") as page:
        assert page.width >= 8 + (1 + groups + (groups > 1)) * 264 and page.height > 2 * 256
    assert "neighbours of the 64 nodes, by layer" in capsys.readouterr().out


@pytest.mark.parametrize("argv, message", [
    (["--label", "stra"], "--label stra: no such label; did you mean star? There are 10, by name or number: disc,"),
    (["--label", "xyz"], "--label xyz: no such label. There are 10, by name or number: disc, ring"),
    (["--label", "10"], "--label 10: no such label. There are 10"),
    (["--label", ""], "no such label. There are 10"),
    (["--label", "star", "--node", "0,0"], "--label and --node: one picture shows one of them; leave the other out"),
    (["--label", "star", "--partitions"], "--label and --partitions: one picture shows one of them"),
    (["--label", "star", "--layers", "4"], "--layers 4: takes numbers of this model's cross levels, 0 to 3"),
    (["--layers", "5"], "--layers 5: takes numbers of this model's layers, 0 to 4"),
    (["--node", "32,0"], "--node 32,0: takes ROW,COLUMN of a patch, from 0,0 to 31,31"),
    (["--partitions"], "--partitions: this model's nodes have none"),
    (["--model", "pvig_nano", "--label", "star"], "--label: in pvig_nano's graphs no label is a node"),
    (["--checkpoint", "few.pt"], "few.pt: names 2 classes, and its model has 10"),
])
def test_wrong_input_is_one_sentence(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "few.pt" in argv:
        saved("few.pt", "gkgnet_nano", list(CLASSES), **TINY)
        state = checkpoint.load("few.pt")
        checkpoint.save("few.pt", state | {"classes": ["a", "b"]})
    with pytest.raises(SystemExit) as exit:
        explore.main(["shapes:0", *([] if "--model" in argv else ["--model", "gkgnet_nano"]), *argv])
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == "" and not (tmp_path / "graph.png").exists()
    assert message in printed.err and printed.err.startswith("explore: error: ") and printed.err.count("\n") == 1


def test_an_error_names_the_first_twenty_labels():
    with pytest.raises(ValueError, match=r"There are 80, by name or number: 0, .*, 19, …$"):
        explore_layers.choose_label("dog", [str(number) for number in range(80)])
    assert explore_layers.choose_label("1", ["0", "7", "1"]) == 2  # a name comes before a number
