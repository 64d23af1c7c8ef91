"""Broken images: training replaces one by another, chosen by seed and key; evaluation ends the run.

Every broken or converted file is noted by its name. Where too many training images are broken, the run ends too.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from .datasets import image_name
from .decoding import DataError
from .seeds import generator

BROKEN_SHARE = 0.01  # of the training images may be broken
REPLACEMENTS = 100  # images tried in the place of a broken one

Key = tuple[int, int, int]  # epoch, index in the source, copy


class FileNote(NamedTuple):
    """A remark on one file: the format it was converted from, or why it is broken."""

    name: str
    text: str
    broken: bool


def read_or_replace(source: Sequence, key: Key, seed: int, replace: bool,
                    notes: list[FileNote]) -> tuple[Image.Image | Tensor, int | Tensor | dict]:
    """Return the image and target of that key or, with `replace`, of the first readable one drawn in its place. Adds
    to `notes`. Raises DataError, naming the file, for a broken image that is not replaced and for one that the system
    does not give."""
    index = key[1]
    for trial in range(REPLACEMENTS):
        name = image_name(source, index)
        try:
            image, target = source[index]
            if was := getattr(image, "info", {}).get("was"):
                notes.append(FileNote(name, was, broken=False))
            return image, target
        except DataError as error:
            if not replace:
                raise DataError(f"{name}: this image is broken ({error}); repair or remove it") from None
            notes.append(FileNote(name, str(error), broken=True))
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
            raise DataError(f"{name}: cannot be read ({reason})") from None
        index = int(torch.randint(len(source), (), generator=generator("instead", seed, *key, trial)))
    raise DataError(f"{name}: this image is broken, and so are {REPLACEMENTS} others tried in its place")


def check_broken(notes: Iterable[FileNote], count: int) -> None:
    """Raise DataError if more than BROKEN_SHARE of `count` images are broken. notes: one on each file."""
    broken = sorted(note for note in notes if note.broken)
    if len(broken) > BROKEN_SHARE * count:
        some = ", ".join(f"{note.name} ({note.text})" for note in broken[:5])
        raise DataError(f"more than {BROKEN_SHARE:.0%} of the {count:,} training images are broken, among them {some};"
                        " repair or remove them")
