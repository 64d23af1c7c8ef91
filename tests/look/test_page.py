"""The page of `explore --html` in a real browser: it shows the graph's own edges, and does what it says."""

import base64
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from vig_minimal import create_model, list_constructors
from vig_minimal.data.augment import normalise
from vig_minimal.data.synthetic import CLASSES
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.look import explain, explore
from vig_minimal.look.page import build as building
from vig_minimal.look.page.build import build, diversity, masks_of
from vig_minimal.look.panels import OUTLINE, WEIGHTS, shades
from vig_minimal.look.predict import Transform, open_image, open_model, open_scene

HALF = (0.5,) * 3, (0.5,) * 3  # mean and std
TINY = {"img_size": 32, "dim": 16, "depth": 3, "patch": 4}
PYRAMID = {"img_size": 32, "dim": (8, 16), "depth": (1, 2), "pool": (2, 1)}
MODELS = {"vig_nano": TINY, "svig_nano": TINY, "lrgc_nano": TINY, "cvig_nano": TINY, "pvig_nano": PYRAMID,
          "gkgnet_nano": PYRAMID}


def opened(name: str, **fields) -> torch.nn.Module:
    """A model as `open_model` gives it."""
    torch.manual_seed(3)
    model = create_model(name, **fields).eval()
    for block in model.blocks:
        constructor = getattr(getattr(block, "grapher", None), "constructor", None)
        if hasattr(constructor, "query"):  # so that some scores lie below τ
            torch.nn.init.normal_(constructor.query.weight, std=0.3)
            constructor.tau.data.fill_(0.1)
    model.name, model.classes, model.multi_label = name, list(CLASSES), name == "gkgnet_nano"
    model.transform = Transform(model.config.img_size)
    return model


@pytest.fixture(scope="module")
def models():
    return {name: opened(name, **fields) for name, fields in MODELS.items()}


@pytest.fixture(scope="module")
def graphs(models):
    """Every model's graphs of scene 9, in evaluation mode."""
    found = {}
    for name, model in models.items():
        image = open_image("shapes:9", Transform((32, 32)), "multi" if model.multi_label else "single")
        with torch.inference_mode():
            _, found[name] = model(normalise(image[None], *HALF), return_graphs=True)
    return found


