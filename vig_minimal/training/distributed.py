"""One process or many: which one this is, the device it computes on, and what the processes exchange.

A launcher starts one process per GPU (or several on a CPU). Each holds the whole model and works on its share of every
batch. torchrun and others set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. srun sets variables of its
own, which are read if MASTER_ADDR and MASTER_PORT are set too.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(rank, world): which part of every batch this process works on."""
        return self.rank, self.world

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, on the CPU."""
        if self.world == 1:
            return values.cpu()
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values.cpu()

    def gather(self, value: object) -> list:
        """Return the values (plain data) of all processes in the order of their ranks."""
        values = [value] * self.world
        if self.world > 1:
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


def read_place() -> tuple[int, int, int, int]:
    """Return rank, world, local rank and local world as the launcher set them; without a launcher, of one process.

    Raises ValueError for numbers that cannot be."""
    if "RANK" not in os.environ and {"SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        # init_process_group reads torchrun's names
        os.environ |= {name: os.environ[theirs] for name, theirs in SLURM.items() if theirs in os.environ}
    def whole(name: str, default: int, least: int, most: int) -> int:
        value = os.environ.get(name, str(default))
        if not value.isdecimal() or not least <= int(value) <= most:
            raise ValueError(f"{name}={value}: the launcher must set a whole number from {least} to {most}")
        return int(value)

    world = whole("WORLD_SIZE", 1, 1, 10 ** 6)
    rank, local_world = whole("RANK", 0, 0, world - 1), whole("LOCAL_WORLD_SIZE", world, 1, 10 ** 6)
    return rank, world, whole("LOCAL_RANK", rank, 0, 10 ** 6), local_world


def start(device: str = "auto") -> Processes:
    """Join the other processes, if there are any. device: auto, cpu, cuda, cuda:1, mps, …

    Raises ValueError if there is no such device, or if the processes cannot connect to each other.
    """
    rank, world, local_rank, local_world = read_place()
    processes = Processes(rank, world, local_rank, local_world, _device(device, world, local_rank))
    if world == 1:
        return processes
    gpu = processes.device if processes.device.type == "cuda" else None
    if gpu:
        torch.cuda.set_device(gpu)
    try:
        # torchrun may restart the processes: a prefix per restart hides what the earlier ones left in its store
        store, _, _ = next(dist.rendezvous("env://", rank, world))
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, device_id=gpu)
    except (RuntimeError, ValueError) as error:
        address, port = (os.environ.get(name, f"(no {name})") for name in ("MASTER_ADDR", "MASTER_PORT"))
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            reason = "that port is in use; choose another MASTER_PORT"
        raise ValueError(f"the processes cannot meet at {address}:{port}: {reason}") from None
    return processes


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, world: int, local_rank: int) -> torch.device:
    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_gpu else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such device; choose auto, cpu, cuda or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device {name}: cannot train; choose auto, cpu, cuda or mps")
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f"--device {name}: this torch sees no GPU; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: this torch sees no Apple GPU; use --device cpu")
    if device.type != "cuda":
        return device
    device = torch.device("cuda", local_rank) if world > 1 else device
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{device}: this machine has {torch.cuda.device_count()} GPUs; start no more processes")
    return device
