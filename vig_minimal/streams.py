"""Standard output and error: made ready before a command prints, and progress with and without a terminal."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable

from tqdm import auto

MARKS = 0.1, 0.25, 0.5, 0.75  # of an epoch or an evaluation
MINUTE, APART = 60.0, 10.0    # seconds between lines: at most, and at a mark at least


def prepare() -> None:
    """Let stdout and stderr take any text: where their encoding lacks a character, as latin-1 lacks «→», a code such as
    \\u2192 stands for it. A stream that was closed takes everything and shows nothing. Exits in a worker process that
    imports the script of its parent (spawn, forkserver)."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        print('error: a worker process has imported this script; write `if __name__ == "__main__":` above the call that'
              " trains", file=sys.stderr)
        sys.exit(2)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unheard() -> None:
    """Print to nowhere from now on: whoever read stdout has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """Format seconds as '2 h 5 min', '3 min 20 s' or '4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if seconds >= 10 else f"{seconds:.2g} s"


class Progress:
    """Progress of an epoch or an evaluation: a bar in a terminal or notebook, else a line each minute and at MARKS.

    steps, images: of an epoch or the evaluation. step: of training, the steps done before; the time left is that of all
    `epochs`. say: prints a line. every: print a line every so many steps too. shown: whether there may be a bar.
    """

    def __init__(self, text: str, steps: int, images: int, say: Callable[[str], None],
                 step: int | None = None, epochs: int = 1, every: int | None = None, shown: bool = True,
                 clock: Callable[[], float] = time.monotonic):
        notebook = auto.tqdm is not auto.asyncio_tqdm
        self.bar = auto.tqdm(total=images, desc=text, unit="images", leave=False,
                             disable=not (shown and (notebook or sys.stderr.isatty())))
        self.text, self.steps, self.say, self.every, self.clock = text, steps, say, every, clock
        self.last = steps if step is None else steps * epochs
        self.step = self.first = step or 0
        self.images, self.losses = 0, []
        self.begun = self.told = clock()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, images: int, loss: float | None = None) -> None:
        """Count a step of so many images. Lines have the mean loss since the line before."""
        self.bar.update(images)
        self.step, self.images, now = self.step + 1, self.images + images, self.clock()
        self.losses += [] if loss is None else [loss]
        place = (self.step - 1) % self.steps + 1  # in this epoch
        at_mark = any(place - 1 < mark * self.steps <= place for mark in MARKS) and now - self.told >= APART
        by_step = self.every and loss is not None and self.step % self.every == 0
        if by_step or self.bar.disable and (at_mark or now - self.told >= MINUTE):
            speed = max(now - self.begun, 1e-9) / (self.step - self.first)  # seconds a step
            mean = [f"loss {sum(self.losses) / len(self.losses):.3f}"] if self.losses else []
            self.say("  ".join([f"{self.text}  step {self.step}/{self.last}", *mean,
                                f"{self.images / (self.step - self.first) / speed:.0f} images/s",
                                f"about {duration((self.last - self.step) * speed)} left"]))
            self.told, self.losses = now, []
