"""docs/compare/swap_graphs.py: trained weights with other graphs."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from helpers import image_folder, script
from vig_minimal import create_model
from vig_minimal.training import checkpoint

FIELDS = {"img_size": 16, "patch": 4, "dim": 16, "depth": 2, "num_classes": 3}  # 16 nodes, k from 8 to 16


@pytest.fixture
def swap(monkeypatch):
    module = script("docs/compare/swap_graphs.py")
    monkeypatch.setattr(module, "BATCH", 3)
    return module


def trained(graph: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("vig_nano", graph=graph, **FIELDS).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("before", ["knn", "lrgc", "random"])
@pytest.mark.parametrize("after", ["none", "knn", "full"])
def test_the_graph_is_another_and_all_weights_stay(swap, before, after):
    model = trained(before)
    swapped, images = swap.with_graph(model, after), torch.randn(2, 3, 16, 16)
    kept, new = model.state_dict(), swapped.state_dict()
    assert all(torch.equal(new[name], kept[name]) for name in new if "constructor" not in name)
    fresh = create_model("vig_nano", graph=after, **FIELDS)
    for block, expected in zip(swapped.blocks, fresh.blocks, strict=True):
        assert repr(block.grapher.constructor) == repr(expected.grapher.constructor)
    degree = {"none": 1, "knn": 8, "full": 16}[after]
    assert (swapped(images, return_graphs=True)[1][0].degree() == degree).all()
    assert before == after or not torch.equal(swapped(images), model(images))


def test_statistics_are_the_mean_of_those_of_all_batches(swap, tmp_path):
    image_folder(tmp_path, "abc", "abc", size=(16, 16))
    model = trained("knn")
    save(model, tmp_path / "last.pt")
    model = swap.load(tmp_path / "last.pt")
    data = swap.open_data("imagefolder", str(tmp_path), (16, 16), None, 0)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    first = model.stem.layers[0]
    images = torch.stack([swap.PreparedImages(data.train, (16, 16), 1.0).__getitems__([(0, i, 0)]).images[0]
                          for i in order])
    values = first((images / 255 - 0.5) / 0.5)  # (9, C, 8, 8)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in values.split(3)])
    swap.renew_statistics(model, data)
    torch.testing.assert_close(model.stem.layers[1].running_mean, means.mean(0), rtol=1e-4, atol=1e-5)
    assert not model.training


def save(model: nn.Module, path) -> None:
    checkpoint.save(path, {"name": "vig_nano", "config": asdict(model.config), "classes": ["a", "b", "c"],
                           "mean": (0.5,) * 3, "std": (0.5,) * 3, "multi_label": False, "recipe": {"eval_crop": 1.0},
                           "model": model.state_dict()})


def test_the_table_has_a_row_for_each_checkpoint_and_a_column_for_each_graph(swap, tmp_path, capsys):
    image_folder(tmp_path, "abc", "abc", size=(16, 16))
    for graph in ("knn", "random"):
        save(trained(graph), tmp_path / f"{graph}.pt")
    swap.main([str(tmp_path / "knn.pt"), str(tmp_path / "random.pt"), "--graphs", "knn", "random", "none",
               "--data-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| trained with | knn | random | none |" and len(lines) == 4
    for line, graph in zip(lines[2:], ("knn", "random"), strict=True):
        name, *scores = line.strip("| ").split(" | ")
        assert name == f"{graph}, {tmp_path}/{graph}.pt" and all(0 <= float(score) <= 100 for score in scores)
