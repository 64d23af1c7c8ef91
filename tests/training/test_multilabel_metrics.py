"""Multi-label metrics against plain loops, with ties, unknown labels and empty classes, and released numbers."""

import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from vig_minimal.data.coco_voc import size_class
from vig_minimal.training.distributed import Processes
from vig_minimal.training.metrics import MultiLabel, average_precision, map_by_size, multilabel_metrics

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "multilabel_metrics.npz"
CPU = torch.device("cpu")
ONE = Processes(CPU)
NAMES = ["CP", "CR", "CF1", "OP", "OR", "OF1"]


def example(images=40, classes=7, levels=None, seed=0):
    """Scores correlated with targets of 1, 0 and -1; image 0 is all negative, image 1 all unknown.

    levels: round scores to this many steps, so that many are equal.
    """
    random = np.random.RandomState(seed)
    targets = random.choice([-1, 0, 0, 1], (images, classes))
    targets[0], targets[1] = 0, -1
    scores = 1 / (1 + np.exp(-random.standard_normal((images, classes)) - (targets == 1)))
    if levels is not None:
        scores = np.round(scores * levels) / levels
        assert len(np.unique(scores)) <= levels + 1
    return scores, targets


def ap_loop(scores, targets):
    """AP of one class: precision at the score of each positive, averaged over the positives."""
    precisions = []
    for own, target in zip(scores, targets):
        if target == 1:
            above = [t for s, t in zip(scores, targets) if s >= own and t != -1]
            precisions.append(above.count(1) / len(above))
    return 100 * sum(precisions) / len(precisions) if precisions else None


def predicted_loop(scores, targets, threshold=-math.inf, top=None):
    """Classes predicted for each image: score ≥ `threshold` and, with `top`, among the `top` highest known ones."""
    predicted = np.zeros(scores.shape, dtype=bool)
    for i in range(len(scores)):
        known = [c for c in range(scores.shape[1]) if targets[i, c] != -1]
        chosen = sorted(known, key=lambda c: -scores[i, c])[:top]  # stable: of equal ones the first
        for c in chosen:
            predicted[i, c] = scores[i, c] >= threshold
    return predicted


def counts_loop(predicted, targets):
    """CP, CR, CF1 over classes with a positive and OP, OR, OF1 over all entries, in percent."""
    images, classes = targets.shape
    right, chosen, shown = [0] * classes, [0] * classes, [0] * classes
    for i in range(images):
        for c in range(classes):
            if targets[i, c] == -1:
                continue
            right[c] += predicted[i, c] and targets[i, c] == 1
            chosen[c] += predicted[i, c]
            shown[c] += targets[i, c] == 1

    def share(a, b):
        return a / b if b else 0.0

    of_class = [c for c in range(classes) if shown[c]]
    cp = share(sum(share(right[c], chosen[c]) for c in of_class), len(of_class))
    cr = share(sum(right[c] / shown[c] for c in of_class), len(of_class))
    p, r = share(sum(right), sum(chosen)), share(sum(right), sum(shown))
    values = cp, cr, share(2 * cp * cr, cp + cr), p, r, share(2 * p * r, p + r)
    return {name: 100 * float(value) for name, value in zip(NAMES, values, strict=True)}


def metrics_loop(scores, targets, threshold=0.5, top3_threshold=-math.inf):
    """All thirteen metrics."""
    aps = [ap_loop(scores[:, c], targets[:, c]) for c in range(scores.shape[1])]
    known = [ap for ap in aps if ap is not None]
    top3 = counts_loop(predicted_loop(scores, targets, top3_threshold, top=3), targets)
    return ({"mAP": sum(known) / len(known)} | counts_loop(predicted_loop(scores, targets, threshold), targets)
            | {f"{name}_top3": value for name, value in top3.items()})


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.0, 1.1])
@pytest.mark.parametrize("top3_threshold", [None, 0.5, 0.9])
@pytest.mark.equation("gkgnet", "metrics")
def test_every_metric_is_its_loop(levels, threshold, top3_threshold):
    scores, targets = example(levels=levels)
    result = multilabel_metrics(scores, targets, threshold, top3_threshold)
    expected = metrics_loop(scores, targets, threshold, -math.inf if top3_threshold is None else top3_threshold)
    assert result == pytest.approx(expected, rel=1e-12) and list(result) == list(expected)
    tensors = multilabel_metrics(torch.from_numpy(scores), torch.from_numpy(targets), threshold, top3_threshold)
    assert tensors == result


