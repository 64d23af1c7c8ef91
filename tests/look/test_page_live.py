"""The network that runs in the page: in a real browser its numbers and edges are PyTorch's, whatever is changed."""

import json

import pytest
import torch

from helpers import FAMILIES
from vig_minimal import Graph, create_model
from vig_minimal.constructors import KNN, Alone, Full, SimilarityThreshold
from vig_minimal.data.augment import normalise
from vig_minimal.look.page.build import FILES
from vig_minimal.look.page.live import fold, live
from vig_minimal.look.predict import Transform, open_image
from vig_minimal.models.cost import count_macs

SIDE, NODES = 24, 36
SEEN = Transform((SIDE, SIDE), mean=(0.5, 0.4, 0.6), std=(0.5, 0.3, 0.4))
SMALL = {"img_size": SIDE, "patch": 4, "dim": 16, "depth": 3}


def trained_like(name: str, **fields) -> torch.nn.Module:
    """A model whose features differ from node to node, and whose every factor counts."""
    model = create_model(name, **SMALL | fields).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.3)
    torch.nn.init.normal_(model.position, std=0.5)
    for block in model.blocks:
        if hasattr(block.grapher.constructor, "query"):
            torch.nn.init.normal_(block.grapher.constructor.query.weight, std=0.1)
            block.grapher.constructor.tau.data.fill_(-0.05)
    model.name, model.transform = name, SEEN
    return model


@pytest.fixture(params=FAMILIES)
def opened(request, browser, tmp_path):
    """A model, whose network stands ready in the browser as `network`, with its `settings`."""
    model = trained_like(request.param)
    put(browser, model, tmp_path)
    return model


def put(browser, opened, folder) -> None:
    page = folder / "network.html"
    script = (FILES / "network.js").read_text(encoding="utf-8")
    about = json.dumps(live(opened))
    page.write_text(f"<meta charset=utf-8><body data-ready=yes><script>{script}; let about = {about};"
                    "const network = new Network(about, halves(bytesOf(about.weights)));</script>", encoding="utf-8")
    browser.open(page)


def run(browser, image: torch.Tensor, change: str = "") -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The network's logits and adjacencies. change: JavaScript that changes `settings`, one for each block."""
    found = browser.run(f"const settings = structuredClone(about.settings); {change};"
                        "const { logits, layers } = network.run(Uint8Array.from(arguments[0]), settings);"
                        "return [[...logits], layers.map(({ weights }) => [...weights])]",
                        image.permute(1, 2, 0).flatten().tolist())
    adjacencies = [torch.tensor(weights, dtype=torch.float64) for weights in found[1]]
    return torch.tensor(found[0], dtype=torch.float64), [a.view(2 * [int(len(a) ** 0.5)]) for a in adjacencies]


def reference(opened, image: torch.Tensor, change=lambda blocks: None):
    """The same from PyTorch, in float64 with the page's float16 weights."""
    model = fold(opened).double()
    change([block.grapher for block in model.blocks])
    with torch.inference_mode():
        logits, graphs = model(normalise(image[None], SEEN.mean, SEEN.std).double(), return_graphs=True)
    return logits[0], [graph.adj()[0].double() for graph in graphs]


def assert_equal(page, torch_):
    assert (page[0] - torch_[0]).abs().max() < 1e-3 * torch_[0].abs().max()
    for ours, theirs in zip(page[1], torch_[1], strict=True):
        assert torch.equal(ours != 0, theirs != 0)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("images", [range(2), pytest.param(range(2, 20), marks=pytest.mark.slow)], ids=["2", "18 more"])
def test_logits_and_edges_are_pytorchs(images, opened, browser):
    for index in images:
        image = open_image(f"shapes:{index}", SEEN)
        assert_equal(run(browser, image), reference(opened, image))


CHANGES = [
    ("lrgc_nano", "settings[1].tau = 0.2", lambda g: g[1].constructor.tau.data.fill_(0.2)),
    ("lrgc_nano", "settings[0].tau = 100", lambda g: g[0].constructor.tau.data.fill_(100)),  # no edge in that layer
    ("lrgc_nano", "settings.forEach((own) => { own.tau = -100 })",
     lambda g: [part.constructor.tau.data.fill_(-100) for part in g]),
    ("lrgc_nano", "settings[1].constructor = 'knn'; settings[1].k = 5", lambda g: setattr(g[1], "constructor", KNN(5))),
    ("vig_nano", "settings[0].k = 3; settings[2].dilation = 2; settings[2].k = 4",
     lambda g: [setattr(g[0], "constructor", KNN(3)), setattr(g[2], "constructor", KNN(4, 2))]),
    ("svig_nano", "settings.forEach((own) => { own.z = 0.5244005127080407 })",
     lambda g: [setattr(part, "constructor", SimilarityThreshold(0.7)) for part in g]),
    ("vig_nano", "settings[1].constructor = 'full'", lambda g: setattr(g[1], "constructor", Full())),
    ("vig_nano", "settings[1].constructor = 'none'", lambda g: setattr(g[1], "constructor", Alone())),
]


@pytest.mark.parametrize("name, script, change", [
    pytest.param(*change, id=f"{change[0]}: {change[1]}", marks=[pytest.mark.slow] if n % 2 else [])
    for n, change in enumerate(CHANGES)])