@pytest.fixture(scope="module")
def page_file(models, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(build([(model, "random") for model in models.values()], ["shapes:9", "shapes:4"], "six models"),
                    encoding="utf-8")
    return file


@pytest.fixture
def page(page_file, browser):
    """A page of six models and two images, open in the browser."""
    if browser.run("return document.title") != "six models":
        browser.open(page_file)
    return browser


@pytest.fixture(scope="module")
def live_file(models, tmp_path_factory):
    file = tmp_path_factory.mktemp("live") / "live.html"
    file.write_text(build([(models["lrgc_nano"], "random")], ["shapes:9"], "live", True, 12), encoding="utf-8")
    return file


@pytest.fixture
def live(live_file, browser):
    """A page in which the network runs, opened anew."""
    browser.open(live_file)
    return browser


def show(page, model: str, layer: int = 0) -> None:
    page.choose("#model", str(list(MODELS).index(model)))
    page.until("return graphs.length && state.model === Number(arguments[0])", list(MODELS).index(model))
    page.choose("#layer", str(layer))


def shown(page) -> list[int]:
    """The nodes that are listed as sources, or as targets."""
    return page.run("return [...document.querySelectorAll('#list li')].map((item) => item.value)")


def runs(page) -> int:
    return page.run("return Number(document.body.dataset.runs)")


# ---- pictures of any model


@pytest.mark.parametrize("name", MODELS)
def test_moving_over_a_patch_lights_up_the_adjacencys_own_sources(name, page, graphs):
    for layer in range(len(graphs[name])):
        show(page, name, layer)
        graph = graphs[name][layer].union()
        about = page.run("return graphs[state.layer]")
        rows, columns = page.run("return model().grid")
        for row, column in ((1, 2), (rows - 2, columns - 1)):
            page.move("#picture", (column + 0.5) / columns, (row + 0.5) / rows)
            target = 0 if about["ofLabels"] else (row // about["scale"]) * about["grid"][1] + column // about["scale"]
            assert shown(page) == graph.adj()[0, target].nonzero()[:, 0].tolist(), (layer, row, column)


@pytest.mark.slow
def test_the_graph_of_every_constructor_is_shown(browser, tmp_path):
    models = [opened("vig_nano", graph=name, **TINY) for name in list_constructors()]
    page, image = tmp_path / "page.html", open_image("shapes:9", Transform((32, 32)))
    page.write_text(build([(model, model.config.graph) for model in models], ["shapes:9"], "all"), encoding="utf-8")
    browser.open(page)
    for number, model in enumerate(models):
        with torch.inference_mode():
            _, adjacencies = model(normalise(image[None], *HALF), return_graphs=True)
        browser.choose("#model", str(number))
        browser.until("return state.model === arguments[0] && graphs.length > 0 && picture !== null", number)
        for layer, graph in enumerate(adjacencies):
            adj = (graph if isinstance(graph, GroupGraph) else graph.union()).adj()[0]  # a hypergraph's hyperedges
            adj = adj.any(0) if adj.ndim == 3 else adj != 0
            rows = browser.run("return graphs[arguments[0]].rows().map((row) => row.map(({ j }) => j))", layer)
            assert rows == [row.nonzero()[:, 0].tolist() for row in adj], (model.config.graph, layer)
    assert browser.errors() == []


def test_is_read_by_lists_the_columns(page, graphs):
    show(page, "lrgc_nano", 1)
    adj = graphs["lrgc_nano"][1].adj()[0]
    assert not torch.equal(adj != 0, adj.T != 0)
    page.move("#picture", 2.5 / 8, 5.5 / 8)
    page.run("document.getElementById('targets').click()")
    assert shown(page) == adj[:, 5 * 8 + 2].nonzero()[:, 0].tolist()
    page.run("document.getElementById('sources').click()")
    assert shown(page) == adj[5 * 8 + 2].nonzero()[:, 0].tolist()


def test_weights_are_shown(page, graphs):
    show(page, "lrgc_nano", 0)
    page.move("#picture", 2.5 / 8, 5.5 / 8)
    weights = graphs["lrgc_nano"][0].adj()[0, 42]
    listed = page.run("return [...document.querySelectorAll('#list li')].map((item) => item.textContent)")
    for node, text in zip(weights.nonzero()[:, 0].tolist(), listed, strict=True):
        place, weight = text.split(": ")
        assert place == f"{node // 8},{node % 8}"
        assert abs(float(weight) - float(weights[node])) <= float(weights.max()) / 255 + 5e-4


@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano"])
def test_sources_are_tinted_and_all_else_is_the_plain_image(name, page, graphs):
    show(page, name, 0)
    page.move("#picture", 0.5 / 8, 0.5 / 8)
    before = page.run("return [...fit(picture).getContext('2d').getImageData(0, 0, 32, 32).data]")
    pixels = page.run("""const drawn = document.getElementById('picture').getContext('2d');
        const middle = (n) => 128 * n + 70;
        return Array.from({ length: 64 }, (_, n) => [...drawn.getImageData(middle(n % 8), middle(n >> 3), 1, 1).data]
            .slice(0, 3))""")
    adj = graphs[name][0].adj()[0, 0].float()
    plain = np.array(before).reshape(32, 32, 4)[2::4, 2::4, :3].reshape(64, 3)
    for node in range(64):
        share = float(adj[node] / adj.max()) if name == "lrgc_nano" else 0
        colour = shades(WEIGHTS, np.array(share)) if name == "lrgc_nano" else np.array([255, 138, 31])
        opacity = (0.3 + 0.25 * share) * bool(adj[node])
        assert np.abs(np.array(pixels[node]) - (1 - opacity) * plain[node] - opacity * colour).max() < 4, node
    legend = page.text("#legend")
    assert ("its sources, by weight from 0 to" in legend) == (name == "lrgc_nano") and "its sources" in legend


def test_one_outline_runs_around_neighbouring_sources(page):
    row = page.run("""const canvas = element("canvas", { width: 300, height: 100 }), image = element("canvas", {});
        const boxes = [[0, 0, 1], [0, 1, 1], [0, 2, 1]];
        drawPicture(canvas, image, [1, 3], { boxes, frames: [], sources: boxes.slice(0, 2).map((box) => (
          { box, share: 0, colours: [COLOUR.source] })) });
        const { data } = canvas.getContext("2d").getImageData(0, 50, 300, 1);
        return Array.from({ length: 300 }, (_, x) => [...data.slice(4 * x, 4 * x + 3)])""")
    ink = [x for x, colour in enumerate(row) if np.abs(np.subtract(colour, ImageColor.getrgb(OUTLINE))).max() < 40]
    assert ink and max(min(x, abs(x - 199)) for x in ink) < 8  # at both ends of the two, not between them


def test_the_plain_image_stands_beside_the_layers(page):
    show(page, "vig_nano", 0)
    plain, other = page.run("""const of = (canvas) => [...canvas.getContext("2d").getImageData(0, 0, 256, 256).data];
        const plain = document.querySelector("#layers .plain canvas");
        const same = element("canvas", { width: 256, height: 256 });
        same.getContext("2d").drawImage(picture, 0, 0, 256, 256);
        return [of(plain), of(same)]""")
    assert plain == other and page.text("#layers .plain") == "the image"


def test_one_patch_is_not_one_patches(page):
    show(page, "lrgc_nano", 0)
    said = page.run("""const graph = { ofLabels: false, pool: 1, groups: 1, name: "layer 0", box: () => [0, 0, 1] };
        return [1, 2].map((count) => {
          const edges = Array.from({ length: count }, (_, j) => ({ j, weight: 1, groups: [0] }));
          writeReading(graph, edges, { frames: [{ box: [0, 0, 1] }] });
          return document.getElementById("reading").textContent;
        })""")
    assert "reads from 1 patch in" in said[0] and "reads from 2 patches in" in said[1]
    page.run("refresh()")


def test_a_photo_is_cropped_or_stretched_as_in_python(page):
    wide = np.stack(np.broadcast_arrays(*np.ogrid[:30, :90], 0), 2).astype(np.uint8) * np.uint8(2)  # slopes
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    page.run("globalThis.fitted = null; load(arguments[0]).then((image) => { fitted = [0, 1].map((share) => "
             "[...pixelsOf(fit(image, share))]); })", source)
    page.until("return fitted !== null")
    for share, pixels in zip((0.0, 1.0), page.run("return fitted"), strict=True):
        expected = Transform((32, 32), share).crop(Image.fromarray(wide)).permute(1, 2, 0).float()
        assert (torch.tensor(pixels).view(32, 32, 3) - expected).abs().mean() < 2


def test_the_table_is_the_graphs_statistics(page, graphs):
    show(page, "lrgc_nano")
    rows = page.run("return [...document.querySelectorAll('#numbers tr')].map((row) => ("
                    "[...row.cells].map((cell) => cell.textContent)))")
    masks, before = masks_of("shapes:9", Transform((32, 32)), (8, 8), "single"), None
    for graph, row in zip(graphs["lrgc_nano"], rows, strict=True):
        stats, edges, length, same, of_object = graph.statistics(), set(), 0.0, 0, 0
        for i, j in (graph.adj()[0] != 0).nonzero().tolist():
            if i == j:
                continue
            edges.add((i, j))
            length += math.hypot(i // 8 - j // 8, i % 8 - j % 8)
            if masks[i]:
                of_object += 1
                same += masks[i] == masks[j]
        expected = [stats["mean_degree"], stats["min_degree"], stats["max_degree"], 100 * stats["isolated"],
                    100 * stats["self_loops"], length / len(edges),
                    None if before is None else 100 * len(edges & before) / len(edges | before), None,
                    100 * same / of_object, 100 * explain.saturated(graph.adj(), 0.1)]
        for text, value in zip(row[1:], expected, strict=True):
            if value is not None:
                assert float(text.removesuffix(" %")) == pytest.approx(value, abs=0.06), (row, expected)
        before = edges


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_a_row_in_the_table(name, page, graphs):
    show(page, name)
    assert page.run("return document.querySelectorAll('#numbers tr').length") == len(graphs[name])
    assert page.errors() == []


def test_partitions_groups_and_labels_are_named(page):
    show(page, "cvig_nano")
    page.run("[...document.querySelectorAll('#pipeline button')].find((b) => b.textContent === 'partitions').click()")
    assert re.findall(r"partition \d", page.text("#legend")) == [f"partition {n}" for n in range(4)]
    show(page, "gkgnet_nano")
    assert "group 0" in page.text("#legend") and "group 1" in page.text("#legend")
    show(page, "gkgnet_nano", 1)
    page.choose("#label", "3")
    assert page.text("#reading").startswith("Label «triangle» reads from")
    page.run("document.getElementById('why-this').click()")
    assert "It does, in group" in page.text("#why")
    page.run("go({ held: false, hovered: null })")


def test_the_keyboard_moves_patch_and_layer(page):
    show(page, "vig_nano", 0)
    page.run("document.getElementById('picture').focus(); go({ node: [3, 3], held: false, hovered: null })")
    page.press("ArrowUp", "ArrowLeft", "ArrowLeft", "]", "]", "[")
    assert page.run("return [state.node, state.layer]") == [[2, 1], 1]
    page.press("ArrowUp", "ArrowUp", "ArrowUp", "[", "[", "[")  # no further than the edge
    assert page.run("return [state.node, state.layer]") == [[0, 1], 0]
    assert page.text("#reading").startswith("Patch 0,1 reads from")
    assert page.run("return document.getElementById('picture').getAttribute('aria-label')").startswith("Patch 0,1")
    page.press("Enter")
    assert "(held)" in page.text("#reading")
    page.press("Escape", "r")
    assert "is read by" in page.text("#reading")
    page.press("r")
    page.run("document.getElementById('layer').focus()")
    page.press("[", "]", "]")  # on a slider too, whose own keys are the arrows
    assert page.run("return state.layer") == 2


def test_a_click_holds_a_patch_and_another_click_lets_go(page):
    show(page, "vig_nano", 0)
    page.move("#picture", 0.4, 0.4, click=True)
    page.move("#picture", 0.9, 0.9)
    assert page.text("#reading").startswith("Patch 3,3") and page.text("#why").startswith("And 7,7? ")
    page.move("#picture", 0.4, 0.4, click=True)
    page.move("#picture", 0.9, 0.9)
    assert page.text("#reading").startswith("Patch 7,7") and page.text("#why") == ""


def test_the_tour_walks_through_all_steps(page):
    show(page, "lrgc_nano", 1)
    page.run("document.getElementById('tour').click()")
    titles = []
    for _ in range(page.run("return steps().length")):
        titles.append(page.text("#title"))
        assert page.text("#equation") and page.text("#says") and ".py" in page.text("#where")
        page.run("document.getElementById('next').click()")
    assert titles[0] == "Stem" and titles[-1] == "Head" and "Scores" in titles and "Max-relative" in titles
    assert page.text("#title") == "Stem"


def test_another_image_is_shown(page, models):
    show(page, "vig_nano", 0)
    answers = []
    for image in "01":
        page.choose("#image", image)
        page.until("return state.image === Number(arguments[0])", image)
        page.until("return document.querySelector('#answer')")
        answers.append(page.text("#answer"))
    page.choose("#image", "0")


def test_everything_can_be_reached_and_is_named(page):
    unnamed = page.run("""const all = document.querySelectorAll('button, select, input, canvas[tabindex], svg');
        return [...all].filter((e) => e.offsetParent !== null && !e.textContent.trim()
            && !e.getAttribute('aria-label') && !e.closest('label')).map((e) => e.outerHTML.slice(0, 80))""")
    assert unnamed == []
    page.run("window.order = []; document.addEventListener('focusin', ({ target }) => order.push(target.id))")
    page.press(*60 * ["Tab"])
    order = page.run("return order")
    order = order[order.index("image"):]  # after the last one the first follows
    assert order.index("image") < order.index("picture") < order.index("layer") < order.index("next")


@pytest.mark.parametrize("width", [400, *(pytest.param(width, marks=pytest.mark.slow) for width in (1280, 1600))])
def test_nothing_is_wider_than_the_window(page, width):
    page.call("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride",
              params={"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    try:
        for name in MODELS:
            show(page, name, 0)
            assert page.run("return document.documentElement.scrollWidth") <= width, name
    finally:
        page.call("POST", "/goog/cdp/execute", cmd="Emulation.clearDeviceMetricsOverride", params={})


def test_no_error_and_no_request(page):
    assert page.errors() == []
    assert [url for url in page.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


def test_names_are_escaped(browser, tmp_path):
    evil = '</script><img src=x onerror="document.body.id=1">'
    model = opened("vig_nano", **TINY | {"num_classes": 2})
    model.name, model.classes = evil, [evil, "<b>"]
    image = tmp_path / "<img src=y onerror=alert(1)>.png"
    Image.new("RGB", (40, 40), "red").save(image)
    (tmp_path / "page.html").write_text(build([(model, evil)], [str(image)], evil), encoding="utf-8")
    browser.open(tmp_path / "page.html")
    assert browser.run("return document.images.length + document.querySelectorAll('#answer b b').length") == 0
    assert browser.text("h1") == evil and browser.run("return document.body.id") == ""
    assert evil in browser.run("return [...document.querySelectorAll('#answer span')].map((s) => s.textContent)")
    assert browser.errors() == []


# ---- the network runs


def test_the_live_page_says_what_pytorch_says(live, models):
    image = open_image("shapes:9", Transform((32, 32)))
    with torch.inference_mode():
        logits = models["lrgc_nano"](normalise(image[None], *HALF))[0]
    page = torch.tensor(live.run("return [...live.logits]"))
    assert (page - logits).abs().max() < 0.02 * logits.abs().max()  # float16 weights


def test_a_higher_threshold_takes_edges_away_here_and_changes_later_layers(live):
    count = runs(live)
    edges = live.run("return graphs.map((graph) => graph.rows().flat().length)")
    live.choose("#layer", "1")
    live.run("document.getElementById('tau').focus()")
    live.choose("#tau", live.run("return document.getElementById('tau').max"))
    live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
    after = live.run("return graphs.map((graph) => graph.rows().flat().length)")
    assert after[0] == edges[0] and after[1] == 0 < edges[1]
    assert f"{edges[1]} edges are gone" in live.text("#changed") or "edges are gone" in live.text("#changed")
    assert f"−{edges[1]}" in live.run("return document.querySelectorAll('#layers button')[1].textContent")
    count = runs(live)
    live.run("document.getElementById('reset').click()")
    live.until("return Number(document.body.dataset.runs) > arguments[0] && !changed()", count)
    assert live.run("return graphs.map((graph) => graph.rows().flat().length)") == edges


@pytest.mark.parametrize("score, tau, says", [
    (256.078, 18, "not read: its score α′ = 256.078 is above τ = 18.000, but σ of both is 1 in float32, so α = 0."),
    (256.078, 12, "reads: its score α′ = 256.078 is above τ = 12.000, so α = tanh(σ(256.078) − σ(12.000)) = 6.1e-6."),
    (3, 18, "It does not read: its score α′ = 3.000 is not above τ = 18.000."),
    (2, 0, "It reads: its score α′ = 2.000 is above τ = 0.000, so α = tanh(σ(2.000) − σ(0.000)) = 0.363."),
    (-1 + 1e-9, -1, "but σ of both is the same number in float32, so α = 0.")])
def test_a_sentence_never_contradicts_its_numbers(live, score, tau, says):
    """α as the network computes it, in float32, beside the score and τ."""
    said = live.run("""const [score, tau] = arguments, level = (s) => Math.fround(sigmoid(s));
        const weight = Math.fround(Math.tanh(Math.max(0, level(score) - level(tau))));
        return why({ score: [score], weights: [weight], winner: new Int32Array(1) },
          { constructor: "lrgc", tau, edges: {} }, 0, 0, 1, 1)""", score, tau)
    assert said.split(" It wins")[0].endswith(says)


def test_saturated_edges_are_counted_as_in_python(live, models, graphs):
    """Also after τ was moved."""
    live.run("go({ layer: 1 })")
    shares = live.run("return graphs.map(({ data }) => data.saturated)")
    for share, graph, block in zip(shares, graphs["lrgc_nano"], models["lrgc_nano"].blocks, strict=True):
        expected = explain.saturated(graph.adj(), block.grapher.constructor.tau.item())
        assert share == pytest.approx(expected, abs=0.02)  # float16 weights
    note = live.text("#note")
    assert note.startswith("τ = 0.10. ") and f"{100 * shares[1]:.1f} % of the edges of this layer" in note
    count = runs(live)
    live.run("change({ tau: 17 })")
    live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
    assert live.run("return graphs[1].data.saturated") in (None, 1)
    live.run("change({ constructor: 'knn' })")
    live.until("return graphs[1].data.saturated === null && live.settings[1].constructor === 'knn'")
    assert live.text("#note") == ""


def test_another_constructor_in_all_layers(live):
    count = runs(live)
    live.choose("#everywhere", "yes")
    live.choose("#constructor", "knn")
    live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
    assert live.run("return graphs.every((graph) => graph.rows().every((row) => row.length === live.settings[0].k))")
    knobs = live.run("return [...document.querySelectorAll('.knob:not([hidden]) input')].map((e) => e.id)")
    assert knobs == ["k", "dilation"]
    assert live.text("#title") == "Edges: k nearest"


def test_the_questions_are_answered(live, models):
    """Each button above the picture changes the page so that it says why, or what would be."""
    live.run("go({ layer: 1, node: [2, 2] }); document.getElementById('why-this').click()")
    row = live.run("return graphs[1].row(18).map(({ j }) => j).filter((j) => j !== 18)")
    r, c = live.run("return state.hovered")
    assert 8 * r + c in row and re.match(rf"And {r},{c}\? It reads: its score α′ = .* is above τ", live.text("#why"))
    for question, graph in (("random", "random"), ("none", "none")):
        count = runs(live)
        live.run(f"""document.querySelector('[data-ask*="{question}"]').click()""")
        live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
        assert live.run("return live.settings.map(({ constructor }) => constructor)") == 3 * [graph]
        assert "edges are gone" in live.text("#changed") and live.text("#where").startswith("vig_minimal/constructors/")
        assert live.text("#title") == "Image-independent edges"
    live.run("document.getElementById('reset').click()")
    live.until("return !changed()")
    count = runs(live)
    live.run("document.getElementById('ask-tau').click()")
    live.until("return Number(document.body.dataset.runs) > arguments[0] && changed()", count)
    tau = models["lrgc_nano"].blocks[0].grapher.constructor.tau.item()
    assert live.run("return live.settings.map(({ tau }) => tau)") == pytest.approx([tau, 2, tau], rel=1e-3)
    assert "τ = 2" in live.text("#change") and "weaker" in live.text("#change .hint:not([hidden])")


def test_the_scenes_that_are_recognised_are_counted(live, models):
    """With the graphs of now, over all scenes of the page; here with PyTorch too."""
    right = 0
    for index in range(12):
        image, label = open_scene(f"shapes:{index}", (32, 32), "single")
        with torch.inference_mode():
            right += int(models["lrgc_nano"](normalise(image[None], *HALF)).argmax()) == label
    live.run("document.getElementById('count').click()")
    said = live.until("return document.getElementById('counts').textContent.match(/.* of 12 .*/)?.[0]")
    assert said == f"as trained: {right} of 12 scenes correct"
    live.run("change({ constructor: 'full', edges: {} })")
    live.until("return changed()")
    live.run("document.getElementById('count').click()")
    assert live.until("return document.querySelector('#counts li + li')?.textContent.match(/full in 1 of 3 .* of 12/)")


def test_an_edge_is_cut_by_hand_and_put_back(live):
    live.run("document.getElementById('picture').focus(); go({ node: [2, 2], held: true })")
    source = live.run("const { j } = graphs[0].row(18).find(({ j }) => j !== 18);"
                      "go({ hovered: [j >> 3, j % 8] }); return j")
    for there in (False, True):
        assert ("reads:" in live.text("#why")) is not there
        count = runs(live)
        live.press("x")
        live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
        assert (source in shown(live)) is there


def test_painting_changes_the_image_and_the_graph(live):
    count, before = runs(live), live.run("return [...live.logits]")
    live.run("document.querySelector('[data-mode=paint]').click()")
    live.move("#picture", 0.5, 0.5, click=True)
    live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
    assert live.run("const at = 3 * (16 * 32 + 16); return [...state.pixels.slice(at, at + 3)]") == [255, 255, 255]
    assert live.run("return [...live.logits]") != before


def test_a_scene_by_its_number(live):
    count = runs(live)
    live.choose("#scene", "7")
    live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
    expected = open_image("shapes:7", Transform((32, 32))).permute(1, 2, 0).flatten().tolist()
    assert live.run("return [...state.pixels]") == expected


def photos(folder):
    """Files that people have: name -> a picture whose middle is red."""
    red = Image.new("RGB", (60, 40), (200, 0, 0))
    made = {"wide.png": red, "tall.jpg": red.rotate(90, expand=True), "dot.png": Image.new("RGB", (1, 1), (200, 0, 0)),
            "huge.png": Image.new("RGB", (6000, 3000), (200, 0, 0)), "palette.gif": red.quantize(),
            "cmyk.jpg": red.convert("CMYK"), "grey.png": Image.new("L", (30, 50), 77),
            "clear.png": Image.new("RGBA", (30, 50), (0, 0, 0, 0))}
    for name, picture in made.items():
        picture.save(folder / name)
    return [folder / name for name in made]


def turned(folder):
    """A photo that is red above and blue below in the file, and is to be shown turned by 90 degrees clockwise."""
    image, exif = Image.new("RGB", (40, 40), (200, 0, 0)), Image.Exif()
    image.paste((0, 0, 200), (0, 20, 40, 40))
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    return folder / "turned.jpg"


def test_a_photo_of_ones_own_whatever_it_is(live, tmp_path):
    field = live.call("POST", "/element", using="css selector", value="#file")
    for file in photos(tmp_path):
        count = runs(live)
        live.call("POST", f"/element/{next(iter(field.values()))}/value", text=str(file))
        live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
        expected = {"grey.png": (77, 77, 77), "clear.png": (255, 255, 255)}.get(file.name, (200, 0, 0))
        pixels = np.array(live.run("return [...state.pixels]")).reshape(32 * 32, 3)
        assert np.abs(pixels - expected).max() <= 24, file.name  # JPEG and CMYK are not exact
        assert live.run("return $('image').selectedOptions[0].text") == file.name
    live.choose("#image", "0")
    live.until("return document.querySelectorAll('#image option').length === 1")
    live.until("return !changed()")
    count = runs(live)  # a camera that was held upright: what lies above in the file is on the right
    live.call("POST", f"/element/{next(iter(field.values()))}/value", text=str(turned(tmp_path)))
    live.until("return Number(document.body.dataset.runs) > arguments[0]", count)
    pixels = np.array(live.run("return [...state.pixels]")).reshape(32, 32, 3)
    assert np.abs(pixels[:, 2] - (0, 0, 200)).max() <= 24 and np.abs(pixels[:, 29] - (200, 0, 0)).max() <= 24
    (tmp_path / "text.png").write_text("no image")
    live.call("POST", f"/element/{next(iter(field.values()))}/value", text=str(tmp_path / "text.png"))
    assert "text.png is not an image" in live.until("return document.getElementById('changed').textContent")


def test_the_live_page_runs_without_error(live):
    assert live.errors() == []
    assert [url for url in live.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


# ---- the file and the command


@pytest.mark.slow
def test_a_page_of_12_layers_and_196_nodes_is_small(monkeypatch):
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda tensor: tensor.data.uniform_(-0.05, 0.05))
    assert len(build([(opened("lrgc_ti", num_classes=10), "random")], ["shapes:1"], "size")) < 3 * 2**20


def test_diversity_is_0_where_all_nodes_are_alike():
    assert diversity(torch.ones(1, 4, 3, 3)) == pytest.approx(0)
    features = torch.randn(1, 4, 3, 3)
    centred = features - features.mean((2, 3), keepdim=True)
    assert diversity(centred) == pytest.approx(1)


def test_masks_say_which_shape_a_patch_shows():
    masks = torch.tensor(masks_of("shapes:9", Transform((64, 64)), (8, 8), "single"))
    assert set(masks.tolist()) == {0, 1} and masks_of("photo.jpg", Transform((64, 64)), (8, 8), "single") is None


def test_explore_takes_other_constructors(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explore.main(["shapes:2", "--graph", "svga", "--graph", "none", "--html", "page.html"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "svga graph, random weights" in page and "none graph, random weights" in page
    explore.main(["shapes:2", "--model", "vig_nano", "--graph", "none", "--out", "graph.png"])
    assert "vig_nano, none graph, random weights" in (said := capsys.readouterr().out)
    assert re.search(r"0 +1\.0 +1 +1", said)


def test_explore_writes_a_page(tmp_path, capsys):
    page = str(tmp_path / "page.html")
    explore.main([*map(str, photos(tmp_path)), "shapes:2", "--model", "vig_nano", "--html", page])
    assert "see the graph" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "open it in a browser" in capsys.readouterr().out


def test_photos_are_shown_as_the_model_sees_them(models, tmp_path):
    files = [*photos(tmp_path), turned(tmp_path)]
    page = build([(models["vig_nano"], "random")], [str(file) for file in files], "photos")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    for file, view in zip(files, data["views"][0], strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(data["pictures"][view["picture"]].partition(",")[2])))
        pixels = np.array(shown.convert("RGB"), int)
        assert pixels.shape == (32, 32, 3)
        left, right = {"grey.png": [(77, 77, 77)] * 2, "clear.png": [(255, 255, 255)] * 2,
                       "turned.jpg": [(0, 0, 200), (200, 0, 0)]}.get(file.name, [(200, 0, 0)] * 2)
        assert np.abs(pixels[:, 2] - left).max() <= 24 and np.abs(pixels[:, 29] - right).max() <= 24, file.name


def test_an_image_of_too_many_pixels_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 60)).save("bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the true limit needs hundreds of megabytes
    with pytest.raises(SystemExit) as end:
        explore.main(["bomb.png", "--html", "p.html"])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and "bomb.png" in err and "Traceback" not in err


def test_images_that_are_not_square(browser, tmp_path):
    """A model of 24 × 40 pixels: 6 × 10 patches, on the page and live."""
    model = opened("lrgc_nano", **TINY | {"img_size": (24, 40)})
    (tmp_path / "wide.html").write_text(build([(model, "random")], ["shapes:9"], "wide", True, 2), encoding="utf-8")
    browser.open(tmp_path / "wide.html")
    browser.until("return live !== null")
    image = open_image("shapes:9", model.transform)
    with torch.inference_mode():
        logits, graphs = model(normalise(image[None], *HALF), return_graphs=True)
    page = torch.tensor(browser.run("return [...live.logits]"))
    assert (page - logits[0]).abs().max() < 0.02 * logits.abs().max()  # float16 weights
    browser.move("#picture", 7.5 / 10, 4.5 / 6)
    assert browser.text("#reading").startswith("Patch 4,7 reads from")
    assert shown(browser) == graphs[0].adj()[0, 47].nonzero()[:, 0].tolist()
    box = browser.run("const b = document.getElementById('picture').getBoundingClientRect(); return b.width / b.height")
    assert box == pytest.approx(40 / 24, rel=0.01) and browser.errors() == []


@pytest.mark.parametrize("argv, says", [
    (["shapes:1", "--live"], "--live: add --html FILE"), (["--run", "runs/x"], "--run: add --html FILE"),
    (["shapes:1", "shapes:2"], "a picture shows one image and one model"), ([], "required: image"),
    (["--html", "p.html"], "name one image or several"), (["shapes:1", "--html", "p.html", "--node", "1,1"], "--node"),
    (["shapes:1", "--html", "no/folder/p.html"], "cannot be written"),
    (["shapes:1", "--html", "."], ".: the page cannot be written (Is a directory)"),
    (["shapes:1", "--html", "p.html", "--out", "q.png"], "--out: is for pictures"),
    (["shapes:1", "--html", "p.html", "--threshold", "0.3"], "--threshold: is for pictures"),
    (["shapes:1", "--html", "p.html", "--run", "x"], "leave images"),
    (["--html", "p.html", "--run", "nowhere"], "train with --every N"),
    (["shapes:1", "--html", "p.html", "--live", "--model", "cvig_nano"], "leave --live out"),
    (["shapes:1", "--html", "p.html", "--model", "cnn2gnn_nano"], "no graph over patches"),
    (["nothing.jpg", "--html", "p.html"], "no such image"),
    (["shapes:1", "--graph", "svga", "--checkpoint", "best.pt"], "--graph: a trained model has its own graph"),
    (["shapes:1", "--graph", "svga", "--graph", "mgc"], "one of each"),
    (["shapes:1", "--html", "p.html", "--graph", "lrgx"], "did you mean lrgc?"),
])
def test_bad_input_is_one_sentence(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        explore.main(argv)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and says in err
    assert not (tmp_path / "p.html").exists()


def test_a_page_that_browsers_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(building, "LARGEST", 1000)
    with pytest.raises(ValueError, match="take fewer or smaller images"):
        build([(open_model("vig_nano", None), "random")], ["shapes:1"], "large")


def test_the_scripts_stay_short():
    scripts = {path.name: path.read_text(encoding="utf-8").splitlines() for path in building.FILES.glob("*.js")}
    assert sum(map(len, scripts.values())) < 970
    assert not [f"{name}:{n}" for name, lines in scripts.items() for n, line in enumerate(lines, 1) if len(line) > 120]
