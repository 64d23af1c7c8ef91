"""Measure what the graph costs, as a ratio to the same network without one: time, memory, parameters.

    python -m vig_minimal benchmark lrgc_ti --compile      # through torch.compile
    python -m vig_minimal benchmark --graphs               # building the graphs of vig_ti and cvig_ti as N grows
    python -m vig_minimal benchmark --throughput cvig_ti vig_ti --batches 1 8 16 32 64 --out throughput.png

The *floor* of a model is its own stem, linear layers, norms, activations and head with nothing between them: no
constructor, and the aggregate replaced by the features themselves. Model and floor take turns in one run and the best
time of each counts, so a ratio holds on any machine; milliseconds hold on this one only.

--throughput measures and draws images per second and memory against the batch, as in ClusterViG's Table VI and
Figure 5. Each figure comes from a process of its own, which holds nothing else. A process that dies counts as out of
memory, for which Linux kills it: `-`, for all larger batches too.
"""

import math
import re
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..constructors import CONSTRUCTORS
from ..models.cost import count_macs, count_parameters, saved_bytes
from ..models.pyramid import PyramidConfig
from ..models.registry import CONFIGS, create_model, list_models
from .chart import Axis, Chart, Series, draw_page, log_ticks
from .command import Parser, save_picture
from .panels import colours

Figure = tuple[float, float] | None  # images a second and MiB; None for out of memory


class Floor(nn.Module):
    """A model's convolutions, norms and activations without a graph: (B, 3, H, W) -> (B, num_classes)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        config = model.config
        same = {field: getattr(config, field) for field in ("dim", "depth", "patch", "img_size", "num_classes")}
        self.model = create_model("pvig_ti" if isinstance(config, PyramidConfig) else "vig_ti", **same)

    def forward(self, images: Tensor) -> Tensor:
        x = self.model.stem(images)
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
    """Milliseconds per image of `step(model, images)`: the models take turns after a warm-up, the best round counts."""
    times = [math.inf] * len(models)
    synchronise = torch.cuda.synchronize if images.is_cuda else lambda: None
    for model in models:
        step(model, images)
    for _ in range(rounds):
        for i, model in enumerate(models):
            synchronise()
            start = time.perf_counter()
            step(model, images)
            synchronise()
            times[i] = min(times[i], (time.perf_counter() - start) * 1e3 / len(images))
    return times


def random_images(model: nn.Module, batch: int, device: str) -> Tensor:
    """A batch of the model's size in channels_last memory (channels of a pixel side by side), as in training."""
    return torch.randn(batch, 3, *model.config.img_size, device=device).to(memory_format=torch.channels_last)


def measure(name: str, batch: int, rounds: int, device: str, compiled: bool, fields: dict) -> str:
    """One row of the table: size, time and memory of a model, and its ratios to the floor."""
    model = create_model(name, **fields).to(device)
    images = random_images(model, batch, device)
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
    """Milliseconds per image for all 12 graphs of vig_ti on grid² nodes, for all of cvig_ti, and for its k-means alone.

    Features are random around 8 centres, the same in every run. κ is 4, and 6 from 784 nodes on, as in the paper.
    """
    images = 16 * grid
    plain = CONSTRUCTORS["knn"][0](replace(CONFIGS["vig_ti"], img_size=images, k=9))
    clusters = 4 if grid < 28 else 6
    inside = CONSTRUCTORS["cluster_knn"][0](replace(CONFIGS["cvig_ti"], img_size=images, k=9, clusters=clusters))
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(8, (batch, grid**2, 1), generator=draw).expand(-1, -1, 192)
    centres = torch.randn(batch, 8, 192, generator=draw)
    nodes = (torch.randn(batch, grid**2, 192, generator=draw) + centres.gather(1, group)).to(device)
    builders = [[constructor.eval() for constructor in constructors] for constructors in (plain, inside)]
    builders.append([constructor.partition for constructor in builders[1]])
    return best_times(builders, nodes, lambda builder, x: [build(x) for build in builder], rounds)


def throughput(names: list[str], batches: list[int], *settings) -> dict[str, list[Figure]]:
    """The figures of each model for each batch (ascending). settings: the arguments of `figure` after the batch.

    Raises ValueError where a model fails for another reason than memory.
    """
    context, results = get_context("spawn"), {name: [None] * len(batches) for name in names}
    for name in names:
        for i, batch in enumerate(tqdm(batches, name, leave=False, disable=None)):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_answer, args=(theirs, figure, name, batch, *settings), daemon=True)
            child.start()
            theirs.close()
            try:
                answer = ours.recv()
            except EOFError:  # the process is gone; with SIGKILL Linux ends one for which there is no memory
                child.join()
                answer = None if child.exitcode == -9 else f"its process ended with code {child.exitcode}"
            if isinstance(answer, str):
                raise ValueError(f"{name}, batch {batch}: {answer}")
            if answer is None:
                break
            results[name][i] = answer
    return results


