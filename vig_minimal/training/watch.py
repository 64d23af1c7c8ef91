"""Signals, and the other processes of a run: when one is told to end, fails, dies or hangs, all end together.

Several times a second each process writes into the store of the launch how many joint operations it has begun, whether
it was told to end, and whether it failed; and reads what the others wrote. A thread does so, since the main thread may
be waiting for one of them.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass

from torch.distributed import Store

from .endings import EXIT_FAILED, complain

PATIENCE = 1.0  # seconds within which a second SIGINT counts as the first: torchrun passes the terminal's on


class Signals:
    """SIGTERM and SIGINT ask the run to save and end after the current step; a second SIGINT ends it at once.

    received: the number of the signal that came to this process or to another one, 0 if none did.
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

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class State:
    """What a process lets the others know."""

    ticks: int = 0      # grows as long as it lives
    joint: int = 0      # joint operations begun: as many in all, but in one that hangs
    told: int = 0       # the number of a signal
    lost: int = 0       # 1: a connection to another process broke
    failure: str = ""   # why it ends

    @staticmethod
    def read(text: bytes) -> "State":
        *numbers, failure = text.decode().split(" ", 4)
        return State(*map(int, numbers), failure)

    def __str__(self) -> str:
        return " ".join(map(str, astuple(self)))


class Watch(threading.Thread):
    """The thread that looks after the other processes, and after the launcher.

    store: None where this process is the only one. patience: seconds for which a process may be silent, or behind those
    that wait for it; of one whose connection broke, much less is waited for. advice: what is said when a run ends.
    """

    def __init__(self, rank: int = 0, world: int = 1, store: Store | None = None, patience: float = math.inf):
        super().__init__(daemon=True)
        self.rank, self.world, self.store, self.patience, self.signals = rank, world, store, patience, Signals()
        self.interval = max(0.25, world / 100)  # seconds between two looks
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.state, self.calls = State(), 0  # of this process
        self.found, self.advice = "", lambda: ""  # which one is to blame
        self.ended, self.finding = threading.Event(), threading.Event()
        self.silent = threading.Lock()  # held by the thread that says why the run ends: it is said once
        self.write()

    def meet(self) -> None:
        """Wait until all processes are there. Raises ValueError, naming the first that does not come in time."""
        end = time.monotonic() + self.patience
        for rank in range(self.world):
            while not self.store.check([f"state of {rank}"]):
                if time.monotonic() > end:
                    raise ValueError(f"the process of rank {rank} did not come within {self.patience:.3g} s")
                time.sleep(0.05)

    def run(self) -> None:
        self.looked = now = time.monotonic()  # looked: when the store last answered
        self.others, self.alive, self.moved = [State()] * self.world, [now] * self.world, [now] * self.world
        if self.store is not None:
            threading.Thread(target=self.time_store, daemon=True).start()
        while not self.ended.wait(self.interval):
            if self.orphaned():
                self.launcher = self.store = None  # the store went with it
                self.signals.take(signal.SIGTERM, f"process {self.rank}: its launcher is gone")
            if self.store is not None and (found := self.look()):
                self.end_run(found)
            self.looked = time.monotonic()

    def time_store(self) -> None:
        """End the run if the store gives no answer: where its process is stopped, torch waits for it without end."""
        while not self.ended.wait(self.interval):
            if self.store is not None and (wait := time.monotonic() - self.looked) > self.patience + 20 * self.interval:
                self.end_run(f"the process of rank 0 is gone: no word from it for {wait:.3g} s")

    def end_run(self, found: str) -> None:
        """Let the main thread end with this sentence. If it waits inside an operation without end, end the process."""
        self.found = found
        self.finding.set()
        if not self.ended.wait(30 * self.interval) and self.silent.acquire(blocking=False):
            complain(f"{self.found}{self.advice()}")
            self.linger()
            os._exit(EXIT_FAILED)

    def look(self) -> str:
        """Tell the others how far this process is; return which of them is to blame for what goes wrong, or ""."""
        self.state.ticks += 1
        self.state.told = self.signals.received
        try:
            self.write()
            states = self.read()
        except RuntimeError:
            return "" if self.orphaned() else "the process of rank 0 is gone, or its machine"
        now = time.monotonic()
        for rank, (old, new) in enumerate(zip(self.others, states, strict=True)):
            self.alive[rank] = now if new.ticks != old.ticks else self.alive[rank]
            self.moved[rank] = now if new.joint != old.joint else self.moved[rank]
            self.signals.received = self.signals.received or new.told
        self.others = states
        return self.blame(now)

    def blame(self, now: float) -> str:
        """Name the process that failed, that is gone, or that others have waited for too long; "" if none."""
        failed = [rank for rank, state in enumerate(self.others) if state.failure and rank != self.rank]
        silent = min(range(self.world), key=self.alive.__getitem__)
        behind = min(range(self.world), key=lambda rank: self.others[rank].joint)
        waits = any(state.joint > self.others[behind].joint for state in self.others)
        word = 20 * self.interval if any(state.lost for state in self.others) else self.patience
        if failed:
            return f"the process of rank {failed[0]} has failed, and says why"
        if now - self.alive[silent] > word:
            return f"the process of rank {silent} is gone: no word from it for {word:.3g} s"
        if waits and now - max(self.moved) > self.patience:
            return f"the process of rank {behind} hangs: the others have waited for it for {self.patience:.3g} s"
        return ""

    def orphaned(self) -> bool:
        """Whether the launcher is gone, and with it the store."""
        return self.launcher not in (None, os.getppid())

    def wait_for_first(self) -> None:
        """Wait until the first process has called this as often as this one; where the store is gone, do not wait."""
        self.calls += 1
        try:
            if self.rank == 0 and (store := self.store):
                store.set(f"call {self.calls}", "")
            while (store := self.store) and not store.check([f"call {self.calls}"]):
                time.sleep(0.02)
        except RuntimeError:
            if self.store is not None and not self.orphaned():
                raise

    def why(self) -> str:
        """Called where a joint operation failed: return which process is to blame, as soon as that is known."""
        self.state.lost = 1
        self.finding.wait(60 * self.interval)
        return self.found or "lost the connection to another process"

    def said_by_first(self, failure: str) -> bool:
        """Let the others know why this process ends; return whether the first process ends for the same reason."""
        self.state.failure = failure
        with contextlib.suppress(RuntimeError):
            self.write()
            for _ in range(20) if self.rank > 0 and self.store is not None else ():
                if self.read()[0].failure == failure:
                    return True
                time.sleep(self.interval)
        return False

    def end(self, failed: bool) -> None:
        """Look no more. failed: the others, which may wait for this process, learn that it ends."""
        self.ended.set()
        if self.is_alive():
            self.join(20 * self.interval)  # it may wait for a store that never answers
        if failed and not self.found:
            self.state.failure = self.state.failure or "failed"
            with contextlib.suppress(RuntimeError):
                self.write()
        if failed:
            self.linger()

    def linger(self) -> None:
        """Wait until the others had time for a last look: the store may end with the first process."""
        if self.rank == 0 and self.world > 1:
            time.sleep(4 * self.interval)

    def write(self) -> None:
        if self.store is not None:
            text = str(self.state).encode(errors="backslashreplace").decode()  # it may name a file, in any encoding
            self.store.set(f"state of {self.rank}", text)

    def read(self) -> list[State]:
        """Return the states of all processes."""
        return [State.read(text) for text in self.store.multi_get([f"state of {rank}" for rank in range(self.world)])]
