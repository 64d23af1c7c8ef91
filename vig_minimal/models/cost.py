"""What a model costs: parameters, multiply-adds, and the bytes that a training step keeps for its backward pass."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers. Tables that are not learnt are buffers, and not counted."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def count_macs(model: nn.Module, images: Tensor) -> float:
    """Multiply-adds of one image in evaluation: convolutions, linear layers, matrix products; graph construction too.

    As torch's `FlopCounterMode` counts them: half its FLOPs, a multiply-add being two. images: (B, 3, H, W).
    """
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(images[:1])
    model.train(was_training)
    return counter.get_total_flops() / 2


def saved_bytes(model: nn.Module, images: Tensor) -> float:
    """Bytes an image that autograd keeps between forward and backward, without the weights, which are there anyway.

    Each storage counts once, whole, however many tensors saved for the backward pass are views of it.
    images: (B, 3, H, W); the larger B, the less the batch statistics' own few bytes matter.
    """
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(images)  # held until the end, so that no storage is freed and its address counted once for two
    del output
    return sum(kept.values()) / len(images)
