"""Multi-label losses against loops over images and classes, at extreme logits, and against released numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import assert_same, nodes
from vig_minimal.training.losses import asymmetric_loss, smooth_bce

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "multilabel_losses.npz"
LOSSES = [asymmetric_loss, smooth_bce]


def targets_with_unknown(images, classes):
    """Random 1, 0 and -1, each at least once; image 0 is all negative, image 1 all unknown."""
    targets = torch.randint(-1, 2, (images, classes))
    targets[0], targets[1] = 0, -1
    assert set(targets.unique().tolist()) == {-1, 0, 1}
    return targets


def asymmetric_loop(logits, targets, gamma_pos, gamma_neg, clip):
    """Entry by entry as printed: L+ = (1 - p)^g log p of positives, L- = p_m^g log(1 - p_m) of negatives."""
    rows = []
    for x_image, y_image in zip(logits, targets):
        row = []
        for x, y in zip(x_image, y_image):
            p = 1 / (1 + torch.exp(-x))
            if y == 1:
                row.append(-((1 - p) ** gamma_pos) * torch.log(p))
            elif y == 0 and p > clip:
                p_m = p - clip
                row.append(-(p_m**gamma_neg) * torch.log(1 - p_m))
            else:  # unknown, or a negative with p_m = 0
                row.append(0 * x)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def smooth_loop(logits, targets, eps):
    """Entry by entry: cross-entropy with 1 - eps in place of 1 and eps in place of 0."""
    rows = []
    for x_image, y_image in zip(logits, targets):
        row = []
        for x, y in zip(x_image, y_image):
            p = 1 / (1 + torch.exp(-x))
            smooth = {1: 1 - eps, 0: eps, -1: None}[int(y)]
            row.append(0 * x if smooth is None else -smooth * torch.log(p) - (1 - smooth) * torch.log(1 - p))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("gamma_pos", "gamma_neg", "clip"),
                         [(0.0, 2.0, 0.05), (0.0, 4.0, 0.05), (1.0, 4.0, 0.0), (2.0, 0.5, 0.2), (0.0, 0.0, 0.2)])
@pytest.mark.equation("gkgnet", "asymmetric loss")
def test_asymmetric_loss_is_the_loop(gamma_pos, gamma_neg, clip):
    logits, targets = nodes(7, 6), targets_with_unknown(7, 6)
    oracle = asymmetric_loop(3 * logits, targets, gamma_pos, gamma_neg, clip)
    loss = asymmetric_loss(3 * logits, targets, gamma_pos, gamma_neg, clip, reduction="none")
    assert_same(loss, oracle, [logits])


@pytest.mark.parametrize("eps", [0.1, 0.0, 0.3])
@pytest.mark.equation("gkgnet", "label smoothing")
def test_smooth_bce_is_the_loop(eps):
    logits, targets = nodes(7, 6), targets_with_unknown(7, 6)
    assert_same(smooth_bce(3 * logits, targets, eps, reduction="none"), smooth_loop(3 * logits, targets, eps), [logits])


def test_defaults_are_those_of_gkgnet():
    logits, targets = nodes(4, 5), targets_with_unknown(4, 5)
    assert_same(asymmetric_loss(logits, targets), asymmetric_loop(logits, targets, 0, 2, 0.05).sum() / 4, [logits])
    assert_same(smooth_bce(logits, targets), smooth_loop(logits, targets, 0.1).sum() / 4, [logits])


def test_without_gammas_clip_and_smoothing_both_are_binary_cross_entropy():
    logits, shares = nodes(4, 5), torch.rand(4, 5, dtype=torch.float64)  # targets between 0 and 1, too
    expected = F.binary_cross_entropy_with_logits(logits, shares, reduction="none")
    assert_same(asymmetric_loss(logits, shares, 0, 0, 0, reduction="none"), expected, [logits])
    assert_same(smooth_bce(logits, shares, 0, reduction="none"), expected, [logits])


@pytest.mark.parametrize("loss", LOSSES)
def test_mean_is_over_images_of_the_sum_over_classes(loss):
    logits, targets = nodes(3, 5), targets_with_unknown(3, 5)
    entries = loss(logits, targets, reduction="none")
    assert entries.shape == (3, 5)
    assert_same(loss(logits, targets, reduction="sum"), sum(entry for row in entries for entry in row), [logits])
    assert_same(loss(logits, targets), sum(row.sum() for row in entries) / 3, [logits])


@pytest.mark.parametrize("loss", LOSSES)
def test_unknown_labels_change_neither_loss_nor_gradient(loss):
    logits, targets = nodes(5, 6), targets_with_unknown(5, 6)
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    assert (gradient[targets < 0] == 0).all() and gradient[targets >= 0].abs().min() > 0
    moved = torch.where(targets < 0, logits + torch.randn(5, 6), logits)
    assert loss(moved, targets) == loss(logits, targets)


@pytest.mark.parametrize("size", [1.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("options", [{}, {"clip": 0.0}, {"gamma_pos": 1.0, "gamma_neg": 4.0},
                                     {"gamma_pos": 0.5, "gamma_neg": 0.5, "clip": 0.0}])
def test_extreme_logits_in_float32_are_finite_and_right(size, options):
    logits = torch.tensor([[size, -size, size, -size, size, -size]], requires_grad=True)
    targets = torch.tensor([[1, 1, 0, 0, -1, -1]])
    p = 1 / (1 + math.exp(-size))  # of +size; of -size it is q
    q = math.exp(-size) / (1 + math.exp(-size)) if size < 700 else 0.0
    log_q = -size - math.log1p(math.exp(-size))
    gamma_pos, gamma_neg, clip = (options.get(n, v) for n, v in [("gamma_pos", 0), ("gamma_neg", 2), ("clip", 0.05)])

    def negative(probability, log_rest):
        shifted = max(probability - clip, 0)
        return -(shifted**gamma_neg) * (math.log(1 - shifted) if clip else log_rest)

    positive = -(q**gamma_pos) * math.log(p), -(p**gamma_pos) * log_q
    expected = [*positive, negative(p, log_q), negative(q, math.log(p)), 0, 0]
    loss = asymmetric_loss(logits, targets, reduction="none", **options)
    torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float32), rtol=1e-4, atol=1e-6)
    smooth = smooth_bce(logits, targets, reduction="none")
    log_p = math.log(p)
    expected = [-0.9 * log_p - 0.1 * log_q, -0.9 * log_q - 0.1 * log_p, -0.1 * log_p - 0.9 * log_q,
                -0.1 * log_q - 0.9 * log_p, 0, 0]
    torch.testing.assert_close(smooth, torch.tensor([expected], dtype=torch.float32), rtol=1e-4, atol=1e-6)
    for value in (loss, smooth):
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.isfinite().all()
        if size >= 20:  # the gradient of a missed positive does not shrink, however wrong its logit
            assert gradient[0, 1].item() == pytest.approx(-1 if value is loss else -0.9, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_losses_compute_in_float32_for_half_precision_logits(loss, half):
    logits, targets = (4 * torch.randn(5, 6)).to(half), targets_with_unknown(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.double(), targets).float(), rtol=1e-5, atol=1e-6)


def test_targets_of_any_type():
    logits, targets = torch.randn(4, 5), torch.rand(4, 5) < 0.5
    for loss in LOSSES:
        values = [loss(logits, targets.to(dtype)) for dtype in (torch.bool, torch.int8, torch.int64, torch.float64)]
        assert len({value.item() for value in values}) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_wrong_targets_and_options_are_refused(loss):
    with pytest.raises(ValueError, match=r"logits \(4, 5\) with targets \(4,\)"):
        loss(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))  # single-label data
    with pytest.raises(ValueError, match=r"targets \(1, 5\)"):
        loss(torch.zeros(4, 5), torch.zeros(1, 5))  # would broadcast
    with pytest.raises(ValueError, match="choose mean, sum, none"):
        loss(torch.zeros(4, 5), torch.zeros(4, 5), reduction="max")


def test_wrong_numbers_are_refused():
    zeros = torch.zeros(4, 5)
    for options in ({"gamma_pos": -1}, {"gamma_neg": -1}, {"clip": 1}, {"clip": -0.1}):
        with pytest.raises(ValueError, match="asymmetric loss with"):
            asymmetric_loss(zeros, zeros, **options)
    with pytest.raises(ValueError, match="eps=0.6"):
        smooth_bce(zeros, zeros, eps=0.6)


@pytest.mark.parametrize("case", range(3))
def test_released_losses(case):
    """The reference averages over all entries; ours sums over classes."""
    if not GOLDEN.exists():
        pytest.skip(f"no reference data at {GOLDEN}")
    reference = np.load(GOLDEN)
    given = {name.partition(".")[2]: reference[name] for name in reference.files if name.startswith(f"case{case}.")}
    logits, targets = torch.from_numpy(given["logits"]), torch.from_numpy(given["targets"])
    classes = logits.shape[1]
    options = {name: float(given[name]) for name in ("gamma_pos", "gamma_neg", "clip")}
    assert asymmetric_loss(logits, targets, **options).item() / classes == pytest.approx(
        given["asymmetric_mean"].item(), rel=1e-12)
    assert smooth_bce(logits, targets).item() / classes == pytest.approx(given["smooth_bce_0.1_mean"].item(), rel=1e-12)
