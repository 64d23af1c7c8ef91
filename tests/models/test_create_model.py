"""create_model: exact counts, every size and convolution, the config, and an error for what cannot work."""

import dataclasses
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from helpers import FAMILIES, TINY, on_meta
from vig_minimal import create_model, list_constructors, list_models
from vig_minimal.models import registry
from vig_minimal.models.convs import CONVS
from vig_minimal.models.cost import count_macs, count_parameters, saved_bytes
from vig_minimal.models.vig import ViGConfig

# ----------------------------------------------------------------------------------------------------- counts and sizes


@pytest.mark.parametrize("name, parameters", [
    ("vig_ti", 7_184_744), ("vig_s", 22_747_752), ("vig_b", 86_841_832), ("svig_ti", 7_184_744), ("lrgc_ti", 8_074_100),
    ("vig_nano", 933_098), ("svig_nano", 933_098), ("lrgc_nano", 1_044_848),
])
def test_parameters_to_the_last_one(name, parameters):
    assert count_parameters(on_meta(name)) == parameters


def counts_of_the_table() -> dict[str, int]:
    """The number of parameters beside each line of the registry's table."""
    table = re.findall(r'^    "(\w+)": .* # +([\d,]+)$', Path(registry.__file__).read_text(encoding="utf-8"), re.M)
    return {name: int(count.replace(",", "")) for name, count in table}


def test_every_line_of_the_table_has_its_number_of_parameters():
    assert list(counts_of_the_table()) == list_models()


@pytest.mark.slow
@pytest.mark.parametrize("name, parameters", counts_of_the_table().items())
def test_the_parameters_beside_each_line_of_the_table(name, parameters):
    assert count_parameters(on_meta(name)) == parameters


def test_sizes_that_no_parameter_tells():
    """Of nano models: 64 pixels, ResNets 32; and what has no weights."""
    for name in list_models("*_nano"):
        config, is_resnet = registry.CONFIGS[name], hasattr(registry.CONFIGS[name], "backbone")
        assert config.num_classes == 10 and config.img_size == ((32, 32) if is_resnet else (64, 64))
        assert is_resnet or config.patch == (2 if isinstance(config.dim, tuple) else 8)
    configs = registry.CONFIGS
    assert configs["pvig_nano"].pool == configs["gkgnet_nano"].pool == configs["pvig_b"].pool == (4, 2, 1, 1)
    assert (configs["adaptvig_nano"].hops, configs["adaptvig_b"].hops) == ((2, 1, 1, 1), (8, 4, 2, 1))
    for name in ("vig_b", "cvig_s", "pvig_m", "gkgnet_s", "adaptvig_m", "cnn2gnn_resnet34"):
        assert configs[name].img_size == (224, 224) and getattr(configs[name], "patch", 16) == (
            4 if isinstance(getattr(configs[name], "dim", 0), tuple) else 16)


@pytest.mark.parametrize("name, expected", [
    ("vig_ti", {"dim": 192, "depth": 12, "num_classes": 1000, "img_size": (224, 224), "patch": 16, "graph": "knn",
                "conv": "mr", "graph_every": 1, "drop_path": 0.0, "dropout": 0.0, "k": None, "epsilon": 0.0,
                "threshold": 0.89, "decrement": 0.03, "clusters": 4, "groups": 2, "hops": None, "window": None,
                "hyperedges": None}),
    ("pvig_ti", {"dim": (48, 96, 240, 384), "depth": (2, 2, 6, 2), "pool": (4, 2, 1, 1), "num_classes": 1000,
                 "img_size": (224, 224), "patch": 4, "graph": "knn", "groups": 2, "conv": "mr", "graph_every": 1,
                 "k": None, "hops": None, "epsilon": 0.0, "drop_path": 0.0, "dropout": 0.0}),
    ("cnn2transformer_resnet18", {
        "backbone": "resnet18", "aggregation": "transformer", "num_classes": 1000, "img_size": (224, 224),
        "stem": "imagenet", "heads": 4, "omega": "cat", "aggregate_self": True, "anchors_per_class": 1,
        "proxies_per_class": 1}),
])
def test_a_paper_model_is_what_its_config_says(name, expected):
    assert dataclasses.asdict(registry.CONFIGS[name]) == expected


@pytest.mark.parametrize("img_size, stem", [(32, "cifar"), ((48, 40), "cifar"), ((49, 32), "imagenet")])
def test_small_images_get_the_stem_for_small_images(img_size, stem):
    assert on_meta("resnet_18", img_size=img_size, num_classes=3).config.stem == stem


