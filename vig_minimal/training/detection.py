"""Detection as a task: Mask R-CNN's losses, and COCO's average precision over the images of all processes.

A target is a dict: `boxes` (n, 4) as left, top, right, bottom, `labels` (n,) from 1, `masks` (n, H, W), `area` (n,),
`iscrowd` (n,) and `image_id`. Crowd regions are not learned, nor are boxes thinner than a pixel, of which COCO has a
few; evaluation ignores what is found in crowd regions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.masks import edges_of_array, run_lengths
from .coco_ap import coco_ap
from .distributed import Processes
from .tasks import Task

LEARNED = "boxes", "labels", "masks"  # parts of a target that the losses read


class DetectionTask(Task):
    """An image shows any number of objects, each with its class, box and mask (ClusterViG, section V).

    loss          of                                                                  torchvision's
    proposals     the proposal network: object or not, and its box                    loss_objectness, loss_rpn_box_reg
    classes       cross-entropy of the proposals' classes, the background among them  loss_classifier
    boxes         smooth L1 of the boxes of proposals that are objects                loss_box_reg
    masks         binary cross-entropy of the pixels of their masks                   loss_mask
    """

    key, key_name = "AP", "box AP"
    lines = {"val_AP": "box AP {:5.2f} %", "val_AP50": "AP50 {:5.2f} %", "val_mask_AP": "mask AP {:5.2f} %"}
    loss_names = "proposals", "classes", "boxes", "masks"

    def __init__(self, classes: Sequence[str]):
        self.classes = classes

    def outputs(self, network: nn.Module, images: Sequence[Tensor], targets: Sequence[dict]) -> dict[str, Tensor]:
        learned = []
        for target in targets:
            wide = (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all(1)
            learned.append({name: target[name][wide & (target["iscrowd"] == 0)] for name in LEARNED})
        return network(images, learned)

    def losses(self, outputs: dict[str, Tensor], targets: Sequence[dict], images: Sequence[Tensor]) -> dict:
        return {"proposals": outputs["loss_objectness"] + outputs["loss_rpn_box_reg"],
                "classes": outputs["loss_classifier"], "boxes": outputs["loss_box_reg"], "masks": outputs["loss_mask"]}

    def scores(self) -> "DetectionScores":
        return DetectionScores(self.classes)

    def blank(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the targets of images without objects."""
        size, device = images.shape[2:], images.device
        return [{"boxes": torch.zeros(0, 4, device=device), "labels": torch.zeros(0, dtype=torch.int64, device=device),
                 "masks": torch.zeros(0, *size, dtype=torch.uint8, device=device),
                 "iscrowd": torch.zeros(0, dtype=torch.int64, device=device)} for _ in images]

    @staticmethod
    def chance(classes: int) -> tuple[float, str]:
        words = f"object or not, {classes} classes or background, and pixels of masks, all guessed, have"
        return 2 * math.log(2) + math.log(classes + 1), words  # boxes start near 0, where anchors are


class DetectionScores:
    """COCO's twelve figures in percent, of boxes by their names and of masks as mask_AP, mask_AP50, …

    After `compute`, `per_class` is the AP of boxes by class in percent, None for a class without objects.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        self.images, self.objects, self.found = [], [], []  # as in an instances file and in COCO's result format
        self.per_class: dict[str, float | None] = {}

    def update(self, outputs: Sequence[dict[str, Tensor]], targets: Sequence[dict]) -> None:
        """Add a batch: what the detector returns for its images, and their targets."""
        for found, target in zip(outputs, targets, strict=True):
            image, (height, width) = int(target["image_id"]), target["masks"].shape[1:]
            self.images.append({"id": image, "height": height, "width": width})
            self.objects += [entry | {"area": area, "iscrowd": crowd} for entry, area, crowd in zip(
                _entries(image, target, target["masks"] > 0), target["area"].tolist(), target["iscrowd"].tolist())]
            self.found += [entry | {"score": score} for entry, score in zip(
                _entries(image, found, found["masks"][:, 0] >= 0.5), found["scores"].tolist())]

    def compute(self, processes: Processes) -> dict[str, float]:
        """Return the figures that have a value. Every process must call this."""
        parts = processes.gather((self.images, self.objects, self.found))
        boxes, masks = processes.from_first(self._figures, *map(lambda lists: sum(lists, []), zip(*parts)))
        aps = boxes.pop("per_category")
        self.per_class = {name: _percent(aps[label]) for label, name in enumerate(self.classes, start=1)}
        del masks["per_category"]
        named = boxes | {f"mask_{name}": value for name, value in masks.items()}
        return {name: _percent(value) for name, value in named.items() if value is not None} | {
            "AP": _percent(boxes["AP"]) or 0.0}

    def _figures(self, images: list, objects: list, found: list) -> tuple[dict, dict]:
        categories = [{"id": label} for label in range(1, len(self.classes) + 1)]
        truth = {"images": images, "annotations": objects, "categories": categories}
        return coco_ap(truth, found, "bbox"), coco_ap(truth, found, "segm")


def _entries(image: int, objects: dict[str, Tensor], masks: Tensor) -> list[dict]:
    """Return COCO's entries of one image's objects, whose masks are (n, H, W) bool."""
    boxes = torch.cat([objects["boxes"][:, :2], objects["boxes"][:, 2:] - objects["boxes"][:, :2]], 1)
    return [{"image_id": image, "category_id": label, "bbox": box,
             "segmentation": run_lengths(edges_of_array(mask), *mask.shape)}
            for label, box, mask in zip(objects["labels"].tolist(), boxes.tolist(), masks.cpu().numpy())]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
