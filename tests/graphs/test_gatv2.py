"""Dense GATv2 against double loops and against PyG's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import assert_same, nodes
from vig_minimal.graphs.gatv2 import GATv2

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "gatv2.npz"


def layer(*args, **options):
    """A GATv2 in float64 with random parameters, biases included."""
    gat = GATv2(*args, **options).double()
    for parameter in gat.parameters():
        nn.init.normal_(parameter)
    return gat


def loops(gat, x, sources, mask):
    """Updated targets (N, C') and attention (N, M, heads) of one image, by loops over targets, heads and sources."""
    heads, width = gat.att.shape[1:]
    updated, attention = [], torch.zeros(len(x), len(sources), heads, dtype=x.dtype)
    for i in range(len(x)):
        row = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            left = [gat.lin_l.weight[part] @ z + gat.lin_l.bias[part] for z in sources]
            right = gat.lin_r.weight[part] @ x[i] + gat.lin_r.bias[part]
            power = {j: torch.exp(sum(gat.att[0, h, c] * (s if s > 0 else 0.2 * s)
                                      for c, s in enumerate(right + left[j])))
                     for j in range(len(sources)) if mask[i, j]}
            total = torch.zeros(width, dtype=x.dtype)
            for j, value in power.items():
                alpha = value / sum(power.values())
                total = total + alpha * left[j]
                attention[i, j, h] = alpha.detach()
            row.append(total)
        updated.append(torch.cat(row) + gat.bias)
    return torch.stack(updated), attention


@pytest.mark.equation("clustervig", 2)
@pytest.mark.equation("clustervig", 3)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_loop_over_targets_and_sources(heads, masked):
    gat, x, sources = layer(4, 6, heads), nodes(2, 5, 4), nodes(2, 3, 4)
    mask = torch.rand(2, 5, 3) < 0.6 if masked else torch.ones(2, 5, 3, dtype=torch.bool)
    if masked:
        mask[0, 1], mask[0, 2] = False, True  # a target without a source, one with all
    updated, attention = gat(x, sources, mask if masked else None, return_attention=True)
    oracle = [loops(gat, x[b], sources[b], mask[b]) for b in range(2)]
    assert attention.shape == (2, 5, 3, heads)
    torch.testing.assert_close(attention, torch.stack([part[1] for part in oracle]))
    wrt = [x, sources, *gat.parameters()]
    assert_same(updated, torch.stack([part[0] for part in oracle]), wrt)
    if masked:
        torch.testing.assert_close(updated[0, 1], gat.bias)


def test_targets_are_their_own_sources_by_default():
    gat, x = layer(4, 4), nodes(2, 5, 4)
    assert torch.equal(gat(x), gat(x, x)) and torch.equal(gat(x, return_attention=True)[0], gat(x))


@pytest.mark.equation("clustervig", 2)
@pytest.mark.equation("clustervig", 3)
@pytest.mark.parametrize("masked", [False, True])
def test_without_self_loops_a_target_does_not_read_from_itself(masked):
    gat, x = layer(4, 6, 2, self_loops=False), nodes(2, 5, 4)
    mask = torch.rand(2, 5, 5) < 0.6 if masked else torch.ones(2, 5, 5, dtype=torch.bool)
    updated, attention = gat(x, mask=mask if masked else None, return_attention=True)
    others = mask & ~torch.eye(5, dtype=torch.bool)
    oracle = [loops(gat, x[b], x[b], others[b]) for b in range(2)]
    assert (attention.diagonal(dim1=1, dim2=2) == 0).all() and mask.diagonal(dim1=1, dim2=2).any()
    torch.testing.assert_close(attention, torch.stack([part[1] for part in oracle]))
    assert_same(updated, torch.stack([part[0] for part in oracle]), [x, *gat.parameters()])


def test_self_loops_matter_only_if_targets_are_their_own_sources():
    gat, x, sources = layer(4, 4, self_loops=False), nodes(1, 1, 4), nodes(1, 3, 4)
    torch.testing.assert_close(gat(x)[0, 0], gat.bias)  # a single node, which has nothing to read from
    assert (gat(x, sources, return_attention=True)[1] > 0).all()  # sources that are other nodes are all read


def test_a_target_without_sources_has_finite_gradients():
    gat, x = layer(3, 3), nodes(1, 2, 3)
    gat(x, mask=torch.tensor([[[False, False], [True, False]]])).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (x, *gat.parameters()))


def test_scores_are_not_computed_in_half_precision():
    gat, x = layer(8, 8).float(), torch.randn(2, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        updated, attention = gat(x, return_attention=True)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(2), torch.ones(2, 4, 1))
    torch.testing.assert_close(updated.float(), gat(x), rtol=0.1, atol=0.2)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads=4: must divide out_dim=6"):
        GATv2(3, 6, heads=4)


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs the reference numbers in ../shared/golden")
def test_the_same_numbers_as_pyg():
    golden = np.load(GOLDEN)
    cases = sorted({name.split(".")[0] for name in golden.files})
    assert len(cases) >= 3
    for case in cases:
        def value(name, case=case):
            return torch.from_numpy(np.array(golden[f"{case}.{name}"]))

        out_dim, in_dim = value("lin_l.weight").shape
        gat = GATv2(in_dim, out_dim, int(value("heads"))).double()
        gat.load_state_dict({name: value(name) for name in gat.state_dict()})
        updated, attention = gat(value("x")[None], return_attention=True)
        torch.testing.assert_close(updated[0], value("y"), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(attention[0], value("alpha_target_source"), rtol=1e-10, atol=1e-10)