@pytest.mark.slow
@pytest.mark.parametrize("name, giga", [("vig_ti", 1.301), ("vig_s", 4.517), ("vig_b", 17.643), ("lrgc_ti", 1.474)])
def test_multiply_adds_of_one_image(name, giga):
    macs = count_macs(create_model(name), torch.randn(1, 3, 224, 224))
    assert round(macs / 1e9, 3) == giga


@pytest.mark.fast_form
def test_what_a_training_step_keeps_of_lrgc_ti_stays_under_70_megabytes_an_image():
    assert saved_bytes(create_model("lrgc_ti").train(), torch.randn(2, 3, 224, 224)) < 70e6


@pytest.mark.slow
def test_every_model_of_the_list_can_be_made():
    names = {"vig_nano", "vig_ti", "vig_s", "vig_b", "svig_nano", "svig_ti", "lrgc_nano", "lrgc_ti"}
    assert names <= set(list_models())
    for name in list_models():
        classes = 10 if name.endswith("nano") else 80 if name.startswith("gkgnet") else 1000
        assert on_meta(name).config.num_classes == classes


def test_list_models_takes_a_pattern():
    assert list_models() == list_models("*") == list(registry.CONFIGS)
    assert list_models("lrgc_*") == ["lrgc_nano", "lrgc_ti"]
    assert list_models("cvig_?") == ["cvig_s", "cvig_b"]
    assert list_models("vgi_*") == list_models("") == []


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("img_size, patch, grid", [
    (32, 4, (8, 8)), (32, 2, (16, 16)), (32, 16, (2, 2)), (64, 8, (8, 8)), (96, 16, (6, 6)), (224, 16, (14, 14)),
    (256, 16, (16, 16)), ((32, 64), 8, (4, 8)), ((48, 16), 4, (12, 4)), (16, 16, (1, 1)),
])
def test_any_image_size_that_gives_a_grid(name, img_size, patch, grid):
    model = create_model(name, dim=16, depth=2, img_size=img_size, patch=patch).eval()
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        logits, graphs = model(images, return_graphs=True)
        features = model.forward_features(images)
    count = grid[0] * grid[1]
    assert logits.shape == (2, 10) and torch.isfinite(logits).all()
    assert features.shape == (2, 16, *grid)
    assert [graph.adj().shape for graph in graphs] == [(2, count, count)] * 2
    assert model.config.img_size == (height, width) and model.config.grid == grid and model.config.num_nodes == count
    assert model.position.shape == (1, 16, *grid)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_of_the_four_convolutions_learns_in_every_family(name, conv):
    model = create_model(name, **TINY, conv=conv)
    assert all(type(block.grapher.conv) is CONVS[conv] for block in model.blocks)
    model(torch.randn(4, 3, 16, 16)).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name


# ---------------------------------------------------------------------------------------------------- config and errors


