"""Weights released by the papers' authors: their names load, and the model then computes what the released code did."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from vig_minimal import create_model
from vig_minimal.atomic_files import CheckpointError
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.models.released import load_released

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"


def golden(name):
    """Keys, shapes and outputs of the released implementation."""
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no reference data at {path}")
    return np.load(path)


def noise(key, shape, seed):
    """Standard normal noise for a tensor of that name, by the rule of the reference data."""
    state = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0x7FFFFFFF)
    return torch.from_numpy(np.asarray(state.standard_normal(shape)))


def released_state(reference):
    """The released state dict in float64, made again from its keys and shapes."""
    keys, shapes, seed = reference["keys"].tolist(), json.loads(str(reference["shapes"])), int(reference["seed"])
    state = {}
    for key, shape in zip(keys, shapes, strict=True):
        z = noise(key, shape, seed)
        name = key.rpartition(".")[2]
        if name == "num_batches_tracked":
            z = torch.zeros((), dtype=torch.int64)
        elif name == "running_var":
            z = 1 + 0.2 * z.abs()
        elif name == "weight" and key.replace(".weight", ".running_mean") in keys:
            z = 1 + 0.1 * z
        elif name == "weight" and len(shape) > 1:
            z = z / np.prod(shape[1:]) ** 0.5
        else:
            z = 0.1 * z
        state[key] = z
    return state


@pytest.mark.parametrize(("file", "model_name"), [("vig_ti", "vig_ti"), ("svig_ti_0.89_0.03", "svig_ti"),
                                               ("pvig_ti", "pvig_ti"), ("gkgnet_s_224", "gkgnet_s")])
def test_released_weights_give_the_released_outputs(file, model_name):
    reference = golden(file)
    model = create_model(model_name).double().eval()
    load_released(model, released_state(reference))
    size = int(reference["image_size"])
    images = noise("input", (int(reference["batch"]), 3, size, size), int(reference["seed"]))
    with torch.no_grad():
        logits, graphs = model(images, return_graphs=True)
    expected = torch.from_numpy(reference["logits"])
    assert (logits - expected).abs().max() / expected.abs().max() < 1e-6
    if "neighbours_first" in reference:
        for graph, name in ((graphs[0], "neighbours_first"), (graphs[-1], "neighbours_last")):
            index = graph.index[0, 0] if isinstance(graph, GroupGraph) else graph.index[0]  # of the first group
            assert torch.equal(index, torch.from_numpy(reference[name]).long())


# ---- without the reference data: the names of a small model, translated back by hand -------------------------------


def small(**fields):
    tiny = {"dim": 16, "depth": 2, "img_size": 16, "patch": 4, "k": 4, "num_classes": 3}
    return create_model("vig_nano", **tiny | fields)


def as_released(model):
    """A state dict of ours under the released code's names."""
    renamed = {}
    for key, value in model.state_dict().items():
        key = key.replace("conv.update.", "graph_conv.gconv.nn.").replace("stem.layers.", "stem.convs.")
        if key.startswith("blocks."):
            _, block, half, rest = key.split(".", 3)
            key = f"backbone.{block}.{0 if half == 'grapher' else 1}.{rest}"
        key = "pos_embed" if key == "position" else key.replace("head.", "prediction.")
        renamed[key] = value.clone()
    return renamed


def same_weights(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed_files_load(tmp_path, wrapper, prefix):
    source, target = small(), small()
    state = {prefix + key: value for key, value in as_released(source).items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "released.pth")
    assert not same_weights(source, target)
    load_released(target, tmp_path / "released.pth")
    assert same_weights(source, target)


def test_the_averaged_weights_are_taken_where_there_are_both():
    source, other, target = small(), small(), small()
    load_released(target, {"state_dict": as_released(other), "state_dict_ema": as_released(source)})
    assert same_weights(source, target)


def test_counters_that_old_files_lack_are_not_missed():
    source, target = small(), small()
    state = {key: value for key, value in as_released(source).items() if "num_batches_tracked" not in key}
    load_released(target, state)
    assert torch.equal(source.position, target.position)


def test_a_checkpoint_of_our_own_loads_too():
    source, target = small(), small()
    load_released(target, {"name": "vig_nano", "model": source.state_dict(), "epoch": 2})
    assert same_weights(source, target)


def test_positions_are_resized_to_another_grid():
    source, target = small(), small(img_size=(24, 16))
    ramp = torch.arange(4.0)
    source.position.data.copy_(ramp.view(1, 1, 4, 1).expand_as(source.position))  # rises downwards
    load_released(target, as_released(source))
    table = target.position.data
    assert table.shape == (1, 16, 6, 4)
    assert (table[0, :, 1:] > table[0, :, :-1]).all() and torch.allclose(table[..., :1].expand_as(table), table)
    assert table.mean().item() == pytest.approx(ramp.mean().item(), abs=1e-5)
    other = small()
    load_released(other, as_released(source))
    assert torch.equal(other.position, source.position)  # its own grid: untouched


def test_what_does_not_fit_is_named_and_the_model_left_as_it_was():
    model, before = small(), small()
    before.load_state_dict(model.state_dict())
    state = as_released(small(num_classes=5))
    del state["stem.convs.0.bias"]
    state["backbone.0.0.attention.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        load_released(model, state)
    for text in ("stem.layers.0.bias", "blocks.0.grapher.attention.weight",
                 "head.4.weight (given (5, 1024, 1, 1), wanted (3, 1024, 1, 1))"):
        assert text in str(error.value)
    assert same_weights(model, before)


def test_weights_of_another_convolution_or_none_are_refused():
    with pytest.raises(CheckpointError, match="conv='edge'"):
        load_released(small(conv="edge"), as_released(small()))
    with pytest.raises(CheckpointError, match="no weights"):
        load_released(small(), {"epoch": 3})
