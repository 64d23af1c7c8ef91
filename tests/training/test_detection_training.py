"""Detection as a task of train.py: losses, COCO's figures over batches, resuming, and what is refused."""

import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from vig_minimal import train
from commands import at_call, free_port, join, own_folder, refused, rows  # noqa: F401
from helpers import coco_folder, same_tensors, thing
from vig_minimal.atomic_files import load
from vig_minimal.models.detection import create_detector
from vig_minimal.training.coco_ap import coco_ap
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes, start
from vig_minimal.training.engine import create_run
from vig_minimal.training.recipes import Recipe
from vig_minimal.training.tasks import DetectionTask

ONE = Processes(torch.device("cpu"))
TINY = ["--model", "vig_nano", "--task", "detection", "--img-size", "64", "--device", "cpu", "--workers", "0",
        *(part for field in ("dim=16", "depth=1", "k=2", "patch=16", "channels=8", "box_head=8", "mask_layers=1",
                             "proposals=3", "samples=8") for part in ("--set", field)),
        "--limit", "8", "--batch-size", "4", "--schedule", "step", "--warmup-epochs", "0"]


def interrupt():
    raise KeyboardInterrupt


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
    metric = DetectionTask(["disc", "ring", "star"]).scores()
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


def test_a_crowd_takes_any_number_of_answers_and_is_none_to_find():
    """COCO: what lies in a crowd region is neither right nor a false alarm."""
    crowd = shown([(0, 0, 20, 18), (2, 2, 8, 8)], [1, 1], image=0, crowd=[1, 0])
    inside = shown([(10, 10, 14, 14), (15, 3, 19, 9), (2, 2, 8, 8)], [1, 1, 1], image=0)
    figures = {}
    for name, target in (("crowd", crowd), ("object", crowd | {"iscrowd": torch.tensor([0, 0])})):
        metric = DetectionTask(["disc"]).scores()
        metric.update([answer(inside, [0.9, 0.8, 0.7])], [target])
        figures[name] = metric.compute(ONE)
    assert figures["crowd"]["AP"] == figures["crowd"]["mask_AP"] == pytest.approx(100)
    # as an object it is missed, and two answers before the right one are wrong: precision 1/3 up to recall 1/2
    assert figures["object"]["AP"] == figures["object"]["mask_AP"] == pytest.approx(100 / 3 * 51 / 101)


@pytest.mark.parametrize("value, found", [(0.49, 0.0), (0.5, 100.0), (0.51, 100.0)])
def test_a_pixel_is_in_a_mask_from_one_half_on(value, found):
    target = shown([(2, 2, 12, 12)], [1], image=0)
    metric = DetectionTask(["disc"]).scores()
    metric.update([answer(target, [0.9]) | {"masks": value * target["masks"][:, None].float()}], [target])
    scores = metric.compute(ONE)
    assert scores["mask_AP"] == pytest.approx(found) and scores["AP"] == pytest.approx(100)


def test_crowds_are_not_learned():
    seen = []
    task, target = DetectionTask(["disc"]), shown([(2, 2, 9, 9), (5, 5, 19, 18)], [1, 1], image=0, crowd=[1, 0])
    task.outputs(lambda images, targets: seen.extend(targets), [torch.zeros(3, 20, 24)], [target])
    assert seen[0].keys() == {"boxes", "labels", "masks"} and seen[0]["boxes"].tolist() == [[5, 5, 19, 18]]


def test_boxes_thinner_than_a_pixel_are_not_learned():
    """torchvision refuses boxes without an area; COCO has some of a fraction of a pixel."""
    seen, target = [], shown([(2, 2, 9, 9), (3, 3, 4, 9), (5, 5, 19, 18), (6, 2, 12, 3)], [1, 2, 3, 4], image=0)
    target["boxes"] = torch.tensor([[2, 2, 2.9, 9], [3, 3, 4, 9], [5, 5, 19, 5.9], [6, 2, 12, 3]])
    task, image = DetectionTask(list("abcd")), torch.zeros(3, 20, 24)
    task.outputs(lambda images, targets: seen.extend(targets), [image], [target])
    assert seen[0]["labels"].tolist() == [2, 4] and torch.equal(seen[0]["masks"], target["masks"][[1, 3]])


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