def _answer(pipe: Connection, measure: Callable[..., Figure], *about) -> None:
    """In a process of its own: send the figure, None if memory ran out, or a sentence if it failed otherwise."""
    try:
        pipe.send(measure(*about))
    except Exception as error:
        pipe.send(None if out_of_memory(error) else f"{type(error).__name__}: {error}")


def figure(name: str, batch: int, rounds: int, device: str, threads: int, amp: bool, fields: dict) -> Figure:
    """Return images a second at that batch, the best of `rounds`, and the peak of this process's memory in MiB."""
    torch.set_num_threads(threads)
    before = _peak(device)
    model = create_model(name, **fields).to(device, memory_format=torch.channels_last).eval()

    def step(model: nn.Module, images: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=amp):  # each round casts the weights anew
            forward_only(model, images)

    milliseconds, = best_times([model], random_images(model, batch, device), step, rounds)
    return 1e3 / milliseconds, (_peak(device) - before) / 2**20


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch has an exception for GPUs, but on CPUs a RuntimeError says so."""
    said = re.search("not enough memory|can't allocate memory|out of memory", str(error))
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or isinstance(error, RuntimeError) and bool(said)


def _peak(device: str) -> float:
    """The peak of memory so far, in bytes: on a GPU of torch's tensors, else of this process; NaN if unknown."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # not getrusage's ru_maxrss: on Linux a new process inherits it from its parent
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 if peak else math.nan


def table(results: dict[str, list[Figure]], batches: list[int], which: int) -> str:
    """Markdown: a row for each model, a column for each batch. which: 0 for images per second, 1 for MiB."""
    lines = ["| model | " + " | ".join(f"b = {batch}" for batch in batches) + " |", "|---|" + "---:|" * len(batches)]
    for name, figures in results.items():
        cells = ["-" if figure is None else f"{figure[which]:.{1 - which}f}" for figure in figures]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(results: dict[str, list[Figure]], batches: list[int], title: str) -> Image.Image:
    """Draw images per second against the batch, both axes logarithmic: a curve for each model, up to out of memory."""
    speeds = [figure[0] for figures in results.values() for figure in figures if figure] or [1.0]
    low, high = min(speeds) / 1.2, max(speeds) * 1.2
    x = Axis(min(batches) / 1.2, max(batches) * 1.2, batches, log=True)
    y = Axis(low, high, log_ticks(low, high), log=True)
    curves = [Series(name, [(batch, figure[0]) for batch, figure in zip(batches, figures) if figure], colour)
              for (name, figures), colour in zip(results.items(), colours(len(results)))]
    return draw_page(title, [Chart("images per second", "images a batch", x, y, curves, curves)])


def print_throughput(args: Namespace, fields: dict) -> None:
    """Print the tables of --throughput, and draw its picture."""
    for name in args.throughput:
        create_model(name, **fields)  # fails before anything is measured
    batches = sorted(set(args.batches))
    results = throughput(args.throughput, batches, args.rounds, args.device, args.threads, args.amp, fields)
    title = f"{args.device}, {'bfloat16' if args.amp else 'float32'}, best of {args.rounds} rounds"
    what = "in tensors, weights among them" if args.device == "cuda" else "beyond that of the process before the model"
    print(f"images per second\n\n{table(results, batches, 0)}\n\npeak memory in MiB, {what}\n\n"
          f"{table(results, batches, 1)}\n")
    save_picture(chart(results, batches, title), args.out)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `python -m vig_minimal benchmark`."""
    parser = Parser("benchmark", __doc__, "vig_ti svig_ti lrgc_ti")
    add = parser.add_argument
    add("models", nargs="*", default=["vig_ti", "svig_ti", "lrgc_ti", "cvig_ti", "pvig_ti", "gkgnet_s"],
        help="names from list_models()")
    add("--throughput", nargs="+", metavar="MODEL", help="images/s and memory of these for each of --batches instead")
    add("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64], metavar="N", help="for --throughput")
    parser.add_out("throughput.png", "the picture of --throughput")
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
    print(f"{'evaluation' if args.throughput else f'batch {args.batch}'}, {'bfloat16' if args.amp else 'float32'},"
          f" {args.device}, {args.threads} threads, torch {torch.__version__}; best of {args.rounds} rounds\n")
    with parser.errors_in_one_sentence():
        if args.graphs:
            print("| nodes | vig_ti: k-NN, ms/image | cvig_ti: k-means and k-NN inside partitions | of it k-means |"
                  " ratio |\n|---:|" + "---:|" * 4)
            for grid in args.grids:
                plain, inside, k_means = graph_times(grid, args.batch, args.rounds, args.device)
                print(f"| {grid**2} | {plain:.1f} | {inside:.1f} | {k_means:.1f} | {inside / plain:.2f} |", flush=True)
        elif args.throughput:
            print_throughput(args, fields)
        else:
            print("| model | parameters | GMACs | eval ms/image | eval / floor | train ms/image | train / floor |"
                  " MB kept/image |\n|---|" + "---:|" * 7)
            for name in args.models:
                print(f"| {measure(name, args.batch, args.rounds, args.device, args.compile, fields)} |", flush=True)
