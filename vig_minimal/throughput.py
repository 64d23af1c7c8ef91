"""Images per second and memory against the batch, as in Table VI and Figure 5 of ClusterViG: tables and a picture.

    python -m vig_minimal.benchmark --throughput cvig_ti vig_ti --batches 1 8 16 32 64 --out throughput.png

Each model runs in a process of its own, from the smallest batch on, so that its memory is its own, and so that a
process which the system ends for want of memory is an out-of-memory like any other: `-`, for all larger batches too.
"""

import math
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection

import torch
from PIL import Image, ImageDraw

from . import create_model
from .drawing import FONT, Axis, colours, curve, labels, ticks
from .plot import BOTTOM, FAINT, GRID, HEADING, HEIGHT, INK, WIDTH, Series, draw_legend

Figure = tuple[float, float] | None  # images a second and MiB; None for out of memory


def throughput(names: list[str], batches: list[int], rounds: int, device: str, threads: int, amp: bool,
               fields: dict) -> dict[str, list[Figure]]:
    """Model to a figure for each batch (ascending). Evaluation, channels_last; best of `rounds` after one to warm up."""
    context, results = multiprocessing.get_context("spawn"), {}
    for name in names:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_measure, args=(theirs, name, batches, rounds, device, threads, amp, fields))
        child.start()
        theirs.close()
        results[name] = []
        for batch in batches:
            _progress(f"{name}, batch {batch}")
            try:
                figure = ours.recv()
            except EOFError:  # the process is gone
                figure = None
            results[name] += [figure] if figure else [None] * (len(batches) - len(results[name]))
            if figure is None:
                break
        child.join()
        _progress("")
    return results


def _measure(pipe: Connection, name: str, batches: list[int], rounds: int, device: str, threads: int, amp: bool,
             fields: dict) -> None:
    """In the model's own process: send a figure for each batch, None and no more when memory is out."""
    torch.set_num_threads(threads)
    model = create_model(name, **fields).to(device, memory_format=torch.channels_last).eval()
    for batch in batches:
        try:
            pipe.send((evaluate(model, batch, rounds, amp), _memory(device) / 2**20))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            pipe.send(None)
            break


def evaluate(model: torch.nn.Module, batch: int, rounds: int, amp: bool) -> float:
    """Images a second of that many at once."""
    device = next(model.parameters()).device
    images = torch.randn(batch, 3, *model.config.img_size, device=device).to(memory_format=torch.channels_last)
    best = math.inf
    for round_ in range(rounds + 1):
        start = time.perf_counter()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if round_ > 0:  # the first one warms up
            best = min(best, time.perf_counter() - start)
    return batch / best


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what the error says: torch has a kind of its own for GPUs, but not for CPUs."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate memory" in text


def _memory(device: str) -> float:
    """Most bytes that this process had so far: on a GPU what torch took, else all, Python and torch itself among it."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="" if text else "\r", file=sys.stderr, flush=True)


def table(results: dict[str, list[Figure]], batches: list[int], which: int) -> str:
    """Markdown: a row for each model, a column for each batch. which: 0 for images a second, 1 for MiB."""
    lines = ["| model | " + " | ".join(f"b = {batch}" for batch in batches) + " |", "|---|" + "---:|" * len(batches)]
    for name, figures in results.items():
        cells = ["-" if figure is None else f"{figure[which]:.0f}" if which else f"{figure[0]:.1f}" for figure in figures]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(results: dict[str, list[Figure]], batches: list[int], title: str) -> Image.Image:
    """Images a second against the batch, both axes logarithmic, a curve for each model; none where memory is out."""
    left, top = 70, 70
    page = Image.new("RGB", (left + WIDTH + 30, top + HEIGHT + BOTTOM + 20 * (1 + len(results))), "white")
    draw, right, bottom = ImageDraw.Draw(page), left + WIDTH - 1, top + HEIGHT - 1
    speeds = [figure[0] for figures in results.values() for figure in figures if figure] or [1.0]
    x = Axis(min(batches) / 1.2, max(batches) * 1.2, [float(batch) for batch in batches], log=True)
    low, high = min(speeds) / 1.2, max(speeds) * 1.2
    y = Axis(low, high, [mark for mark in ticks(low, high, 8) if mark > 0], log=True)
    for mark, text in zip(y.ticks, labels(y.ticks), strict=True):
        row = bottom - round(y.pixel(mark, HEIGHT))
        draw.line((left, row, right, row), GRID)
        draw.text((left - 8, row), text, INK, FONT, anchor="rm")
    for mark in x.ticks:
        column = left + round(x.pixel(mark, WIDTH))
        draw.line((column, top, column, bottom), GRID)
        draw.text((column, bottom + 8), f"{mark:.0f}", INK, FONT, anchor="mt")
    draw.line((left, top, left, bottom, right, bottom), FAINT)
    draw.text((right, bottom + 26), "images a batch (log scale)", INK, FONT, anchor="rt")
    draw.text((left, top - 12), "images per second (log scale)", INK, HEADING, anchor="ls")
    draw.text((left, 16), title, FAINT, FONT)
    lines = [Series(name, [(x.pixel(batch, WIDTH), HEIGHT - 1 - y.pixel(figure[0], HEIGHT))
                           for batch, figure in zip(batches, figures) if figure], colour)
             for (name, figures), colour in zip(results.items(), colours(len(results)))]
    for line in lines:
        if line.points:
            curve(page, (left, top, WIDTH, HEIGHT), line.points, line.colour)
    draw_legend(page, left, bottom + BOTTOM, lines)
    return page
