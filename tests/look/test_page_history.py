"""`train.py --every N` keeps the graphs of a few images, and `explore --run DIR` makes a page of them."""

import json
import re
from pathlib import Path

import pytest
import torch

import train
from commands import own_folder, refused, rows  # noqa: F401
from vig_minimal.data.augment import normalise
from vig_minimal.files import load, save
from vig_minimal.look import explore
from vig_minimal.look.command import open_model
from vig_minimal.look.page.history import graph_of

TINY = ["--set", "dim=16", "--set", "depth=2", "--set", "patch=4", "--img-size", "16"]
MODELS = {"lrgc_nano": TINY, "svig_nano": TINY, "cvig_nano": TINY,
          "gkgnet_nano": ["--set", "dim=(8,16)", "--set", "depth=(1,1)", "--set", "pool=(2,1)", "--img-size", "16"]}
RUN = ["--limit", "16", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--output", "run"]


def page_of(folder: str = "run") -> dict:
    """The data of the page that the command writes."""
    explore.main(["--run", folder, "--html", "page.html"])
    text = Path("page.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize("name", MODELS)
def test_graphs_are_kept_and_shown(name):
    train.main(["--model", name, *MODELS[name], *RUN, "--epochs", "2", "--every", "2"])
    assert sorted(file.name for file in Path("run").glob("graphs-*")) == ["graphs-000.pt", "graphs-002.pt"]
    page = page_of()
    assert page["epochs"] == [0, 2] and page["title"] == f"{name}: how its graph formed"
    assert page["history"]["epochs"] == [0, 1, 2] and len(page["views"]) == 2 and len(page["views"][0]) == 4
    for epoch, views in zip(page["epochs"], page["views"]):
        kept, row = load(f"run/graphs-{epoch:03d}.pt"), rows("run")[epoch]
        assert kept["epoch"] == epoch and kept["images"].dtype == torch.uint8 and len(kept["images"]) == 4
        for n, view in enumerate(views):
            torch.testing.assert_close(torch.tensor(view["logits"]), kept["logits"][n], rtol=1e-4, atol=1e-4)
            assert len(view["layers"]) == len(kept["graphs"])
        assert page["models"][page["epochs"].index(epoch)]["about"] == f"epoch {epoch}"
        for layer, neighbours in enumerate(page["history"]["neighbours"]):
            assert neighbours[epoch] == pytest.approx(float(row[f"neighbours_{layer}"]))


def test_what_is_kept_is_what_the_model_of_that_epoch_computes():
    train.main(["--model", "lrgc_nano", *TINY, *RUN, "--epochs", "1", "--every", "1", "--keep-every", "1"])
    opened, kept = open_model(None, "run/epoch-001.pt"), load("run/graphs-001.pt")
    with torch.inference_mode():
        logits, graphs = opened.model(normalise(kept["images"], opened.mean, opened.std), return_graphs=True)
    torch.testing.assert_close(kept["logits"], logits, rtol=1e-3, atol=1e-3)  # the images are rounded to 8 bits
    for layer, graph in zip(kept["graphs"], graphs, strict=True):
        torch.testing.assert_close(graph_of(layer, 2).adj()[0], graph.adj()[2], rtol=1e-2, atol=1e-3)
    assert kept["taus"] == [float(block.grapher.constructor.tau) for block in opened.model.blocks]


def test_without_every_nothing_is_kept():
    train.main(["--model", "vig_nano", *TINY, *RUN, "--epochs", "1"])
    assert not list(Path("run").glob("graphs-*"))


def test_epochs_past_999_stay_in_order():
    train.main(["--model", "vig_nano", *TINY, *RUN, "--epochs", "1", "--every", "1"])
    kept = load("run/graphs-001.pt")
    for epoch in (1000, 999):
        save(f"run/graphs-{epoch:03d}.pt", kept | {"epoch": epoch})
    assert page_of()["epochs"] == [0, 1, 999, 1000]


@pytest.mark.parametrize("argv, says", [
    (["--model", "resnet_nano", "--every", "1"], "--every: resnet_nano has no graph over patches"),
    (["--model", "vig_nano", "--every", "0"], "--every 0: 1 to")])
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
