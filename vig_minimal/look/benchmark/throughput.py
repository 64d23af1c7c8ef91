"""Images per second and memory against the batch: tables and a picture, as ClusterViG's Table VI and Figure 5."""

import math
import os
import re
from argparse import Namespace
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ...models.registry import create_model
from ..chart import Axis, Chart, Series, draw_page, log_ticks
from ..command import save_picture
from ..panels import colours
from .floor import best_times, forward_only, random_images

Figure = tuple[float, float] | None  # images a second and MiB; None for out of memory


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
    with `what` failed, for another failure."""
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
