"""What differs between kinds of training: the task. It turns outputs and targets into named losses, and has a metric.

    task             an image has                            losses                      key
    SingleLabel      one class                               cross-entropy               top-1
    MultiLabelTask   yes, no or unknown for every class      smoothed BCE, asymmetric    mAP

A task has `key`, the score that decides which epoch is best; `lines`, how the scores of an epoch are said; `losses(...)`,
named, whose sum is trained on, and `loss_names`; `metric()`, a fresh one; `chance(classes)`, the loss of a guess.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .distance import full_precision
from .distributed import Processes
from .losses import asymmetric_loss, smooth_bce
from .metrics import MultiLabel, TopK


class SingleLabel:
    """The task of telling which one class an image shows: cross-entropy with label smoothing; top-1 decides.

    teacher: normalised images to the logits of a trained network, for hard-label distillation (DeiT, section 4):
    ½ CE(classifier, label) + ½ CE(distillation classifier, argmax of the teacher). A model with one classifier learns
    both with it; without a teacher, the label stands in for its answer.
    """

    key, key_name = "top1", "top-1"
    lines = {"val_top1": "top-1 {:5.2f} %", "val_top5": "top-5 {:5.2f} %"}

    def __init__(self, label_smoothing: float, teacher: Callable[[Tensor], Tensor] | None = None):
        self.label_smoothing, self.teacher = label_smoothing, teacher

    @property
    def loss_names(self) -> tuple[str, ...]:
        """What `losses` gives, but for a model of two classifiers, whose second loss has no column of its own."""
        return ("cross_entropy",) if self.teacher is None else ("cross_entropy", "distillation")

    def losses(self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Named losses, whose sum is trained on.

        outputs: logits (B, classes), or those of the classifier and of the distillation classifier. targets: labels
        (B,), or shares of the classes (B, classes). images: what the model saw.
        """
        two = isinstance(outputs, tuple)
        logits, distilled = outputs if two else (outputs, outputs)
        truth = F.cross_entropy(full_precision(logits), targets, label_smoothing=self.label_smoothing)
        if self.teacher is None and not two:
            return {"cross_entropy": truth}
        smoothing = self.label_smoothing if self.teacher is None else 0.0
        answers = targets if self.teacher is None else self.teacher(images).argmax(1)
        learnt = F.cross_entropy(full_precision(distilled), answers, label_smoothing=smoothing)
        return {"cross_entropy": truth / 2, "distillation": learnt / 2}

    def metric(self) -> TopK:
        """A fresh metric of this task."""
        return TopK()

    @staticmethod
    def chance(classes: int) -> tuple[float, str]:
        """The loss of a guess, and what it is."""
        return math.log(classes), f"a guess among {classes} classes has ln {classes}"


class MultiLabelTask:
    """The task of telling for every class whether an image shows it; mAP decides.

    L = L_smooth + w·L_asy. GKGNet section 3.4 has w = 1, its released code w = 10. classes: their names.
    """

    key, key_name = "mAP", "mAP"
    lines = {"val_mAP": "mAP {:5.2f} %", "val_CF1": "CF1 {:5.2f} %", "val_OF1": "OF1 {:5.2f} %",
             "val_CF1_top3": "top-3: CF1 {:5.2f} %", "val_OF1_top3": "OF1 {:5.2f} %"}
    loss_names = "smooth", "asymmetric"

    def __init__(self, classes: Sequence[str], label_smoothing: float, asymmetric: float):
        self.classes, self.label_smoothing, self.asymmetric = classes, label_smoothing, asymmetric
        self.last: MultiLabelScores | None = None  # the metric of the last evaluation, which knows the AP of each class

    def losses(self, outputs: Tensor, targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Named losses, whose sum is trained on. outputs: logits (B, classes). targets: (B, classes), 1, 0 and −1, or
        (B, 2, classes) with the sizes of objects, which no loss reads."""
        targets = targets[:, 0] if targets.ndim == 3 else targets
        # GKGNet section 3.4: L = L_smooth + L_asy
        return {"smooth": smooth_bce(outputs, targets, self.label_smoothing),
                "asymmetric": self.asymmetric * asymmetric_loss(outputs, targets)}

    def metric(self) -> "MultiLabelScores":
        """A fresh metric of this task, which is also kept as `last`."""
        self.last = MultiLabelScores(self)
        return self.last

    def chance(self, classes: int) -> tuple[float, str]:
        """The loss where every class has probability ½ and none is shown, and what it is."""
        half = torch.zeros(1, classes)
        loss = sum(self.losses(half, half, half).values()).item()
        return loss, f"probability ½ for each of {classes} classes, none of them shown, has"


class MultiLabelScores:
    """The loss of a MultiLabelTask and `metrics.MultiLabel`, over all images that it was fed."""

    def __init__(self, task: MultiLabelTask):
        self.task, self.scores = task, MultiLabel(task.classes)
        self.sums = torch.zeros(2, dtype=torch.float64)  # images, loss

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits: (B, classes). targets: as for `MultiLabelTask.losses`."""
        loss = sum(self.task.losses(logits, targets, logits).values())
        self.sums += torch.tensor([1.0, loss.item()], dtype=torch.float64) * len(logits)
        self.scores.update(logits, *(targets.unbind(1) if targets.ndim == 3 else (targets,)))

    def compute(self, processes: Processes) -> dict[str, float]:
        """`loss`, and all of `metrics.MultiLabel`, over the images of all processes, each of which must call this."""
        count, loss = processes.sum(self.sums).tolist()
        return {"loss": loss / count} | self.scores.compute(processes)
