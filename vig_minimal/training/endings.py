"""Error messages and exit codes: signals, and one sentence for each thing that can go wrong."""

import contextlib
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import current_thread, main_thread

import torch
from torch import distributed

from .checkpoint import last_good

EXIT_FAILED, EXIT_REFUSED = 1, 2  # training failed; bad input, nothing was begun. By a signal: 128 + its number
Errors = type[Exception] | tuple[type[Exception], ...]
MEMORY = "out of memory: give --accumulation, --grad-checkpoint, --amp or a smaller --batch-size, --img-size or model"
LOST = ("peer", "connection", "timed out", "timeout", "pipe", "gloo", "nccl")  # in torch's errors of collectives
CUT_SHORT = (EOFError, ConnectionError, pickle.UnpicklingError)  # of a message from a process that was killed
PATIENCE = 1.0  # seconds within which a second SIGINT counts as the first: torchrun passes the terminal's on


class Stopped(Exception):
    """A signal told the run to end."""


class Diverged(Exception):
    """A loss or gradient is not finite. step: steps done before it."""

    def __init__(self, sentence: str, step: int):
        super().__init__(sentence)
        self.step = step


class Signals:
    """SIGTERM and SIGINT make the run save and end after the current step; a second SIGINT ends it at once.

    received: the number of the signal that this process received, or 0.
    """

    def __init__(self):
        self.received, self._since = 0, 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside this context."""
        numbers = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()  # Python allows no other
        before = {number: signal.signal(number, lambda number, _: self.take(number)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self, number: int) -> None:
        """Remember the first signal, and print what ends the run."""
        if not self.received:
            self.received, self._since = number, time.monotonic()
            again = " (a second Ctrl-C ends it at once)" if number == signal.SIGINT else ""
            with contextlib.suppress(OSError):  # of `2>&1 | tee`, which the same Ctrl-C has ended
                what = f"{signal.Signals(number).name}{again}"
                print(f"\n{what}: this step is finished, then the run saves and ends", file=sys.stderr, flush=True)
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt


@contextlib.contextmanager
def one_sentence(expected: Errors, alike: Errors, folder: Path | None = None) -> Iterator[None]:
    """Turn an error into one sentence and an exit code. expected: errors whose message is meant for the user. alike:
    those that all processes raise at once, so that the first one prints them. folder: where a run under way writes its
    checkpoints; the sentence names the last. None: nothing is begun, and the input is wrong."""
    try:
        yield
    except Exception as error:
        if not (sentence := in_words(error, expected)):
            raise
        if folder is not None:
            with undisturbed():  # the readers of training and of validation may die one after the other
                sentence += f"; {last_good(folder, getattr(error, 'step', math.inf))}"
        with contextlib.suppress(OSError):  # whoever reads it may have gone
            if is_first() or not isinstance(error, alike):
                print(f"train.py: error: {sentence}", file=sys.stderr, flush=True)
        sys.exit(EXIT_REFUSED if folder is None else EXIT_FAILED)


def is_first() -> bool:
    """Whether this is the first process of the run, also before the processes have met."""
    if distributed.is_initialized():
        return distributed.get_rank() == 0
    joined = {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()  # without these srun starts runs of one process each
    return not joined or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the death of DataLoader workers inside: torch's handler of that signal raises anywhere."""
    if not hasattr(signal, "SIGCHLD") or current_thread() is not main_thread():  # Windows has none
        return (yield)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def in_words(error: Exception, expected: Errors) -> str:
    """Return a sentence on an expected error, and on those of memory, files, readers and processes; "" for any other.
    """
    text = " ".join(str(error).split())
    if isinstance(error, expected):
        return text
    if died := reader_death(error):
        return f"a process that reads images died ({died})"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return MEMORY
    if distributed.is_initialized() and isinstance(error, RuntimeError) and (isinstance(error, distributed.DistError)
            or any(word in text.lower() for word in LOST)):
        return f"another process of this run has ended, or did not respond within --timeout ({text[:200]})"
    return text if isinstance(error, OSError) else ""


def reader_death(error: BaseException | None) -> str:
    """Return the message on a DataLoader worker that died, or "": torch's, which may have caused the error, or one on a
    message that was cut short."""
    if error is None:
        return ""
    text = " ".join(str(error).split()) or type(error).__name__
    if "DataLoader worker" in text or "items of ancdata" in text or isinstance(error, CUT_SHORT):
        return text
    return reader_death(error.__cause__ or error.__context__)
