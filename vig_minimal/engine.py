"""One training run: its parts, one epoch of it, evaluation, and the state that a checkpoint keeps.

What differs between kinds of training (single label, multi-label, ...) is the task: outputs and targets to a dict of
named losses, and a metric that streams. Nothing else here knows what a label is.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .batches import TrainingBatches
from .constructors import full_precision
from .data import mixed_seed
from .distributed import Processes
from .metrics import TopK
from .recipes import Recipe


class SingleLabel:
    """The task of telling which one class an image shows: cross-entropy with label smoothing; top-1 decides."""

    key = "top1"

    def __init__(self, label_smoothing: float):
        self.label_smoothing = label_smoothing

    def losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """logits (B, classes) and labels (B,) to named losses, whose sum is trained on."""
        return {"cross_entropy": F.cross_entropy(full_precision(logits), labels, label_smoothing=self.label_smoothing)}

    def metric(self) -> TopK:
        """A fresh metric of this task."""
        return TopK()


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """The rate of a step, counted from 0: linear warm-up, cosine, cool-down. A function of the step alone."""
    warm = recipe.warmup_epochs * steps_per_epoch
    end = (recipe.epochs - recipe.cooldown_epochs) * steps_per_epoch
    if step < warm:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * step / warm
    progress = min(1.0, (step - warm) / max(1.0, end - warm))
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW without weight decay on biases, norms (one dimension) and LRGC's τ (none)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=decayed[0].device.type in ("cpu", "cuda"))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a model's weights and running statistics.

    After t updates the decay is min(decay, (1 + t) / (10 + t)), so that a short run's average is not its random start.
    """

    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        t = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + t) / (10 + t)))(averaged, current, updates)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


@dataclass
class Run:
    """Everything that trains together.

    model: the network. parallel: the same, its gradients averaged over processes. average: its moving average, or None.
    """

    model: nn.Module
    parallel: nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    task: SingleLabel
    recipe: Recipe
    processes: Processes
    seed: int
    amp: bool
    step: int = 0  # optimiser steps taken

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average if there is one."""
        return self.model if self.average is None else self.average.module

    def autocast(self) -> torch.autocast:
        """bfloat16 where it is asked for."""
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.amp)

    def state(self) -> dict:
        """What is needed to go on, tensors and plain data. Order of images and random draws follow from the step."""
        average = None if self.average is None else self.average.state_dict()
        return {"model": self.model.state_dict(), "average": average, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict) -> None:
        """Take over what `state()` of a like run gave. Raises ValueError if only one has a moving average."""
        if (self.average is None) != (state["average"] is None):
            raise ValueError("the checkpoint's run and this one must both have a moving average (ema_decay) or none")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def create_run(model: nn.Module, task: SingleLabel, recipe: Recipe, processes: Processes, seed: int, amp: bool = False,
               compiled: bool = False) -> Run:
    """A run at its start. The model must be on the device of `processes` and the same in all of them."""
    average = moving_average(model, recipe.ema_decay) if recipe.ema_decay > 0 else None
    if compiled:  # after the average has its copy, which is compiled for evaluation
        model.compile()
        if average is not None:
            average.module.compile()
    return Run(model, processes.parallel(model), average, adamw(model, recipe), task, recipe, processes, seed, amp)


def train_one_epoch(run: Run, batches: TrainingBatches, epoch: int, bar) -> dict[str, float]:
    """One pass over the training images; epochs count from 0. Returns the mean `loss`, `images_per_s` and last `lr`.

    bar: a tqdm bar, which counts images.
    """
    recipe, start = run.recipe, time.perf_counter()
    total = torch.zeros((), device=run.processes.device)
    run.parallel.train()
    for images, targets in batches.epoch(epoch):
        # draws inside the model (drop path, stochastic dilation) follow from the step: nothing to save
        torch.manual_seed(mixed_seed("step", run.seed, run.step, run.processes.rank))
        lr = learning_rate(run.step, len(batches), recipe)
        for group in run.optimiser.param_groups:
            group["lr"] = lr
        with run.autocast():
            loss = sum(run.task.losses(run.parallel(images), targets).values())
        loss.backward()
        if recipe.clip_grad > 0:
            nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip_grad)
        run.optimiser.step()
        run.optimiser.zero_grad(set_to_none=True)
        if run.average is not None:
            run.average.update_parameters(run.model)
        run.step += 1
        total += loss.detach()
        bar.update(recipe.batch_size)
    run.processes.share_buffers(run.evaluated)
    loss = float(run.processes.sum(total)) / (len(batches) * run.processes.world)
    return {"loss": loss, "images_per_s": len(batches) * recipe.batch_size / (time.perf_counter() - start), "lr": lr}


@torch.no_grad()
def evaluate(run: Run, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The task's metric of the evaluated network over the validation images of all processes."""
    run.evaluated.eval()
    metric = run.task.metric()
    for images, targets in batches:
        with run.autocast():
            outputs = run.evaluated(images)
        metric.update(outputs, targets)
    return metric.compute(run.processes)


@torch.no_grad()
def mean_neighbours(model: nn.Module, images: Tensor) -> list[float]:
    """The mean number of neighbours per node in every layer's graph of these images (LRGC Figure 5)."""
    model.eval()
    _, graphs = model.forward(images, return_graphs=True)  # past a compiled __call__, which knows no graphs
    return [float(graph.degree().float().mean()) for graph in graphs]

