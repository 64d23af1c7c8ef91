"""What the graph costs, as a ratio to the same network without one.

    python -m vig_minimal benchmark vig_ti svig_ti lrgc_ti          # Markdown table: time, floor, memory
    python -m vig_minimal benchmark lrgc_ti --compile               # the same through torch.compile
    python -m vig_minimal benchmark --graphs                        # building the graphs of vig_ti and cvig_ti, N grows
    python -m vig_minimal benchmark --throughput cvig_ti vig_ti --batches 1 8 16 32 64 --out throughput.png

The *floor* of a model is its own stem, linear layers, norms, activations and head with nothing between them: no
constructor, and the aggregate replaced by the features themselves. Model and floor take turns in one run and the best
time of each counts, so a ratio holds on any machine; milliseconds hold on this one.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..constructors import CONSTRUCTORS
from ..files import replacing
from ..models.cost import count_macs, count_parameters, saved_bytes
from ..models.pyramid import PyramidConfig
from ..models.registry import CONFIGS, create_model, list_models
from .throughput import chart, table, throughput


class Floor(nn.Module):
    """A model's convolutions, norms and activations, no graph: (B, 3, H, W) -> (B, num_classes)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        config = model.config
        same = {"dim": config.dim, "depth": config.depth, "patch": config.patch, "img_size": config.img_size}
        name = "pvig_ti" if isinstance(config, PyramidConfig) else "vig_ti"
        self.model = create_model(name, num_classes=config.num_classes, **same)

    def forward(self, images: Tensor) -> Tensor:
        x = self.model.stem(images)
        downsampling = {}
        if hasattr(self.model, "stages"):
            downsampling = {stage.blocks[0]: stage.downsample for stage in self.model.stages}
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
    """Milliseconds an image of `step(model, images)`, the best of `rounds`, taking turns after one round to warm up."""
    times = [float("inf")] * len(models)
    for model in models:
        step(model, images)
    for _ in range(rounds):
        for i, model in enumerate(models):
            _synchronise(images)
            start = time.perf_counter()
            step(model, images)
            _synchronise(images)
            times[i] = min(times[i], (time.perf_counter() - start) * 1e3 / len(images))
    return times