@pytest.mark.slow
def test_a_run_that_is_killed_within_an_epoch_goes_on_to_the_same_bits(monkeypatch):
    argv = [*TINY, "--model", "cvig_nano", "--epochs", "1", "--save-every", "1", "--flip", "--scale-jitter", "0.4",
            "--drop-path", "0.2"]
    train.main([*argv, "--output", "whole"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(train, "update", at_call(2, train.update, interrupt))
        train.main([*argv, "--output", "cut"])
    assert ended.value.code == 130 and load("cut/last.pt")["step"] == 1
    train.main([*argv, "--output", "cut", "--resume", "auto"])
    whole, rest = (load(f"{folder}/last.pt") for folder in ("whole", "cut"))
    assert same_tensors(whole["model"], rest["model"]) and whole["step"] == rest["step"] == 2
    assert rows("whole") == rows("cut")


def one_of_two(rank, ports, folder):
    join(rank, 2, ports[0])
    os.chdir(folder)
    processes = start("cpu")
    metric, targets = DetectionTask(["disc", "ring"]).scores(), scenes()
    for target in targets[rank::2]:
        metric.update([answer(target, [0.9 - 0.1 * rank] * len(target["boxes"]))], [target])
    scores = metric.compute(processes)
    with open(f"scores{rank}.txt", "w") as file:
        file.write(repr(scores))
    processes.leave()
    join(rank, 2, ports[1])
    train.main([*TINY, "--epochs", "1", "--output", "two"])


def scenes():
    return [shown([(2, 2, 10, 12), (5, 5, 20, 18)], [1, 2], 0), shown([(1, 1, 9, 9)], [1], 1), shown([], [], 2)]


@pytest.mark.slow
def test_two_processes_train_one_detector_and_evaluate_every_image_once(tmp_path):
    ports = free_port(), free_port()
    mp.start_processes(one_of_two, (ports, str(tmp_path)), 2, start_method="forkserver")
    metric = DetectionTask(["disc", "ring"]).scores()
    for place, target in enumerate(scenes()):
        metric.update([answer(target, [0.9 - 0.1 * (place % 2)] * len(target["boxes"]))], [target])
    alone = repr(metric.compute(ONE))
    assert [Path(f"scores{rank}.txt").read_text() for rank in range(2)] == [alone, alone]
    assert float(rows("two")[1]["train_masks"]) > 0 and load("two/last.pt")["step"] == 2


def test_an_evaluation_tells_ap_by_class_and_writes_nothing(capsys):
    train.main([*TINY, "--epochs", "1", "--output", "out"])
    before = sorted(path.name for path in Path("out").iterdir())
    assert "per_class_ap.csv" in before or rows("out")[1]["val_AP"] == "0.0"
    train.main(["--resume", "out/last.pt", "--eval-only", "--device", "cpu", "--workers", "0"])
    said = capsys.readouterr().out
    assert "AP of classes in percent: " in said and "mask_AP50 " in said
    sentence = refused(capsys, *TINY, "--init-from", "out/last.pt")
    assert "out/last.pt: holds a detector or a network for segmentation; --init-from takes" in sentence
    assert sorted(path.name for path in Path("out").iterdir()) == before


def test_a_detector_learns_from_cocos_layout_and_a_broken_photo_is_named(capsys, tmp_path):
    things = [thing(10 + i, 90, segmentation=[[1, 2, 11, 2, 11, 10, 1, 10]]) for i in range(3)]
    folder = coco_folder(tmp_path / "coco", things, images=4)
    argv = [*TINY, "--data", "coco", "--data-dir", str(folder), "--epochs", "1"]
    train.main([*argv, "--output", "out"])
    assert float(rows("out")[1]["train_masks"]) > 0 and load("out/last.pt")["classes"][2] == "toothbrush"
    (folder / "train2017" / "1.jpg").write_bytes(b"no photo")
    capsys.readouterr()
    assert "1.jpg: this image is broken" in refused(capsys, *argv, "--output", "other", "--bad-images", "error")


def test_a_frozen_detector_trains_neck_and_heads_alone():
    model = create_detector("vig_nano", num_classes=3, dim=16, depth=1, k=2, patch=16, img_size=64)
    config = RunConfig(recipe=Recipe(), freeze=True, init_from="x.pt")
    run = create_run(model, DetectionTask(["a", "b", "c"]), config, ONE)
    learned = {name.rpartition(".body.")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert learned == {""} and any(value.requires_grad for value in model.backbone.neck.parameters())
    assert not any(value.requires_grad for value in model.body.parameters()) and run.frozen


def test_a_detector_starts_from_a_classifier(capsys):
    small = ["--model", "vig_nano", "--img-size", "64", "--device", "cpu", "--workers", "0", "--limit", "8",
             "--batch-size", "4", "--epochs", "1", *(part for field in ("dim=16", "depth=1", "k=2", "patch=16")
                                                     for part in ("--set", field))]
    train.main([*small, "--data", "shapes", "--output", "labels"])
    train.main([*TINY, "--init-from", "labels/last.pt", "--dry-run"])
    assert "new: neck, rpn, roi_heads" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("flags, says", [
    (["--data", "shapes"], "shapes has no boxes"),
    (["--data", "coco"], "with --data-dir"),
    (["--mixup", "0.5"], "--scale-jitter"),
    (["--compile"], "--compile"),
    (["--every", "1"], "--every: keeps graphs of classifiers"),
    (["--data", "shapebox"], "did you mean shapes-boxes"),
    (["--data", "cifar10"], "shapes-boxes and coco have"),
    (["--model", "gkgnet_nano"], "needs the patches"),
    (["--set", "proposals=0"], "at least 1"),
])
def test_what_a_detector_cannot_learn_is_refused(capsys, flags, says):
    assert says in refused(capsys, "--task", "detection", "--device", "cpu", *flags)
