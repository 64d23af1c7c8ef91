"""Signals in the worker processes that read images: a worker ends when the training process says so, or is gone.

A terminal sends Ctrl-C, and a cluster sends SIGTERM, to every process of a run. The training process answers by
finishing its step and saving a checkpoint, and needs its workers until then. So workers ignore both signals unless the
training process itself sends SIGTERM; if it was killed and can send nothing, they end by themselves seconds later.
"""

import os
import signal
import sys
import threading


def obey_only(trainer: int, _worker: int) -> None:
    """Run in each worker as it starts. trainer: id of the training process (the parent may be a fork server)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _quiet
    if hasattr(signal, "sigtimedwait"):  # Linux tells who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _quiet(kind: type, error: BaseException, trace: object) -> None:
    """Say nothing where a thread of this process could not hand over a batch: the trainer is gone."""
    if not isinstance(error, (OSError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _end_with(trainer: int) -> None:
    """End this process on the trainer's SIGTERM, or at most 5 seconds after the trainer has gone."""
    while True:
        if (received := signal.sigtimedwait({signal.SIGTERM}, 5)) and received.si_pid == trainer:
            os._exit(0)
        try:
            os.kill(trainer, 0)  # sends nothing, but fails if there is no such process
        except ProcessLookupError:
            os._exit(0)
