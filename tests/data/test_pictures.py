"""One table of picture files, made by hand byte by byte, each with the brightness that it must show."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from vig_minimal.data.decoding import read_image
from vig_minimal.data.formats.without_metadata import without_metadata
from vig_minimal.look.predict import Transform

LEFT_OUT = "unreadable metadata left out"

# ---- files ---------------------------------------------------------------------------------------------------------


def packed(row, bits):
    """Numbers of `bits` bits, the highest bit first, filled up to whole bytes."""
    text = "".join(f"{value:0{bits}b}" for value in row)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def tiff(row, bits, zero_is_white=False, kind="", more=()):
    """One row of grey numbers, little endian; kind: "signed" or "float"."""
    code = {"": "u", "signed": "i", "float": "f"}[kind]
    data = np.array(row, f"<{code}{bits // 8}").tobytes() if bits % 8 == 0 else packed(row, bits)
    tags = [(256, 4, len(row)), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, int(not zero_is_white)),
            (273, 4, None), (277, 3, 1), (278, 4, 1), (279, 4, len(data)),
            (339, 3, {"": 1, "signed": 2, "float": 3}[kind]), *more]
    end = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, form, 1, end if value is None else value)
                       for tag, form, value in sorted(tags, key=lambda entry: entry[0]))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(row, bits, colour=0, seen_through=None, more=b""):
    """One row of numbers; colour: 0 grey, 2 RGB. seen_through: the number or numbers of tRNS."""
    width = len(row) // (3 if colour == 2 else 1)
    rows = zlib.compress(b"\0" + packed(row, bits))
    key = b"" if seen_through is None else chunk(b"tRNS", np.array(seen_through, ">u2").tobytes())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + key + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def pnm(kind, row, most):
    return f"{kind} {len(row) // (3 if kind == 'P6' else 1)} 1 {most}\n".encode() + np.array(
        row, ">u2" if most > 255 else "u1").tobytes()


def bitmap(*alphas):
    """A BMP whose header has a mask for alpha: pixels of red 10."""
    pixels = b"".join(bytes([30, 20, 10, alpha]) for alpha in alphas)
    header = struct.pack("<IiiHHIIiiII4I4s", 124, len(alphas), 1, 1, 32, 3, len(pixels), 0, 0, 0, 0, 0xFF0000, 0xFF00,
                         0xFF, 0xFF000000, b"BGRs").ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels


def targa(*alphas):
    return bytes([0, 0, 2, *bytes(9), len(alphas), 0, 1, 0, 32, 8]) + b"".join(
        bytes([30, 20, 10, alpha]) for alpha in alphas)


def exif(*entries):
    """EXIF of (tag, type, count, value), a value of 8 bytes behind the table."""
    table, values, end = struct.pack("<H", len(entries)), b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if len(value) > 4:
            values, value = values + value, struct.pack("<I", end + len(values))
        table += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + bytes(4) + values


def orientation(value, *more):
    return exif((274, 3, 1, struct.pack("<H", value)), *more)


def jpeg(about=None, more=b""):
    """16 × 8 pixels, left half 40, right half 200; `more` are segments before all others."""
    pixels, buffer = np.full((8, 16), 40, np.uint8), io.BytesIO()
    pixels[:, 8:] = 200
    Image.fromarray(pixels).save(buffer, "jpeg", quality=100, **({"exif": about} if about else {}))
    return buffer.getvalue()[:2] + more + buffer.getvalue()[2:]


def segment(kind, data):
    return bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data


HALF = [10] * 3 + [90] * 3  # two pixels of RGB

# name: content, the red of its first row, what is noted
PICTURES = {
    # the header states the depth
    "TIFF, 12 bit": (tiff([1000, 1500, 1800, 2000], 12), [62, 93, 112, 125], "12 bit"),
    "TIFF, 12 bit, all": (tiff([0, 4095], 12), [0, 255], "12 bit"),
    "TIFF, 16 bit": (tiff([0, 16384, 32768, 65535], 16), [0, 64, 128, 255], "16 bit"),
    "TIFF, 16 bit, 0 is white": (tiff([0, 16384, 32768, 65535], 16, True), [255, 191, 127, 0], "16 bit"),
    "TIFF, 8 bit, 0 is white": (tiff([0, 64, 255], 8, True), [255, 191, 0], None),
    "TIFF, 4 bit, 0 is white": (tiff([0, 1, 15, 15], 4, True), [255, 238, 0, 0], None),
    "TIFF, 1 bit, 0 is white": (tiff([0, 1], 1, True), [255, 0], None),
    "TIFF, 1 bit": (tiff([0, 1], 1), [0, 255], None),
    "TIFF, signed 8 bit": (tiff([-128, -1, 0, 127], 8, kind="signed"), [0, 127, 128, 255], "signed 8 bit"),
    "TIFF, signed 16 bit": (tiff([-32768, 0, 32767], 16, kind="signed"), [0, 128, 255], "signed 16 bit"),
    "PNG, 16 bit": (png([0, 16384, 32768, 65535], 16), [0, 64, 128, 255], "16 bit"),
    "PNG, 2 bit": (png([0, 1, 2, 3], 2), [0, 85, 170, 255], None),
    "PGM up to 4095": (pnm("P5", [1000, 1500, 1800, 2000], 4095), [62, 93, 112, 125], "12 bit"),
    "PPM up to 4095": (pnm("P6", [1000, 1000, 1000, 2000, 2000, 2000], 4095), [62, 125], "12 bit"),
    "PGM up to 100": (pnm("P5", [0, 50, 100], 100), [0, 128, 255], None),
    "PGM up to 65535": (pnm("P5", [1000, 65535], 65535), [4, 255], "16 bit"),
    # nothing states it
    "TIFF, 32 bit": (tiff([0, 100, 2**32 - 1], 32), [0, 0, 255], "0 to 4.29497e+09 as black to white"),
    "TIFF, signed 32 bit": (tiff([-5, 0, 5], 32, kind="signed"), [0, 128, 255], "-5 to 5 as black to white"),
    "TIFF, float": (tiff([1, 2, 3], 32, kind="float"), [0, 128, 255], "1 to 3 as black to white"),
    "TIFF, float, 0 is white": (tiff([1, 2, 3], 32, True, "float"), [255, 128, 0], "1 to 3 as black to white"),
    # transparency
    "BMP, alpha 0 everywhere": (bitmap(0, 0, 0), [10, 10, 10], None),
    "BMP, alpha 0 somewhere": (bitmap(0, 255), [255, 10], "partly transparent"),
    "TGA, alpha 0 everywhere": (targa(0, 0), [10, 10], None),
    "PNG, grey of 1 bit": (png([0, 1], 1, 0, 0), [255, 255], "partly transparent"),
    "PNG, white of 1 bit": (png([1, 0], 1, 0, 1), [255, 0], "partly transparent"),
    "PNG, grey of 2 bit": (png([0, 1, 2, 3], 2, 0, 2), [0, 85, 255, 255], "partly transparent"),
    "PNG, grey of 4 bit": (png([3, 4, 5, 0], 4, 0, 4), [51, 255, 85, 0], "partly transparent"),
    "PNG, grey of 8 bit": (png([3, 4, 5], 8, 0, 4), [3, 255, 5], "partly transparent"),
    "PNG, grey of 16 bit": (png([256, 257, 0], 16, 0, 257), [1, 255, 0], "16 bit, partly transparent"),
    "PNG, RGB of 8 bit": (png(HALF, 8, 2, [10] * 3), [255, 90], "partly transparent"),
    "PNG, RGB of 16 bit": (png([0] * 3 + [256] * 3 + [257] * 3, 16, 2, [256] * 3), [0, 255, 1],
                           "16 bit, partly transparent"),
    "PNG, RGB of 16 bit, black": (png([0] * 3 + [255] * 3, 16, 2, [0] * 3), [255, 0], "16 bit, partly transparent"),
    # metadata that cannot be read
    "PNG, 2 MiB of text": (png(HALF, 8, 2, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))), [10, 90],
                           LEFT_OUT),
    "PNG, no EXIF": (png(HALF, 8, 2, more=chunk(b"eXIf", b"garbage")), [10, 90], LEFT_OUT),
    "PNG, no profile": (png(HALF, 8, 2, more=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n    4\nnone\n"))), [10, 90], LEFT_OUT),
    "PNG, damaged chunk": (png(HALF, 8, 2, more=chunk(b"tEXt", b"a\0b")[:-1] + b"?"), [10, 90], LEFT_OUT),
    "JPEG, x/0": (jpeg(orientation(6, (282, 5, 1, struct.pack("<II", 5, 0)))), [40] * 8, "rotated by EXIF"),
    "JPEG, 0/0": (jpeg(orientation(6, (282, 5, 1, bytes(8)))), [40] * 8, "rotated by EXIF"),
    "TIFF, no sub-directory": (tiff([7, 9], 8, more=[(34665, 4, 3)]), [7, 9], None),
    # orientation
    "not turned 0": (jpeg(orientation(0)), [40] * 8 + [200] * 8, None),
    "not turned 1": (jpeg(orientation(1)), [40] * 8 + [200] * 8, None),
    "not turned 9": (jpeg(orientation(9)), [40] * 8 + [200] * 8, None),
    "not turned text": (jpeg(exif((274, 2, 2, b"6\0"))), [40] * 8 + [200] * 8, None),
    "turned 2": (jpeg(orientation(2)), [200] * 8 + [40] * 8, "rotated by EXIF"),
    "turned 3": (jpeg(orientation(3)), [200] * 8 + [40] * 8, "rotated by EXIF"),
    "turned 4": (jpeg(orientation(4)), [40] * 8 + [200] * 8, "rotated by EXIF"),
    "turned 5": (jpeg(orientation(5)), [40] * 8, "rotated by EXIF"),
    "turned 7": (jpeg(orientation(7)), [200] * 8, "rotated by EXIF"),
    "turned 8": (jpeg(orientation(8)), [200] * 8, "rotated by EXIF"),
    "TIFF, turned": (tiff([7, 9], 8, more=[(274, 3, 3)]), [9, 7], "rotated by EXIF"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_shows_what_its_file_states(tmp_path, name):
    content, first_row, note = PICTURES[name]
    (tmp_path / "picture").write_bytes(content)
    image = read_image(tmp_path / "picture")
    row = np.asarray(image)[0, :, 0].astype(int)
    assert image.mode == "RGB" and image.info.get("was") == note and image.load()
    assert row.shape == (len(first_row),) and abs(row - first_row).max() <= (2 if content[:2] == b"\xff\xd8" else 0)
    if LEFT_OUT not in str(note):
        with Image.open(tmp_path / "picture") as given:  # as a person gives it
            assert np.array_equal(Transform((1, 1), None).crop(given)[0, 0], np.asarray(image)[0, :, 0])


def test_the_turns_are_those_of_all_eight_orientations(tmp_path):
    """EXIF's orientation names where the stored first row and column lie: turned back, all are the same picture."""
    picture = np.kron([[10, 90], [170, 250], [60, 200]], np.ones((8, 8))).astype(np.uint8)
    stored = {1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1], 5: picture.T,
              6: picture.T[::-1], 7: picture.T[::-1, ::-1], 8: picture.T[:, ::-1]}
    for value, pixels in stored.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "a.jpg", exif=orientation(value), quality=100)
        found = np.asarray(read_image(tmp_path / "a.jpg"))[..., 0].astype(int)
        assert found.shape == picture.shape and abs(found - picture).max() < 3, value


