"""What differs between kinds of training: the task. It turns outputs and targets into named losses, and has a metric.

    task             an image has                            losses                      key
    SingleLabel      one class                               cross-entropy               top-1
    MultiLabelTask   yes, no or unknown for every class      smoothed BCE, asymmetric    mAP
    BipartiteTask    one class, which anchors stand for      CNN2GNN Eqs. 8-17           top-1

A task has `key`, the score that decides which epoch is best; `lines`, how the scores of an epoch are said;
`losses(...)`, named, whose sum is trained on, and `loss_names`; `metric()`, a fresh one; `chance(classes)`, the loss of
a guess.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.datasets import Data
from ..graphs.distance import full_precision
from ..models.cnn2graph import CNN2Graph, Output
from .anchors import Anchors
from .distributed import Processes
from .losses import asymmetric_loss, bipartite_losses, classification_losses, smooth_bce
from .metrics import MultiLabel, TopK
from .recipes import Recipe


class Task:
    """What all tasks have in common: nothing to do at the beginning of an epoch or of an evaluation, and no anchors."""

    anchor_names: Sequence[str] = ()

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called with the model that is trained, before the first step of an epoch, or the first after going on."""

    def begin_evaluation(self, model: nn.Module) -> None:
        """Called with the model that is evaluated."""

    def predict(self, model: nn.Module, images: Tensor):
        """What the metric is fed with, besides the targets."""
        return model(images)


class SingleLabel(Task):
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


class MultiLabelTask(Task):
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


class BipartiteTask(Task):
    """The task of telling the one class of an image with anchors and proxies beside it; top-1 decides.

    L = L_classification + w·L_total_contrastive. CNN2GNN has w = 1; w = 0 is cross-entropy alone. Embeddings of all
    processes are brought together, so that triplets and their gradients are those of the global batch.
    anchors: None in evaluation alone, where the model has their embeddings.
    """

    key, key_name = SingleLabel.key, SingleLabel.key_name
    lines = {**SingleLabel.lines, "val_proxy_distance": "proxies apart {:.2f}",
             "val_strongest": "strongest proxy {:5.2f} %"}
    loss_names = ("images", "anchors", "proxies", "anchor_triplet", "proxy_triplet", "anchor_proxy_triplet",
                  "proxy_contrastive")

    def __init__(self, anchors: Anchors | None, label_smoothing: float, contrastive: float, processes: Processes):
        self.anchors, self.processes = anchors, processes
        self.anchor_names = () if anchors is None else anchors.names
        self.label_smoothing, self.contrastive = label_smoothing, contrastive

    def begin_epoch(self, model: CNN2Graph, epoch: int) -> None:
        """The anchors of an epoch are augmented alike in all its steps and processes. (Without any: black images.)"""
        black = torch.zeros(len(model.anchors), 3, *model.config.img_size, device=model.anchors.device)
        model.anchor_images = black if self.anchors is None else self.anchors.augmented(epoch)

    def begin_evaluation(self, model: CNN2Graph) -> None:
        """The evaluated network's own embeddings of the anchors, once."""
        if self.anchors is not None:
            model.store_anchors(self.anchors.as_they_are())

    def predict(self, model: CNN2Graph, images: Tensor):
        """Logits and the attention of images to proxies (B, P)."""
        logits, graphs = model.forward(images, return_graphs=True)  # past a compiled __call__, which knows no graphs
        return logits, graphs[0].weights[0, :, len(model.anchors):], model

    def losses(self, outputs: Output, targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Named losses, whose sum is trained on. targets: labels (B,)."""
        named = classification_losses(outputs.logits, targets, outputs.anchor_logits, outputs.anchor_labels,
                                      outputs.proxy_logits, outputs.proxy_labels, self.label_smoothing)
        x, labels = self.processes.joined(outputs.x), self.processes.joined(targets)
        # CNN2GNN Eq. 15
        terms = bipartite_losses(x, labels, outputs.anchors, outputs.anchor_labels, outputs.proxies,
                                 outputs.proxy_labels)
        # CNN2GNN Eq. 17
        return named | {name: self.contrastive * term for name, term in terms.items()}

    @staticmethod
    def chance(classes: int) -> tuple[float, str]:
        """The loss of three guesses, and what it is; the other terms begin below 1."""
        guesses = f"guesses of images, anchors and proxies among {classes} classes have 3 ln {classes}"
        return 3 * math.log(classes), guesses

    def metric(self) -> "BipartiteScores":
        """A fresh metric of this task."""
        return BipartiteScores()


class BipartiteScores:
    """`metrics.TopK`, and what tells of collapsed proxies, over all images that it was fed.

    proxy_distance: the smallest distance between L2-normalised proxies of different classes, 0 to 2. strongest: the
    share of images, in percent, whose strongest proxy is of their class; only where images attend.
    """

    def __init__(self):
        self.top, self.sums, self.model = TopK(), torch.zeros(2, dtype=torch.float64), None

    def update(self, outputs: tuple[Tensor, Tensor, CNN2Graph], labels: Tensor) -> None:
        """outputs: what `BipartiteTask.predict` gives. labels: (B,)."""
        logits, attention, self.model = outputs
        self.top.update(logits, labels)
        strongest = attention.argmax(1) // self.model.config.proxies_per_class
        self.sums += torch.tensor([len(labels), (strongest == labels).sum()], dtype=torch.float64)

    def compute(self, processes: Processes) -> dict[str, float]:
        """All scores over the images of all processes, each of which must call this."""
        count, right = processes.sum(self.sums).tolist()
        result = self.top.compute(processes) | {"proxy_distance": proxy_distance(self.model)}
        return result | ({"strongest": 100 * right / count} if self.model.attends else {})


@torch.no_grad()
def proxy_distance(model: CNN2Graph) -> float:
    """The smallest distance between L2-normalised proxies of different classes; 0: two of them are the same."""
    unit, labels = F.normalize(model.proxies.double(), dim=-1), model.labels(model.config.proxies_per_class)
    distance = torch.cdist(unit, unit).masked_fill(labels[:, None] == labels, torch.inf)
    return distance.min().item() if len(labels.unique()) > 1 else 0.0


def choose_task(config: object, data: Data, recipe: Recipe, teacher: Callable | None, processes: Processes, seed: int,
                trains: bool) -> Task:
    """The task of a model of that config on that data. trains: else anchors are not needed."""
    if data.multi_label:
        return MultiLabelTask(data.classes, recipe.label_smoothing, recipe.asymmetric)
    if getattr(config, "aggregation", "none") == "none":
        return SingleLabel(recipe.label_smoothing, teacher)
    anchors = None
    if trains:
        anchors = Anchors(data.train, data.classes, config.anchors_per_class, config.img_size, recipe, seed,
                          processes.device)
    return BipartiteTask(anchors, recipe.label_smoothing, recipe.contrastive, processes)
