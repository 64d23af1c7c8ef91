"""How a run ends before its time: signals, and one sentence and an exit code for each thing that can go wrong."""

import contextlib
import pickle
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from threading import current_thread, main_thread
from typing import NoReturn

import torch
from torch import distributed

from .checkpoint import last_good

EXIT_FAILED, EXIT_REFUSED = 1, 2  # training could not go on; nothing was begun. By a signal: 128 + its number
MEMORY = "out of memory: give --accumulation, --grad-checkpoint, --amp or a smaller --batch-size, --img-size or model"
LOST = ("peer", "connection", "timed out", "timeout", "pipe", "gloo", "nccl")  # in what torch says of a joint operation
PATIENCE = 1.0  # seconds within which a second SIGINT counts as the first: torchrun passes the terminal's on


class Stopped(Exception):
    """A signal asked the run to end."""


class Diverged(Exception):
    """Training cannot go on: a sentence, and the steps done when it went wrong."""


class Signals:
    """SIGTERM and SIGINT ask the run to save and end after the current step; a second SIGINT ends it at once.

    received: the number of the signal that came to this process, 0 if none did.
    """

    def __init__(self):
        self.received, self._since = 0, 0.0

    def take(self, number: int, what: str) -> None:
        """Ask the run to end, and say why unless that is known."""
        if not self.received:
            self.received, self._since = number, time.monotonic()
            with contextlib.suppress(OSError):  # of `2>&1 | tee`, which the same Ctrl-C has ended
                print(f"\n{what}: this step is finished, then the run saves and ends", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def listening(self, name: str = "") -> Iterator[None]:
        """Receive the signals inside this context. name: of this process, where there are several."""
        def handle(number: int, _) -> None:
            if self.received == number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt
            again = " (a second Ctrl-C ends it at once)" if number == signal.SIGINT else ""
            self.take(number, f"{name}{signal.Signals(number).name}{again}")

        numbers = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()  # Python allows no other
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def fill(text: str, indent: str = "  ") -> str:
    """Break a line for the terminal, or at 80 columns, never inside a word nor an item set apart by two spaces."""
    items = [item.replace(" ", "\xa0") if len(item) < 40 else item for item in text.split("  ")]
    text = "  ".join(items) if len(items) > 1 else text
    width = max(40, min(120, shutil.get_terminal_size((80, 24)).columns))
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False).replace("\xa0", " ")


def fail(error: object, code: int = EXIT_REFUSED, said: bool = False) -> NoReturn:
    """Print one sentence, broken only where a person reads it, unless another process says it; exit with that code."""
    text = f"train.py: error: {error}"
    with contextlib.suppress(OSError):  # whoever read it may have gone
        if not said:
            print(fill(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)
    sys.exit(code)


@contextlib.contextmanager
def one_sentence(expected: type[Exception], folder: Path | None = None, is_first: bool = True,
                 alike: bool = False) -> Iterator[None]:
    """Turn what may go wrong into one sentence and an exit code. expected: errors that tell a person what is wrong.
    folder: where a run that is under way writes checkpoints; the sentence names the one to go on from. None: nothing is
    begun, and the input is what is wrong. is_first: whether this process speaks for all, of what all know: losses that
    are not finite and, with `alike`, expected errors."""
    try:
        yield
    except Diverged as error:  # in the same step of all
        sentence, step = error.args
        fail(f"{sentence}; {last_good(folder, step)}" if folder else sentence, EXIT_FAILED, said=not is_first)
    except Exception as error:
        with undisturbed():
            if not (sentence := in_words(error, expected)):
                raise
            if folder is None:
                fail(sentence, said=alike and not is_first and isinstance(error, expected))
            fail(f"{sentence}; {last_good(folder)}", EXIT_FAILED)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no death of another process interrupt what is inside: torch's handler of that signal raises anywhere."""
    if not hasattr(signal, "SIGCHLD") or current_thread() is not main_thread():  # Windows has none
        return (yield)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def in_words(error: Exception, expected: type[Exception]) -> str:
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
        return f"another process of this run is gone, or does not answer within --timeout ({text[:200]})"
    return text if isinstance(error, OSError) else ""


def reader_death(error: BaseException | None) -> str:
    """Return what torch says of a DataLoader worker that died, or "". A kill may come in the middle of anything: the
    error that arrives may be another one, with torch's behind it, or that of a message cut short."""
    if error is None:
        return ""
    text = " ".join(str(error).split()) or type(error).__name__
    if "DataLoader worker" in text:
        return text
    cut_short = isinstance(error, (EOFError, pickle.UnpicklingError, ConnectionError)) or "items of ancdata" in text
    cut_short |= isinstance(error, FileNotFoundError) and error.filename is None  # the reader's socket
    return reader_death(error.__cause__ or error.__context__) or (text if cut_short else "")
