"""What the commands share: a parser with an example and errors of one sentence, and the picture of `--out`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from errno import ENOENT
from pathlib import Path
from typing import NoReturn

from PIL import Image

from ..own_modules import import_first


def fail(name: str, message: str) -> NoReturn:
    """Print one sentence, `NAME: error: …`, on stderr and exit with code 2."""
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """The flags of `python -m vig_minimal NAME`; --help ends with the example. Errors are one sentence, see `fail`."""

    def __init__(self, name: str, description: str, example: str):
        command = f"python -m vig_minimal {name}"
        super().__init__(prog=command, description=description, epilog=f"example: {command} {example}",
                         formatter_class=argparse.RawDescriptionHelpFormatter)
        self.name = name
        self.add_argument("--import", dest="imports", metavar="NAME", type=import_first, action="append", default=[],
                          help="import this module or file first: it registers constructors or data sets of your own")

    def add_out(self, default: str | None, help: str = "the picture to write") -> None:
        """Add `--out FILE`, which is checked before the command starts its work."""
        self.add_argument("--out", metavar="FILE", default=default, type=_picture_name,
                          help=help + (f" (default {default})" if default else ""))

    def error(self, message: str) -> NoReturn:
        fail(self.name, message)

    @contextlib.contextmanager
    def errors_in_one_sentence(self) -> Iterator[None]:
        """End the command with one sentence where a ValueError or OSError is raised inside."""
        try:
            yield
        except BrokenPipeError:  # whoever reads what is printed has read enough: see __main__.py
            raise
        except OSError as error:
            self.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except ValueError as error:
            self.error(str(error))


def _picture_name(text: str) -> str:
    known = Image.registered_extensions().get(Path(text).suffix.lower()) in Image.SAVE
    if known and Path(text).parent.is_dir():
        return text
    reason = f" ({os.strerror(ENOENT)})" if known else "; give a name that ends in .png"
    raise argparse.ArgumentTypeError(f"{text}: the picture cannot be written{reason}")


def save_picture(page: Image.Image, path: str) -> None:
    """Write the picture in the format of the path's suffix, and print it. Raises ValueError, the old file untouched."""
    from ..atomic_files import replacing  # imports torch, which takes seconds: a wrong flag is reported before

    try:
        with replacing(path) as file:
            page.save(file, Image.registered_extensions()[Path(path).suffix.lower()])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the picture cannot be written ({reason})") from None
    print(f"wrote {path}")
