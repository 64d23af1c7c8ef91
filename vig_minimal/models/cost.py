"""Cost of a model: parameters, multiply-adds, and memory."""

import sys
from collections.abc import Callable

try:
    import resource
except ImportError:  # not on Windows
    resource = None

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .layers import evaluating


def count_parameters(model: nn.Module) -> int:
    """Count the trainable numbers. Tables that are not learnt are not counted."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def count_macs(model: nn.Module, images: Tensor) -> float:
    """Multiply-adds of one image in evaluation: convolutions, linear layers, matrix products; graph construction too.

    images: (B, 3, H, W). Half the FLOPs that torch's `FlopCounterMode` counts, since a multiply-add is two.
    """
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(images[:1])
    return counter.get_total_flops() / 2


def saved_bytes(model: nn.Module, images: Tensor, outputs: Callable | None = None) -> float:
    """Bytes for each image of (B, 3, H, W) that autograd keeps from forward to backward, without the weights. Each
    storage counts once, whole, however many saved tensors are views of it. outputs: computes what training computes
    from images, by default `model` itself."""
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # held until the end: a freed storage's address could come again and not be counted
        output = (outputs or model)(images)
    del output
    return sum(kept.values()) / len(images)


def peak_memory(device: torch.device) -> int:
    """Bytes of memory that this process has taken at most so far: of the GPU, else of the machine; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0
