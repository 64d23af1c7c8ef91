"""The floor of a model, and how its time is taken: both take turns in one run.

The *floor* is the model's own stem, linear layers, norms, activations and head with nothing between them: no
constructor, and the aggregate replaced by the features themselves.
"""

import time
from collections.abc import Callable, Sequence
from operator import truediv
from statistics import median

import torch
from torch import Tensor, nn

from ...models.adaptvig import AdaptViG
from ...models.cost import count_macs, count_parameters, saved_bytes
from ...models.pyramid import PyramidConfig
from ...models.registry import create_model

COLUMNS = ("{parameters:,}", "{gmacs:.3f}", "{eval_ms:.1f}", "{eval_ratio:.2f}", "{train_ms:.1f}", "{train_ratio:.2f}",
           "{mb_kept:.1f}")
FIRST_STEPS = ("{first_eval_s:.0f}", "{first_train_s:.0f}")


class Floor(nn.Module):
    """A model's convolutions, norms and activations without a graph: (B, 3, H, W) -> (B, num_classes)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        config = model.config
        if isinstance(model, AdaptViG):  # its blocks are others
            self.model = AdaptViG(config)
            return
        same = {field: getattr(config, field) for field in ("dim", "depth", "patch", "img_size", "num_classes")}
        self.model = create_model("pvig_ti" if isinstance(config, PyramidConfig) else "vig_ti", **same)

    def forward(self, images: Tensor) -> Tensor:
        x = self.model.stem(images)
        if isinstance(self.model, AdaptViG):
            for stage in self.model.stages:
                x = stage.local(stage.downsample(x))
                for grapher, ffn in ((block.grapher, block.ffn) for block in stage.blocks):
                    h = grapher.fc1(grapher.cpe(x) + x)
                    x = ffn(x + grapher.scale(grapher.fc2(grapher.conv.update(torch.cat((h, h), dim=1)))))
            return self.model.forward_head(x)
        downsampling = {stage.blocks[0]: stage.downsample for stage in getattr(self.model, "stages", ())}
        for block in self.model.blocks:
            x = downsampling[block](x) if block in downsampling else x
            h = block.grapher.fc1(x)
            x = block.grapher.fc2(block.grapher.conv.update(torch.cat((h, h), dim=1))) + x
            x = block.ffn(x)
        return self.model.head(x.mean((2, 3), keepdim=True)).flatten(1)


def forward_only(model: nn.Module, images: Tensor) -> None:
    """One evaluation of a batch."""
    with torch.inference_mode():
        model(images)


def forward_backward(model: nn.Module, images: Tensor) -> None:
    """One training step's forward and backward pass, without the optimiser."""
    model.zero_grad()
    outputs = model(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)  # ClusterViG has two classifiers
    sum(logits.square().mean() for logits in outputs).backward()


def best_times(models: Sequence, images: Tensor, step: Callable, rounds: int) -> list[float]:
    """Milliseconds per image of `step(model, images)`: the best round of each model, see `turns`."""
    return [min(times) for times in turns(models, images, step, rounds)]


def turns(models: Sequence, images: Tensor, step: Callable, rounds: int) -> list[list[float]]:
    """Milliseconds per image of `step(model, images)`, of each model in each round: after a warm-up they take turns."""
    times = [[] for _ in models]
    synchronise = torch.cuda.synchronize if images.is_cuda else lambda: None
    for model in models:
        step(model, images)
    for _ in range(rounds):
        for model, taken in zip(models, times):
            synchronise()
            start = time.perf_counter()
            step(model, images)
            synchronise()
            taken.append((time.perf_counter() - start) * 1e3 / len(images))
    return times


def random_images(model: nn.Module, batch: int, device: str) -> Tensor:
    """A batch of the model's size in channels_last memory (channels of a pixel side by side), as in training."""
    return torch.randn(batch, 3, *model.config.img_size, device=device).to(memory_format=torch.channels_last)


def costs(model: nn.Module, batch: int, rounds: int, device: str, compiled: bool = False) -> dict[str, float]:
    """Return the cost of a model: parameters, multiply-adds and MB kept for the backward pass; milliseconds an image in
    evaluation and training, and as ratios to the floor; and the seconds of the first steps, compilation included.

    Model and floor take turns, and the median of the rounds counts. The model's statistics of batch norm change.
    """
    images = random_images(model, batch, device)
    pair = [m.to(device, memory_format=torch.channels_last) for m in (model, Floor(model))]
    result = {"parameters": count_parameters(model), "gmacs": count_macs(model, images) / 1e9,
              "mb_kept": saved_bytes(model.train(), images) / 1e6}
    if compiled:
        pair[0] = torch.compile(pair[0])
    for name, training, step in (("eval", False, forward_only), ("train", True, forward_backward)):
        start = time.perf_counter()
        step(pair[0].train(training), images)
        result[f"first_{name}_s"] = time.perf_counter() - start
        ours, floor = turns([m.train(training) for m in pair], images, step, rounds)
        result |= {f"{name}_ms": median(ours), f"{name}_ratio": median(map(truediv, ours, floor))}
    return result


def print_ratios(names: list[str], batch: int, rounds: int, device: str, compiled: bool, fields: dict) -> None:
    """Print the table of time and memory, beside the floor's; compiled: with the seconds to the end of a first step."""
    columns = ["model, compiled" if compiled else "model", "parameters", "GMACs", "eval ms/image", "eval / floor",
               "train ms/image", "train / floor", "MB kept/image"]
    columns += ["first eval s", "first train s"] if compiled else []
    print(f"| {' | '.join(columns)} |\n|---|" + "---:|" * (len(columns) - 1))
    for name in names:
        found = costs(create_model(name, **fields).to(device), batch, rounds, device, compiled)
        cells = [name, *(text.format(**found) for text in COLUMNS + FIRST_STEPS * compiled)]
        print(f"| {' | '.join(cells)} |", flush=True)
