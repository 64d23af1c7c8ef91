"""Read an image file of any kind as upright 8-bit RGB; DataError says in one sentence what is wrong with data."""

import os
import re
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Picture = str | Path | Image.Image | Tensor


class DataError(ValueError):
    """Data cannot be used; the message is one sentence for the person who gave it."""


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB. `image.info["was"]` names what was converted; ordinary files have no such entry.

    Converts CMYK, scales 16 bits to 8, and numbers of 32 bits so that the smallest is black and the largest white; lays
    transparent pixels on white, and turns the image as EXIF says. Raises DataError, without the path, for files that
    are no image, cut short or larger than Pillow's MAX_IMAGE_PIXELS (decompression bombs), for pipes and devices, and
    for links to nothing; OSError for files that are missing or that the system cannot read.
    """
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise DataError("a link to a file that is not there") from None
        raise
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # opening a pipe would wait for ever
        raise DataError("a pipe or a device, not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image, was = upright_rgb(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"as large as a decompression bomb: {str(error).split(',')[0]}") from None
    except UnidentifiedImageError:
        raise DataError("not an image that Pillow can read" if os.path.getsize(path) else "an empty file") from None
    except OSError as error:
        if error.errno is not None:  # the system's trouble, not the image's
            raise
        raise DataError(" ".join(str(error).split())) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise DataError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    if was:
        image.info["was"] = ", ".join(was)
    return image


def upright_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """An image that Pillow opened, upright and in 8-bit RGB, and what was converted; see `read_image`."""
    coding = " ".join(str(tile[3]) for tile in getattr(image, "tile", [])) or image.mode  # of its numbers, as "I;16B"
    result, was = _to_rgb(ImageOps.exif_transpose(image), coding)
    rotated = image.getexif().get(0x0112, 1) != 1  # the tag of the orientation
    return result, was + ["rotated by EXIF"] * rotated


def _to_rgb(image: Image.Image, coding: str) -> tuple[Image.Image, list[str]]:
    """The image in 8-bit RGB, and what it was: nothing for RGB, grey and opaque palettes of 8 bits."""
    sixteen = re.search(r"(?<!BGR);16(?!S)|'RGB', 65535", coding) is not None  # BMP's BGR;16 has 16 bits for all three
    was = ["16 bit"] if sixteen else ["CMYK"] if image.mode == "CMYK" else []
    numbers = image.mode.startswith(("I", "F"))
    if not numbers and (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), [*was, "partly transparent"]
    if numbers:
        values, low, high = np.asarray(image), 0.0, 65535.0
        if ";32N" in coding:  # Pillow reads unsigned numbers as signed ones
            values = values.view(np.uint32)
        if not sixteen:
            known = values[np.isfinite(values)].astype(np.float64)
            low, high = known.min(initial=np.inf), known.max(initial=-np.inf)
            if low > high:
                raise DataError("no pixel is a number")
            was = [f"{low:g} to {high:g} as black to white"]
        share = (np.nan_to_num(values.astype(np.float64), nan=low) - low).clip(0, high - low) / (high - low or 1)
        grey = (share * 255 + 0.5).astype(np.uint8)
        if (value := image.info.get("transparency")) is not None:  # of a PNG: the grey that is to be seen through
            grey, was = np.where(values == value, np.uint8(255), grey), [*was, "partly transparent"]
        return Image.fromarray(grey).convert("RGB"), was
    return image.convert("RGB"), was


def as_rgb(image: Picture) -> Image.Image | Tensor:
    """The image as PIL in RGB or uint8 (3, H, W). Raises ValueError for what is none."""
    if isinstance(image, (str, Path)):
        try:
            return read_image(image)
        except FileNotFoundError:
            raise ValueError(f"{image}: no such image (a synthetic scene is shapes:INDEX)") from None
        except DataError as error:
            raise ValueError(f"{image}: {error}") from None
        except OSError as error:
            raise ValueError(f"{image}: the image cannot be read ({error.strerror or error})") from None
    if isinstance(image, Image.Image):
        return upright_rgb(image)[0]
    if not isinstance(image, Tensor):
        raise ValueError(f"a {type(image).__name__} is no image; give a path, a PIL image, or a tensor")
    image, is_image = image.detach().cpu(), image.ndim == 3 and len(image) in (1, 3) and image.numel() > 0
    if is_image and image.is_floating_point() and 0 <= image.min() <= image.max() <= 1:
        image = (255 * image).round().to(torch.uint8)
    if not is_image or image.dtype != torch.uint8:
        raise ValueError(f"a tensor {tuple(image.shape)} of {image.dtype} is no image; give (3, H, W), as uint8 or as"
                         " numbers from 0 to 1, not normalised")
    return image.expand(3, -1, -1)
