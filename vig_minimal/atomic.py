"""Atomic writing: a file is the whole old or the whole new one at any moment, whatever ends the process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


@contextlib.contextmanager
def replacing(path: str | Path, mode: str = "wb", follow: bool = True) -> Iterator[IO]:
    """Open a temporary file that replaces `path` on success: at any moment `path` is the whole old or new file, also if
    several processes write it. What is no file, as a pipe or /dev/stdout, is written to. follow: of a link, replace the
    target."""
    text = {} if "b" in mode else {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    stream = STREAMS.get(str(path))  # may be a file that a shell has open
    if stream or os.path.exists(path) and not os.path.isfile(path):
        with open(os.dup(stream) if stream else path, mode, **text) as file:
            yield file
        return
    path = Path(os.path.realpath(path) if follow else path)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
