"""layers.py: the FFN against its equation, the two views of one tensor, stem, stochastic depth, head."""

import pytest
import torch
from torch import nn

from helpers import as_nodes, assert_same, dense_of, image_by_image, nodes, randomise
from reference.vig import lrgc_ffn
from vig_minimal import create_model
from vig_minimal.graphs.draws import part_of_batch
from vig_minimal.models.cost import count_macs
from vig_minimal.models.layers import FFN, Dropout, DropPath, Stem, head, init_weights, to_image, to_nodes


@pytest.mark.equation("lrgc", 1)
@pytest.mark.equation("vig", "FFN")
def test_ffn():
    ffn = randomise(FFN(4))
    image = nodes(2, 4, 2, 3)
    layer1, layer2 = dense_of(ffn.fc1), dense_of(ffn.fc2)
    assert layer1.weight.shape == (16, 4) and layer2.weight.shape == (4, 16)
    expected = image_by_image(lambda x: lrgc_ffn(x, layer1, layer2), as_nodes(image))
    assert_same(as_nodes(ffn(image)), expected, [image, *ffn.parameters()])


def test_ffn_drops_its_branch_and_keeps_its_input():
    ffn = FFN(4, drop_path=0.5).train()
    image = torch.randn(64, 4, 2, 2)
    kept = (ffn(image) == image).flatten(1).all(1)
    assert kept.any() and not kept.all()


def test_nodes_are_numbered_row_by_row():
    image = nodes(2, 5, 3, 4)
    assert torch.equal(to_nodes(image), as_nodes(image))
    assert torch.equal(to_image(to_nodes(image), (3, 4)), image)


def test_changing_the_view_of_a_channels_last_image_copies_nothing():
    image = torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    seen = to_nodes(image)
    assert seen.data_ptr() == image.data_ptr() and seen.is_contiguous()
    back = to_image(seen, (3, 4))
    assert back.data_ptr() == image.data_ptr() and back.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("patch, strides, widths", [
    (16, [2, 2, 2, 2, 1], [4, 8, 16, 32, 32]), (8, [2, 2, 2, 1], [8, 16, 32, 32]), (4, [2, 2, 1], [16, 32, 32]),
    (2, [2, 1], [32, 32]),
])
def test_stem_halves_the_image_and_doubles_the_width(patch, strides, widths):
    stem = Stem(32, patch)
    convs = [layer for layer in stem.layers if isinstance(layer, nn.Conv2d)]
    assert [conv.stride[0] for conv in convs] == strides
    assert [conv.out_channels for conv in convs] == widths
    assert all(conv.kernel_size == (3, 3) and conv.bias is not None for conv in convs)
    kinds = [type(layer) for layer in stem.layers]
    assert kinds == ([nn.Conv2d, nn.BatchNorm2d, nn.GELU] * len(convs))[:-1]  # GELU between, none after the last
    assert stem(torch.randn(2, 3, 4 * patch, 2 * patch)).shape == (2, 32, 4, 2)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    p = 0.3
    x = torch.rand(5000, 2, 1, 2, dtype=torch.float64) + 1
    out = DropPath(p).train()(x)
    dropped = (out == 0).flatten(1)
    assert torch.equal(dropped.any(1), dropped.all(1)), "part of an image was dropped"
    kept = ~dropped.all(1)
    torch.testing.assert_close(out[kept], x[kept] / (1 - p), rtol=1e-6, atol=0)
    assert dropped.all(1).double().mean().item() == pytest.approx(p, abs=0.03)  # give or take 0.0065


def test_drop_path_does_nothing_in_evaluation_or_at_rate_0():
    x = torch.randn(8, 2, 1, 1)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


def test_drop_path_keeps_the_precision():
    x = torch.randn(8, 2, 1, 1, dtype=torch.bfloat16)
    assert DropPath(0.5).train()(x).dtype == torch.bfloat16


def test_dropout_drops_single_numbers_and_keeps_the_mean():
    p, x = 0.3, torch.rand(50, 100, 1, 2, dtype=torch.float64) + 1
    out = Dropout(p).train()(x)
    dropped = out == 0
    torch.testing.assert_close(out[~dropped], x[~dropped] / (1 - p), rtol=1e-6, atol=0)
    assert dropped.double().mean().item() == pytest.approx(p, abs=0.03)  # give or take 0.0046
    assert (dropped[:, :, 0, 0] != dropped[:, :, 0, 1]).any()
    assert torch.equal(Dropout(0.9).eval()(x), x) and torch.equal(Dropout(0.0).train()(x), x)
    assert Dropout(0.5).train()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("layer", [DropPath(0.5), Dropout(0.5)])
def test_an_image_loses_the_same_however_its_batch_is_split(layer):
    x, parts = torch.randn(8, 6, 1, 1), []
    for first, count in ((0, 8), (0, 3), (3, 5)):
        torch.manual_seed(0)  # as for every part of a step
        with part_of_batch(first, 8):
            parts.append(layer.train()(x[first:first + count]))
    assert torch.equal(parts[0], torch.cat(parts[1:]))


def test_head_is_two_linear_layers_over_1024_channels():
    layers = head(32, 7, dropout=0.2)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.GELU, Dropout, nn.Conv2d]
    assert layers[3].p == 0.2
    assert layers.eval()(torch.randn(2, 32, 1, 1)).shape == (2, 7, 1, 1)


def test_convolutions_start_kaiming_normal_without_bias():
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(4, 4))
    linear_before = model[2].weight.clone()
    init_weights(model.modules())
    std = (2 / (64 * 9)) ** 0.5
    assert model[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert model[0].weight.abs().max() > 3 * std  # a uniform distribution would end at 1.7 std
    assert torch.all(model[0].bias == 0)
    assert torch.equal(model[2].weight, linear_before)


def test_frozen_parts_stay_frozen_when_a_model_is_measured():
    model = create_model("vig_nano", dim=16, depth=2, img_size=16, patch=4).train()
    model.stem.eval()
    before = [part.training for part in model.modules()]
    seen = []
    model.head.register_forward_pre_hook(lambda *_: seen.append(any(part.training for part in model.modules())))
    count_macs(model, torch.randn(1, 3, 16, 16))
    assert seen == [False] and [part.training for part in model.modules()] == before and not model.stem.training
