"""Detection as a task of train.py: losses, COCO's figures over batches, resuming, and what is refused."""

import pytest
import torch

import train
from commands import own_folder, refused, rows  # noqa: F401
from helpers import same_tensors
from vig_minimal.files import load
from vig_minimal.training.coco_ap import coco_ap
from vig_minimal.training.detection import DetectionTask
from vig_minimal.training.distributed import Processes

ONE = Processes(0, 1, 0, 1, torch.device("cpu"))
TINY = ["--model", "vig_nano", "--task", "detection", "--img-size", "64", "--device", "cpu", "--workers", "0",
        *(part for field in ("dim=16", "depth=1", "k=2", "patch=16", "channels=8", "box_head=8", "mask_layers=1",
                             "proposals=8", "samples=8") for part in ("--set", field)),
        "--limit", "8", "--batch-size", "4", "--schedule", "step", "--warmup-epochs", "0"]


def shown(boxes, labels, image, crowd=None, size=(20, 24)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = 1
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4), "labels": torch.tensor(labels).long(),
            "masks": masks, "area": masks.sum((1, 2)).float(), "image_id": torch.tensor(image),
            "iscrowd": torch.tensor(crowd or [0] * len(boxes))}


def answer(target, scores):
    return {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.tensor(scores),
            "masks": target["masks"][:, None].float()}


def test_figures_are_those_of_coco_ap_over_batches():
    first = shown([(2, 2, 10, 12), (5, 5, 20, 18)], [1, 2], image=0)
    second, empty = shown([(1, 1, 9, 9)], [1], image=1), shown([], [], image=2)
    metric = DetectionTask(["disc", "ring", "star"]).metric()
    metric.update([answer(first, [0.9, 0.8])], [first])
    moved = shown([(3, 1, 11, 9)], [1], image=1)  # IoU of box and mask: 6·8 / (2·64 − 6·8) = 0.6
    metric.update([answer(moved, [0.7]), answer(shown([(1, 1, 9, 9)], [2], image=2), [0.95])], [second, empty])
    scores = metric.compute(ONE)
    # disc: found at IoU 1 and 0.6; ring: found, but below a false alarm
    disc, ring = (3 * 1 + 7 * 51 / 101) / 10, 0.5
    assert scores["AP"] == pytest.approx(100 * (disc + ring) / 2) == scores["mask_AP"]
    assert metric.per_class == {"disc": pytest.approx(100 * disc), "ring": pytest.approx(50), "star": None}
    truth = {"images": metric.images, "annotations": metric.objects, "categories": [{"id": i} for i in (1, 2, 3)]}
    assert scores["AP75"] == 100 * coco_ap(truth, metric.found)["AP75"] and "APl" not in scores


def test_crowds_are_not_learned():
    seen = []
    task, target = DetectionTask(["disc"]), shown([(2, 2, 9, 9), (5, 5, 19, 18)], [1, 1], image=0, crowd=[1, 0])
    task.outputs(lambda images, targets: seen.extend(targets), [torch.zeros(3, 20, 24)], [target])
    assert seen[0].keys() == {"boxes", "labels", "masks"} and seen[0]["boxes"].tolist() == [[5, 5, 19, 18]]


def test_a_run_writes_four_losses_and_resumes_to_the_same_bits():
    train.main([*TINY, "--epochs", "2", "--output", "whole"])
    lines = rows("whole")
    assert [row["epoch"] for row in lines] == ["0", "1", "2"]
    losses = [float(lines[2][f"train_{name}"]) for name in ("proposals", "classes", "boxes", "masks")]
    assert sum(losses) == pytest.approx(float(lines[2]["train_loss"]), rel=1e-4)
    assert {"val_AP", "val_AP50", "val_AR100", "val_mask_AP", "neighbours_0"} <= lines[2].keys()

    train.main([*TINY, "--epochs", "1", "--output", "cut"])
    train.main(["--resume", "cut/last.pt", "--epochs", "2", "--output", "rest", "--device", "cpu", "--workers", "0"])
    whole, rest = (load(f"{folder}/last.pt") for folder in ("whole", "rest"))
    assert whole["name"] == "vig_nano" and whole["flags"]["task"] == "detection"
    assert same_tensors(whole["model"], rest["model"])


def test_a_detector_starts_from_a_classifier(capsys):
    small = ["--model", "vig_nano", "--img-size", "64", "--device", "cpu", "--workers", "0", "--limit", "8",
             "--batch-size", "4", "--epochs", "1", *(part for field in ("dim=16", "depth=1", "k=2", "patch=16")
                                                     for part in ("--set", field))]
    train.main([*small, "--data", "shapes", "--output", "labels"])
    train.main([*TINY, "--init-from", "labels/last.pt", "--dry-run"])
    assert "new: neck, rpn, roi_heads" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("flags, says", [
    (["--data", "shapes"], "shapes has no boxes"),
    (["--mixup", "0.5"], "mirrors"),
    (["--compile"], "--compile"),
    (["--model", "gkgnet_nano"], "needs the patches"),
    (["--set", "proposals=0"], "at least 1"),
])
def test_what_a_detector_cannot_learn_is_refused(capsys, flags, says):
    assert says in refused(capsys, "--task", "detection", "--device", "cpu", *flags)
