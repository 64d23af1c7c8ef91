"""One training run: its parts, one epoch of it, evaluation, and the state that a checkpoint keeps.

What differs between kinds of training (single label, multi-label, ...) is the task, see tasks.py: outputs and targets
to a dict of named losses, and a metric that streams. Nothing here knows what a label is.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from ..data.batches import TrainingBatches
from ..data.seeds import mixed_seed
from ..graphs.draws import part_of_batch
from .distributed import Processes
from .optim import RunningStatistics, create_optimiser, learning_rate, moving_average
from .recipes import Recipe
from .signals import Signals, Stopped
from .tasks import Task

BAD_STEPS = 10  # in a row, with a loss or gradient that is not finite, end a run
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(Exception):
    """Training that cannot go on, said in one sentence."""


@dataclass
class Run:
    """Everything that trains together.

    model: the network. parallel: the same, its gradients averaged over processes. average: its moving average, or None.
    """

    model: nn.Module
    parallel: nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    task: Task
    recipe: Recipe
    processes: Processes
    seed: int
    amp: str | None
    signals: Signals = field(default_factory=Signals)
    step: int = 0           # steps taken, those that were skipped among them
    losses: dict[str, float] = field(default_factory=dict)  # by name, summed over this epoch's steps that were not
                                                            # skipped, each the mean over all processes
    skipped: int = 0        # steps of this epoch whose loss was not finite
    bad_in_a_row: int = 0

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average if there is one."""
        return self.model if self.average is None else self.average.module

    def autocast(self) -> torch.autocast:
        """The half precision that is asked for, if any."""
        return torch.autocast(self.processes.device.type, AMP.get(self.amp), enabled=self.amp is not None)

    def state(self) -> dict:
        """What is needed to go on, tensors and plain data. Order of images and random draws follow from the step."""
        average = None if self.average is None else self.average.state_dict()
        return {"model": self.model.state_dict(), "average": average, "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(), "losses": dict(self.losses), "skipped": self.skipped,
                "bad_in_a_row": self.bad_in_a_row}

    def restore(self, state: dict) -> None:
        """Take over what `state()` of a like run gave. Raises ValueError if only one has a moving average."""
        if (self.average is None) != (state["average"] is None):
            raise ValueError("the checkpoint's run and this one must both have a moving average (ema_decay) or none")
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except (ValueError, KeyError):
            raise ValueError("the checkpoint's run has another optimiser; give that one") from None
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.losses, self.skipped, self.bad_in_a_row = (state[k] for k in ("losses", "skipped", "bad_in_a_row"))


def create_run(model: nn.Module, task: Task, recipe: Recipe, processes: Processes, seed: int,
               amp: str | None = None, compiled: bool = False, recompute: bool = False, sync_bn: bool = False) -> Run:
    """A run at its start. The model must be on the device of `processes` and the same in all of them.

    amp: bf16, fp16 or None. recompute: keep only what goes in and out of blocks, and compute them again for the
    backward pass. sync_bn: batch norm over the batches of all processes; on GPUs only (ValueError).
    """
    if sync_bn:
        if processes.device.type != "cuda":
            raise ValueError("--sync-bn: torch has synchronised batch norm for GPUs only; leave it out on the CPU")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    average = moving_average(model, recipe.ema_decay) if recipe.ema_decay > 0 else None
    if recompute:
        recompute_blocks(model)
    if compiled:  # after the average has its copy, which is compiled for evaluation
        model.compile()
        if average is not None:
            average.module.compile()
    scaler = torch.amp.GradScaler(processes.device.type, enabled=amp == "fp16")
    return Run(model, processes.parallel(model), average, create_optimiser(model, recipe), scaler, task, recipe,
               processes, seed, amp)


def recompute_blocks(model: nn.Module) -> None:
    """Activation checkpointing of every block (Chen et al., 2016): less memory for about a third more time."""
    for block in model.blocks:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False,
            context_fn=lambda block=block: (contextlib.nullcontext(), _without_statistics(block)))


