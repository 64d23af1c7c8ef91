"""Run: the network, its optimiser and its position in training; evaluation and learning rate. The loop is in
vig_minimal/train.py, and all that depends on the kind of labels in tasks.py.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data.batches import TrainingBatches, ValidationBatches
from ..data.datasets import Data
from ..data.decoding import DataError
from ..data.seeds import mixed_seed
from ..graphs.draws import part_of_batch
from ..models.checks import check_compiler
from ..models.layers import no_weight_decay, recompute_blocks
from ..models.released import BODY
from . import checkpoint
from .config import AMP, RunConfig
from .distributed import Processes
from .endings import Stopped
from .recipes import Recipe
from .resolve import Start
from .tasks import Task


@dataclass
class Run:
    """All that changes in training, and the batches that it reads."""

    config: RunConfig                # everything fixed
    processes: Processes
    task: Task
    model: nn.Module
    parallel: nn.Module              # the same, wrapped by DDP where there are several processes
    average: AveragedModel | None    # moving average of the weights (EMA)
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler     # scales fp16 losses; does nothing otherwise
    frozen: list[nn.Module]          # parts that are not trained
    best: dict[str, float]           # best epoch and its score
    epoch: int = 0                   # epochs done
    step: int = 0                    # steps done in all
    first_step: int = 0              # steps done of the open epoch, if the run was resumed in its middle
    losses: dict[str, float] = field(default_factory=dict)  # sums over this epoch's steps, by name
    history: list[dict] = field(default_factory=list)       # rows of metrics.csv
    metric: object = None            # of the last evaluation
    start: Start | None = None       # the file that it starts from
    data: Data | None = None
    seen: dict = field(default_factory=dict)                # fingerprint of the data
    batches: TrainingBatches | None = None                  # none in an evaluation
    val_batches: ValidationBatches | None = None
    notes: dict[str, str] = field(default_factory=dict)     # first lines on how it starts, heading to text

    @property
    def recipe(self) -> Recipe:
        return self.config.recipe

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average if there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def per_class(self) -> dict[str, float | None]:
        """The score of each class in the last evaluation, where the task has one."""
        return getattr(self.metric, "per_class", {})

    def train(self) -> None:
        """Set the network to training mode. Frozen parts stay in evaluation mode: their batch-norm statistics describe
        the images that their weights were trained on."""
        self.parallel.train()
        for part in self.frozen:
            part.eval()

    def autocast(self) -> torch.autocast:
        """The autocast context of --amp."""
        amp = self.config.amp
        return torch.autocast(self.processes.device.type, AMP.get(amp), enabled=amp is not None)

    @contextlib.contextmanager
    def part(self, number: int, images: int) -> Iterator[None]:
        """The context of forward and backward pass of part `number` of a batch, `images` of it in this process. Draws
        inside the model (drop path, k-means, …) follow from the step and an image's place in the global batch. DDP
        averages gradients over processes in the last part only."""
        torch.manual_seed(mixed_seed("step", self.config.seed, self.step))
        last = number == self.recipe.accumulation - 1
        first = (number * self.processes.world + self.processes.rank) * images
        alone = contextlib.nullcontext() if last or self.processes.world == 1 else self.parallel.no_sync()
        with alone, part_of_batch(first, self.recipe.batch_size):
            yield

    def about(self) -> dict:
        """What it takes to use the weights and to repeat the run, as plain data."""
        config, data, recipe = self.config, self.data, self.recipe
        return {"name": config.model, "config": asdict(self.model.config), "classes": data.classes,
                "mean": recipe.mean, "std": recipe.std, "multi_label": data.multi_label, "recipe": asdict(recipe),
                "given": config.given, "flags": config.flags(), "data": self.seen}

    def save(self, name: str, with_training: bool) -> None:
        """Write a checkpoint: the weights to use and, with_training, the state to resume from."""
        if self.step > self.epoch * len(self.batches):  # in the middle of an epoch: as before an evaluation
            with contextlib.suppress(DataError):  # the data may be lost; the weights must not be
                self.task.begin_evaluation(self.evaluated)
        state = self.about() | {"anchors": self.task.anchor_names, "model": self.evaluated.state_dict(),
                                "epoch": self.epoch, "step": self.step, "steps": len(self.batches), "best": self.best}
        state |= {"training": self.state()} if with_training else {}
        checkpoint.save(self.config.output / name, state, keep="previous.pt" if with_training else None)

    def state(self) -> dict:
        """The state to resume from: tensors and plain data. Order of images and random draws follow from the step."""
        average = None if self.average is None else self.average.state_dict()
        return {"model": self.model.state_dict(), "average": average, "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(), "losses": dict(self.losses), "history": list(self.history)}

    def restore(self, state: dict) -> None:
        """Load the `state()` of an equal run. Raises torch's errors, of many kinds, for another one's."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.losses, self.history = dict(state["losses"]), [dict(row) for row in state["history"]]