def test_a_small_case_by_hand():
    scores = torch.tensor([[0.9, 0.2, 0.6, 0.1], [0.8, 0.7, 0.4, 0.3], [0.1, 0.6, 0.5, 0.2]])
    targets = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]])
    with pytest.warns(UserWarning, match=r"of the 4 classes.*: 3$"):
        result = multilabel_metrics(scores, targets)
    # class 0: positives rank 1 and 3 of 3; class 1: rank 1; class 2: ranks 2 and 3; class 3 has no positive
    assert result["mAP"] == pytest.approx(100 * ((1 / 1 + 2 / 3) / 2 + 1 + (1 / 2 + 2 / 3) / 2) / 3)
    # predicted 2, 2, 2, 0 times, right 1, 1, 1 times, shown 2, 1, 2 times
    assert result["CP"] == pytest.approx(50) and result["CR"] == pytest.approx(100 * (0.5 + 1 + 0.5) / 3)
    assert result["OP"] == pytest.approx(50) and result["OR"] == pytest.approx(60)
    assert result["OF1"] == pytest.approx(100 * 2 * 0.5 * 0.6 / 1.1)
    # top 3: all but the lowest of each image, 9 of them, which miss class 0 of image 2
    assert result["OP_top3"] == pytest.approx(100 * 4 / 9) and result["OR_top3"] == pytest.approx(80)


def test_average_precision_does_not_depend_on_the_order_of_equal_scores():
    scores, targets = example(levels=4)
    order = np.random.RandomState(1).permutation(len(scores))
    assert average_precision(torch.from_numpy(scores[order]), torch.from_numpy(targets[order])) == pytest.approx(
        average_precision(torch.from_numpy(scores), torch.from_numpy(targets)), rel=1e-12)
    # all scores equal: precision is the share of positives
    assert average_precision(torch.zeros(4, 1), torch.tensor([[1], [0], [0], [0]])) == [25.0]


def test_the_first_of_equal_scores_are_the_three_highest():
    scores, targets = example(images=20, classes=80, levels=2)  # 80 classes: sorts of few numbers are stable anyway
    assert multilabel_metrics(scores, targets) == pytest.approx(metrics_loop(scores, targets), rel=1e-12)


def test_the_score_of_an_unknown_label_changes_nothing():
    scores, targets = example()
    result = multilabel_metrics(scores, targets, top3_threshold=0.5)
    for extreme in (0.0, 1.0, math.nan):
        assert multilabel_metrics(np.where(targets == -1, extreme, scores), targets, top3_threshold=0.5) == result


def test_an_image_of_negatives_only_counts_against_precision():
    scores, targets = example()
    more = np.ones((1, 7)), np.zeros((1, 7), dtype=int)
    before = multilabel_metrics(scores, targets)
    after = multilabel_metrics(np.concatenate([scores, more[0]]), np.concatenate([targets, more[1]]))
    for name in ("mAP", "CP", "OP", "CP_top3", "OP_top3"):
        assert after[name] < before[name]
    for name in ("CR", "OR", "CR_top3", "OR_top3"):
        assert after[name] == before[name]


