"""mIoU and pixel accuracy against plain counting."""

import pytest
import torch
from reference import segmentation as reference

from vig_minimal.training.distributed import Processes
from vig_minimal.training.metrics import SegmentationScores, segmentation_metrics

ONE = Processes(torch.device("cpu"))


def test_scores_are_those_of_plain_counting_over_images_of_several_sizes():
    torch.manual_seed(1)
    classes = 5
    scores, truths, found = SegmentationScores([str(i) for i in range(classes)]), [], []
    for height, width in ((4, 7), (3, 3), (6, 2)):
        logits, truth = torch.randn(classes, height, width), torch.randint(0, 3, (height, width))
        logits[4] = -torch.inf  # class 4 is in neither truth nor prediction
        truth[0, :2] = 255
        scores.update([logits.argmax(0)], [truth])
        truths += truth.flatten().tolist()
        found += logits.argmax(0).flatten().tolist()
    result = scores.compute(ONE)
    assert scores.confusion.tolist() == reference.counts(truths, found, classes)
    ious = [reference.intersection_over_union(truths, found, k) for k in range(classes)]
    assert ious[4] is None and ious[3] == 0  # class 3 is predicted, and never there
    known = [100 * iou for iou in ious if iou is not None]
    right = sum(t == f for t, f in zip(truths, found))
    assert result["mIoU"] == pytest.approx(sum(known) / len(known))
    assert result["accuracy"] == pytest.approx(100 * right / sum(t != 255 for t in truths))
    assert scores.per_class["4"] is None and scores.per_class["0"] == pytest.approx(100 * ious[0])


def test_rows_are_the_truth_which_accuracy_and_iou_cannot_tell():
    scores = SegmentationScores(["a", "b"])
    scores.update([torch.tensor([[1, 1]])], [torch.tensor([[0, 1]])])
    assert scores.confusion.tolist() == [[0, 1], [0, 1]]


def test_by_hand():
    result = segmentation_metrics(torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert result["IoU"] == [pytest.approx(50), pytest.approx(400 / 7), None]
    assert result["mIoU"] == pytest.approx((50 + 400 / 7) / 2) and result["accuracy"] == pytest.approx(70)


@pytest.mark.parametrize("counts", [torch.ones(2, 3), torch.ones(4), torch.tensor([[1, -1], [0, 1]])])
def test_what_is_no_confusion_matrix(counts):
    with pytest.raises(ValueError, match="segmentation metrics take"):
        segmentation_metrics(counts)