def test_config_is_frozen_plain_data_that_makes_the_model_again():
    model = create_model("vig_nano", num_classes=7, drop_path=0.1)
    config = model.config
    assert isinstance(config, ViGConfig)
    assert (config.dim, config.depth, config.num_classes, config.img_size, config.patch) == (96, 6, 7, (64, 64), 8)
    assert (config.graph, config.conv, config.k, config.drop_path) == ("knn", "mr", None, 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 8
    for value in dataclasses.asdict(config).values():
        assert isinstance(value, (int, float, str, tuple, type(None)))
    fields = dataclasses.asdict(config)
    fields = {name: value for name, value in fields.items() if name not in ("threshold", "decrement")}  # SViG's
    assert create_model("vig_nano", **fields).config == config


def test_the_names_of_parameters_are_those_that_checkpoints_rely_on():
    model = create_model("lrgc_nano", **TINY)
    names = {name.removesuffix(".weight") for name, _ in model.named_parameters() if not name.endswith("bias")}
    block = {f"blocks.{i}.{layer}" for i in range(2) for layer in (
        "grapher.fc1.0", "grapher.fc1.1", "grapher.conv.update.0", "grapher.conv.update.1", "grapher.fc2.0",
        "grapher.fc2.1", "grapher.constructor.key", "grapher.constructor.query", "grapher.constructor.tau",
        "ffn.fc1.0", "ffn.fc1.1", "ffn.fc2.0", "ffn.fc2.1")}
    stem = {f"stem.layers.{i}" for i in (0, 1, 3, 4, 6, 7)}
    assert names == block | stem | {"position", "head.0", "head.1", "head.4"}


@pytest.mark.parametrize("name, near", [
    ("vig_nanno", "vig_nano"), ("lrcg_ti", "lrgc_ti"), ("svig-ti", "svig_ti"), ("resnet50", "vig_ti"),
    ("lrcg", "did you mean lrgc_nano"),
])
def test_an_unknown_model_is_an_error_that_names_near_ones(name, near):
    with pytest.raises(ValueError, match=f"{name}.*{near}"):
        create_model(name)


@pytest.mark.parametrize("field, near", [
    ("num_class", "num_classes"), ("image_size", "img_size"), ("droppath", "drop_path"),
])
def test_an_unknown_field_is_an_error_that_names_near_ones(field, near):
    with pytest.raises(ValueError, match=f"{field}.*did you mean.*{near}"):
        create_model("vig_nano", **{field: 1})


def test_an_unknown_graph_is_an_error_that_names_near_ones():
    assert {"knn", "threshold", "lrgc"} <= set(list_constructors())
    with pytest.raises(ValueError, match="unknown graph"):
        create_model("vig_nano", graph=["knn"])
    with pytest.raises(ValueError, match="'lrgcc'.*did you mean lrgc"):
        create_model("vig_nano", graph="lrgcc")


@pytest.mark.parametrize("field, value, says", [
    ("img_size", 4, "patch"), ("img_size", 100, "multiple"), ("img_size", 0, "img_size"), ("img_size", -64, "img_size"),
    ("img_size", (64,), "height, width"), ("img_size", "64", "img_size"), ("img_size", (64, 60), "multiple"),
    ("patch", 3, "2, 4, 8, 16"), ("patch", 32, "2, 4, 8, 16"), ("dim", 0, "at least 1"), ("dim", 30, "multiple"),
    ("depth", 0, "at least 1"), ("depth", 2.5, "whole number"), ("num_classes", -1, "at least 0"),
    ("num_classes", "ten", "whole number"), ("k", 0, "k=0"), ("k", 33, "64 nodes"), ("conv", "gat", "mr, edge, sage"),
    ("drop_path", 1.0, "less than 1"), ("drop_path", -0.1, "at least 0"), ("drop_path", "no", "number"),
    ("dropout", 2, "less than 1"), ("epsilon", 1.5, "less than 1"),
])
def test_a_value_that_cannot_work_is_an_error_at_construction(field, value, says):
    with pytest.raises(ValueError, match=says) as error:
        create_model("vig_nano", **{field: value})
    assert field in str(error.value) and "\n" not in str(error.value)


def test_a_field_that_the_graph_does_not_read_is_an_error():
    for name, field in (("lrgc_nano", "epsilon"), ("vig_nano", "threshold"), ("vig_nano", "decrement")):
        with pytest.raises(ValueError, match=field):
            create_model(name, **{field: 0.1})


@pytest.mark.parametrize("shape", [(1, 3, 32, 36), (1, 1, 64, 64), (3, 64, 64), (1, 3, 60, 64), (1, 3, 0, 64)])
def test_images_of_another_shape_are_an_error_that_names_both(shape):
    model = create_model("vig_nano", dim=16, depth=1)
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 64\)"):
        model(torch.randn(shape))
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 64\)"):
        model.forward_features(torch.randn(shape))


@pytest.mark.parametrize("name, img_size", [("lrgc_nano", 64), ("svig_nano", 16), ("vig_nano", 16)])
def test_k_is_an_error_where_the_constructor_has_no_number_of_neighbours(name, img_size):
    config = create_model(name, img_size=img_size, patch=8).config
    again = {field.name: getattr(config, field.name) for field in fields(config)}  # as a checkpoint gives it back
    assert create_model(name, **again).config == config
    if name == "vig_nano":
        assert create_model(name, img_size=64, k=3).config.k == 3
    else:
        with pytest.raises(ValueError, match="k is read by graph='knn' and graph='group_knn' and graph='cluster_knn'"):
            create_model(name, img_size=64, k=3)


def test_fields_that_only_together_are_possible():
    """With the preset's patch of 16, 32 pixels have 4 nodes, too few for six neighbours."""
    model = create_model("vig_ti", img_size=32, patch=4, k=6, dim=16, depth=2, num_classes=3)
    assert model.config.k == 6 and model.config.grid == (8, 8)
