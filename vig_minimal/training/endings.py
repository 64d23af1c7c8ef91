"""How a run ends before its time: one sentence and an exit code for each thing that can go wrong."""

import contextlib
import math
import pickle
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch.distributed import DistError

from .checkpoint import last_good, set_aside

if TYPE_CHECKING:
    from .watch import Watch

EXIT_FAILED, EXIT_REFUSED = 1, 2  # training could not go on; nothing was begun. By a signal: 128 + its number
MEMORY = "out of memory: give --accumulation, --grad-checkpoint, --amp or a smaller --batch-size, --img-size or model"


class Stopped(Exception):
    """A signal asked the run to end."""


class Diverged(Exception):
    """Training cannot go on: a sentence, and the steps done when it went wrong."""


def fill(text: str, indent: str = "  ") -> str:
    """Break a line for the terminal, or at 80 columns, never inside a word nor an item set apart by two spaces."""
    items = [item.replace(" ", "\xa0") if len(item) < 40 else item for item in text.split("  ")]
    text = "  ".join(items) if len(items) > 1 else text
    width = max(40, min(120, shutil.get_terminal_size((80, 24)).columns))
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False).replace("\xa0", " ")


def complain(sentence: object) -> None:
    """Print an error: one line, broken only where a person reads it."""
    text = f"train.py: error: {sentence}"
    with contextlib.suppress(OSError):  # whoever read it may have gone
        print(fill(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def fail(error: object, code: int = EXIT_REFUSED, said: bool = False) -> NoReturn:
    """Print one sentence, unless another process says it, and exit with that code."""
    if not said:
        complain(error)
    sys.exit(code)


@contextlib.contextmanager
def one_sentence(watch: "Watch", expected: type[Exception], folder: Path | None = None) -> Iterator[None]:
    """Turn what may go wrong into one sentence and an exit code. expected: errors that tell a person what is wrong.
    folder: where a run that is under way writes checkpoints; the sentence names the one to go on from. None: nothing is
    begun, and the input is what is wrong."""
    code, step = (EXIT_REFUSED if folder is None else EXIT_FAILED), math.inf

    def advice() -> str:
        return f"; {last_good(folder, step)}" if folder else ""

    def end(sentence: str, code: int) -> NoReturn:
        said = not watch.silent.acquire(blocking=False) or watch.said_by_first(sentence)
        fail(f"{sentence}{advice()}", code, said=said)

    watch.advice = advice
    try:
        yield
    except Diverged as error:
        sentence, step = error.args
        if watch.rank == 0 and folder:
            set_aside(folder, step)
        end(sentence, EXIT_FAILED)
    except Exception as error:
        with undisturbed():
            if not (sentence := in_words(error, expected)):
                if watch.world == 1 or not lost_another(error):
                    raise
                sentence = watch.why()
            end(sentence, code)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no death of another process interrupt what is inside: torch's handler of that signal raises anywhere."""
    if not hasattr(signal, "SIGCHLD"):  # Windows
        return (yield)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def in_words(error: Exception, expected: type[Exception]) -> str:
    """Return a sentence on an expected error, and on those of memory, files and readers; "" for any other."""
    text = " ".join(str(error).split())
    if isinstance(error, expected):
        return text
    if died := reader_death(error):
        return f"a process that reads images died ({died})"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return MEMORY
    return text if isinstance(error, OSError) else ""


def lost_another(error: Exception) -> bool:
    """Whether a joint operation failed, since another process is gone."""
    return isinstance(error, DistError) or isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("peer", "Connection", "Timed out", "timed out", "pipe"))


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
