"""The memory of a training step, counted and measured: `python -m vig_minimal benchmark --memory lrgc_ti --batch 128`.

    step = 16 bytes · parameters + batch · (image + kept)

AdamW holds weight, gradient and two averages of each parameter, 4 bytes each. *Kept* is what autograd holds for each
image from the forward to the backward pass, when memory is at its peak. It is counted as the difference between two
batches, so that what does not grow with the batch, such as weights cast to bfloat16, is left out.

With --grad-checkpoint a block keeps its input alone, and in the backward pass one block at a time has the rest:

    kept = Σ inputs of blocks + what stem and head keep + the most that one block keeps
"""

import ctypes
import platform
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ...models.cost import count_parameters, saved_bytes
from ...models.layers import recompute_blocks
from ...models.registry import create_model
from .floor import forward_backward, random_images
from .throughput import in_own_process, peak_memory

STATE = 16  # bytes of a parameter
MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h: larger blocks are mapped alone, and returned when freed


def kept(part: nn.Module, inputs: Tensor, amp: bool, outputs: Callable | None = None) -> float:
    """Return the bytes that autograd keeps for each of the inputs, an even number, in bfloat16 (`amp`) or float32.
    outputs: as for `saved_bytes`."""
    sums = []
    for batch in (len(inputs) // 2, len(inputs)):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=amp):
            sums.append(batch * saved_bytes(part, inputs[:batch].clone(), outputs))
    return (sums[1] - sums[0]) / (len(inputs) // 2)


def kept_with_checkpoints(model: nn.Module, images: Tensor, amp: bool) -> float:
    """Return the bytes for each image at the peak of a step with --grad-checkpoint. The model has it from then on."""
    calls = []
    hooks = [block.register_forward_pre_hook(lambda block, inputs: calls.append((block, *inputs)))
             for block in model.blocks]
    with torch.autocast(images.device.type, torch.bfloat16, enabled=amp), torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()

    def run(block: nn.Module, others: list, x: Tensor) -> Tensor:
        # of what has a row for each image, as many rows; relative positions are the same for all, a graph may be none
        return block(x, *(t[:len(x)].clone() if isinstance(t, Tensor) and len(t) == len(images) else t for t in others))

    inside = max(kept(block, x, amp, partial(run, block, others)) for block, x, *others in calls)
    recompute_blocks(model)
    return kept(model, images, amp) + inside  # inputs of blocks are kept too


def measured_step(name: str, batch: int, device: str, threads: int, amp: bool, recompute: bool, fields: dict) -> float:
    """Return the peak memory in MB of two training steps with AdamW, beyond that of the process before the model."""
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":  # freed memory goes back at once: else glibc keeps a fifth more than tensors
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 65536)
    before = peak_memory(device)
    model = create_model(name, **fields).to(device, memory_format=torch.channels_last).train()
    if recompute:
        recompute_blocks(model)
    optimiser, images = torch.optim.AdamW(model.parameters(), fused=True), random_images(model, batch, device)
    for _ in range(2):
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            forward_backward(model, images)
        optimiser.step()
    return (peak_memory(device) - before) / 1e6


def row(name: str, batch: int, device: str, threads: int, measure: bool, fields: dict) -> str:
    """Return one row: MB kept of an image in float32 and bfloat16, also with checkpoints, and steps in bfloat16."""
    model = create_model(name, **fields).to(device, memory_format=torch.channels_last).train()
    images = random_images(model, 4, device)
    every = [kept(model, images, False), kept(model, images, True), kept_with_checkpoints(model, images, True)]
    cells = [f"{value / 1e6:.1f}" for value in every]
    for value, recompute in zip(every[1:], (False, True)):
        step = STATE * count_parameters(model) + batch * (images[0].nbytes + value)
        about = batch, device, threads, True, recompute, fields
        found = in_own_process(f"{name}, batch {batch}", measured_step, name, *about) if measure else None
        cells.append(f"{step / 1e9:.2f}" + (f", {found / 1e3:.2f}" if found else ""))
    return f"| {name} | {' | '.join(cells)} |"


def print_memory(names: list[str], batch: int, device: str, threads: int, measure: bool, fields: dict) -> None:
    """Print the table of --memory."""
    steps = f"GB of a step of {batch}, counted" + (" and measured" if measure else "")
    print(f"| model | MB kept/image | bf16 | bf16, checkpoints | {steps}: bf16 | bf16, checkpoints |\n|---|"
          + "---:|" * 5)
    for name in names:
        print(row(name, batch, device, threads, measure, fields), flush=True)
