"""`train.py --every N` keeps the graphs of a few images, and `explore --run DIR` makes a page of them."""

import json
import re
from pathlib import Path

import pytest
import torch

from vig_minimal import train
from commands import own_folder, refused, rows  # noqa: F401
from helpers import TINY as SMALL
from vig_minimal import create_model
from vig_minimal.atomic_files import load, save
from vig_minimal.data.augment import normalise
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.look import explore
from vig_minimal.look.page.history import graph_of
from vig_minimal.look.predict import open_model
from vig_minimal.training.checkpoint import save_graphs

TINY = ["--set", "dim=16", "--set", "depth=2", "--set", "patch=4", "--img-size", "16"]
HALF = [0.5] * 3
PYRAMID = {"img_size": 16, "dim": (8, 16), "depth": (1, 2), "pool": (2, 1), "num_classes": 5}
MODELS = [("vig_nano", SMALL), ("svig_nano", SMALL), ("vig_nano", SMALL | {"graph": "hypergraph"}),
          ("cvig_nano", SMALL), ("pvig_nano", PYRAMID), ("gkgnet_nano", PYRAMID)]
RUN = ["--limit", "16", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--output", "run"]


def page_of(folder: str = "run") -> dict:
    """The data of the page that the command writes."""
    explore.main(["--run", folder, "--html", "page.html"])
    text = Path("page.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_graphs_are_kept_and_shown():
    train.main(["--model", "lrgc_nano", *TINY, *RUN, "--epochs", "2", "--every", "2"])
    assert sorted(file.name for file in Path("run").glob("graphs-*")) == ["graphs-000.pt", "graphs-002.pt"]
    page = page_of()
    assert page["epochs"] == [0, 2] and page["title"] == "lrgc_nano: how its graph formed"
    assert page["history"]["epochs"] == [0, 1, 2] and page["history"]["name"] == "top-1 in %"
    for epoch, views, model in zip(page["epochs"], page["views"], page["models"], strict=True):
        kept, row = load(f"run/graphs-{epoch:03d}.pt"), rows("run")[epoch]
        assert kept["epoch"] == epoch and len(views) == 4 and model["about"] == f"epoch {epoch}"
        assert [layer["tau"] for layer in model["layers"]] == kept["taus"]
        for n, view in enumerate(views):
            torch.testing.assert_close(torch.tensor(view["logits"]), kept["logits"][n], rtol=1e-4, atol=1e-4)
        for layer, neighbours in enumerate(page["history"]["neighbours"]):
            assert neighbours[epoch] == pytest.approx(float(row[f"neighbours_{layer}"]))


@pytest.mark.parametrize("name, fields", MODELS)
def test_graphs_of_every_form_come_back(name, fields):
    model, images = create_model(name, **fields).eval(), torch.rand(4, 3, 16, 16)
    Path("run").mkdir()
    Path("run/metrics.csv").write_text("epoch,val_mAP,neighbours_0\n0,3,2.5\n")
    about = {"name": name, "classes": [*"abcde"], "multi_label": name == "gkgnet_nano", "epoch": 0, "mean": HALF,
             "std": HALF}
    save_graphs(Path("run/graphs-000.pt"), model, images, about)
    kept = load("run/graphs-000.pt")
    assert kept["images"].dtype == torch.uint8 and torch.equal(kept["images"], (255 * (images + 1) / 2).round().byte())
    with torch.inference_mode():
        _, graphs = model(images, return_graphs=True)
    for layer, graph in zip(kept["graphs"], graphs, strict=True):
        graph = graph if isinstance(graph, GroupGraph) else graph.union()
        assert torch.equal(graph_of(layer, 2).adj()[0], graph.adj()[2])
    view, history = (page := page_of())["views"][0][2], page["history"]
    assert [layer["groups"] for layer in view["layers"]] == [2 if name == "gkgnet_nano" else 1] * len(graphs)
    assert ("labels" in view["layers"][0]) == (name == "cvig_nano")
    assert history == {"epochs": [0], "name": "mAP", "neighbours": [[2.5]], "scores": [3]}


def test_what_is_kept_is_what_the_model_of_that_epoch_computes():
    train.main(["--model", "lrgc_nano", *TINY, *RUN, "--epochs", "1", "--every", "1", "--keep-every", "1"])
    model, kept = open_model(None, "run/epoch-001.pt"), load("run/graphs-001.pt")
    with torch.inference_mode():
        images = normalise(kept["images"], model.transform.mean, model.transform.std)
        logits, graphs = model(images, return_graphs=True)
    torch.testing.assert_close(kept["logits"], logits, rtol=1e-3, atol=1e-3)  # the images are rounded to 8 bits
    for layer, graph in zip(kept["graphs"], graphs, strict=True):
        torch.testing.assert_close(graph_of(layer, 2).adj()[0], graph.adj()[2], rtol=1e-2, atol=1e-3)
    assert kept["taus"] == [block.grapher.constructor.tau.item() for block in model.blocks]


def test_without_every_nothing_is_kept():
    train.main(["--model", "vig_nano", *TINY, *RUN, "--epochs", "1"])
    assert not list(Path("run").glob("graphs-*"))


@pytest.mark.slow
def test_epochs_past_999_stay_in_order():
    train.main(["--model", "vig_nano", *TINY, *RUN, "--epochs", "1", "--every", "1"])
    kept = load("run/graphs-001.pt")
    for epoch in (1000, 999):
        save(f"run/graphs-{epoch:03d}.pt", kept | {"epoch": epoch})
    assert page_of()["epochs"] == [0, 1, 999, 1000]


@pytest.mark.parametrize("argv, says", [
    (["--model", "resnet_nano", "--every", "1"], "--every: resnet_nano has no graph over patches"),
    (["--model", "vig_nano", "--every", "0"], "--every 0: must be at least 1")])
def test_bad_flags_of_training_are_one_sentence(argv, says, capsys):
    assert says in refused(capsys, *argv)


def test_a_file_that_is_no_kept_graph_is_one_sentence(capsys):
    Path("run").mkdir()
    for content, says in ((lambda file: file.write_text("nothing"), "graphs-000.pt"),
                          (lambda file: save(file, {"name": "vig_nano"}), "not written by train.py --every")):
        content(Path("run/graphs-000.pt"))
        with pytest.raises(SystemExit) as end:
            explore.main(["--run", "run", "--html", "page.html"])
        err = capsys.readouterr().err
        assert end.value.code == 2 and err.count("\n") == 1 and says in err and not Path("page.html").exists()
