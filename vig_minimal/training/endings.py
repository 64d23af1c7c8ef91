"""How a run ends before its time: a signal, after saving; or an error, as one sentence and an exit code."""

import contextlib
import math
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ..data.decoding import DataError
from .checkpoint import last_good, set_aside
from .distributed import read_place

PATIENCE = 1.0  # seconds within which a second SIGINT counts as the first: torchrun passes the terminal's on
EXIT_FAILED, EXIT_REFUSED = 1, 2  # training could not go on; nothing was begun. By a signal: 128 + its number


class Diverged(Exception):
    """Training cannot go on: a sentence, and the steps done when it went wrong."""


def fail(error: object, everywhere: bool = False, code: int = EXIT_REFUSED) -> NoReturn:
    """Print one sentence and exit with that code. everywhere: every process prints it, not only the first."""
    try:
        everywhere = everywhere or read_place()[0] == 0
    except ValueError:  # it is what is wrong
        everywhere = True
    if everywhere:
        print(f"train.py: error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


@contextlib.contextmanager
def one_sentence(folder: Path, world: int, writes: bool = True) -> Iterator[None]:
    """Turn what may go wrong while a run is under way into one sentence, with the checkpoint to go on from. writes:
    whether the run writes checkpoints; if not, what is wrong is the input."""
    def give_up(sentence: object, before: float = math.inf) -> NoReturn:
        fail(f"{sentence}; {last_good(folder, before)}" if writes else sentence, True, EXIT_FAILED)

    try:
        yield
    except Diverged as error:
        sentence, step = error.args
        if read_place()[0] == 0:
            set_aside(folder, step)
        give_up(sentence, before=step)
    except Exception as error:
        if isinstance(error, DataError) and not writes:
            fail(error, everywhere=True)
        text = " ".join(str(error).split())
        if died := reader_death(error):
            give_up(f"a process that reads images died ({died})")
        if isinstance(error, (DataError, OSError)):
            give_up(error)
        if isinstance(error, RuntimeError) and world > 1 and ("peer" in text or "Connection" in text):
            fail("lost the connection to another process, which says why it ended", everywhere=True, code=EXIT_FAILED)
        raise


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


class Stopped(Exception):
    """A signal asked the run to end."""


class Signals:
    """SIGTERM and SIGINT ask the run to save and end after the current step; a second SIGINT ends it at once.

    received: the number of the signal, 0 if none came.
    """

    def __init__(self):
        self.received, self._since = 0, 0.0

    @contextlib.contextmanager
    def listening(self, says: bool = True) -> Iterator[None]:
        """Receive the signals inside this context. says: print what will happen."""
        def take(number: int, _) -> None:
            if self.received == number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt
            if not self.received:
                self.received, self._since = number, time.monotonic()
                if says:
                    print(f"\n{signal.Signals(number).name}: this step is finished and saved, then the run ends"
                          " (Ctrl-C again ends it at once)", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
