"""Open an encoded image, and refuse a file that would cost far more work or memory than its pixels justify.

In: the bytes of an image. Out: the opened Pillow image, whose pixels are not decoded yet, or an `ImageRefused` with a
status and a reason. The limits are counts and sizes in the file (pixels, reads of the header, scans, chunks, tiles), so
the same bytes get the same status on every machine. Only the limit on processor time depends on the machine; its
status is `too_slow`.
"""

from __future__ import annotations

import io
import math
import re
import struct
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Image formats that are decoded, by their names in Pillow; Pillow's other plugins are never tried."""

_HEADER_READS = 2**14
"""Maximum number of reads of the file for the header of an image. Pillow's plugins read headers in Python, some of them
byte by byte, so the number of reads bounds the time for a header."""

_PNG_CHUNKS = 2**16
"""Maximum number of chunks in a PNG file, not counting the chunks of pixels."""

_PNG_TEXT_BYTES, _PNG_TEXT_CHUNK, _DEFLATE_RATIO = 2**24, 2**20, 1032
"""Maximum decompressed size of all texts and profiles in a PNG file, in bytes; Pillow's limit for a single text, in
bytes; and the highest compression ratio of zlib's format, which limits the decompressed size
(zlib.net/zlib_tech.html)."""

_SCANS, _SCAN_PIXELS = 100, 2**31
"""Maximum number of scans in a JPEG file (libtiff's limit for JPEG data; encoders write about 10), and maximum number
of pixels over all scans: libjpeg visits every block of the image for each scan, even if the scan is almost empty."""

_COMMENTS = 1000
"""Maximum number of `#` in a PNM file in text form: Pillow copies its buffer, up to 1 MiB, for each comment."""

_TILE_PIXELS, _TILES, _TILED_PIXELS = 2**22, 2**18, 2**26
"""Limits for the tiles of a TIFF file: pixels of a tile that is larger than the image, number of tiles or strips, and
pixels of all tiles if these are more than twice the pixels of the image. libtiff decodes whole tiles."""

_PYTHON_DECODERS, _PYTHON_PIXELS = ("ppm", "ppm_plain", "bmp_rle"), 2**21
"""Pillow's decoders that are written in Python, and the maximum number of pixels that they decode (2 us per pixel)."""

_PIXEL_READS = 2**23
"""Maximum number of reads for the header and the pixels of an image. A run-length encoded BMP file may take two reads
for each pixel; the other formats take one read for several hundred bytes."""

_SECONDS = 10.0
"""Maximum processor time of the decoding thread per image, in seconds, checked at every 256th read of the file and at
each read of 4096 or more bytes; for files of at most `_HEADER_READS` bytes, the time is not checked."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value of each TIFF field type."""

_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _LENGTH, _STRIPS, _TILE_OFFSETS = 256, 257, 273, 324
_TILE_SIDES = _TILE_WIDTH, _TILE_LENGTH = 322, 323

_read_chunk = struct.Struct(">I4s").unpack_from
_find_marker = re.compile(rb"\xff([^\x00\xff\x01\xd0-\xd8])", re.DOTALL).search
"""Finds the next JPEG marker that ends the image or is followed by a length."""


