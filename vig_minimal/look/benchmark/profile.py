"""Where a model's time goes, beside the least time in which this machine could do the same: `benchmark --profile`.

    limit = max(multiply-adds / peak multiply-adds per second,  bytes / peak bytes per second)

The peaks are those of a large matrix product and of a large copy, measured first. The bytes of an operation are those
of the tensors that it reads and writes. Data that a cache still holds comes faster than the copy's: such a part takes
less than its limit. A part near its limit gets faster by doing less; one far above it could do the same faster.

Every operation of torch counts for the innermost function of this project that called it, so a row shows where to look.
Those of the backward pass count for `backward`, but for the one that `graphs/fast/maximum.py` differentiates itself.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .floor import forward_backward, random_images

PACKAGE = str(Path(__file__).parents[2])
LEAST_SHARE = 0.01  # of the time; rows with less are added up


@dataclass
class Part:
    """The cost of one operation of one function so far."""

    calls: int = 0
    seconds: float = 0.0
    macs: float = 0.0
    bytes: float = 0.0


class Profiler(TorchDispatchMode):
    """Time every operation of torch but views: `parts` of (function, operation). On a GPU it waits for each."""

    def __init__(self, synchronise: Callable[[], None]):
        super().__init__()
        self.synchronise, self.parts = synchronise, defaultdict(Part)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation.is_view:  # costs nothing but this call
            return operation(*args, **kwargs)
        self.synchronise()
        start = time.perf_counter()
        result = operation(*args, **kwargs)
        self.synchronise()
        seconds = time.perf_counter() - start
        part = self.parts[caller(), operation.overloadpacket.__name__]
        part.calls += 1
        part.seconds += seconds
        if count := flop_registry.get(operation.overloadpacket):
            part.macs += count(*args, **kwargs, out_val=result) / 2
        part.bytes += sum(map(touched, (*args, *kwargs.values(), result)))
        return result


def evaluate(model: nn.Module, images: Tensor) -> None:
    """One evaluation. In inference mode torch would hand over a `conv2d`, whose multiply-adds it does not count."""
    with torch.no_grad():
        model(images)


def caller() -> str:
    """Return the innermost function of this project, outside this file, that runs now: folder/file.py function."""
    frame = sys._getframe(2)
    while not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
    if name == forward_backward.__name__:
        return "backward"
    if name in ("forward", "backward", "__init__"):  # say of what; for Python 3.10, which has no co_qualname
        owner = frame.f_locals.get("self")
        name = f"{type(owner).__name__}.{name}" if owner is not None else name
    return f"{path.parent.name}/{path.name} {name}"


def touched(value: object) -> int:
    """Return the bytes of the tensors in an argument or a result; an expanded dimension is read once."""
    if isinstance(value, (list, tuple)):
        return sum(map(touched, value))
    if not isinstance(value, Tensor):
        return 0
    if value.layout == torch.sparse_csr:
        return sum(map(touched, (value.crow_indices(), value.col_indices(), value.values())))
    size = value.element_size()
    for side, stride in zip(value.shape, value.stride()):
        size *= side if stride else 1
    return size


def peaks(device: str) -> tuple[float, float]:
    """Measure this machine: multiply-adds and bytes per second, in float32."""
    side, synchronise = 2048, torch.cuda.synchronize if device == "cuda" else lambda: None
    a, b = torch.randn(2, side, side, device=device)
    large = torch.ones(2**26, device=device)  # 256 MiB: no cache holds it
    out = torch.empty_like(large)
    best = []
    for work in (lambda: a @ b, lambda: out.copy_(large)):
        times = []
        for _ in range(5):
            synchronise()
            start = time.perf_counter()
            work()
            synchronise()
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return side**3 / best[0], 2 * large.nbytes / best[1]


def profile(model: nn.Module, images: Tensor, step: Callable, rounds: int) -> dict[tuple[str, str], Part]:
    """Return what each operation of `step(model, images)` takes, added up over the rounds, after a warm-up."""
    step(model, images)
    with Profiler(torch.cuda.synchronize if images.is_cuda else lambda: None) as profiler:
        for _ in range(rounds):
            step(model, images)
    return profiler.parts


def table(parts: dict[tuple[str, str], Part], images: int, peak_macs: float, peak_bytes: float) -> list[str]:
    """Lines of Markdown: the operations of each function, the slowest function first. images: in all rounds."""
    whole = sum(part.seconds for part in parts.values())
    limits = {key: max(part.macs / peak_macs, part.bytes / peak_bytes) for key, part in parts.items()}
    of_function = defaultdict(float)
    for (function, _), part in parts.items():
        of_function[function] += part.seconds
    kept = [key for key, part in parts.items() if part.seconds >= LEAST_SHARE * whole]
    kept.sort(key=lambda key: (of_function[key[0]], parts[key].seconds), reverse=True)
    rest = [key for key in parts if key not in kept]
    lines = ["| where | operation | ms/image | share | limit, ms | time / limit |", "|---|---|" + "---:|" * 4]
    for where, operation, keys in [*((*key, [key]) for key in kept), ("the rest", "", rest), ("all", "", list(parts))]:
        seconds, limit = sum(parts[key].seconds for key in keys), sum(limits[key] for key in keys)
        ratio = f"{seconds / limit:.1f}" if limit else "-"
        lines.append(f"| {where} | {operation} | {seconds * 1e3 / images:.3f} | {seconds / whole:.1%} |"
                     f" {limit * 1e3 / images:.3f} | {ratio} |")
    return lines


def print_profile(name: str, model: nn.Module, batch: int, rounds: int, device: str) -> None:
    """Print where evaluation and a training step's forward and backward pass spend their time."""
    model = model.to(device, memory_format=torch.channels_last)
    images, peak = random_images(model, batch, device), peaks(device)
    print(f"peaks: {peak[0] / 1e9:.0f} GMAC/s, {peak[1] / 1e9:.1f} GB/s")
    for title, training, step in (("evaluation", False, evaluate), ("training", True, forward_backward)):
        parts = profile(model.train(training), images, step, rounds)
        print(f"\n{name}, {title}\n", *table(parts, rounds * batch, *peak), sep="\n", flush=True)
