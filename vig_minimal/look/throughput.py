"""Images per second and memory against the batch, as in Table VI and Figure 5 of ClusterViG: tables and a picture.

    python -m vig_minimal benchmark --throughput cvig_ti vig_ti --batches 1 8 16 32 64 --out throughput.png

Each model runs in a process of its own, from the smallest batch on, so that its memory is its own, and so that a
process which the system ends for want of memory is an out-of-memory like any other: `-`, for all larger batches too.
Whatever else goes wrong in it is an error.
"""

import math
import multiprocessing
import re
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ..models.registry import create_model
from .panels import FONT, Axis, colours, curve, labels, ticks
from .plot import BOTTOM, FAINT, GRID, HEADING, HEIGHT, INK, WIDTH, Series, draw_legend

Figure = tuple[float, float] | None  # images a second and MiB; None for out of memory


def throughput(names: list[str], batches: list[int], rounds: int, device: str, threads: int, amp: bool,
               fields: dict) -> dict[str, list[Figure]]:
    """Model to a figure for each batch (ascending). Evaluation, channels_last; best of `rounds` after one to warm up.

    Raises ValueError where a model fails for another reason than memory.
    """
    context, results = multiprocessing.get_context("spawn"), {}
    for name in names:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_measure, args=(theirs, name, batches, rounds, device, threads, amp, fields),
                                daemon=True)  # it ends when this process does
        child.start()
        theirs.close()
        results[name] = []
        for batch in batches:
            _progress(f"{name}, batch {batch}")
            try:
                figure = ours.recv()
            except EOFError:  # the process is gone
                child.join()
                killed = child.exitcode == -9  # SIGKILL, as Linux does where memory is out
                figure = None if killed else f"its process ended with code {child.exitcode}"
            if isinstance(figure, str):
                _progress("")
                raise ValueError(f"{name}, batch {batch}: {figure}")
            results[name] += [figure] if figure else [None] * (len(batches) - len(results[name]))
            if figure is None:
                break
        child.join()
        _progress("")
    return results


def _measure(pipe: Connection, name: str, batches: list[int], rounds: int, device: str, threads: int, amp: bool,
             fields: dict) -> None:
    """In the model's own process: send a figure for each batch, and at the first that fails None for want of memory,
    or else a sentence."""
    torch.set_num_threads(threads)
    before = _peak(device)
    try:
        model = create_model(name, **fields).to(device, memory_format=torch.channels_last).eval()
        for batch in batches:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            speed = evaluate(model, batch, rounds, amp)
            pipe.send((speed, (_peak(device) - before) / 2**20))
    except Exception as error:  # the other process must not wait for, nor take for want of memory, what is neither
        pipe.send(None if out_of_memory(error) else f"{type(error).__name__}: {error}")


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


def out_of_memory(error: Exception) -> bool:
    """Whether that is what the error says: torch has a kind of its own for GPUs, but not for CPUs."""
    said = re.search("not enough memory|can't allocate memory|out of memory", str(error))
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or isinstance(error, RuntimeError) and bool(said)


def _peak(device: str) -> float:
    """Most bytes so far: on a GPU in torch's tensors, else in memory for this process. NaN where no one tells."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # not getrusage's ru_maxrss, which on Linux a new process takes over from the one that started it
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 if peak else math.nan


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="" if text else "\r", file=sys.stderr, flush=True)


def table(results: dict[str, list[Figure]], batches: list[int], which: int) -> str:
    """Markdown: a row for each model, a column for each batch. which: 0 for images a second, 1 for MiB."""
    lines = ["| model | " + " | ".join(f"b = {batch}" for batch in batches) + " |", "|---|" + "---:|" * len(batches)]
    for name, figures in results.items():
        cells = ["-" if figure is None else f"{figure[which]:.{1 - which}f}" for figure in figures]
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
    y = Axis(low, high, speed_ticks(low, high), log=True)
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
    height = draw_legend(page, left, bottom + BOTTOM, lines)
    return page.crop((0, 0, page.width, bottom + BOTTOM + height + 8))


def speed_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or where these are fewer than three, evenly spaced numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    marks = [mark for mark in marks if low <= mark <= high]
    return marks if len(marks) >= 3 else [mark for mark in ticks(low, high, 8) if mark > 0]
