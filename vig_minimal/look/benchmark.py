"""Measure what the graph costs, as a ratio to the same network without one: time, memory, parameters.

    python -m vig_minimal benchmark lrgc_ti --compile      # through torch.compile
    python -m vig_minimal benchmark --graphs               # every constructor alone, as the number of nodes grows
    python -m vig_minimal benchmark --paper                # the papers' own figures beside ours
    python -m vig_minimal benchmark --throughput cvig_ti vig_ti --batches 1 8 16 32 64 --out throughput.png

The *floor* of a model is its own stem, linear layers, norms, activations and head with nothing between them: no
constructor, and the aggregate replaced by the features themselves. Model and floor take turns in one run and the best
time of each counts, so a ratio holds on any machine; milliseconds hold on this one only.

--graphs takes one block of vig_ti with each constructor: milliseconds an image to build its graph, their share of the
block's evaluation (building, aggregation, linear layers), and the peak of memory of the block in MiB for --batch
images. It draws the times.

--throughput measures and draws images per second and memory against the batch, as in ClusterViG's Table VI and
Figure 5. Each figure comes from a process of its own, which holds nothing else. A process that dies counts as out of
memory, for which Linux kills it: `-`, for all larger batches too.
"""

import itertools
import math
import os
import re
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

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


def throughput(names: list[str], batches: list[int], *settings) -> dict[str, list[Figure]]:
    """The figures of each model for each batch (ascending). settings: the arguments of `figure` after the batch.

    Raises ValueError where a model fails for another reason than memory.
    """
    results = {name: [None] * len(batches) for name in names}
    for name in names:
        for i, batch in enumerate(tqdm(batches, name, leave=False, disable=None)):
            answer = in_own_process(f"{name}, batch {batch}", figure, name, batch, *settings)
            if answer is None:
                break
            results[name][i] = answer
    return results


def in_own_process(what: str, measure: Callable, *about):
    """Return measure(*about), computed in a process that holds nothing else; None if memory ran out. Raises ValueError,
    which says `what` failed, for another failure."""
    context = get_context("forkserver" if os.name == "posix" else "spawn")  # forked from one that has imported torch
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, measure, *about), daemon=True)
    child.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:  # the process is gone; with SIGKILL Linux ends one for which there is no memory
        child.join()
        answer = None if child.exitcode == -9 else f"its process ended with code {child.exitcode}"
    if isinstance(answer, str):
        raise ValueError(f"{what}: {answer}")
    return answer


def _answer(pipe: Connection, measure: Callable, *about) -> None:
    """In a process of its own: send the figure, None if memory ran out, or a sentence if it failed otherwise."""
    try:
        pipe.send(measure(*about))
    except Exception as error:
        pipe.send(None if out_of_memory(error) else f"{type(error).__name__}: {error}")


def figure(name: str, batch: int, rounds: int, device: str, threads: int, amp: bool, fields: dict) -> Figure:
    """Return images a second at that batch, the best of `rounds`, and the peak of this process's memory in MiB."""
    torch.set_num_threads(threads)
    before = peak_memory(device)
    model = create_model(name, **fields).to(device, memory_format=torch.channels_last).eval()

    def step(model: nn.Module, images: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=amp):  # each round casts the weights anew
            forward_only(model, images)

    milliseconds, = best_times([model], random_images(model, batch, device), step, rounds)
    return 1e3 / milliseconds, (peak_memory(device) - before) / 2**20


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch has an exception for GPUs, but on CPUs a RuntimeError says so."""
    said = re.search("not enough memory|can't allocate memory|out of memory", str(error))
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or isinstance(error, RuntimeError) and bool(said)


def peak_memory(device: str) -> float:
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
    save_picture(chart(results, batches, title), args.out or "throughput.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `python -m vig_minimal benchmark`."""
    parser = Parser("benchmark", __doc__, "vig_ti svig_ti lrgc_ti")
    add = parser.add_argument
    add("models", nargs="*", default=["vig_ti", "svig_ti", "lrgc_ti", "cvig_ti", "pvig_ti", "gkgnet_s"],
        help="names from list_models()")
    add("--throughput", nargs="+", metavar="MODEL", help="images/s and memory of these for each of --batches instead")
    add("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64], metavar="N", help="for --throughput")
    parser.add_out(None, "the picture of --throughput (default throughput.png) or --graphs (default graphs.png)")
    add("--amp", action="store_true", help="--throughput in bfloat16")
    add("--graphs", action="store_true", help="time and memory of every constructor against the nodes instead")
    add("--grids", type=int, nargs="+", default=[14, 28, 42, 56], metavar="G", help="for --graphs: G² nodes")
    add("--paper", action="store_true", help="the figures of the papers' tables instead, and ours beside them")
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
    if args.graphs + args.paper + bool(args.throughput) + args.compile > 1 or args.amp and not (
            args.throughput or args.paper):
        parser.error("--graphs, --paper, --throughput and --compile each go alone, and --amp with --throughput or"
                     " --paper")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; use --device cpu")
    torch.set_num_threads(args.threads)
    fields = {} if args.img_size is None else {"img_size": args.img_size}
    print(f"{'evaluation' if args.throughput else f'batch {args.batch}'}, {'bfloat16' if args.amp else 'float32'},"
          f" {args.device}, {args.threads} threads, torch {torch.__version__}; best of {args.rounds} rounds\n")
    with parser.errors_in_one_sentence():
        if args.graphs:
            from .compare.graph_cost import print_graphs  # these two read this module
            print_graphs(args)
        elif args.paper:
            from .benchmark_paper import scores, sizes, speeds
            about = args.rounds, args.device, args.threads, args.amp, fields
            for line in itertools.chain(sizes(), scores(), speeds(args.batches, *about)):
                print(line, flush=True)
        elif args.throughput:
            print_throughput(args, fields)
        else:
            print("| model | parameters | GMACs | eval ms/image | eval / floor | train ms/image | train / floor |"
                  " MB kept/image |\n|---|" + "---:|" * 7)
            for name in args.models:
                print(f"| {measure(name, args.batch, args.rounds, args.device, args.compile, fields)} |", flush=True)
