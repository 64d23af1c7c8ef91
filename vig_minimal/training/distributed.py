"""One process or many: which one this is, the device it computes on, how gradients are averaged, and what is exchanged.

A launcher starts one process per GPU (or several on a CPU). Each holds the whole model and works on its share of every
batch. torchrun and others set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. srun sets variables of its
own, which are read if MASTER_ADDR and MASTER_PORT are set too.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..models.checks import plural
from .endings import Signals

WAIT = timedelta(hours=1)  # at most, for what the first process does alone, as a download, and for an evaluation's end


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `world` in all and `local_rank` of `local_world` on its machine, and its device.

    Every process must call the methods, in the same order. signals: those that ask the run to end. patient: a group of
    all processes, whose operations may take as long as WAIT.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device
    signals: Signals = field(default_factory=Signals)
    patient: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(rank, world): which part of every batch this process works on."""
        return self.rank, self.world

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped so that every backward pass averages gradients over all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Copy the first process's running statistics to all, so that all evaluate the same model."""
        for buffer in model.buffers() if self.world > 1 else ():
            dist.broadcast(buffer, 0)

    def joined(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, one after the other, with gradient; each must have as many. Each process
        computes the whole loss from all rows: the backward pass sums the gradients of a row, and with the mean that
        `parallel` takes it is the gradient of one loss."""
        return values if self.world == 1 else _Joined.apply(values, self.rank, self.world)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, on the CPU."""
        if self.world == 1:
            return values.cpu()
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values.cpu()

    def gather(self, value: object) -> list:
        """Return the values of all processes in the order of their ranks."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value, group=self.patient)
        return values

    def together(self, function: Callable, *args) -> object:
        """Return function(*args) of each process, in which none waits for another; an error of one is raised in all."""
        result = error = None
        try:
            result = function(*args)
        except (ValueError, OSError) as wrong:
            error = wrong
        if error := next(filter(None, self.gather(error)), None):
            raise error
        return result

    def from_first(self, function: Callable, *args) -> object:
        """Return the first process's function(*args) in all, while the others wait; or raise its error in all."""
        return self.gather(self.together(function, *args) if self.is_first else self.together(lambda: None))[0]

    def after_first(self, function: Callable, *args) -> object:
        """Do as `together`, in the first process before the others, which find what it downloads."""
        first = self.together(function if self.is_first else lambda *_: None, *args)
        other = self.together(function if not self.is_first else lambda *_: None, *args)
        return first if self.is_first else other

    def leave(self, *_: object) -> None:
        """Leave the other processes, as the exit of a context."""
        if dist.is_initialized():
            # torch 2.6 waits for gloo's threads without letting Python go, which they need to drop their last tensors
            time.sleep(0.1)
            dist.destroy_process_group()


def check_sync_bn(processes: Processes) -> None:
    """Raise ValueError if the device has no synchronised batch norm."""
    if processes.device.type != "cuda":
        raise ValueError("--sync-bn: torch has synchronised batch norm for GPUs only; leave it out on the CPU")


class _Joined(torch.autograd.Function):
    """`Processes.joined`; torch's own function for it, torch.distributed.nn.functional.all_gather, is deprecated."""

    @staticmethod
    def forward(ctx, values, rank, world):
        ctx.own = slice(rank * len(values), (rank + 1) * len(values))
        parts = [torch.empty_like(values) for _ in range(world)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.own], None, None


# variable of torchrun -> variable of srun
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID",
         "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE"}
MOST_PROCESSES = 100_000


def read_place() -> tuple[int, int, int, int]:
    """Return rank, world, local rank and local world as the launcher set them; without a launcher, of one process.

    Raises ValueError for numbers that cannot be."""
    if "RANK" not in os.environ and {"SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        # init_process_group reads torchrun's names
        os.environ |= {name: os.environ[theirs] for name, theirs in SLURM.items() if theirs in os.environ}

    def whole(name: str, default: object, least: int, most: int) -> int:
        value = os.environ.get(name, str(default))
        if not value.isdecimal() or len(value) > 9 or not least <= int(value) <= most:
            raise ValueError(f"{name}={value}: the launcher must set a whole number from {least} to {most}")
        return int(value)

    world = whole("WORLD_SIZE", 1, 1, MOST_PROCESSES)
    rank = whole("RANK", 0, 0, world - 1)
    if world > 1:
        whole("MASTER_PORT", "(not set)", 1, 65535)
        if not os.environ.get("MASTER_ADDR"):
            raise ValueError("MASTER_ADDR: the launcher must set the name of the machine of rank 0")
    local_world = min(world, whole("LOCAL_WORLD_SIZE", world, 1, MOST_PROCESSES))
    return rank, world, whole("LOCAL_RANK", rank, 0, world - 1), local_world


def start(device: str = "auto", patience: float = 300.0) -> Processes:
    """Join the other processes, if there are any. device: auto, cpu, cuda, cuda:1, mps, … patience: seconds after which
    a joint operation fails that another process does not come to.

    Raises ValueError if there is no such device, or if the processes do not meet.
    """
    rank, world, local_rank, local_world = read_place()
    chosen = _device(device, world, local_rank)
    if world == 1:
        return Processes(rank, world, local_rank, local_world, chosen)
    gpu = chosen if chosen.type == "cuda" else None
    if gpu:
        torch.cuda.set_device(gpu)
    wait = timedelta(seconds=patience)
    try:
        # torchrun may restart the processes: a prefix per restart hides what the earlier ones left in its store
        store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=wait))
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=wait,
                                device_id=gpu)
        patient = dist.new_group(backend="gloo", timeout=max(wait, WAIT))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            reason = "that port is in use; choose another MASTER_PORT"
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ValueError(f"the processes cannot meet at {place}: {reason}") from None
    return Processes(rank, world, local_rank, local_world, chosen, patient=patient)


def _device(name: str, world: int, local_rank: int) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    try:
        device = torch.device(next(kind for kind in there if there[kind]) if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such device; choose auto, cpu, cuda or mps") from None
    if device.type not in there:
        raise ValueError(f"--device {name}: cannot train; choose auto, cpu, cuda or mps")
    if not there[device.type]:
        what = "GPU" if device.type == "cuda" else "Apple GPU"
        raise ValueError(f"--device {name}: this torch sees no {what}; use --device cpu")
    if device.type != "cuda":
        return device
    device = torch.device("cuda", local_rank) if world > 1 else device
    if (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"{device}: this machine has {plural(count, 'GPU')}; start no more processes")
    return device
