"""Read an image file of any kind as upright 8-bit RGB; DataError describes bad data in one sentence."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .formats.rgb import upright_rgb
from .formats.without_metadata import without_metadata

Picture = str | Path | Image.Image | Tensor


class DataError(ValueError):
    """Data cannot be used; the message is one sentence for the user."""

    def __init__(self, sentence: str):
        # raised in a process that reads images, it comes with that process's traceback in front
        super().__init__(sentence.rpartition("DataError: ")[2].removesuffix("\n"))


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB. `image.info["was"]` names what was converted; ordinary files have no such entry.

    Converts CMYK, scales numbers of other depths to 8 bits (see `formats.rgb`), lays transparent pixels on white, and
    turns the image as EXIF requires. Metadata that cannot be read are left out. Raises DataError, without the path, for
    files that are no image, cut short or larger than Pillow's MAX_IMAGE_PIXELS (decompression bombs), and for what is
    no file; OSError for files that are missing or that the system cannot read.
    """
    if os.path.lexists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise DataError("no file, but a folder, a pipe, a device or a link to nothing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                return _opened(path)
            except Exception:  # decoders raise many kinds for a damaged file
                with contextlib.suppress(Exception):
                    pixels = io.BytesIO(without_metadata(Path(path).read_bytes()))
                    return _opened(pixels, "unreadable metadata left out")
                raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"as large as a decompression bomb: {str(error).split(',')[0]}") from None
    except UnidentifiedImageError:
        raise DataError("not an image that Pillow can read" if os.path.getsize(path) else "an empty file") from None
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise  # the system's trouble, not the image's
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise DataError(kind + " ".join(str(error).split())) from None


def _opened(file: str | Path | io.BytesIO, *notes: str) -> Image.Image:
    """Return the upright RGB image of a file that Pillow can read."""
    with Image.open(file) as opened:
        image, was = upright_rgb(opened)
    if was := list(dict.fromkeys([*was, *notes])):
        image.info["was"] = ", ".join(was)
    return image


def as_rgb(image: Picture) -> Image.Image | Tensor:
    """Return the image as PIL in RGB or uint8 (3, H, W). Raises ValueError for anything else."""
    if isinstance(image, (str, Path)):
        try:
            return read_image(image)
        except FileNotFoundError:
            raise ValueError(f"{image}: no such image (a synthetic scene is shapes:INDEX)") from None
        except (DataError, OSError) as error:
            raise ValueError(f"{image}: {getattr(error, 'strerror', None) or error}") from None
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
