"""Images of other sizes than that of the config: the same as in a model built for them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from helpers import TINY
from vig_minimal import create_model, load_released
from vig_minimal.graphs.fast import position_rows as fast
from vig_minimal.models.pyramid import relative_positions

TINY_PYRAMID = {"dim": (8, 16), "depth": (1, 3), "pool": (2, 1), "num_classes": 5, "img_size": 32, "patch": 2, "k": 4}
MODELS = {
    **{name: TINY | {"img_size": 32, "depth": 5} for name in ("vig_nano", "svig_nano", "lrgc_nano", "cvig_nano")},
    "pvig_nano": TINY_PYRAMID, "gkgnet_nano": TINY_PYRAMID,
}


def trained(name: str, **fields) -> nn.Module:
    """A model whose position embedding and statistics are not those of the start."""
    model = create_model(name, **MODELS[name] | fields)
    nn.init.normal_(model.position)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return model.eval()


def built_for(size: tuple[int, int], model: nn.Module, name: str, **fields) -> nn.Module:
    """The model that is created for images of this size, with the weights of `model`."""
    twin = create_model(name, **MODELS[name] | fields | {"img_size": size})
    load_released(twin, model.state_dict())
    return twin.train(model.training)


def assert_same_answers(model: nn.Module, twin: nn.Module, images: Tensor) -> None:
    (ours, graphs), (theirs, expected) = (each(images, return_graphs=True) for each in (model, twin))
    assert torch.equal(ours, theirs)
    for graph, other in zip(graphs, expected, strict=True):
        assert torch.equal(graph.adj(), other.adj())


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (32, 48), (56, 24)])
@pytest.mark.parametrize("name", MODELS)
def test_images_of_another_size_are_seen_as_by_a_model_built_for_them(name, size):
    model = trained(name)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert_same_answers(model, built_for(size, model, name), images)
    assert model.config.img_size == (32, 32) and model.position.shape[2:] == model.config.grid
    assert model.state_dict().keys() == create_model(name, **MODELS[name]).state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vig_ti", "svig_ti", "lrgc_ti", "cvig_ti", "pvig_ti", "gkgnet_s"])
def test_a_model_of_224_run_at_448_equals_the_one_built_at_448(name):
    model = create_model(name).eval()
    nn.init.normal_(model.position)
    twin = create_model(name, img_size=448).eval()
    load_released(twin, model.state_dict())
    with torch.no_grad():
        assert_same_answers(model, twin, torch.randn(1, 3, 448, 448))


def test_k_and_dilation_follow_the_grid_unless_k_was_chosen():
    images = torch.randn(1, 3, 64, 64)  # 256 nodes; at 32 pixels 64, at 16 pixels 16
    for size, k, dilation in ((64, 9, 2), (32, 9, 2), (16, 8, 1)):
        for trained_at in (64, 32, 16):
            model = create_model("vig_nano", **MODELS["vig_nano"] | {"img_size": trained_at})
            first, last = (model.blocks[n].grapher.constructor for n in (0, 4))
            nodes = (size // 4) ** 2
            assert (last.k(nodes), last.dilation(nodes)) == (2 * k, dilation)
            assert (first.k(nodes), first.dilation(nodes)) == (k, 1)
    chosen = create_model("vig_nano", **MODELS["vig_nano"], k=3).eval()
    assert [graph.index.shape[2] for graph in chosen(images, return_graphs=True)[1]] == [3, 3, 4, 5, 6]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "vig_nano"))
                                  for name in MODELS])
def test_training_takes_several_sizes_and_their_gradients_reach_the_position(name):
    model = trained(name).train()
    for size in ((48, 32), (16, 32), (48, 32)):
        torch.manual_seed(0)  # of k-means' random start
        twin = copy.deepcopy(built_for(size, model, name))
        images = torch.randn(2, 3, *size)
        model.zero_grad()
        state = torch.get_rng_state()
        model(images).square().sum().backward()
        torch.set_rng_state(state)
        twin(images).square().sum().backward()
        assert model.position.grad.abs().sum() > 0
        for (key, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
            if key != "position":
                assert torch.equal(parameter.grad, other.grad), key
        for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
            ours.copy_(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_model_takes_several_sizes(name):
    model = trained(name, depth=1 if name[0] in "vslc" else (1, 1)).double()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for size in ((32, 32), (16, 32), (48, 16), (16, 32)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name, fields, size, says", [
    ("vig_nano", {"k": 20}, (16, 16), "k=20.*16 nodes"), ("cvig_nano", {"clusters": 20}, (16, 16), "clusters=20"),
    ("pvig_nano", {"pool": (8, 1)}, (8, 8), "pool"), ("vig_nano", {}, (30, 32), "multiples of patch=4; resize or pad"),
    ("gkgnet_nano", {}, (33, 32), "multiples of patch=2; resize or pad"),
])
def test_a_size_that_no_model_could_be_built_for_is_an_error(name, fields, size, says):
    model = create_model(name, **MODELS[name] | fields)
    with pytest.raises(ValueError, match=says):
        model(torch.randn(1, 3, *size))


# ------------------------------------------------------------------------------------------- tables of other sizes


@pytest.mark.fast_form
def test_tables_of_other_sizes_are_made_once_and_never_outgrow_their_limit(monkeypatch):
    model = create_model("pvig_nano", **TINY_PYRAMID).eval()
    stage = model.stages[0]
    with torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
        first = stage.relative_on(8, 8)
        model(torch.randn(1, 3, 16, 16))
        assert stage.relative_on(8, 8) is first
        monkeypatch.setattr(fast, "KEPT", first.numel() + 1)
        model(torch.randn(1, 3, 16, 12))
        assert [grid for grid, _ in stage.relative_elsewhere] == [(8, 6)]
        assert stage.relative_on(8, 6).device.type == "cpu"
        assert model.to("meta").stages[0].relative_on(8, 6).is_meta  # made anew for another device


@pytest.mark.fast_form
def test_a_table_too_large_to_keep_gives_the_same_graphs(monkeypatch):
    images = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        expected = trained("pvig_nano", num_classes=3)
        monkeypatch.setattr(fast, "KEPT", 100)
        sparing = create_model("pvig_nano", **TINY_PYRAMID | {"num_classes": 3}).eval()
        sparing.load_state_dict(expected.state_dict())
        assert isinstance(sparing.stages[0].relative, fast.RelativeRows)
        assert isinstance(sparing.stages[0].relative_on(24, 16), fast.RelativeRows)
        for size in (images, images[:, :, :32]):
            assert_same_answers(sparing, expected, size)
    rows = fast.RelativeRows(8, (6, 4), 6, torch.device("cpu"))[5:9]
    assert torch.equal(rows, relative_positions(8, (6, 4), 6)[5:9])