def test_what_a_change_does_is_what_it_does_in_pytorch(name, script, change, browser, tmp_path):
    model, image = trained_like(name), open_image("shapes:3", SEEN)
    put(browser, model, tmp_path)
    changed = run(browser, image, script)
    assert_equal(changed, reference(model, image, change))
    assert not torch.allclose(changed[0], run(browser, image)[0], rtol=1e-3)


class Edited(torch.nn.Module):
    """A constructor's graph with one weight changed by hand."""

    def __init__(self, constructor, target, source, weight):
        super().__init__()
        self.constructor, self.edge, self.weight = constructor, (0, target, source), weight

    def forward(self, nodes, grid):
        graph = self.constructor(nodes, grid)
        weights = graph.adj().clone()
        weights[self.edge] = self.weight
        return Graph(graph.num_sources, weights=weights)


@pytest.mark.parametrize("weight", [0, 1])
def test_an_edge_cut_or_added_by_hand(opened, browser, weight):
    image = open_image("shapes:4", SEEN)
    adj = reference(opened, image)[1][1]
    wanted = ((adj == 0) == bool(weight)) & ~torch.eye(NODES, dtype=torch.bool)  # an edge to cut, or a place for one
    target, source = wanted.nonzero()[10].tolist()
    page = run(browser, image, f"settings[1].edges[{target * NODES + source}] = {weight}")
    assert page[1][1][target, source] == weight
    assert_equal(page, reference(opened, image, lambda g: setattr(
        g[1], "constructor", Edited(g[1].constructor, target, source, weight))))


def test_grid_and_random_are_what_they_say(browser, tmp_path):
    put(browser, trained_like("vig_nano"), tmp_path)
    image = open_image("shapes:3", SEEN)
    places = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0))
    _, grids = run(browser, image, "settings[0].constructor = 'grid'")
    assert torch.equal(grids[0] != 0, torch.cdist(places, places, p=torch.inf) < 1.5)
    _, drawn = run(browser, image, "settings[0].constructor = 'random'; settings[0].k = 6")
    assert (drawn[0].sum(1) == 6).all() and (drawn[0].diagonal() == 1).all()
    assert not torch.equal(drawn[0], run(browser, image, "Object.assign(settings[0], { constructor: 'random', k: 6,"
                                                         " seed: 1 })")[1][0])


def test_from_the_block_that_was_changed_on_is_as_from_the_start(opened, browser):
    """A change in block 1 runs block 0 no more, and gives the same."""
    pixels = open_image("shapes:5", SEEN).permute(1, 2, 0).flatten().tolist()
    again, whole = browser.run("""
        const pixels = Uint8Array.from(arguments[0]), settings = structuredClone(about.settings);
        network.run(pixels, settings);
        Object.assign(settings[1], { constructor: "grid" });
        const again = [...network.run(pixels, settings, 1).logits];
        return [again, [...network.run(pixels, settings).logits]]""", pixels)
    assert again == whole


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["lrgc", "knn", "threshold"])
def test_one_pass_costs_little_more_than_its_multiply_adds(graph, browser, tmp_path):
    """Of the whole lrgc_nano, beside as many multiply-adds in a plain loop: both sides in one run, in turns."""
    model = create_model("lrgc_nano").eval()
    model.name, model.transform = "lrgc_nano", Transform((64, 64))
    put(browser, model, tmp_path)
    ratios = browser.run("""
        const given = arguments, pixels = Uint8Array.from({ length: 64 * 64 * 3 }, (_, n) => n * n % 256);
        const own = about.settings.map((own) => ({ ...own, constructor: given[0] }));
        const [a, b] = [1, 2].map((seed) => Float32Array.from({ length: 4096 }, (_, n) => Math.sin(seed + n)));
        function multiplyAdds() {
          let sum = 0;
          for (let n = 0; n < given[1] / 4096; n++) for (let c = 0; c < 4096; c++) sum += a[c] * b[c];
          return sum;
        }
        function seconds(work) { const start = performance.now(); work(); return performance.now() - start; }
        return Array.from({ length: 6 }, () => seconds(() => network.run(pixels, own)) / seconds(multiplyAdds));""",
        graph, int(count_macs(model, torch.zeros(2, 3, 64, 64))))
    assert 0 < min(ratios) < 3, ratios


def test_folded_weights_give_the_models_logits():
    opened = trained_like("lrgc_nano")
    image = normalise(open_image("shapes:6", SEEN)[None], SEEN.mean, SEEN.std)
    with torch.inference_mode():
        ours, theirs = fold(opened)(image), opened(image)
    assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()  # rounded to float16
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fold(opened).modules())


@pytest.mark.parametrize("name, fields, says", [
    ("cvig_nano", {}, "runs ViG, SViG and LRGC"), ("pvig_nano", {}, "runs ViG, SViG and LRGC"),
    ("vig_nano", {"conv": "edge"}, "max-relative"), ("vig_nano", {"graph": "group_knn"}, "runs ViG, SViG and LRGC"),
    ("vig_ti", {}, "7,184,744 parameters")])
def test_a_model_that_the_page_cannot_run_is_refused(name, fields, says):
    model = create_model(name, **fields)
    model.name = name
    with pytest.raises(ValueError, match=says):
        live(model)
