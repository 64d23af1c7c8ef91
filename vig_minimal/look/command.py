"""What the commands share: a parser with an example and errors of one sentence, opening models and images, `--out`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from ..data.synthetic import CLASSES, Shapes
from ..files import CheckpointError, load, replacing
from ..models.gkgnet import GKGNet
from ..models.registry import create_model
from ..models.released import load_released


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
    """Write the picture in the format of the path's suffix, and say so. Raises ValueError, the old file untouched."""
    try:
        with replacing(path) as file:
            page.save(file, Image.registered_extensions()[Path(path).suffix.lower()])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the picture cannot be written ({reason})") from None
    print(f"wrote {path}")


@dataclass(frozen=True)
class Opened:
    """A model in evaluation mode, its classes, whether an image may show several, and how to normalise images."""

    model: nn.Module
    name: str
    classes: list[str]
    multi_label: bool
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0  # of its run, which splits a folder without train/ and val/


def open_model(name: str | None, checkpoint: str | None) -> Opened:
    """Open a checkpoint of train.py, or a model by its name, with random weights that are the same every time.

    A checkpoint knows the name of its model. Without one, the classes are those of the synthetic scenes where their
    number fits, else numbers. Raises ValueError for an unknown name and a checkpoint that cannot be used.
    """
    torch.manual_seed(0)
    if checkpoint is None:
        name = name or "lrgc_nano"
        model = create_model(name).eval()
        count = model.config.num_classes
        classes = list(CLASSES) if count == len(CLASSES) else [str(number) for number in range(count)]
        return Opened(model, name, classes, isinstance(model, GKGNet), (0.5,) * 3, (0.5,) * 3)
    state = load(checkpoint)
    if missing := [key for key in ("name", "config", "classes", "model", "mean", "std") if key not in state]:
        raise CheckpointError(f"{checkpoint}: not a checkpoint of train.py, it has no {missing[0]!r}")
    if name not in (None, state["name"]):
        raise CheckpointError(f"{checkpoint}: a checkpoint of {state['name']}, not of {name}; leave --model out")
    model = create_model(state["name"], **state["config"]).eval()
    load_released(model, state["model"])
    if len(state["classes"]) != model.config.num_classes:
        raise CheckpointError(f"{checkpoint}: names {len(state['classes'])} classes, and its model has"
                              f" {model.config.num_classes}")
    multi_label = state.get("multi_label", isinstance(model, GKGNet))
    return Opened(model, state["name"], list(state["classes"]), multi_label, state["mean"], state["std"],
                  state.get("flags", {}).get("seed", 0))


def open_image(source: str, size: tuple[int, int], view: str = "single") -> Tensor:
    """A uint8 image (3, *size): a synthetic validation scene for "shapes:INDEX", in that view, else a file.

    A file is scaled until it just covers (height, width), then centre-cropped. Raises ValueError if there is no image.
    """
    if source.startswith("shapes:"):
        return open_scene(source, size, view)[0]
    try:
        with Image.open(source) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{source}: no such image (a synthetic scene is shapes:INDEX)") from None
    except UnidentifiedImageError:
        raise ValueError(f"{source}: not an image that Pillow can read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a folder, a cut or damaged file, a huge one
        raise ValueError(f"{source}: the image cannot be read ({error})") from None
    fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def open_scene(source: str, size: tuple[int, int], view: str) -> tuple[Tensor, int | Tensor]:
    """Image and label or labels of the synthetic validation scene "shapes:INDEX". Raises ValueError."""
    index = source.removeprefix("shapes:")
    if not index.isdecimal():
        raise ValueError(f"{source}: after shapes: comes the number of a scene, 0 or more")
    return Shapes(size, int(index) + 1, "val", view)[int(index)]
