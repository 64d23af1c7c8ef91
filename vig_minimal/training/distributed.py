"""One process or many: which one this is, the device it computes on, and what the processes exchange.

A launcher starts one process per GPU (or several on a CPU). Each holds the whole model and works on its share of every
batch. torchrun and others set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. srun sets variables of its
own, which are read if MASTER_ADDR and MASTER_PORT are set too.
"""

import contextlib
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
from .watch import Signals, Watch


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `world` in all and `local_rank` of `local_world` on its machine, and its device.

    Every process must call the methods, in the same order.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device
    watch: Watch = field(default_factory=Watch)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def signals(self) -> Signals:
        """The signals that ask the run to end."""
        return self.watch.signals

    @property
    def share(self) -> tuple[int, int]:
        """(rank, world): which part of every batch this process works on."""
        return self.rank, self.world

    def begin(self) -> None:
        """Note that this process has come to a joint operation, so that one that never comes is found."""
        self.watch.state.joint += 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, on the CPU."""
        if self.world == 1:
            return values.cpu()
        self.begin()
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values.cpu()

    def any(self, value: object) -> bool:
        """Return whether `value` is true in any process."""
        return bool(self.sum(torch.tensor(float(bool(value)))) > 0)

    def gather(self, value: object) -> list:
        """Return the values (plain data) of all processes in the order of their ranks."""
        values = [value] * self.world
        if self.world > 1:
            self.begin()
            dist.all_gather_object(values, value)
        return values

    def joined(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, one after the other, with gradient. Each must have as many rows."""
        return values if self.world == 1 else _Joined.apply(values, self.rank, self.world)

    def from_first(self, function: Callable, *args) -> object:
        """Return the first process's function(*args), which must be plain data, in all; or raise its error in all."""
        if self.world == 1:
            return function(*args)
        answer = [None, None]
        if self.is_first:
            try:
                answer[0] = function(*args)
            except (ValueError, OSError) as error:
                answer[1] = error
        self.watch.wait_for_first()  # outside the joint operation: a download may take longer than its patience
        self.begin()
        dist.broadcast_object_list(answer, device=self.device)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def first_alone(self, function: Callable, *args) -> None:
        """Call function(*args), such as a download, on the first process while the others wait; raise its error in all.
        """
        def without_result() -> None:
            function(*args)

        self.from_first(without_result)

    def listening(self) -> contextlib.AbstractContextManager:
        """Let SIGTERM and SIGINT end the run after the current step, inside this context."""
        return self.signals.listening("" if self.is_first else f"process of rank {self.rank}: ")

    def leave(self, *error: object) -> None:
        """Leave the other processes, as the exit of a context; they end too if this one has an error."""
        code = getattr(error[1], "code", 1) if error and error[1] else 0
        self.watch.end(failed=code in (1, 2))
        if dist.is_initialized():
            # torch 2.6 waits for gloo's threads without letting Python go, which they need to drop their last tensors
            time.sleep(0.1)
            dist.destroy_process_group()

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped so that every backward pass averages gradients over all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Copy the first process's running statistics to all, so that all evaluate the same model."""
        self.begin()
        for buffer in model.buffers() if self.world > 1 else ():
            dist.broadcast(buffer, 0)


def check_sync_bn(processes: Processes) -> None:
    """Raise ValueError if the device has no synchronised batch norm."""
    if processes.device.type != "cuda":
        raise ValueError("--sync-bn: torch has synchronised batch norm for GPUs only; leave it out on the CPU")


class _Joined(torch.autograd.Function):
    """Rows of all processes. Each process computes the whole loss from all rows, so backward sums over processes the
    gradients of its own rows; DistributedDataParallel's mean over processes then gives the gradient of one loss."""

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
    """Join the other processes, if there are any. device: auto, cpu, cuda, cuda:1, mps, … patience: seconds that a
    process waits for another one, see `Watch`.

    Raises ValueError if there is no such device, or if the processes do not meet.
    """
    rank, world, local_rank, local_world = read_place()
    chosen = _device(device, world, local_rank)
    if world == 1:
        watch = Watch()  # of the launcher, if there is one
        watch.start()
        return Processes(rank, world, local_rank, local_world, chosen, watch)
    gpu = chosen if chosen.type == "cuda" else None
    if gpu:
        torch.cuda.set_device(gpu)
    address, port, wait = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], timedelta(seconds=patience)
    try:
        # torchrun may restart the processes: a prefix per restart hides what the earlier ones left in its store
        prefix = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=wait))
        own = dist.TCPStore(address, int(port), is_master=False, wait_for_workers=False, timeout=wait)
        watch = Watch(rank, world, dist.PrefixStore(prefix, own), patience)
        watch.meet()
        watch.start()
        # the watch says who is missing; torch, which does not know, waits longer
        dist.init_process_group("nccl" if gpu else "gloo", store=dist.PrefixStore(prefix, store), rank=rank,
                                world_size=world, device_id=gpu, timeout=2 * wait + timedelta(minutes=1))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            reason = "that port is in use; choose another MASTER_PORT"
        raise ValueError(f"the processes cannot meet at {address}:{port}: {reason}") from None
    return Processes(rank, world, local_rank, local_world, chosen, watch)


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
