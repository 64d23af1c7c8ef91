"""Optimiser, learning rate, moving average of the weights, and the running statistics that a bad step would spoil."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..models.layers import no_weight_decay
from .recipes import Recipe


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then cosine and cool-down, or ×0.1 at decay epochs.

    It is a function of the step alone: a resumed run needs no scheduler state.
    """
    warm = recipe.warmup_epochs * steps_per_epoch
    if step < warm:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * step / warm
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in recipe.decay_epochs)
    end = (recipe.epochs - recipe.cooldown_epochs) * steps_per_epoch
    progress = min(1.0, (step - warm) / max(1.0, end - warm))
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def create_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9. Biases, norms (1-D) and LRGC's τ (0-D) have no weight decay."""
    exempt = no_weight_decay(model)
    decayed = [p for name, p in model.named_parameters() if name not in exempt]
    others = [p for name, p in model.named_parameters() if name in exempt]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = decayed[0].device.type in ("cpu", "cuda")
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average (EMA) of a model's weights and running statistics.

    After t updates the decay is min(decay, (1 + t) / (10 + t)), so that a short run forgets its random start.
    """

    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        t = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + t) / (10 + t)))(averaged, current, updates)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


class RunningStatistics:
    """Batch norm's running statistics before a step: a skipped step must not change them."""

    def __init__(self, model: nn.Module):
        norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self.kept = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them, before a step."""
        for kept, buffer in zip(self.kept, self.buffers):
            kept.copy_(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        """Undo a skipped step."""
        for kept, buffer in zip(self.kept, self.buffers):
            buffer.copy_(kept)
