"""Read one image file of any kind as upright 8-bit RGB; DataError says in one sentence what is wrong with data."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class DataError(ValueError):
    """Data cannot be used; the message is one sentence for the person who gave it."""


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB. `image.info["was"]` names what was converted; ordinary files have no such entry.

    Converts CMYK, scales 16 bits to 8, lays transparent pixels on white, and turns the image as EXIF says.
    Raises DataError, without the path, for files that are no image, cut short or larger than Pillow's MAX_IMAGE_PIXELS
    (decompression bombs), and OSError for files that are missing or that the system cannot read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image, was = to_rgb(ImageOps.exif_transpose(file))
                rotated = file.getexif().get(0x0112, 1) != 1  # the tag of the orientation
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"as large as a decompression bomb: {str(error).split(',')[0]}") from None
    except UnidentifiedImageError:
        raise DataError("not an image that Pillow can read" if os.path.getsize(path) else "an empty file") from None
    except OSError as error:
        if error.errno is not None:  # the system's trouble, not the image's
            raise
        raise DataError(" ".join(str(error).split())) from None
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise DataError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    if was or rotated:
        image.info["was"] = ", ".join([was] * bool(was) + ["rotated by EXIF"] * rotated)
    return image


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """The image in 8-bit RGB, and what it was: "" for RGB, grey and opaque palettes."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), "partly transparent"
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits, or floats
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode.startswith("I") else max(1.0, values.max())
        return Image.fromarray((values.clip(0, top) * 255 / top + 0.5).astype(np.uint8)).convert("RGB"), "16 bit"
    return image.convert("RGB"), "CMYK" if image.mode == "CMYK" else ""