@contextlib.contextmanager
def _without_statistics(block: nn.Module):
    # batch norm has seen this batch already; the second time must leave its running statistics alone
    norms = [part for part in block.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def train_one_epoch(run: Run, batches: TrainingBatches, epoch: int, bar, first_step: int = 0,
                    last_step: int | None = None, after_step: Callable[[float], None] = lambda loss: None) -> dict:
    """One pass over the training images, or its steps from first_step to last_step; epochs count from 0.

    bar: a tqdm bar, which counts images. after_step: called with the loss of each step.
    Returns the mean `loss`, those it is the sum of as `loss_NAME`, `images_per_s`, last `lr` and the steps `skipped`.
    Raises Stopped after the step in which a signal came, and Diverged after ten bad steps in a row.
    """
    recipe, statistics, start = run.recipe, RunningStatistics(run.model), time.perf_counter()
    last_step = len(batches) if last_step is None else last_step
    parts = batches.epoch(epoch, first_step)
    run.task.begin_epoch(run.model, epoch)
    run.parallel.train()
    for step in range(first_step, last_step):
        statistics.keep()
        lr = learning_rate(run.step, len(batches), recipe)
        losses, stops = _backward(run, parts)
        loss = sum(losses.values())
        for group in run.optimiser.param_groups:
            group["lr"] = lr
        _update(run, statistics, losses, where=f"epoch {epoch + 1}, step {step + 1}, learning rate {lr:.2e}")
        run.step += 1
        bar.update(recipe.batch_size)
        after_step(loss)
        if stops or (run.processes.world == 1 and run.signals.received):  # many end together, in the next step
            raise Stopped
    run.processes.share_buffers(run.evaluated)
    done, taken = last_step - first_step, last_step - run.skipped
    means = {f"loss_{name}": total / taken for name, total in run.losses.items()}
    return {"loss": sum(means.values()) if taken else math.nan, **means, "skipped": run.skipped,
            "images_per_s": done * recipe.batch_size / (time.perf_counter() - start) if done else math.nan,
            "lr": learning_rate(run.step - 1, len(batches), recipe)}


def _backward(run: Run, parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], bool]:
    """Gradients of the next step's batch, part by part; its mean losses, and whether any process was told to end."""
    count, total = run.recipe.accumulation, 0.0
    for part in range(count):
        images, targets = next(parts)
        # draws inside the model (drop path, k-means, ...) follow from the step, and from an image's place in the batch
        torch.manual_seed(mixed_seed("step", run.seed, run.step))
        first = (part * run.processes.world + run.processes.rank) * len(images)
        last = part == count - 1  # only then are gradients summed over processes
        unshared = contextlib.nullcontext() if last or run.processes.world == 1 else run.parallel.no_sync()
        with unshared, part_of_batch(first, run.recipe.batch_size):
            with run.autocast():
                losses = run.task.losses(run.parallel(images), targets, images)
                loss = sum(losses.values()) / count
            run.scaler.scale(loss).backward()
        total = total + torch.stack([value.detach() for value in losses.values()]) / count
    stop = torch.tensor([float(run.signals.received > 0)], device=total.device)
    *sums, stops = run.processes.sum(torch.cat([total, stop])).tolist()
    return {name: value / run.processes.world for name, value in zip(losses, sums, strict=True)}, stops > 0


def _update(run: Run, statistics: RunningStatistics, losses: dict[str, float], where: str) -> None:
    """Move the weights; or skip the step, as if it had not been, if its loss or gradient is not finite."""
    loss = sum(losses.values())
    run.scaler.unscale_(run.optimiser)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip_grad or math.inf)
    # fp16 finds its scale by trying: there, the scaler skips what overflows
    if math.isfinite(loss) and (math.isfinite(norm) or run.scaler.is_enabled()):
        run.scaler.step(run.optimiser)
        run.scaler.update()
        if run.average is not None:
            run.average.update_parameters(run.model)
        run.losses = {name: run.losses.get(name, 0.0) + value for name, value in losses.items()}
        run.bad_in_a_row = 0
    else:
        statistics.restore()
        run.scaler.update()
        run.skipped += 1
        run.bad_in_a_row += 1
        if run.bad_in_a_row >= BAD_STEPS:
            what = f"loss {loss}" if not math.isfinite(loss) else f"norm of the gradient {float(norm)}"
            raise Diverged(f"{BAD_STEPS} steps in a row were not finite ({what}), at {where}; try a lower learning rate"
                           " or --clip-grad, and --detect-anomaly to find the operation")
    run.optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def evaluate(run: Run, batches: Iterable[tuple[Tensor, Tensor]], bar=None) -> dict[str, float]:
    """The task's metric of the evaluated network over the validation images of all processes. bar: counts images.

    Raises Stopped if a signal comes.
    """
    run.evaluated.eval()
    run.task.begin_evaluation(run.evaluated)
    metric = run.task.metric()
    for images, targets in batches:
        with run.autocast():
            outputs = run.task.predict(run.evaluated, images)
        metric.update(outputs, targets)
        if bar is not None:
            bar.update(len(images) * run.processes.world)
        if run.signals.received:
            raise Stopped
    return metric.compute(run.processes)


@torch.no_grad()
def mean_neighbours(model: nn.Module, images: Tensor) -> list[float]:
    """The mean number of neighbours per node in every layer's graph of these images (LRGC Figure 5)."""
    model.eval()
    if not hasattr(model.config, "graph") and model.config.aggregation == "none":
        return []
    _, graphs = model.forward(images, return_graphs=True)  # past a compiled __call__, which knows no graphs
    return [float(graph.degree().float().mean()) for graph in graphs]