def test_classes_without_positives_are_in_no_class_mean_and_named():
    scores, targets = example()
    targets[:, 2] = np.minimum(targets[:, 2], 0)  # negatives and unknown
    targets[:, 5] = -1  # unknown only
    with pytest.warns(UserWarning, match=r"these of the 7 classes.*: 2, 5$"):
        result = multilabel_metrics(scores, targets)
    assert result == pytest.approx(metrics_loop(scores, targets), rel=1e-12)
    aps = average_precision(torch.from_numpy(scores), torch.from_numpy(targets))
    assert [c for c, ap in enumerate(aps) if ap is None] == [2, 5]
    others = [0, 1, 3, 4, 6]
    without = multilabel_metrics(scores[:, others], targets[:, others])
    assert all(result[name] == pytest.approx(without[name]) for name in ("mAP", "CP", "CR", "CF1"))
    assert result["OP"] < without["OP"]  # what is predicted wrongly of class 2 still counts


def test_without_positives_all_metrics_are_zero_with_a_warning():
    with pytest.warns(UserWarning, match="these of the 3 classes"):
        result = multilabel_metrics(torch.rand(5, 3), torch.zeros(5, 3))
    assert set(result.values()) == {0.0} and len(result) == 13


def test_no_warning_if_all_classes_have_positives():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        multilabel_metrics(*example())


def test_nan_scores_are_never_predicted():
    scores, targets = example()
    broken = scores.copy()
    broken[3:9] = math.nan
    result = multilabel_metrics(broken, targets)
    assert all(math.isfinite(value) for value in result.values())
    lowest = multilabel_metrics(np.where(np.isnan(broken), 0.0, broken), targets, top3_threshold=1e-9)
    assert result == pytest.approx(lowest, rel=1e-12)


def test_fewer_than_three_classes():
    scores, targets = example(classes=2)
    assert multilabel_metrics(scores, targets)["OR_top3"] == 100.0


def test_wrong_shapes_and_targets_are_refused():
    with pytest.raises(ValueError, match=r"scores \(4, 5\) with targets \(4,\)"):
        multilabel_metrics(torch.rand(4, 5), torch.zeros(4))  # single-label data
    with pytest.raises(ValueError, match="must be 1, 0, or -1 where unknown"):
        multilabel_metrics(torch.rand(4, 5), torch.full((4, 5), 2))
    with pytest.raises(ValueError, match="5 classes, names of 4"):
        MultiLabel("abcd").update(torch.rand(4, 5), torch.zeros(4, 5))


def test_size_classes_of_table_6():
    assert size_class(torch.tensor([0, 1023.9, 1024, 9215.9, 9216, 1e6])).tolist() == [0, 0, 1, 1, 2, 2]


def test_map_by_size_of_positives_of_that_size_against_all_negatives():
    scores, targets = example(images=60)
    sizes = np.random.RandomState(2).randint(0, 3, targets.shape)
    sizes[(targets == 1) & (sizes == 2)] = 1  # no large object
    sizes[:, 4] = 0
    result = map_by_size(torch.from_numpy(scores), torch.from_numpy(targets), torch.from_numpy(sizes))
    expected = {}
    for size, name in enumerate(("small", "medium", "large")):
        of_class = []
        for c in range(7):
            keep = [i for i in range(60) if targets[i, c] == 0 or (targets[i, c] == 1 and sizes[i, c] == size)]
            of_class.append(ap_loop(scores[keep, c], targets[keep, c]))
        known = [ap for ap in of_class if ap is not None]
        expected[name] = sum(known) / len(known) if known else None
    assert expected["large"] is None and result["large"] is None
    for name in ("small", "medium"):
        assert result[name] == pytest.approx(expected[name], rel=1e-12)


def streamed(parts, classes=None, **options):
    """A metric after these batches of (logits, targets, …)."""
    metric = MultiLabel(classes, **options)
    for part in parts:
        metric.update(*part)
    return metric


def float32_example():
    scores, targets = example(images=33)
    return torch.from_numpy(np.log(scores / (1 - scores))).float(), torch.from_numpy(targets)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.7, "top3_threshold": 0.5}])
