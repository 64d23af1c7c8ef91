"""One process or many: who this process is, what it computes on, and the few things that processes say to one another.

torchrun, and anything else that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, starts one process for
every GPU (or several on a CPU). So does srun, whose own variables are read where MASTER_ADDR and MASTER_PORT are set.
Each process holds the whole model and works on its share of every batch.
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
    """This process: `rank` of `world` in all, `local_rank` of `local_world` on its machine, and the device it uses."""

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
        """(rank, world): which share of every batch is this process's."""
        return self.rank, self.world

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, on the CPU. Every process must call this."""
        if self.world == 1:
            return values.cpu()
        values = values.to(self.device, copy=True)
        dist.all_reduce(values)
        return values.cpu()

    def gather(self, value: object) -> list:
        """The (plain) values of all processes in the order of their ranks. Every process must call this."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def joined(self, values: Tensor) -> Tensor:
        """The rows of all processes, one after the other, with gradient. Every process must call this with as many."""
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
        """Call function(*args) on the first process while the others wait, as for a download. Raises its error in all.
        """
        def without_result() -> None:
            function(*args)

        self.from_first(without_result)

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model` with gradients averaged over all processes after every backward pass."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's running statistics, so that all evaluate the same model."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


class _Joined(torch.autograd.Function):
    """All processes' rows. Each process computes the whole loss from them, so the gradient of its own rows is the sum
    of what all of them found; the mean over processes, which DistributedDataParallel takes, makes it right."""

    @staticmethod
    def forward(ctx, values, rank, world):
        ctx.place = slice(rank * len(values), (rank + 1) * len(values))
        parts = [torch.empty_like(values) for _ in range(world)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.place], None, None


# what torchrun sets -> what srun sets
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID",
         "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE"}


def read_place() -> tuple[int, int, int, int]:
    """rank, world, local rank and local world as the launcher gave them; one process alone where there is none."""
    if "RANK" not in os.environ and {"SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        # init_process_group reads torchrun's names
        os.environ |= {name: os.environ[theirs] for name, theirs in SLURM.items() if theirs in os.environ}
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return rank, world, int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world))


def start(device: str = "auto") -> Processes:
    """Join the other processes, if a launcher started several. device: auto, cpu, cuda, cuda:1, mps, ...

    Raises ValueError where the device or the port to meet at cannot be had.
    """
    rank, world, local_rank, local_world = read_place()
    processes = Processes(rank, world, local_rank, local_world, _device(device, world, local_rank))
    if world == 1:
        return processes
    on_gpu = processes.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(processes.device)
    try:
        # torchrun may start the processes again: they must not find what those before them left in its store
        store, _, _ = next(dist.rendezvous("env://", rank, world))
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=world,
                                device_id=processes.device if on_gpu else None)
    except (RuntimeError, ValueError) as error:
        address, port = (os.environ.get(name, f"(no {name})") for name in ("MASTER_ADDR", "MASTER_PORT"))
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise ValueError(f"the processes cannot meet at {address}:{port}: that port is in use; choose another"
                             " MASTER_PORT") from None
        raise ValueError(f"the processes cannot meet at {address}:{port}: {str(error).splitlines()[0]}") from None
    return processes


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, world: int, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such device; choose auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this torch sees no GPU; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: this torch sees no Apple GPU; use --device cpu")
    if device.type == "cuda" and world > 1:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{device}: this machine has {torch.cuda.device_count()} GPUs; start no more processes")
    return device