def test_pixels_and_orientation_are_all_that_is_kept():
    """Of a JPEG: for Pillow 12 and older, which refuse one that says it holds two million images (MPF)."""
    whole = jpeg(orientation(6))
    more = segment(0xE2, b"MPF\0garbage") + segment(0xFE, b"a comment") + segment(0xED, b"Photoshop 3.0\0garbage")
    assert without_metadata(jpeg(orientation(6), more)) == whole == without_metadata(whole)
    plain = png(HALF, 8, 2, [10] * 3)
    assert without_metadata(png(HALF, 8, 2, [10] * 3, chunk(b"tEXt", b"a\0b") + chunk(b"iCCP", b"garbage"))) == plain
    turned = png(HALF, 8, 2, more=chunk(b"eXIf", orientation(3)[6:]))
    assert without_metadata(turned) == turned
    for other in (b"", b"GIF89a", tiff([1], 8)):
        with pytest.raises(ValueError, match="neither PNG nor JPEG"):
            without_metadata(other)


@pytest.mark.parametrize("ending", ["gif", "webp", "bmp", "tga", "jp2", "avif", "qoi", "dib", "tif"])
def test_what_pillow_writes_is_read(tmp_path, ending):
    if ending == "avif" and not features.check("avif") or ending == "jp2" and not features.check("jpg_2000"):
        pytest.skip(f"this Pillow has no {ending}")
    pixels = np.kron(np.eye(2), np.ones((8, 8))).astype(np.uint8) * 255
    try:
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"a.{ending}")
    except (ValueError, KeyError, OSError):
        pytest.skip(f"this Pillow writes no {ending}")
    found = np.asarray(read_image(tmp_path / f"a.{ending}"))
    assert found.shape == (16, 16, 3) and ((found[..., 1] > 127) == (pixels > 127)).mean() > 0.98
