"""docs/playground.html: what docs/playground.py would write today, apart from weights, and it works by itself."""

import importlib.util
import json
from pathlib import Path

import pytest

from vig_minimal.data.augment import normalise
from vig_minimal.data.synthetic import Shapes
from vig_minimal.look.explain import trace
from vig_minimal.look.page.build import model_of, steps_of
from vig_minimal.look.predict import open_image, open_model

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("playground", ROOT / "docs" / "playground.py")
playground = importlib.util.module_from_spec(spec)
spec.loader.exec_module(playground)
PAGE = playground.PAGE.read_text(encoding="utf-8")
DATA = json.loads(playground.DATA.search(PAGE)[1])


def test_scripts_and_style_are_those_of_today():
    assert playground.refreshed(PAGE) == PAGE, "run python docs/playground.py"
    assert playground.refreshed(PAGE.replace("</style>", "p { color: red }</style>")) == PAGE


def without(values: object, keys: set[str]) -> object:
    """Nested dicts and lists without these keys."""
    if isinstance(values, dict):
        return {key: without(value, keys) for key, value in values.items() if key not in keys}
    return [without(value, keys) for value in values] if isinstance(values, list) else values


def test_the_model_is_todays_apart_from_weights():
    """What the steps say, the shapes, the order of the weights, the settings, and the scenes."""
    model = open_model("lrgc_nano", None)
    image = open_image(playground.IMAGES[0], model.transform)
    _, graphs, values = trace(model, normalise(image[None], model.transform.mean, model.transform.std))
    today, kept = model_of(model, "", graphs, [0.0] * 6, True), DATA["models"][0]
    learnt = {"about", "tau", "weights", "low", "high", "scenes"}
    as_json = json.loads(json.dumps({"model": today, "steps": steps_of(values)}))
    assert without({"model": kept, "steps": DATA["views"][0][0]["steps"]}, learnt) == without(as_json, learnt), \
        "run python docs/playground.py CHECKPOINT"
    assert len(kept["live"]["weights"]) == len(today["live"]["weights"])
    assert kept["scenes"]["labels"] == [Shapes((64, 64), playground.SCENES)[i][1] for i in range(playground.SCENES)]


def test_it_is_small_and_says_where_it_comes_from():
    assert len(PAGE.encode()) < 4_000_000
    assert "synthetic scenes" in DATA["models"][0]["about"] and "/" not in DATA["models"][0]["about"]


def test_it_runs_recognises_scenes_and_asks_for_nothing(browser):
    browser.open(playground.PAGE)
    browser.until("return live !== null")
    labels, classes = browser.run("return [model().scenes.labels, model().classes]")
    right = 0
    for number in (7, 10, 22, 41):
        count = browser.run("return Number(document.body.dataset.runs)")
        browser.choose("#scene", str(number))
        browser.until("return Number(document.body.dataset.runs) > arguments[0]", count)
        right += browser.run("return document.querySelector('#answer span').textContent") == classes[labels[number]]
    assert right >= 3
    assert browser.errors() == []
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.slow
def test_it_recognises_most_scenes_and_needs_its_graph(browser):
    browser.open(playground.PAGE)
    browser.until("return live !== null")
    found = []
    for line in (1, 2):
        browser.run("document.getElementById('count').click()")
        said = browser.until("return document.querySelector(`#counts li:nth-child(${arguments[0]})`)"
                             "?.textContent.match(/(\\d+) of 60 scenes/)?.[1]", line)
        found.append(int(said))
        browser.run("""document.querySelector('[data-ask*="none"]').click()""")
        browser.until("return changed()")
    assert found[0] >= 55 and found[1] <= 30
