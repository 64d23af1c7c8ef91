"""Distributed data parallel: rank and device of this process, averaged gradients, and exchanged values.

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

from .endings import Signals

WAIT = timedelta(hours=1)  # for what the first process does alone, such as a download, and for an evaluation's end


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `world`, with `local_world` on its machine, and its device.

    Every process must call the methods, in the same order. signals: those that ask the run to end. patient: a group of
    all processes, whose operations may take as long as WAIT.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    local_world: int = 1
    signals: Signals = field(default_factory=Signals)
    patient: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

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
        computes the whole loss from all rows: the backward pass sums a row's gradients, and the mean that `parallel`
        takes makes this the gradient of one loss."""
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
        """Return function(*args) in each process; raise an error of one in all. It must not wait for the others."""
        result = error = None
        try:
            result = function(*args)
        except (ValueError, OSError) as wrong:
            error = wrong
        if error := next(filter(None, self.gather(error)), None):
            raise error
        return result

    def from_first(self, function: Callable, *args) -> object:
        """Return function(*args) of the first process in all, or raise its error in all."""
        return self.gather(self.together(function, *args) if self.is_first else self.together(lambda: None))[0]

    def leave(self, *_: object) -> None:
        """Leave the process group; the exit of a context."""
        if dist.is_initialized():
            # torch 2.6 waits for gloo's threads without letting Python go, which they need to drop their last tensors
            time.sleep(0.1)
            dist.destroy_process_group()


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


def read_place() -> tuple[int, int, int, int]:
    """Return rank, world, local rank and local world as the launcher set them; without a launcher, of one process."""
    place = os.environ
    if "RANK" not in place and {"SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT"} <= place.keys():
        # init_process_group reads torchrun's names
        place |= {name: place[theirs] for name, theirs in SLURM.items() if theirs in place}
    rank, world = int(place.get("RANK", 0)), int(place.get("WORLD_SIZE", 1))
    return rank, world, int(place.get("LOCAL_RANK", rank)), int(place.get("LOCAL_WORLD_SIZE", world))


def start(device: str = "auto", timeout: float = 300.0) -> Processes:
    """Join the other processes, if there are any. device: auto, cpu, cuda, cuda:1, mps, … timeout: of collectives, in
    seconds. Raises ValueError for a device that cannot be used, and if the processes do not meet."""
    try:
        rank, world, local_rank, local_world = read_place()
    except ValueError as error:
        raise ValueError(f"{', '.join(SLURM)}: the launcher must set whole numbers ({error})") from None
    chosen = usable_device(device, local_rank if world > 1 else None)
    if world == 1:
        return Processes(chosen)
    gpu = chosen if chosen.type == "cuda" else None
    if gpu:
        torch.cuda.set_device(gpu)
    wait = timedelta(seconds=timeout)
    try:
        # torchrun may restart the processes: a prefix per restart hides what the earlier ones left in its store
        store, rank, world = next(dist.rendezvous("env://", rank, world, timeout=wait))
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=wait,
                                device_id=gpu)
        patient = dist.new_group(backend="gloo", timeout=max(wait, WAIT))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ValueError(f"the processes cannot meet at {place}: {str(error).splitlines()[0]}") from None
    return Processes(chosen, rank, world, local_world, patient=patient)


def usable_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device of that name, once it has computed something; of several GPUs number local_rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and local_rank is not None:
            device = torch.device("cuda", local_rank)
        torch.ones(1, device=device).item()
    except Exception as error:  # torch raises many kinds
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name}: cannot be used here ({reason}); choose auto, cpu, cuda or mps, and no more"
                         " processes than GPUs") from None
    return device
