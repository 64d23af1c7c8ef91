"""A PNG's or JPEG's pixels without its metadata, for files whose comments or profiles cannot be read."""

import zlib

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
START_OF_SCAN, COMMENT = 0xDA, 0xFE
APPLICATIONS, NEEDED = range(0xE0, 0xF0), (0xE0, 0xE1, 0xEE)  # segments of programs; of these JFIF, EXIF and Adobe


def without_metadata(data: bytes) -> bytes:
    """Return the file without what its pixels and orientation do not need. Raises ValueError for what is neither PNG
    nor JPEG, or is cut short."""
    if data.startswith(PNG_START):
        return _png(data)
    if data.startswith(JPEG_START):
        return _jpeg(data)
    raise ValueError("neither PNG nor JPEG")


def _png(data: bytes) -> bytes:
    kept, place = [PNG_START], len(PNG_START)
    while place < len(data):  # chunks: size of the content, name, content, checksum
        end = place + 12 + int.from_bytes(data[place:place + 4], "big")
        name, checksum = data[place + 4:place + 8], zlib.crc32(data[place + 4:end - 4]).to_bytes(4, "big")
        if name[:1].isupper() or name == b"tRNS" or name == b"eXIf" and checksum == data[end - 4:end]:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes:
    kept, place = [JPEG_START], len(JPEG_START)
    while data[place:place + 1] == b"\xff" and data[place + 1:place + 2] != bytes([START_OF_SCAN]):
        kind = data[place + 1]
        end = place + 2 + int.from_bytes(data[place + 2:place + 4], "big")  # segments: FF, kind, size, content
        if kind in NEEDED or kind not in APPLICATIONS and kind != COMMENT:
            kept.append(data[place:end])
        place = end
    return b"".join(kept) + data[place:]
