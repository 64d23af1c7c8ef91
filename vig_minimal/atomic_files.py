"""Safe files: written whole or not at all, read without running code.

A file of weights is a dict of tensors and plain data, loaded with `weights_only=True`. torch writes it as a zip
archive, whose parts carry checksums (CRC-32); `load` compares them, which torch does not.
"""

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

PLAIN = (bool, int, float, str, type(None), Tensor)
STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
DAMAGED = "cut short, damaged or not a checkpoint of torch"


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message is one sentence for the user."""


class UnreadableError(CheckpointError):
    """A file that the system does not let us read: its content may be whole."""


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


def save(path: str | Path, state: dict, keep: str | None = None) -> None:
    """Write a checkpoint, atomically. An existing file is renamed to `keep`, if given.

    Raises TypeError unless `state` holds only tensors, plain data, and dicts, lists and tuples of them. Raises OSError,
    with the old file untouched, if writing fails.
    """
    _check_plain(state, "checkpoint")
    buffer, path = io.BytesIO(), Path(path)
    torch.save(state, buffer)
    with replacing(path, follow=not keep) as file:  # a link becomes `keep`: what it leads to stays
        file.write(buffer.getbuffer())
        if keep and path.exists():
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, path.with_name(keep))


def _check_plain(value: object, where: str) -> None:
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check_plain(part, f"{where}[{key!r}]")
    elif not isinstance(value, PLAIN):
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds tensors and plain data only")


def load(path: str | Path) -> dict:
    """Return the dict in a checkpoint, with its tensors on the CPU.

    Raises CheckpointError if the file is missing, damaged or no checkpoint, or if loading it would run code."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # a device may have no end
            raise CheckpointError(f"{path}: cannot be read (a folder or a device)")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if data[:2] == b"PK" and (part := zipfile.ZipFile(io.BytesIO(data)).testzip()):
            raise CheckpointError(f"{path}: damaged, the checksum of {part} does not match its content")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds of errors for damaged files
        if code := re.search(r"GLOBAL (\S+)|unsupported (?:class|function) (\S+)", str(error), re.IGNORECASE):
            raise CheckpointError(f"{path}: refused, since loading it would run code ({code[1] or code[2]}); a"
                                  " checkpoint must hold tensors and plain data only") from None
        raise CheckpointError(f"{path}: {DAMAGED}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dict of weights")
    return state