class ImageRefused(Exception):
    """An image that is not decoded.

    Attributes:
        status: status of the row.
        reason: why the image is not decoded.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def open_image(data: bytes, max_pixels: int, check: Callable[[], None] = lambda: None) -> Image.Image:
    """Open an image; its pixels are decoded when they are first used, which must be in the same thread.

    Args:
        data: content of the file.
        max_pixels: maximum number of pixels in an image.
        check: callback, called while a long file is read; an exception of the callback ends the decoding.

    Raises:
        ImageRefused: the file is empty, has invalid TIFF fields or exceeds a limit; also raised later, when the pixels
            are decoded.
        Exception: Pillow's plugins raise nearly anything on damaged files.
    """
    if not data:
        raise ImageRefused("decode_failed", "0 bytes")
    if data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(_TIFF_STARTS):
        _check_tiff(data)
    elif data.startswith((b"P1", b"P2", b"P3")) and data.count(b"#") > _COMMENTS:
        raise ImageRefused("too_large", f"a PNM file in text form with more than {_COMMENTS} comments")
    if len(data) <= _HEADER_READS:  # too few bytes to exceed the limit
        file = io.BytesIO(data)
        image = Image.open(file, formats=FORMATS)
    else:
        file = _CountedFile(data, check)
        image = Image.open(file, formats=FORMATS)
        file.end_header()
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageRefused("too_large", f"{_size(image)}, more than the limit of {max_pixels}")
    if isinstance(image, JpegImageFile):
        if _has_more_scans(data, file.tell(), image):
            _check_scans(data, image)
    elif pixels > _PYTHON_PIXELS and image.tile and image.tile[0][0] in _PYTHON_DECODERS:
        raise ImageRefused("too_large", f"{_size(image)}, more than {_PYTHON_PIXELS}, the maximum for its encoding")
    return image


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"


class _CountedFile(io.BytesIO):
    """The content of an image file; after too many reads or too much processor time, reading raises `ImageRefused`."""

    def __init__(self, data: bytes, check: Callable[[], None]) -> None:
        super().__init__(data)
        self._check = check
        self._reads, self._most = 0, _HEADER_READS
        self._end = time.thread_time() + _SECONDS

    def end_header(self) -> None:
        """Allow the additional reads for the pixels, because the header has been read."""
        self._most = _PIXEL_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > self._most:
            raise ImageRefused("too_large", f"the header or the pixels need more than {self._most} reads of the file")
        if not self._reads % 256 or size is None or not 0 <= size < 4096:
            self._check()
            if time.thread_time() > self._end:
                raise ImageRefused("too_slow", f"not decoded within {_SECONDS:.0f} s of processor time")
        return super().read(size)


def _check_png(data: bytes) -> None:
    """Refuse a PNG file with too many chunks, or with texts that may be too long."""
    position, chunks, text = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = _read_chunk(data, position)
        if kind == b"IEND":
            break
        if kind not in (b"IDAT", b"fdAT"):
            chunks += 1
            if kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_packed(data, position + 8, length)):
                text += min(_PNG_TEXT_CHUNK, _DEFLATE_RATIO * length)
            elif kind in (b"tEXt", b"iTXt"):
                text += length
        position += 12 + length
    if chunks > _PNG_CHUNKS:
        raise ImageRefused("too_large", f"a PNG file with more than {_PNG_CHUNKS} chunks")
    if text > _PNG_TEXT_BYTES:
        raise ImageRefused("too_large", f"a PNG file whose texts may have more than {_PNG_TEXT_BYTES} bytes")


def _is_packed(data: bytes, start: int, length: int) -> bool:
    """Whether the text of an iTXt chunk is compressed: the flag follows the keyword."""
    end = data.find(b"\0", start, start + length)
    return end >= 0 and data[end + 1 : end + 2] != b"\0"


def _has_more_scans(data: bytes, end: int, image: JpegImageFile) -> bool:
    """Whether libjpeg searches the file for scans after the first scan.

    libjpeg does not search if the JPEG file is sequential and its first scan holds all channels (`initial_setup` in
    jdinput.c).

    Args:
        data: content of the file.
        end: position after the header of the first scan, up to which Pillow has read the file.
        image: the opened image.
    """
    start = end - 8 - 2 * image.layers
    return "progressive" in image.info or data[start : start + 2] != b"\xff\xda" or data[start + 4] != image.layers


def _check_scans(data: bytes, image: JpegImageFile) -> None:
    """Refuse a JPEG file with too many scans.

    The bytes of a scan marker may also occur in metadata and after the image, so the scans are counted exactly if the
    bytes occur often.
    """
    most = min(_SCANS, _SCAN_PIXELS // (image.width * image.height))
    found = 0
    for offset in (0, 1):  # faster than `bytes.count`
        pairs = np.frombuffer(data, "<u2", (len(data) - offset) // 2, offset)
        found += int(np.count_nonzero(pairs == 0xDAFF))
    if found <= most:
        return
    position, markers, scans = 2, 0, 0
    while scans <= most and markers <= _HEADER_READS and (marker := _find_marker(data, position)):
        if marker[1] == b"\xd9":
            return
        markers += 1
        scans += marker[1] == b"\xda"
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    if scans > most or markers > _HEADER_READS:
        raise ImageRefused("too_large", f"a JPEG file with more than {most} scans of {_size(image)}")


def _check_tiff(data: bytes) -> None:
    """Refuse a TIFF file with tiles much larger than the image, too many tiles, or fields larger than the file."""
    order = "<" if data.startswith(b"II") else ">"
    start, count, entry = ("Q", "Q", "HHQ8s") if b"+" in data[2:4] else ("I", "H", "HHI4s")
    try:
        (first,) = struct.unpack_from(order + start, data, struct.calcsize(order + start))
        (fields,) = struct.unpack_from(order + count, data, min(first, len(data)))
    except struct.error:
        return  # Pillow reports the damage
    first += struct.calcsize(order + count)
    width = struct.calcsize(order + entry)
    table = data[first : first + min(fields, len(data)) * width]
    total = 0
    values: dict[int, int] = {}
    for tag, kind, number, value in struct.iter_unpack(order + entry, table[: len(table) // width * width]):
        total += number * _TIFF_SIZES.get(kind, 0)
        if tag in (_STRIPS, _TILE_OFFSETS) and number > _TILES:
            raise ImageRefused("too_large", f"a TIFF file with {number} tiles or strips; the limit is {_TILES}")
        if tag in (_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH):
            if number != 1 or tag in values or kind not in _TIFF_INTEGERS:
                raise ImageRefused("decode_failed", f"the TIFF field {tag} is not a single integer")
            (values[tag],) = struct.unpack_from(order + _TIFF_INTEGERS[kind], value)
    if total > len(data) + 8 * fields:  # a value of up to 8 bytes is in the table itself
        raise ImageRefused("decode_failed", f"a TIFF file of {len(data)} bytes whose fields have {total} bytes")
    sides, tile = [values.get(tag, 0) for tag in (_WIDTH, _LENGTH)], [values.get(tag, 0) for tag in _TILE_SIDES]
    image_pixels, tile_pixels = math.prod(sides), math.prod(tile)
    if not tile_pixels:
        return
    tiled = math.prod(_rounded(side, to) for side, to in zip(sides, tile, strict=True))
    if tile_pixels > max(_TILE_PIXELS, math.prod(_rounded(side, 16) for side in sides)) or (
        tiled > max(_TILED_PIXELS, 2 * image_pixels)
    ):
        reason = f"TIFF tiles of {tile[0]} x {tile[1]} pixels for an image of {sides[0]} x {sides[1]} pixels"
        raise ImageRefused("too_large", reason)


def _rounded(side: int, to: int) -> int:
    """A side of an image, rounded up to a multiple of the side of a tile."""
    return -(-side // to) * to
