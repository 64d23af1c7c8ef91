"""The task: everything that depends on the kind of labels. The training loop knows nothing else about them.

    task             labels of an image                      losses                      score of the best epoch
    SingleLabel      one class                               cross-entropy               top-1
    MultiLabelTask   yes, no or unknown for every class      smoothed BCE, asymmetric    mAP
    BipartiteTask    one class, with anchors and proxies     CNN2GNN Eqs. 8-17           top-1
    DetectionTask    objects with box and mask               Mask R-CNN's                box AP
    SegmentationTask one class for every pixel, or unknown   cross-entropy               mIoU
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.anchors import Anchors
from ..data.datasets import Data
from ..data.segmentation import UNKNOWN
from ..graphs.distance import full_precision
from ..models.cnn2graph import CNN2Graph, Output
from .config import RunConfig
from .distributed import Processes
from .losses import asymmetric_loss, bipartite_losses, classification_losses, smooth_bce
from .metrics import DetectionScores, MultiLabel, SegmentationScores, TopK


class Task:
    """Base class. Beside the methods here, a task has:

    key, key_name                       score that decides which epoch is best, and how it is printed
    lines                               formats of an epoch's scores, by column of metrics.csv
    losses(outputs, targets, images)    losses by name; training minimises their sum
    scores()                            a new metric: `update(outputs, targets)` takes a batch, `compute(processes)`,
                                        called in every process, returns the scores; one that has AP by class keeps
                                        it as `per_class`, in percent, None for a class that no image shows
    """

    anchor_names: Sequence[str] = ()
    class_score = "AP"  # what `per_class` of its metric holds

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called with the trained model before the first step of an epoch, or the first one after resuming."""

    def begin_evaluation(self, model: nn.Module) -> None:
        """Called with the model to evaluate."""

    def outputs(self, network: nn.Module, images: Tensor, targets: Tensor):
        """Return what `losses` takes as outputs."""
        return network(images)

    def predict(self, model: nn.Module, images: Tensor):
        """Return the outputs that the metric takes."""
        return model(images)

    def probe(self, images):
        """Return the part of a batch's images that the model needs to show its graphs."""
        return images

    @staticmethod
    def chance(classes: int) -> tuple[float, str]:
        """Return the chance-level loss, and its formula."""
        return math.log(classes), f"ln {classes}"


