"""Augmentations, each a plain function. What is random about them the caller draws, or gives a generator for.

Whole batches are augmented at once, on uint8 tensors (B, 3, H, W), which costs a few microseconds an image; only the
random resized crop needs the full picture, before it has the model's size.
"""

import math

import torch
from torch import Tensor


def flip_and_shift(images: Tensor, mirror: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image mirrored where `mirror` (B,) is true, then moved by `down` and `right` (B,) pixels; the edges repeat.

    (B, 3, H, W) to (B, 3, H, W), channels_last.
    """
    batch, _, height, width = images.shape
    device = images.device
    rows = (torch.arange(height, device=device) - down[:, None]).clamp(0, height - 1)  # (B, H): where a row comes from
    columns = (torch.arange(width, device=device) - right[:, None]).clamp(0, width - 1)  # (B, W)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    image = torch.arange(batch, device=device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return moved.permute(0, 3, 1, 2)


def random_resized_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part: 8 to 100 % of the area, width/height 3/4 to 4/3 (Szegedy, 2015).

    Ten trials; then the largest part in the middle whose proportions are allowed.
    """
    log_ratio = math.log(4 / 3)
    for _ in range(10):
        u = torch.rand(4, generator=generator).tolist()
        area = height * width * (0.08 + 0.92 * u[0])
        ratio = math.exp(log_ratio * (2 * u[1] - 1))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x/255 − mean) / std for each channel: uint8 to float32, (B, 3, H, W)."""
    mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std
