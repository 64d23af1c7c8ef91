"""A training run: what trains together, where it stands, and its evaluation. The loop itself is in train.py.

What differs between kinds of training (one label, several labels, anchors and proxies) is the task, see tasks.py.
Nothing here knows what a label is.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from ..data.seeds import mixed_seed
from ..graphs.draws import part_of_batch
from .distributed import Processes
from .optim import RunningStatistics, create_optimiser, moving_average
from .recipes import Recipe
from .tasks import Task
from .watch import Stopped

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Run:
    """Everything that trains together, and where it stands."""

    model: nn.Module
    parallel: nn.Module              # the same, wrapped by DDP where there are several processes
    average: AveragedModel | None    # moving average of the weights (EMA)
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler     # scales fp16 losses; does nothing otherwise
    task: Task
    recipe: Recipe
    processes: Processes
    seed: int
    amp: str | None
    epoch: int = 0                   # epochs done
    step: int = 0                    # steps done in all, skipped ones among them
    best: dict[str, float] = field(default_factory=dict)    # best epoch and its score
    losses: dict[str, float] = field(default_factory=dict)  # sums over this epoch's steps, by name
    skipped: int = 0                 # steps of this epoch whose loss or gradient was not finite
    bad_in_a_row: int = 0

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average if there is one."""
        return self.model if self.average is None else self.average.module

    def autocast(self) -> torch.autocast:
        """The autocast context of --amp."""
        return torch.autocast(self.processes.device.type, AMP.get(self.amp), enabled=self.amp is not None)

    @contextlib.contextmanager
    def part(self, number: int, images: int) -> Iterator[None]:
        """The context of one part of a step's batch, forward and backward.

        number: of the part. images: how many of them this process computes. Random draws inside the model (drop path,
        k-means, …) follow from the step and an image's place in the global batch. DDP averages gradients over processes
        in the last part only.
        """
        torch.manual_seed(mixed_seed("step", self.seed, self.step))
        last = number == self.recipe.accumulation - 1
        first = (number * self.processes.world + self.processes.rank) * images
        alone = contextlib.nullcontext() if last or self.processes.world == 1 else self.parallel.no_sync()
        self.processes.begin()
        with alone, part_of_batch(first, self.recipe.batch_size):
            yield

    def state(self) -> dict:
        """What is needed to go on, as tensors and plain data. Order of images and random draws follow from the step."""
        average = None if self.average is None else self.average.state_dict()
        return {"model": self.model.state_dict(), "average": average, "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(), "losses": dict(self.losses), "skipped": self.skipped,
                "bad_in_a_row": self.bad_in_a_row}

    def restore(self, state: dict) -> None:
        """Take over the `state()` of an equal run. Raises ValueError if one of the two has no average; for what fits
        less, what torch raises."""
        if (self.average is None) != (state["average"] is None):
            raise ValueError("the checkpoint's run and this one must both have a moving average (ema_decay) or none")
        self.optimiser.load_state_dict(state["optimiser"])
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.losses, self.skipped, self.bad_in_a_row = (state[k] for k in ("losses", "skipped", "bad_in_a_row"))


def create_run(model: nn.Module, task: Task, recipe: Recipe, processes: Processes, seed: int,
               amp: str | None = None, compiled: bool = False, recompute: bool = False, sync_bn: bool = False) -> Run:
    """Build a run at its start. The model must be on the device of `processes`, and the same in all of them.

    amp: bf16, fp16 or None. recompute: activation checkpointing of blocks. sync_bn: batch norm over the batches of all
    processes; on GPUs only (ValueError).
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
               processes, seed, amp, best={"epoch": 0, task.key: 0.0})


def recompute_blocks(model: nn.Module) -> None:
    """Activation checkpointing of every block (Chen et al., 2016): less memory for about a third more time."""
    for block in model.blocks:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False,
            context_fn=lambda block=block: (contextlib.nullcontext(), _without_statistics(block)))


@contextlib.contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    statistics = RunningStatistics(block)  # batch norm has seen this batch: undo the second update
    try:
        yield
    finally:
        statistics.restore()


@torch.no_grad()
def evaluate(run: Run, batches: Iterable[tuple[Tensor, Tensor]], bar=None) -> dict[str, float]:
    """Return the task's scores of the evaluated network over the images of all processes. bar: counts images.

    Raises Stopped, in all processes, if a signal comes to one of them.
    """
    run.evaluated.eval()
    run.task.begin_evaluation(run.evaluated)
    metric = run.task.metric()
    for images, targets in batches:
        if run.processes.signals.received:
            break
        with run.autocast():
            outputs = run.task.predict(run.evaluated, images)
        metric.update(outputs, targets)
        if bar is not None:
            bar.update(len(images) * run.processes.world)
    if run.processes.any(run.processes.signals.received):
        raise Stopped
    return metric.compute(run.processes)
