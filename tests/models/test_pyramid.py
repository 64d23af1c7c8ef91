"""Pyramid ViG: pooled sources, relative positions, stages, exact sizes, any image size, what cannot be built."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import as_nodes, assert_same, dense_of, image_by_image, nodes, on_meta, randomise
from reference import gkgnet as oracle
from reference.vig import linear, lrgc_ffn, mlp
from vig_minimal import create_model
from vig_minimal.constructors import KNN, GroupKNN
from vig_minimal.constructors.schedules import at
from vig_minimal.graphs.fast import position_rows as fast
from vig_minimal.graphs.graph import GroupGraph
from vig_minimal.models.cost import count_macs, count_parameters
from vig_minimal.models.layers import FFN, Block
from vig_minimal.models.pyramid import Grapher, PyramidConfig, position_table, relative_positions

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "relative_position.npz"
TINY = {"dim": (8, 16), "depth": (1, 2), "pool": (2, 1), "img_size": 16, "patch": 2, "num_classes": 5, "k": 3}


def tiny(name="pvig_nano", **fields):
    return create_model(name, **TINY | fields)


# ---- equations -----------------------------------------------------------------------------------------------------


@pytest.mark.equation("pvig", "sources")
@pytest.mark.parametrize("groups, pool, grid", [(1, 2, (4, 6)), (2, 2, (5, 4)), (2, 1, (2, 3)), (4, 3, (6, 3))])
def test_grapher_reads_from_the_means_of_its_patches(groups, pool, grid):
    module = randomise(Grapher(8, GroupKNN(2, groups), "mr", pool, 0.0))
    image, num_sources = nodes(2, 8, *grid), (grid[0] // pool) * (grid[1] // pool)
    relative = torch.randn(grid[0] * grid[1], num_sources, dtype=torch.float64)
    w_in, w_update, w_out = dense_of(module.fc1), dense_of(module.conv.update), dense_of(module.fc2)

    def sources_of(h):
        return oracle.pooled(h.T.unflatten(1, grid), pool)

    expected = image_by_image(lambda one: oracle.grapher(
        one, sources_of, w_in, w_update, w_out, lambda h, s: oracle.group_knn(h, s, 2, groups, 1, relative)),
        as_nodes(image))
    out, graph = module(image, relative)
    assert_same(as_nodes(out), expected, [image, *module.parameters()])
    assert (graph.num_targets, graph.num_sources) == (grid[0] * grid[1], num_sources)


@pytest.mark.equation("vig", "FFN")
def test_a_block_is_a_grapher_and_then_an_ffn():
    block, image = randomise(Block(Grapher(8, KNN(2), "mr", 2, 0.0), FFN(8))), nodes(1, 8, 4, 4)
    relative = torch.zeros(16, 4, dtype=torch.float64)
    ffn = block.ffn
    expected = image_by_image(lambda one: torch.stack([lrgc_ffn(x[None], dense_of(ffn.fc1), dense_of(ffn.fc2))[0]
                                                       for x in one]), as_nodes(block.grapher(image, relative)[0]))
    torch.testing.assert_close(as_nodes(block(image, relative)[0]), expected)


@pytest.mark.equation("pvig", "relative positions")
@pytest.mark.parametrize("dim, grid", [(8, (3, 3)), (12, (2, 5)), (48, (4, 1))])
def test_position_table_entry_by_entry(dim, grid):
    torch.testing.assert_close(position_table(dim, grid), oracle.position_table(dim, *grid), rtol=1e-12, atol=1e-12)


@pytest.mark.equation("pvig", "relative positions")
@pytest.mark.parametrize("dim, grid, sources", [(8, (4, 4), 16), (8, (4, 4), 4), (16, (6, 4), 6), (8, (5, 3), 2)])
def test_relative_positions_are_minus_2_p_p_over_c_resized(dim, grid, sources):
    made, expected = relative_positions(dim, grid, sources), oracle.relative_positions(dim, *grid, sources)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=1e-6)
    near, far = relative_positions(16, (8, 8), 64)[0, [0, 63]]
    assert near < far  # a like patch that is near comes before one that is far


def released_positions(dim, side, sources):
    """The whole N × N table of the released code, in its order and precision: −bicubic(float32(2 P·Pᵀ/C))."""
    frequency = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    parts = []
    for places in np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32)):
        angle = np.einsum("m,d->md", places.reshape(-1), frequency)
        parts += [np.sin(angle), np.cos(angle)]
    table = np.concatenate(parts, 1)
    whole = torch.from_numpy(np.float32(2 * np.matmul(table, table.T) / dim))
    return -F.interpolate(whole[None, None], (side**2, sources), mode="bicubic", align_corners=False)[0, 0]


@pytest.mark.equation("pvig", "relative positions")
@pytest.mark.parametrize("size", [224, pytest.param(448, marks=pytest.mark.slow),
                                  pytest.param(576, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", range(4))
def test_relative_positions_are_bit_for_bit_those_of_the_whole_table(stage, size):
    dim, side, pool = PyramidConfig().dim[stage], size // 4 >> stage, PyramidConfig().pool[stage]
    expected = released_positions(dim, side, (side // pool) ** 2)
    assert torch.equal(relative_positions(dim, (side, side), (side // pool) ** 2), expected)


@pytest.mark.equation("pvig", "relative positions")
@pytest.mark.parametrize("side, pool", [(8, 4), (12, 4), (16, 4), (12, 6), (12, 3), (9, 4), (10, 4), (10, 2), (7, 1),
                                        (16, 8), (4, 4)])
def test_relative_positions_are_bit_for_bit_for_any_pooling(side, pool, monkeypatch):
    expected = released_positions(16, side, (side // pool) ** 2)
    for entries in (fast.ENTRIES, 100):  # the whole table at a time, and a few rows
        monkeypatch.setattr(fast, "ENTRIES", entries)
        assert torch.equal(relative_positions(16, (side, side), (side // pool) ** 2), expected)


@pytest.mark.equation("pvig", "relative positions")
def test_relative_positions_are_the_released_ones():
    if not GOLDEN.exists():
        pytest.skip(f"no reference data at {GOLDEN}")
    golden = np.load(GOLDEN)
    for dim, side in ((80, 7), (48, 14)):
        theirs = torch.from_numpy(golden[f"dim{dim}_grid{side}"])
        assert torch.equal(-relative_positions(dim, (side, side), side**2), theirs.float())


@pytest.mark.parametrize("cast", [lambda model: model.bfloat16(), lambda model: model.half(),
                                  lambda model: model.to(torch.bfloat16), lambda model: model.half().bfloat16()])
def test_tables_of_positions_stay_in_float32_in_a_model_of_half_precision(cast):
    plain, model = tiny(), cast(tiny())
    for stage, theirs in zip(model.stages, plain.stages, strict=True):
        assert stage.relative.dtype == torch.float32 and torch.equal(stage.relative, theirs.relative)
        assert not any("relative" in key for key in model.state_dict())
    assert tiny().double().stages[0].relative.dtype == torch.float64
    model = model.to(torch.bfloat16).eval()
    assert model(torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.equation("pvig", "dilation")
def test_dilation_counts_blocks_over_all_stages_and_stays_within_the_sources():
    for fields in ({}, {"img_size": 448}, {"graph": "group_knn"}):  # at 448 the last stage has sources for more than 5
        blocks = on_meta("pvig_m", **fields).blocks
        dilations = [block.grapher.constructor.dilation for block in blocks]
        assert [rule(rule.built_for) for rule in dilations] == [min(n // 4 + 1, 5) for n in range(22)]
    small = on_meta("pvig_m", img_size=64)  # the last stages have 16 and 4 patches
    for block in small.blocks:
        constructor = block.grapher.constructor
        sources = 16 if block.grapher.fc1[0].in_channels != 768 else 4
        k, dilation = at(constructor.k, sources), at(constructor.dilation, sources)
        assert k == min(9, sources) and k * dilation <= sources and repr(constructor).startswith(f"KNN(k={k}, ")


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, parameters", [
    ("pvig_nano", 973_098), ("pvig_ti", 10_714_376), ("pvig_s", 27_251_912), ("pvig_m", 49_525_832),
    ("pvig_b", 92_980_328),
])
@pytest.mark.parametrize("graph", ["knn", "group_knn"])
def test_parameters_to_the_last_one_and_groups_add_none(name, parameters, graph):
    assert count_parameters(on_meta(name, graph=graph)) == parameters


@pytest.mark.parametrize("name, giga", [("pvig_ti", 1.700), ("pvig_s", 4.548)])
def test_multiply_adds(name, giga):
    assert round(count_macs(create_model(name), torch.randn(1, 3, 224, 224)) / 1e9, 3) == giga


@pytest.mark.slow
@pytest.mark.parametrize("name, giga", [("pvig_m", 8.845), ("pvig_b", 16.804)])
def test_multiply_adds_of_the_large(name, giga):
    assert round(count_macs(create_model(name), torch.randn(1, 3, 224, 224)) / 1e9, 3) == giga


def test_tables_of_positions_are_neither_learnt_nor_saved():
    model = tiny()
    assert not any("relative" in key for key in model.state_dict())
    assert [stage.relative.shape for stage in model.stages] == [(64, 16), (16, 16)]
    assert not any(table.requires_grad for table in (stage.relative for stage in model.stages))
    assert not any("relative" in name for name, _ in model.named_buffers())  # DDP would send them at every step
    assert all(stage.relative.is_meta for stage in tiny().to("meta").stages)


# ---- the model -----------------------------------------------------------------------------------------------------


@pytest.mark.equation("pvig", "sources")
@pytest.mark.equation("pvig", "relative positions")
@pytest.mark.parametrize("groups", [pytest.param(1, marks=pytest.mark.slow), 2])
@torch.no_grad()
def test_the_whole_model_is_its_stages_one_after_the_other(groups):
    model = randomise(tiny(img_size=(8, 12), depth=(1, 4), graph="group_knn", groups=groups))
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    x, dilations = model.stem(images) + model.position, [[1], [1, 1, 1, 2]]
    for stage, pool, steps in zip(model.stages, (2, 1), dilations, strict=True):
        layers = [oracle_layers(block) for block in stage.blocks]
        x = torch.stack([oracle.stage(one, layers, pool, 3, groups, steps) for one in stage.downsample(x)])
    torch.testing.assert_close(model.forward_features(images), x, rtol=1e-8, atol=1e-8)
    scores, hidden = model.head[4], dense_of(model.head)
    expected = torch.stack([linear(mlp(sum(one.flatten(1).T) / 6, hidden), scores.weight[:, :, 0, 0], scores.bias)
                            for one in x])  # the mean of 2 × 3 patches
    torch.testing.assert_close(model(images), expected, rtol=1e-8, atol=1e-8)


def oracle_layers(block):
    """The five layers of a block, as `oracle.stage` takes them."""
    grapher, ffn = block.grapher, block.ffn
    return [dense_of(part) for part in (grapher.fc1, grapher.conv.update, grapher.fc2, ffn.fc1, ffn.fc2)]


def test_drop_path_grows_from_block_to_block():
    model = tiny(depth=(2, 3), drop_path=0.4)
    for half in ("grapher", "ffn"):
        rates = [getattr(block, half).drop_path.p for block in model.blocks]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_images_and_features_in_any_memory_order():
    model, images, seen = tiny(graph="group_knn").eval(), torch.randn(2, 3, 16, 16), []
    for block in model.blocks:
        block.ffn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), model(images))
        torch.testing.assert_close(model(images.mT.contiguous().mT), model(images))
    assert len(seen) == 12 and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize("size, grids", [(16, [(8, 8), (4, 4)]), ((18, 20), [(9, 10), (5, 5)]),
                                         ((4, 30), [(2, 15), (1, 8)])])
@pytest.mark.parametrize("graph", ["knn", "group_knn"])
def test_any_image_size(size, grids, graph):
    model = tiny(img_size=size, graph=graph).eval()
    assert model.config.grids == grids and model.config.grid == grids[0]
    height, width = model.config.img_size
    logits, graphs = model(torch.randn(2, 3, height, width), return_graphs=True)
    assert logits.shape == (2, 5) and len(graphs) == 3
    for made, grid, pool in zip(graphs, [grids[0], grids[1], grids[1]], (2, 1, 1)):
        assert made.num_targets == grid[0] * grid[1] and made.num_sources == (grid[0] // pool) * (grid[1] // pool)
        assert isinstance(made, GroupGraph) == (graph == "group_knn")
    assert model.forward_features(torch.randn(2, 3, height, width)).shape == (2, 16, *grids[1])
    with pytest.raises(ValueError, match="this model takes"):
        model(torch.randn(2, 3, height + 1, width))


def test_one_group_is_pyramid_vig():
    plain = randomise(tiny())
    one = tiny(graph="group_knn", groups=1).double().eval()
    one.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(one(images), plain(images))


def test_an_image_does_not_depend_on_its_batch_and_graphs_do_not_change_logits():
    model, images = tiny(graph="group_knn").eval(), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        logits, _ = model(images, return_graphs=True)
        torch.testing.assert_close(model(images), logits)
        torch.testing.assert_close(model(images[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_half_precision_runs():
    model = tiny(graph="group_knn", drop_path=0.1).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(4, 3, 16, 16))
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pvig_nano", "gkgnet_nano"])
def test_compiled_it_computes_the_same(name):
    model, images = tiny(name, graph="group_knn").eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields, says", [
    ({"dim": (8, 18)}, "multiples of 4"), ({"dim": 8}, "one a stage"),
    ({"depth": (1,)}, "each needs one number a stage"), ({"depth": (1, 0)}, "at least 1"),
    ({"pool": (16, 1)}, "too few to pool"), ({"patch": 16}, "choose one of 2, 4, 8"),
    ({"img_size": 17}, "multiples of patch"),
    ({"graph": "lrgc"}, "knn and group_knn"), ({"conv": "gat"}, "mr, edge"),
    ({"graph": "group_knn", "groups": 3}, "multiples of it"), ({"graph": "group_knn", "conv": "edge"}, "mixes all"),
    ({"drop_path": 1.0}, "a probability"),
    ({"k": 0}, "k=0: must be at least 1"), ({"num_classes": -1}, "at least 0"),
    ({"k": 2.5}, "whole number"), ({"dims": (1, 2)}, "no field 'dims'"),
])
def test_what_cannot_be_built_is_one_sentence(fields, says):
    with pytest.raises(ValueError, match=says) as error:
        tiny(**fields)
    assert "\n" not in str(error.value)
