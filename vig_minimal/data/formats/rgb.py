"""Any image that Pillow opens, as upright 8-bit RGB: numbers of any depth, transparency, orientation.

Brightness follows what the file's header states: numbers of b bits go from 0 (black) to 2^b − 1 (white), signed ones
from −2^(b−1), and a TIFF may define 0 as white. Only where nothing is stated, for whole numbers of 32 bits and for
floating ones, are the smallest black and the largest white.
"""

import numpy as np
from PIL import Image

TURNS = dict(zip(range(2, 9), ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270",
                               "TRANSVERSE", "ROTATE_90")))  # EXIF's orientation to what undoes it
BITS, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 262, 274, 339  # tags of TIFF, the third of EXIF too
SIGNED = 2
BITMAPS = ("BMP", "DIB", "TGA")  # whose fourth byte is often left 0, and then shown by nobody as transparent


def upright_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return an image that Pillow opened, upright and in 8-bit RGB, and what was converted: nothing for RGB, grey and
    opaque palettes of 8 bits. Raises OSError for floating numbers none of which is finite."""
    bits = stored_bits(image)
    low_bytes = _low_bytes(image) if bits == 16 and isinstance(image.info.get("transparency"), tuple) else None
    tags = dict(getattr(image, "tag_v2", {}))
    image.load()  # which turns a TIFF
    turn, was = _orientation(image)
    if turn or tags.get(ORIENTATION) in TURNS:
        was.append("rotated by EXIF")
    rgb, kinds = _rgb(image, bits, tags, low_bytes)
    return rgb.transpose(Image.Transpose[TURNS[turn]]) if turn else rgb, kinds + was


def stored_bits(image: Image.Image) -> int:
    """Return the bits of each number in the file, before it is loaded; 8 where Pillow does not know."""
    if hasattr(image, "tag_v2"):
        return image.tag_v2.get(BITS, (1,))[0]
    coding = image.tile[0][3] if getattr(image, "tile", None) else image.mode  # of PNG "RGB;16B", of PPM ("RGB", 4095)
    if ";16B" in str(coding) or image.mode.startswith("I;16"):
        return 16
    if image.format == "PPM" and isinstance(coding, tuple) and isinstance(coding[1], int) and coding[1] > 255:
        return coding[1].bit_length()
    return {"1": 1, "L;2": 2, "L;4": 4}.get(coding, 8) if isinstance(coding, str) else 8


def _orientation(image: Image.Image) -> tuple[int, list[str]]:
    """Return the turn that EXIF asks for, a key of TURNS or 0; and a note on EXIF that cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # of garbage Pillow raises many kinds
        return 0, ["unreadable metadata left out"]
    return (value, []) if isinstance(value, int) and value in TURNS else (0, [])


def _rgb(image: Image.Image, bits: int, tags: dict, low_bytes: np.ndarray | None) -> tuple[Image.Image, list[str]]:
    """Return the image in 8-bit RGB, not turned, and its former format."""
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    if image.mode.startswith(("I", "F")) or image.mode == "L" and signed:
        return _of_numbers(image, bits, signed, tags)
    was = [f"{bits} bit"] * (bits > 8) + ["CMYK"] * (image.mode == "CMYK")
    key = image.info.get("transparency")  # of a PNG: the one colour that is to be seen through
    if key is None and image.mode not in ("RGBA", "LA", "PA", "RGBa", "La"):
        return image.convert("RGB"), was
    if isinstance(key, int) and image.mode in ("1", "L") and key < 2**bits <= 128:
        image.info["transparency"] = key * (255 // (2**bits - 1))  # Pillow scales the pixels and not the key
    if low_bytes is not None:
        values = np.asarray(image).astype(np.uint16) << 8 | low_bytes  # (H, W, 3)
        layer = image.copy()
        layer.putalpha(Image.fromarray(255 * (values != key).any(-1).astype(np.uint8)))
    else:
        layer = image.convert("RGBA")
    if image.format in BITMAPS and layer.getextrema()[3] == (0, 0):
        return layer.convert("RGB"), was
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB"), [*was, "partly transparent"]


def _of_numbers(image: Image.Image, bits: int, signed: bool, tags: dict) -> tuple[Image.Image, list[str]]:
    """Do the same for one number a pixel that is not of 8 bits or not from 0 to 255."""
    values = np.asarray(image)
    if signed and bits == 8:
        values = values.view(np.int8)
    elif tags and bits == 32 and image.mode == "I" and not signed:  # Pillow reads them as signed ones
        values = values.view(np.uint32)
    if tags:
        stated = image.mode != "F" and bits <= 16
        black = -(2**bits) // 2 if signed else 0
        white = black + 2**bits - 1
    else:  # Pillow makes 16 bits of all that PNG and PPM have more than 8
        stated = image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")
        black, white = 0, 65535
    if stated:
        was = ["signed " * signed + f"{bits} bit"]
    else:
        known = values[np.isfinite(values)].astype(np.float64)
        if not known.size:
            raise OSError("no pixel is a number")
        black, white = known.min(), known.max()
        was = [f"{black:g} to {white:g} as black to white"]
    share = (np.nan_to_num(values.astype(np.float64), nan=black) - black).clip(0, white - black)
    grey = share / (white - black or 1)
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white
        grey = 1 - grey
    grey = (grey * 255 + 0.5).astype(np.uint8)
    if (key := image.info.get("transparency")) is not None:
        grey, was = np.where(values == key, np.uint8(255), grey), [*was, "partly transparent"]
    return Image.fromarray(grey).convert("RGB"), was


def _low_bytes(image: Image.Image) -> np.ndarray:
    """Return the low bytes of a PNG's 16-bit RGB, since Pillow keeps only the high ones: (H, W, 3)."""
    place = image.fp.tell()
    again = Image.open(image.fp)
    again.tile = [(*again.tile[0][:3], "RGB;16L")]
    values = np.asarray(again)
    image.fp.seek(place)
    return values
