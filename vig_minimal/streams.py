"""Standard output and error, made ready before a command prints: any text goes through, a closed one is no error."""

import os
import sys


def prepare() -> None:
    """Let stdout and stderr take any text: where their encoding lacks a character, as latin-1 lacks «→», a code such as
    \\u2192 stands for it. A stream that was closed takes everything and shows nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unheard() -> None:
    """Print to nowhere from now on: whoever read stdout has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