def test_streaming_gives_what_the_whole_gives(options):
    logits, targets = float32_example()
    targets[:, 3] = targets[:, 3].clamp(max=0)
    metric = streamed(zip(logits.split([10, 1, 22]), targets.split([10, 1, 22])), "abcdefg", **options)
    result = metric.compute(ONE)
    with pytest.warns(UserWarning, match=": 3$"):
        assert result == multilabel_metrics(logits.double().sigmoid(), targets, **options)
    aps = average_precision(logits.double().sigmoid(), targets)
    assert metric.per_class == dict(zip("abcdefg", aps))
    assert [name for name, ap in metric.per_class.items() if ap is None] == ["d"]
    assert metric.compute(ONE) == result  # computing does not consume the batches


def test_logits_that_saturate_keep_their_order():
    logits, targets = torch.tensor([[20.0], [19.0], [18.0]]), torch.tensor([[1], [0], [0]])
    assert streamed([(logits, targets)]).compute(ONE)["mAP"] == 100.0


def test_streaming_with_sizes():
    logits, targets = float32_example()
    sizes = torch.randint(0, 3, targets.shape)
    result = streamed(zip(logits.split(20), torch.stack([targets, sizes], 1).split(20))).compute(ONE)
    whole = map_by_size(logits.double().sigmoid(), targets, sizes)
    assert {name: result[f"mAP_{name}"] for name in ("small", "medium", "large")} == whole
    sizes[targets == 1] = 1
    result = streamed([(logits, torch.stack([targets, sizes], 1))]).compute(ONE)
    assert [name for name in result if "mAP_" in name] == ["mAP_medium"] and result["mAP_medium"] == result["mAP"]


class Thread:
    """A thread in the place of a process: `gather` waits for all threads and returns their values by rank."""

    def __init__(self, rank, values, barrier):
        self.rank, self.values, self.barrier = rank, values, barrier

    def gather(self, value):
        """Values of all threads in the order of their ranks."""
        self.values[self.rank] = value
        self.barrier.wait(timeout=10)
        return list(self.values)


def computed_together(metrics):
    """Results of each metric's `compute`, each called in a thread of its own."""
    values, barrier = [None] * len(metrics), threading.Barrier(len(metrics))
    with ThreadPoolExecutor(len(metrics)) as threads:
        return list(threads.map(lambda rank: metrics[rank].compute(Thread(rank, values, barrier)), range(len(metrics))))


def test_two_processes_and_one_without_images_give_what_one_gives():
    logits, targets = float32_example()
    alone = streamed([(logits, targets)])
    expected = alone.compute(ONE)
    first, second = streamed([(logits[:20], targets[:20])]), streamed(zip(logits[20:].split(5), targets[20:].split(5)))
    assert first.compute(ONE) != expected
    for metrics in ([first, second], [second, first], [first, streamed([]), second]):
        for metric, result in zip(metrics, computed_together(metrics), strict=True):
            assert result == pytest.approx(expected, rel=1e-12)
            assert metric.per_class == pytest.approx(alone.per_class, rel=1e-12)


@pytest.mark.parametrize("case", range(3))
def test_released_metrics(case):
    if not GOLDEN.exists():
        pytest.skip(f"no reference data at {GOLDEN}")
    reference = np.load(GOLDEN)
    result = multilabel_metrics(reference[f"case{case}.scores"], reference[f"case{case}.targets"])
    expected = {"mAP": float(reference[f"case{case}.mAP"])}
    expected |= dict(zip(NAMES, reference[f"case{case}.CP_CR_CF1_OP_OR_OF1"].tolist(), strict=True))
    expected |= dict(zip([f"{name}_top3" for name in NAMES], reference[f"case{case}.top3"].tolist(), strict=True))
    assert result == pytest.approx(expected, rel=1e-12)
