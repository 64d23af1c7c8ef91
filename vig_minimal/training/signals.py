"""What keeps a run from losing anything: signals that end it between two steps, and a lock on its output folder."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows: there, nothing is locked
    fcntl = None

EXIT_FAILED, EXIT_REFUSED = 1, 2  # training went wrong; nothing was begun. By a signal: 128 + its number
PATIENCE = 1.0  # seconds in which a second SIGINT is the same one: torchrun hands on what the terminal sent already


class Stopped(Exception):
    """A signal asked the run to end."""


class Signals:
    """SIGTERM or SIGINT ask the run to save and end after the step in hand; a second SIGINT ends it at once.

    received: the number of the signal, 0 for none yet.
    """

    def __init__(self):
        self.received, self._since = 0, 0.0

    @contextlib.contextmanager
    def listening(self, says: bool = True) -> Iterator[None]:
        """Take the signals meanwhile. says: tell the person what will happen."""
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


def lock(folder: Path) -> IO:
    """Make the output folder and take it for this process, until it ends, in whatever way, or closes the
    file that this returns.

    Raises ValueError if another process, still alive, writes there, and OSError if nobody can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a+")
    if fcntl is None:
        return file
    try:
        # a record lock, since children do not inherit it: it is gone as soon as this process is
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        with file:
            file.seek(0)
            raise ValueError(f"{folder}: another run writes there now ({file.read().strip()}); wait until it ends, stop"
                             " it, or choose another folder with --output") from None
    except OSError:  # a file system without locks
        return file
    file.truncate(0)
    print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
    return file
