"""Reading a picture from a file, whatever it is; what cannot be used is said in one sentence."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class DataError(ValueError):
    """Data that cannot be used, said in one sentence."""


def read_image(path: str | Path) -> Image.Image:
    """The RGB picture in a file, the right way up. `picture.info["was"]` says what it was where it was something else.

    CMYK is converted, 16 bits are scaled to 8, what is transparent is laid on white, EXIF's rotation is carried out.
    Raises DataError, without the path, for what is no picture, is cut short or has a decompression bomb's size (more
    than Pillow's MAX_IMAGE_PIXELS), and OSError for what is not there or cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                upright = ImageOps.exif_transpose(file)
                rotated = file.getexif().get(0x0112, 1) != 1  # the tag of the orientation
                picture, was = _to_rgb(upright)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"as large as a decompression bomb: {str(error).split(',')[0]}") from None
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise DataError("an empty file" if empty else "not an image that Pillow can read") from None
    except OSError as error:
        if error.errno is not None:  # the machine's trouble, not the picture's
            raise
        raise DataError(" ".join(str(error).split())) from None
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise DataError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    if was := ", ".join(([was] if was else []) + (["rotated by EXIF"] if rotated else [])):
        picture.info["was"] = was
    return picture


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """The picture in RGB with 8 bits a channel, and what it was, unless that is RGB, grey or an opaque palette."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), "partly transparent"
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode.startswith("I") else max(1.0, values.max())
        return Image.fromarray((values.clip(0, top) * 255 / top + 0.5).astype(np.uint8)).convert("RGB"), "16 bit"
    return image.convert("RGB"), "CMYK" if image.mode == "CMYK" else ""
