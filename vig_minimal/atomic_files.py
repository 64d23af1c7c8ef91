"""Safe files: written whole or not at all, read without running code.

A file of weights is a dict of tensors and plain data, loaded with `weights_only=True`. It ends with its own checksum.
"""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from .trained_files import located, trained

PLAIN = (bool, int, float, str, type(None), Tensor)
CHECKSUM_SIZE = 32  # bytes
COMMENT_SIZE = CHECKSUM_SIZE.to_bytes(2, "little")
END_OF_ZIP = b"PK\5\6"  # begins the last 22 bytes of a zip archive, the comment aside
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
    """Write a checkpoint and its checksum, atomically. An existing file is renamed to `keep`, if given.

    Raises TypeError unless `state` holds only tensors, plain data, and dicts, lists and tuples of them. Raises OSError,
    with the old file untouched, if writing fails.
    """
    _check_plain(state, "checkpoint")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data, path = buffer.getvalue(), Path(path)
    with replacing(path, follow=not keep) as file:  # a link becomes `keep`: what it leads to stays
        # torch writes a zip archive, whose last two bytes are the length of a comment: 0. The checksum is that comment.
        file.write(data[:-2] + COMMENT_SIZE + _checksum(data))
        if keep and path.exists():
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, path.with_name(keep))


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_SIZE).digest()


def _check_plain(value: object, where: str) -> None:
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check_plain(part, f"{where}[{key!r}]")
    elif not isinstance(value, PLAIN):
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds tensors and plain data only")


def load(path: str | Path) -> dict:
    """Return the dict in a checkpoint, with its tensors on the CPU. path: or the name of a trained model of the package.

    Raises CheckpointError if the file is missing, damaged or no checkpoint, or if loading it would run code."""
    try:
        file = located(path)
        if file.exists() and not file.is_file():  # a device may have no end
            raise CheckpointError(f"{path}: cannot be read (a folder or a device)")
        data = file.read_bytes()
    except FileNotFoundError:
        names = f", and no trained model: {', '.join(trained())}" if not Path(path).suffix and trained() else ""
        raise CheckpointError(f"{path}: no such checkpoint{names}") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from None
    if data[:2] == b"PK" and not (data[-22:-18] == END_OF_ZIP and data[-2:] == b"\0\0"):  # a comment, or no whole zip
        end, checksum = data[-22 - CHECKSUM_SIZE:-CHECKSUM_SIZE], data[-CHECKSUM_SIZE:]
        if end[:4] != END_OF_ZIP or end[-2:] != COMMENT_SIZE:
            raise CheckpointError(f"{path}: {DAMAGED}")
        data = data[:-2 - CHECKSUM_SIZE] + b"\0\0"
        if _checksum(data) != checksum:
            raise CheckpointError(f"{path}: damaged, its checksum does not match its content")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for damaged files
        if code := re.search(r"GLOBAL (\S+)|unsupported (?:class|function) (\S+)", str(error), re.IGNORECASE):
            raise CheckpointError(f"{path}: refused, since loading it would run code ({code[1] or code[2]}); a"
                                  " checkpoint must hold tensors and plain data only") from None
        raise CheckpointError(f"{path}: {DAMAGED}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dict of weights")
    return state
