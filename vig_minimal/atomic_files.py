"""Safe files: written whole or not at all, read without running code.

A file of weights is a dict of tensors and plain data, loaded with `weights_only=True`. torch writes it as a zip
archive, whose parts carry checksums (CRC-32); `load` compares them, which torch does not.
"""

import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from .trained_files import located, trained

PLAIN = (bool, int, float, str, type(None), Tensor)
STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
DAMAGED = "cut short, damaged or not a checkpoint of torch"
UNPACKED = ("the folder of an unpacked checkpoint; in the folder around it, zip it without compression (zip -0 -r"
            " weights.pth NAME), and name that file")
# first bytes of files that are taken for checkpoints: what they are, and what to do
KINDS = {
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself; fetch it with git lfs pull",
    b"<": "a web page; the server sent it in the place of the file, so download it by hand",
    b"\x1f\x8b": "compressed by gzip; unpack it, and name the file inside",
    b"7z\xbc\xaf": "a 7z archive; unpack it, and name the file inside",
    b"Rar!": "a rar archive; unpack it, and name the file inside",
    b"\x93NUMPY": "an array of numpy and not named weights; load it, and torch.save a dict of tensors",
    b"\x89HDF": "a file of HDF5, as Keras writes it; save its weights from there as a dict of tensors",
    b"{": "a text of JSON; name the file of weights that goes with it",
}


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message is one sentence for the user."""


class UnreadableError(CheckpointError):
    """A file that the system does not let us read: its content may be whole."""


def _number(module: str) -> Callable:
    """What numpy's `scalar` in that module gives for a kind of numbers and its bytes, as a number of Python."""
    def scalar(kind: np.dtype, data: bytes) -> bool | int | float:
        return np.frombuffer(data, kind)[0].item()

    scalar.__module__, scalar.__qualname__ = module, "scalar"  # the name in a file
    return scalar


# a number of numpy beside the weights, as mmcv's best score, is data and no code; its module is called by numpy's age
NUMPY_NUMBERS = [_number("numpy.core.multiarray"), _number("numpy._core.multiarray"), np.dtype,
                 *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]


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
    """Return the dict in a checkpoint, with its tensors on the CPU. path: or the name of a trained model.

    Raises CheckpointError if the file is missing, damaged or no checkpoint, or if loading it would run code."""
    try:
        file = located(path)
        if (file / "data.pkl").exists():
            raise CheckpointError(f"{path}: {UNPACKED}")
        if file.exists() and not file.is_file():  # a device may have no end
            raise CheckpointError(f"{path}: cannot be read (a folder or a device)")
        data = file.read_bytes()
    except FileNotFoundError:
        names = f", and no trained model: {', '.join(trained())}" if not Path(path).suffix and trained() else ""
        raise CheckpointError(f"{path}: no such checkpoint{names}") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from None
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return read_safetensors(data, path)
    try:
        if data[:2] == b"PK" and (part := zipfile.ZipFile(io.BytesIO(data)).testzip()):
            raise CheckpointError(f"{path}: damaged, the checksum of {part} does not match its content")
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds of errors for damaged files
        if code := re.search(r"GLOBAL (\S+)|unsupported (?:class|function) (\S+)", str(error), re.IGNORECASE):
            raise CheckpointError(f"{path}: refused, since loading it would run code ({code[1] or code[2]}); a"
                                  " checkpoint must hold tensors and plain data only") from None
        raise CheckpointError(f"{path}: {what_it_is(data) or DAMAGED}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dict of weights")
    return state


def what_it_is(data: bytes) -> str:
    """Name a file that torch does not load by its first bytes, and say what to do; '' for an unknown one."""
    if data[257:262] == b"ustar":
        return "a tar archive; unpack it, and name the file inside"
    if data[:4] == b"PK\3\4":
        try:
            names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        except Exception:  # zipfile raises many kinds for a damaged archive
            return ""
        if any(name.endswith("constants.pkl") for name in names):
            return "a TorchScript program, not weights alone; torch.save the state_dict() of what torch.jit.load gives"
        if names and all(name.endswith(".npy") for name in names):
            return "arrays of numpy (npz); load them, and torch.save a dict of tensors"
        if not any(name.endswith("data.pkl") for name in names):
            some = names[0] if names else "none"
            return f"a zip archive of other files, as {some}; unpack it, and name the one of weights"
        return ""
    return next((kind for start, kind in KINDS.items() if data.lstrip()[:32].startswith(start)), "")


def read_safetensors(data: bytes, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: 8 bytes for the length of a JSON header, the header, and the numbers."""
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
             "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
             "BOOL": torch.bool}
    first = 8 + int.from_bytes(data[:8], "little")
    try:
        header, state = json.loads(data[8:first]), {}
        header.pop("__metadata__", None)
        for name, about in header.items():
            begin, end = (first + place for place in about["data_offsets"])
            numbers = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.uint8) if end > begin else torch.empty(
                0, dtype=torch.uint8)
            state[name] = numbers.view(kinds[about["dtype"]]).reshape(about["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        raise CheckpointError(f"{path}: a safetensors file that is cut short, damaged or of other numbers than torch's"
                              ) from None
    return state
