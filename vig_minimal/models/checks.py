"""Checks of config fields and of the machine, and words for error messages. Nothing here needs torch.

Each check raises a ValueError of one sentence: the value given, and the values allowed.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue, from 0 to 1


def near(word: str, known: list[str]) -> str:
    """Return '; did you mean …? There are: …', for an error about an unknown name."""
    word = str(word).lower()
    families = {name.split("_")[0]: name for name in reversed(known)}  # its smallest model stands first
    close = get_close_matches(word, known) or [families[family] for family in get_close_matches(word, list(families))]
    return (f"; did you mean {' or '.join(close)}?" if close else ".") + f" There are: {', '.join(known)}"


def plural(count: int, word: str) -> str:
    """Return '1 image', '2 images', '3 classes'."""
    return f"{count:,} {word}" + ("" if count == 1 else "es" if word.endswith("s") else "s")


def check_whole(config: object, *names: str, least: int = 1) -> None:
    """Check that fields are integers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value!r}: must be at least {least}, and a whole number")


def check_numbers(config: object, *names: str, rates: Sequence[str] = ()) -> None:
    """Check that fields are finite numbers, and that `rates` are at least 0 and less than 1."""
    for name in (*names, *rates):
        value = getattr(config, name)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name}={value!r}: must be a finite number")
        if name in rates and not 0 <= value < 1:
            raise ValueError(f"{name}={value:g}: a probability, at least 0 and less than 1")


def check_choices(config: object, **allowed: Iterable) -> None:
    """Check that fields have one of the allowed values, type included: 1 is not True."""
    for name, choices in allowed.items():
        value = getattr(config, name)
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")


def check_groups(config: object, dims: Sequence[int]) -> None:
    """Check that with graph="group_knn" the groups divide every width, and that the convolution keeps them apart."""
    grouped = config.graph == "group_knn"
    if grouped and any(dim % config.groups for dim in dims):
        raise ValueError(f"groups={config.groups}: all widths ({', '.join(map(str, dims))}) must be multiples of it")
    if grouped and config.conv == "edge" and config.groups > 1:
        raise ValueError("conv='edge': its MLP mixes all channels, which group_knn keeps apart; choose another")


def check_stages(config: object, example: str, *names: str) -> None:
    """Check that fields have an integer of at least 1 for each stage of a pyramid, and store them as tuples."""
    for name in names:
        values = getattr(config, name)
        if not isinstance(values, (tuple, list)) or not all(type(v) is int and v >= 1 for v in values):
            raise ValueError(f"{name}={values!r}: takes whole numbers of at least 1, one a stage, as {example}")
        object.__setattr__(config, name, tuple(values))
    if len({len(getattr(config, name)) for name in names}) > 1 or not getattr(config, names[0]):
        given = ", ".join(f"{name}={getattr(config, name)}" for name in names)
        raise ValueError(f"{given}: each needs one number a stage")


def halved(img_size: tuple[int, int], patch: int, stages: int) -> list[tuple[int, int]]:
    """Return the patches in height and width in each stage: half of the stage before, rounded up."""
    height, width = (side // patch for side in img_size)
    return [(-(-height // 2**i), -(-width // 2**i)) for i in range(stages)]


def check_compiler(device: str) -> None:
    """Check for the C++ compiler that torch.compile needs on a CPU. device: "cpu" or "cuda"."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
    if device == "cpu" and sys.platform != "win32" and not shutil.which(compiler):
        raise ValueError(f"--compile: torch needs a C++ compiler, and {compiler} is not there; install one, or name"
                         " it in the environment variable CXX")


def image_size(size: int | Sequence[int], patch: int = 1) -> tuple[int, int]:
    """Return (height, width), multiples of `patch`, of a size given as one number for a square, or as two."""
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise ValueError(f"img_size={size!r}: one whole number for a square, or (height, width); at least 1 pixel each")
    if pair[0] % patch or pair[1] % patch:
        raise ValueError(f"img_size={pair[0]}×{pair[1]}: both sides must be multiples of patch={patch};"
                         " choose another size, or a smaller patch")
    return tuple(pair)