def _synchronise(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def measure(name: str, batch: int, rounds: int, device: str, compiled: bool, fields: dict) -> str:
    """One row of the table."""
    model = create_model(name, **fields).to(device)
    images = torch.randn(batch, 3, *model.config.img_size, device=device).contiguous(memory_format=torch.channels_last)
    pair = [m.to(device, memory_format=torch.channels_last) for m in (model, Floor(model))]
    cost = [f"{count_parameters(model):,}", f"{count_macs(model, images) / 1e9:.3f}"]
    cost_of_backward = f"{saved_bytes(model.train(), images) / 1e6:.1f}"
    if compiled:
        pair[0] = torch.compile(pair[0])
    for training, step in ((False, forward_only), (True, forward_backward)):
        ours, floor = best_times([m.train(training) for m in pair], images, step, rounds)
        cost += [f"{ours:.1f}", f"{ours / floor:.2f}"]
    return " | ".join([name + (" (compiled)" if compiled else ""), *cost, cost_of_backward])


def graph_times(grid: int, batch: int, rounds: int, device: str) -> list[float]:
    """Milliseconds an image for all 12 graphs of vig_ti on grid² nodes, for all of cvig_ti, and its k-means alone.

    Features are random, the same in every run, with 8 groups in them; κ is 4, and 6 from 784 nodes on, as in the paper.
    """
    images = 16 * grid
    plain = CONSTRUCTORS["knn"][0](replace(CONFIGS["vig_ti"], img_size=images, k=9))
    clusters = 4 if grid < 28 else 6
    inside = CONSTRUCTORS["cluster_knn"][0](replace(CONFIGS["cvig_ti"], img_size=images, k=9, clusters=clusters))
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(8, (batch, grid * grid, 1), generator=draw).expand(-1, -1, 192)
    centres = torch.randn(batch, 8, 192, generator=draw)
    nodes = (torch.randn(batch, grid * grid, 192, generator=draw) + centres.gather(1, group)).to(device)
    builders = [[constructor.eval() for constructor in plain], [constructor.eval() for constructor in inside],
                [constructor.eval().partition for constructor in inside]]
    return best_times(builders, nodes, lambda builder, x: [build(x) for build in builder], rounds)


def print_graph_times(grids: Sequence[int], batch: int, rounds: int, device: str) -> None:
    """The table of --graphs."""
    print("| nodes | vig_ti: k-NN, ms/image | cvig_ti: k-means and k-NN inside partitions | of it k-means | ratio |")
    print("|---:|" + "---:|" * 4)
    for grid in grids:
        plain, inside, k_means = graph_times(grid, batch, rounds, device)
        print(f"| {grid * grid} | {plain:.1f} | {inside:.1f} | {k_means:.1f} | {inside / plain:.2f} |", flush=True)


def print_throughput(args: argparse.Namespace, fields: dict) -> None:
    """The tables of --throughput, and its picture."""
    if Path(args.out).suffix.lower() != ".png":
        raise ValueError(f"--out {args.out}: the picture is a PNG; give a name that ends in .png")
    batches = sorted(set(args.batches))
    with replacing(args.out) as file:  # what cannot be written is found before anything is measured
        results = throughput(args.throughput, batches, args.rounds, args.device, args.threads, args.amp, fields)
        title = f"{args.device}, {'bfloat16' if args.amp else 'float32'}, best of {args.rounds} rounds"
        chart(results, batches, title).save(file, "png")
    what = "in tensors, weights among them" if args.device == "cuda" else "beyond that of the process before the model"
    print(f"images per second\n\n{table(results, batches, 0)}\n\npeak memory in MiB, {what}\n\n"
          f"{table(results, batches, 1)}\n\nwrote {args.out}")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m vig_minimal benchmark", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", nargs="*", default=["vig_ti", "svig_ti", "lrgc_ti", "cvig_ti", "pvig_ti", "gkgnet_s"],
        help="names from list_models()")
    add("--throughput", nargs="+", metavar="MODEL", help="images/s and memory of these for each of --batches instead")
    add("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64], metavar="N", help="for --throughput")
    add("--out", default="throughput.png", metavar="FILE", help="the picture of --throughput")
    add("--amp", action="store_true", help="--throughput in bfloat16")
    add("--graphs", action="store_true", help="time of building graphs against the number of nodes instead")
    add("--grids", type=int, nargs="+", default=[14, 28, 42], metavar="G", help="for --graphs: G² nodes")
    add("--batch", type=int, default=8, metavar="N", help="images a batch (default 8)")
    add("--rounds", type=int, default=5, metavar="N", help="timed rounds; the best counts (default 5)")
    add("--threads", type=int, default=2, metavar="N", help="CPU threads (default 2)")
    add("--img-size", type=int, metavar="PX", help="instead of each model's own")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="cpu (default) or cuda")
    add("--compile", action="store_true", help="run the model, not the floor, through torch.compile")
    args = parser.parse_args(argv)
    if min(args.batch, args.rounds, args.threads, *args.batches, *args.grids) < 1:
        parser.error("--batch, --batches, --grids, --rounds and --threads must be at least 1")
    if unknown := [name for name in [*args.models, *(args.throughput or [])] if name not in list_models()]:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(list_models())}")
    if others := [name for name in args.models if not hasattr(CONFIGS[name], "patch")]:
        parser.error(f"{others[0]} has no patches, and no floor to compare with; compare it with its plain"
                     " ResNet by --throughput")
    if args.throughput and (args.graphs or args.compile) or args.amp and not args.throughput:
        parser.error("--throughput goes without --graphs and --compile, and --amp with --throughput alone")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; use --device cpu")
    torch.set_num_threads(args.threads)
    fields = {} if args.img_size is None else {"img_size": args.img_size}
    work = "evaluation" if args.throughput else f"batch {args.batch}"
    print(f"{work}, {'bfloat16' if args.amp else 'float32'}, {args.device}, {args.threads} threads,"
          f" torch {torch.__version__}; best of {args.rounds} rounds\n")
    try:
        if args.graphs:
            return print_graph_times(args.grids, args.batch, args.rounds, args.device)
        if args.throughput:
            for name in args.throughput:
                create_model(name, **fields)  # what cannot work is found before anything is measured
            return print_throughput(args, fields)
        print("| model | parameters | GMACs | eval ms/image | eval / floor | train ms/image | train / floor |"
              " MB kept/image |")
        print("|---|" + "---:|" * 7)
        for name in args.models:
            print(f"| {measure(name, args.batch, args.rounds, args.device, args.compile, fields)} |", flush=True)
    except OSError as error:
        parser.error(f"{args.out}: cannot be written ({error.strerror or error})")
    except ValueError as error:
        parser.error(str(error))