class SingleLabel(Task):
    """An image shows one class: cross-entropy with label smoothing.

    teacher: maps normalised images to the logits of a trained network, for hard-label distillation (DeiT, section 4):
    ½ CE(classifier, label) + ½ CE(distillation classifier, argmax of the teacher). A model with one classifier learns
    both with it. For a model with two and no teacher, the label takes the place of the teacher's prediction.
    """

    key, key_name = "top1", "top-1"
    lines = {"val_top1": "top-1 {:5.2f} %", "val_top5": "top-5 {:5.2f} %"}
    scores = TopK

    def __init__(self, label_smoothing: float, teacher: Callable[[Tensor], Tensor] | None = None):
        self.label_smoothing, self.teacher = label_smoothing, teacher

    def losses(self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the losses by name. outputs: logits (B, classes), or those of the classifier and of the distillation
        classifier. targets: labels (B,), or shares of the classes (B, classes). images: what the model saw."""
        logits, distilled = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        truth = F.cross_entropy(full_precision(logits), targets, label_smoothing=self.label_smoothing)
        if self.teacher is not None:
            learned = F.cross_entropy(full_precision(distilled), self.teacher(images).argmax(1))
        elif distilled is not logits:
            learned = F.cross_entropy(full_precision(distilled), targets, label_smoothing=self.label_smoothing)
        else:
            return {"cross_entropy": truth}
        return {"cross_entropy": truth / 2, "distillation": learned / 2}


class MultiLabelTask(Task):
    """An image has a label for every class: L = L_smooth + w·L_asy, w = `asymmetric`. classes: their names."""

    key, key_name = "mAP", "mAP"
    lines = {"val_mAP": "mAP {:5.2f} %", "val_CF1": "CF1 {:5.2f} %", "val_OF1": "OF1 {:5.2f} %",
             "val_CF1_top3": "top-3 CF1 {:5.2f} %", "val_OF1_top3": "top-3 OF1 {:5.2f} %"}

    def __init__(self, classes: Sequence[str], label_smoothing: float, asymmetric: float):
        self.classes, self.label_smoothing, self.asymmetric = classes, label_smoothing, asymmetric

    def losses(self, outputs: Tensor, targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the losses by name. outputs: logits (B, classes). targets: (B, classes), 1, 0 and −1, or
        (B, 2, classes) with the sizes of objects, which the losses ignore."""
        targets = targets[:, 0] if targets.ndim == 3 else targets
        # GKGNet section 3.4: L = L_smooth + L_asy
        return {"smooth": smooth_bce(outputs, targets, self.label_smoothing),
                "asymmetric": self.asymmetric * asymmetric_loss(outputs, targets)}

    def scores(self) -> MultiLabel:
        return MultiLabel(self.classes, loss=lambda logits, targets: sum(self.losses(logits, targets, None).values()))

    def chance(self, classes: int) -> tuple[float, str]:
        none = torch.zeros(1, classes)  # as logits and as targets
        loss = sum(self.losses(none, none, none).values()).item()
        return loss, f"probability ½ for each of {classes} classes"


class BipartiteScores(TopK):
    """`TopK`, and two scores that show whether proxies collapse, that is, become alike or useless.

    proxy_distance: the smallest distance between L2-normalised proxies of different classes, 0 to 2. strongest: percent
    of images whose strongest attention goes to a proxy of their class; only for models with attention.
    """

    def __init__(self, model: CNN2Graph):
        super().__init__()
        self.strongest, self.model = torch.zeros(2, dtype=torch.float64), model  # images, those whose proxy is right

    def update(self, outputs: tuple[Tensor, Tensor], labels: Tensor) -> None:
        """Add a batch: outputs of `BipartiteTask.predict`, labels (B,)."""
        logits, attention = outputs
        super().update(logits, labels)
        strongest = attention.argmax(1) // self.model.config.proxies_per_class  # (B,), classes
        self.strongest += torch.tensor([len(labels), (strongest == labels).sum()], dtype=torch.float64)

    def compute(self, processes: Processes) -> dict[str, float]:
        count, right = processes.sum(self.strongest).tolist()
        result = super().compute(processes) | {"proxy_distance": proxy_distance(self.model)}
        return result | ({"strongest": 100 * right / count} if self.model.attends else {})


@torch.no_grad()
def proxy_distance(model: CNN2Graph) -> float:
    """Return the smallest distance between L2-normalised proxies of different classes; 0 if two are the same."""
    unit = F.normalize(model.proxies.cpu().double(), dim=-1)  # Apple's GPU has no float64
    labels = model.labels(model.config.proxies_per_class).cpu()
    distance = torch.cdist(unit, unit).masked_fill(labels[:, None] == labels, torch.inf)
    return distance.min().item() if len(labels.unique()) > 1 else 0.0


class BipartiteTask(Task):
    """An image shows one class, and so does each anchor and proxy: L = L_classification + w·L_total_contrastive.

    contrastive: w, 1 in CNN2GNN; 0 leaves cross-entropy alone. Embeddings of all processes are joined, so triplets and
    gradients are those of the global batch. anchors: None for evaluation alone, where the model has their embeddings.
    """

    key, key_name = SingleLabel.key, SingleLabel.key_name
    lines = {**SingleLabel.lines, "val_proxy_distance": "proxies apart {:.2f}",
             "val_strongest": "strongest proxy {:5.2f} %"}

    def __init__(self, anchors: Anchors | None, label_smoothing: float, contrastive: float, processes: Processes):
        self.anchors, self.processes = anchors, processes
        self.anchor_names = () if anchors is None else anchors.names
        self.label_smoothing, self.contrastive = label_smoothing, contrastive

    def begin_epoch(self, model: CNN2Graph, epoch: int) -> None:
        """Give the model this epoch's anchor images; without anchors, black ones."""
        black = torch.zeros(len(model.anchors), 3, *model.config.img_size, device=model.anchors.device)
        model.anchor_images = black if self.anchors is None else self.anchors.augmented(epoch)

    def begin_evaluation(self, model: CNN2Graph) -> None:
        """Let the model compute and store its own embeddings of the anchors."""
        self.evaluated = model
        if self.anchors is not None:
            model.store_anchors(self.anchors.as_they_are())

    def scores(self) -> BipartiteScores:
        return BipartiteScores(self.evaluated)

    def predict(self, model: CNN2Graph, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and the attention of images to proxies (B, P)."""
        logits, graphs = model.forward(images, return_graphs=True)  # not the compiled __call__, which returns no graphs
        return logits, graphs[0].weights[0, :, len(model.anchors):]

    def losses(self, outputs: Output, targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the losses by name. targets: labels (B,)."""
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
        return 3 * math.log(classes), f"3 ln {classes}: images, anchors, proxies"  # the other terms start below 1


class DetectionTask(Task):
    """An image shows any number of objects, each with its class, box and mask (ClusterViG, section V); targets are as
    `data.dense.object_batches` says. Crowd regions are not learned, nor boxes thinner than a pixel; COCO has a few.

    loss          of                                                                  torchvision's
    proposals     the proposal network: object or not, and its box                    loss_objectness, loss_rpn_box_reg
    classes       cross-entropy of the proposals' classes, the background among them  loss_classifier
    boxes         smooth L1 of the boxes of proposals that are objects                loss_box_reg
    masks         binary cross-entropy of the pixels of their masks                   loss_mask
    """

    key, key_name = "AP", "box AP"
    lines = {"val_AP": "box AP {:5.2f} %", "val_AP50": "AP50 {:5.2f} %", "val_mask_AP": "mask AP {:5.2f} %"}

    def __init__(self, classes: Sequence[str]):
        self.classes = classes

    def outputs(self, network: nn.Module, images: Sequence[Tensor], targets: Sequence[dict]) -> dict[str, Tensor]:
        learned = []
        for target in targets:
            wide = (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all(1)
            known = wide & (target["iscrowd"] == 0)
            learned.append({name: target[name][known] for name in ("boxes", "labels", "masks")})
        return network(images, learned)

    def losses(self, outputs: dict[str, Tensor], targets: Sequence[dict], images: Sequence[Tensor]) -> dict:
        return {"proposals": outputs["loss_objectness"] + outputs["loss_rpn_box_reg"],
                "classes": outputs["loss_classifier"], "boxes": outputs["loss_box_reg"], "masks": outputs["loss_mask"]}

    def scores(self) -> "DetectionScores":
        return DetectionScores(self.classes)

    @staticmethod
    def chance(classes: int) -> tuple[float, str]:
        # boxes start near 0, where anchors are
        return 2 * math.log(2) + math.log(classes + 1), f"2 ln 2 + ln {classes + 1}: proposals, masks, classes"


class SegmentationTask(Task):
    """Every pixel has a class, or is unknown: cross-entropy, whose mean is over all pixels, an unknown one counting 0.
    So the gradient does not depend on how a batch is split."""

    key, key_name, class_score = "mIoU", "mIoU", "IoU"
    lines = {"val_mIoU": "mIoU {:5.2f} %", "val_accuracy": "pixels right {:5.2f} %"}

    def __init__(self, classes: Sequence[str]):
        self.classes = classes

    def losses(self, outputs: Tensor, targets: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the loss. outputs: logits (B, classes, H, W). targets: classes (B, H, W)."""
        total = F.cross_entropy(full_precision(outputs), targets, ignore_index=UNKNOWN, reduction="sum")
        return {"cross_entropy": total / targets.numel()}

    def predict(self, model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
        """Return the classes (H, W) of whole images, one after the other, since they may differ in size."""
        return [model(image[None])[0].argmax(0) for image in images]

    def probe(self, images: Sequence[Tensor]) -> Tensor:
        return images[0][None]

    def scores(self) -> SegmentationScores:
        return SegmentationScores(self.classes, UNKNOWN)


def choose_task(config: RunConfig, model: object, data: Data, teacher: Callable | None, processes: Processes) -> Task:
    """Return the task of a run, whose model has the config `model`."""
    recipe = config.recipe
    if config.task != "labels":
        return {"detection": DetectionTask, "segmentation": SegmentationTask}[config.task](data.classes)
    if data.multi_label:
        return MultiLabelTask(data.classes, recipe.label_smoothing, recipe.asymmetric)
    if getattr(model, "aggregation", "none") == "none":
        return SingleLabel(recipe.label_smoothing, teacher)
    anchors = None if config.eval_only else Anchors(data.train, data.classes, model.anchors_per_class, model.img_size,
                                                    recipe, config.seed, processes.device)
    return BipartiteTask(anchors, recipe.label_smoothing, recipe.contrastive, processes)
