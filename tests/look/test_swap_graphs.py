"""docs/compare/swap_graphs.py: trained weights with other graphs."""

import copy
from dataclasses import asdict

import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import nn

from helpers import image_folder, script
from vig_minimal import create_model
from vig_minimal.training import checkpoint

FIELDS = {"img_size": 16, "patch": 4, "dim": 16, "depth": 2, "num_classes": 3}  # 16 nodes, k from 8 to 16


@pytest.fixture
def swap():
    return script("docs/compare/swap_graphs.py")


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


def save(model: nn.Module, path) -> None:
    checkpoint.save(path, {"name": "vig_nano", "config": asdict(model.config), "classes": ["a", "b", "c"],
                           "mean": (0.5,) * 3, "std": (0.5,) * 3, "multi_label": False, "recipe": {"eval_crop": 1.0},
                           "model": model.state_dict()})


def images_of(folder, split: str, classes: str = "abc", count: int = 3) -> torch.Tensor:
    """All images in the order of their names, normalised: (n, 3, 16, 16)."""
    paths = [folder / split / name / f"{i}.png" for name in classes for i in range(count)]
    return torch.stack([TF.to_tensor(Image.open(path)) for path in paths]).sub(0.5).div(0.5)


def outputs_of(model: nn.Module, part: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What goes into `part` while the model, with norms in training, sees the images."""
    seen = []
    with part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])), torch.no_grad():
        model(images)
    return seen[0]


def test_statistics_are_the_mean_of_those_of_all_batches(swap, tmp_path, monkeypatch):
    monkeypatch.setattr(swap, "BATCH", 4)  # batches of 4 and 4; the last image alone has no variance
    image_folder(tmp_path, "abc", "abc", size=(16, 16))
    model = trained("knn")
    model.train()(torch.randn(5, 3, 16, 16))  # statistics to forget
    save(model, tmp_path / "last.pt")
    model = swap.load(tmp_path / "last.pt")
    images = images_of(tmp_path, "train")[torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    swap.renew_statistics(model, swap.open_data("imagefolder", str(tmp_path), (16, 16), None, 0))
    assert not any(part.training for part in model.modules())
    norms = [part for part in copy.deepcopy(model).modules() if isinstance(part, nn.BatchNorm2d)]
    twin = copy.deepcopy(model)
    for part in twin.modules():
        part.train(isinstance(part, nn.BatchNorm2d))
    twins = [part for part in twin.modules() if isinstance(part, nn.BatchNorm2d)]
    for number in (0, 4):  # in the stem, and behind the first graph
        inputs = [outputs_of(twin, twins[number], batch) for batch in images[:8].split(4)]
        for name, values in (("running_mean", [x.mean((0, 2, 3)) for x in inputs]),
                             ("running_var", [x.transpose(0, 1).flatten(1).var(1) for x in inputs])):
            torch.testing.assert_close(getattr(norms[number], name), torch.stack(values).mean(0))


def test_a_swap_is_the_same_each_time(swap):
    model, images = trained("knn"), torch.randn(2, 3, 16, 16)
    assert torch.equal(swap.with_graph(model, "random")(images), swap.with_graph(model, "random")(images))


def test_the_table_has_a_row_for_each_checkpoint_and_a_column_for_each_graph(swap, tmp_path, capsys):
    image_folder(tmp_path, "abc", "abc", size=(16, 16))
    models = {graph: trained(graph) for graph in ("knn", "random")}
    for graph, model in models.items():
        model.blocks[0].grapher.constructor.seed = 5  # not the one of a new draw
        save(model, tmp_path / f"{graph}.pt")
    swap.main([str(tmp_path / "knn.pt"), str(tmp_path / "random.pt"), "--graphs", "knn", "random", "none",
               "--data-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| trained with | knn | random | none |" and len(lines) == 4
    data = swap.open_data("imagefolder", str(tmp_path), (16, 16), None, 0)
    images, labels = images_of(tmp_path, "val"), torch.arange(9) // 3
    for line, (graph, model) in zip(lines[2:], models.items(), strict=True):
        name, *scores = line.strip("| ").split(" | ")
        assert name == f"{graph}, {tmp_path}/{graph}.pt"
        for score, column in zip(scores, ("knn", "random", "none"), strict=True):
            network = copy.deepcopy(model) if column == graph else swap.with_graph(model, column)
            network.transform = swap.load(tmp_path / f"{graph}.pt").transform
            swap.renew_statistics(network, data)
            assert score == f"{100 * (network(images).argmax(1) == labels).float().mean():.2f}"


def test_the_limit_is_of_validation_images(swap, tmp_path, capsys):
    image_folder(tmp_path, "abc", "abc", size=(16, 16))
    save(trained("knn"), tmp_path / "last.pt")
    swap.main([str(tmp_path / "last.pt"), "--graphs", "knn", "--data-dir", str(tmp_path), "--limit", "1"])
    assert capsys.readouterr().out.split("| ")[-1].rstrip("| \n") in ("0.00", "100.00")


def test_a_model_without_blocks_of_its_own_graph_is_refused(swap, tmp_path, capsys, monkeypatch):
    model = create_model("resnet_nano", num_classes=3, img_size=16)
    model.name = "resnet_nano"
    monkeypatch.setattr(swap, "load", lambda path: model)
    with pytest.raises(SystemExit) as end:
        swap.main(["last.pt", "--graphs", "knn"])
    assert end.value.code == 2 and "last.pt: resnet_nano has no single graph" in capsys.readouterr().err


def test_images_of_other_classes_or_none_at_all_are_a_sentence(swap, tmp_path, capsys):
    image_folder(tmp_path, "xyz", "xyz", size=(16, 16))
    save(trained("knn"), tmp_path / "last.pt")
    for folder, says in ((tmp_path, "give the data it was trained on"), (tmp_path / "nowhere", "nowhere")):
        with pytest.raises(SystemExit) as end:
            swap.main([str(tmp_path / "last.pt"), "--graphs", "knn", "--data-dir", str(folder)])
        assert end.value.code == 2 and says in capsys.readouterr().err.splitlines()[-1]
