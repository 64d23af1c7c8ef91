"""How a run ends before its time by an error: as one sentence and an exit code, in every process."""

import contextlib
import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed import DistError

from .checkpoint import last_good, set_aside
from .distributed import Processes
from .watch import EXIT_FAILED, EXIT_REFUSED

MEMORY = ("out of memory: compute a batch in more parts (--accumulation), or give --grad-checkpoint, --amp, a smaller"
          " --batch-size, --img-size or model")


class Diverged(Exception):
    """Training cannot go on: a sentence, and the steps done when it went wrong."""


def fail(error: object, code: int = EXIT_REFUSED, said: bool = False) -> NoReturn:
    """Print one sentence, unless another process says it, and exit with that code."""
    if not said:
        print(f"train.py: error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


@contextlib.contextmanager
def one_sentence(processes: Processes, expected: type[Exception], folder: Path | None = None) -> Iterator[None]:
    """Turn what may go wrong into one sentence and an exit code. expected: errors that tell a person what is wrong.
    folder: where a run that is under way writes checkpoints; the sentence names the one to go on from. None: nothing is
    begun, and the input is what is wrong."""
    code, step = (EXIT_REFUSED if folder is None else EXIT_FAILED), math.inf

    def advice() -> str:
        return f"; {last_good(folder, step)}" if folder else ""

    def end(sentence: str, code: int) -> NoReturn:
        fail(f"{sentence}{advice()}", code, said=processes.watch.said_by_first(sentence))

    processes.watch.advice = advice
    try:
        yield
    except Diverged as error:
        sentence, step = error.args
        if processes.is_first and folder:
            set_aside(folder, step)
        end(sentence, EXIT_FAILED)
    except Exception as error:
        if not (sentence := in_words(error, expected)):
            if processes.world == 1 or not lost_another(error):
                raise
            sentence = processes.watch.why()
        end(sentence, code)


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