def create_run(model: nn.Module, task: Task, config: RunConfig, processes: Processes, **more) -> Run:
    """Build a run at its first step. The model must be on the device of `processes`, and alike in all. more: further
    fields of `Run`. Raises ValueError for --sync-bn without GPUs and --compile without a compiler."""
    body, recipe = getattr(model, "body", model), config.recipe  # of a detector, the network without its neck
    frozen = [part for name, part in body.named_children() if config.freeze and name in BODY]
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(not (config.freeze and name.split(".")[0] in BODY))
    if config.sync_bn:
        if processes.device.type != "cuda":
            raise ValueError("--sync-bn: torch has synchronised batch norm for GPUs only; leave it out on the CPU")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    average = moving_average(model, recipe.ema_decay) if recipe.ema_decay > 0 else None
    if config.grad_checkpoint:
        recompute_blocks(model)
    if config.compile:  # after the average has its copy, which is compiled for evaluation
        check_compiler(processes.device.type)
        model.compile()
        if average is not None:
            average.module.compile()
    scaler = torch.amp.GradScaler(processes.device.type, enabled=config.amp == "fp16")
    return Run(config, processes, task, model, processes.parallel(model), average, create_optimiser(model, recipe),
               scaler, frozen, best={"epoch": 0, task.key: 0.0}, **more)


@torch.no_grad()
def evaluate(run: Run, batches: Iterable[tuple[Tensor, Tensor]], progress=None) -> dict[str, float]:
    """Return the task's scores of the evaluated network over the images of all processes. Raises Stopped, in all
    processes, if one receives a signal. progress: counts images."""
    run.evaluated.eval()
    run.task.begin_evaluation(run.evaluated)
    metric = run.metric = run.task.scores()
    for images, targets in batches:
        if run.processes.signals.received:
            break
        with run.autocast():
            outputs = run.task.predict(run.evaluated, images)
        metric.update(outputs, targets)
        if progress is not None:
            progress.update(len(images) * run.processes.world)
    if any(run.processes.gather(run.processes.signals.received)):
        raise Stopped
    return metric.compute(run.processes)


@torch.no_grad()
def mean_neighbours(model: nn.Module, images: Tensor) -> list[float]:
    """Return the mean number of neighbours per node in every layer's graph of these images (LRGC Figure 5)."""
    model.eval()
    _, graphs = model.forward(images, return_graphs=True)  # not the compiled __call__, which returns no graphs
    return [float(graph.degree().float().mean()) for graph in graphs]


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then cosine or poly and cool-down, or ×0.1 at decay
    epochs. As a function of the step it needs no state."""
    warm = recipe.warmup_epochs * steps_per_epoch
    if step < warm:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * step / warm
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in recipe.decay_epochs)
    end = (recipe.epochs - recipe.cooldown_epochs) * steps_per_epoch
    progress = min(1.0, (step - warm) / max(1.0, end - warm))
    share = (1 - progress) ** 0.9 if recipe.schedule == "poly" else (1 + math.cos(math.pi * progress)) / 2
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * share


def create_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9, of the trainable parameters. Biases, norms (1-D) and LRGC's τ (0-D) have no
    weight decay. A group's `scale` multiplies the learning rate, see `rate_scales`."""
    exempt, scales, groups = no_weight_decay(model), rate_scales(model, recipe.layer_decay), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((-scales[name], name in exempt), []).append(parameter)
    groups = [{"params": groups[key], "weight_decay": 0.0 if key[1] else recipe.weight_decay, "scale": -key[0]}
              for key in sorted(groups)]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def rate_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Return each parameter's factor of the learning rate (layer-wise decay): decay^(L − l) in block l of L, decay^L in
    the stem, 1 after the last block. GKGNet's cross levels count as its head: they start anew with other classes."""
    body = {parameter for name, parameter in model.named_parameters() if name.split(".")[0] in BODY}
    blocks = [block for block in model.blocks if body.intersection(block.parameters())]
    block_of = {parameter: l for l, block in enumerate(blocks, 1) for parameter in block.parameters()}
    scales, layer = {}, 0
    for name, parameter in model.named_parameters():
        layer = block_of.get(parameter, layer)  # a downsampling counts as the block before it
        scales[name] = decay ** (len(blocks) - layer) if parameter in body else 1.0
    return scales


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average (EMA) of a model's weights and running statistics. After t updates the decay is
    min(decay, (1 + t) / (10 + t)), so that a short run forgets its random start."""
    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        t = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + t) / (10 + t)))(averaged, current, updates)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
