"""Malformed and unusual images, each with the required status and error of its row.

Unusual but valid images must be decoded; their status is `ok`. All are for a model that takes 28 x 28 grey pixels.
The fuzz run (`benchmarks/fuzz.py`) mutates them.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_GREY = Image.fromarray((np.add.outer(np.arange(28), np.arange(28)) * 4).astype(np.uint8))
_RGB = _GREY.convert("RGB")


@dataclass(frozen=True)
class Case:
    """One image.

    Attributes:
        data: the image's bytes; None where the row has none.
        status: expected status of the row.
        reason: text that the row's error must contain.
        path: the row's path.
    """

    data: bytes | None
    status: str
    reason: str = ""
    path: str | None = None


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 0, pixels: bytes | None = None) -> bytes:
    """A PNG in which header, chunks and pixels can contradict each other."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"\0" * (29 * 28) if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def lying_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame header states another size."""
    data = bytearray(saved(_GREY, "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def lying_bmp(width: int, height: int) -> bytes:
    data = bytearray(saved(_GREY, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_in_a_circle() -> bytes:
    """A directory whose next directory is itself."""
    data = bytearray(saved(_GREY, "TIFF"))
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    end = first + 2 + 12 * count
    data[end : end + 4] = struct.pack("<I", first)
    return bytes(data)


def tiff_pointing_outside() -> bytes:
    data = bytearray(saved(_GREY, "TIFF"))
    data[4:8] = struct.pack("<I", 2**31)
    return bytes(data)


def turned_jpeg() -> bytes:
    """A JPEG with an EXIF rotation, which must be ignored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(_GREY, "JPEG", quality=100, exif=exif)


def turned_tiff() -> bytes:
    """A TIFF with an orientation tag, which Pillow and `keras.utils.load_img` apply."""
    return saved(_GREY, "TIFF", tiffinfo={0x0112: 6})


def tiff(*fields: tuple[int, int, int, int], width: int = 28, height: int = 28, data: bytes = b"") -> bytes:
    """A TIFF of grey pixels, compressed with LZW, with more fields `(tag, type, count, value)` than it needs."""
    given = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 5),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        *fields,
    ]
    table = b"".join(struct.pack("<HHII", *field) for field in given)
    return b"II*\0" + struct.pack("<IH", 8, len(given)) + table + b"\0" * 4 + data


def tiff_tiles(width: int, height: int) -> bytes:
    return tiff(
        (322, 4, 1, width), (323, 4, 1, height), (324, 4, 1, 134), (325, 4, 1, 200), data=b"\x80\x0b" + b"\0" * 198
    )


def jpeg_scans(count: int, *, progressive: bool) -> bytes:
    """A JPEG with more scans of 14 bytes or less.

    Args:
        count: number of scans that are added.
        progressive: whether the JPEG is progressive; otherwise, its first scan holds one of three channels.
    """
    data = saved(_RGB, "JPEG", progressive=progressive)
    if not progressive:
        start = data.index(b"\xff\xda")
        first = struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)
        data = data[: start + 2] + first + data[start + 14 :]
        return data[:-2] + (b"\xff\xda" + first) * count + data[-2:]
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def jpeg_with(data: bytes, *, progressive: bool = False) -> bytes:
    """A JPEG with bytes in front of its first segment."""
    jpeg = saved(_GREY, "JPEG", progressive=progressive)
    return jpeg[:2] + data + jpeg[2:]


def gif_with(data: bytes) -> bytes:
    """A GIF with bytes in front of its image."""
    start = _GIF.index(b",")
    return _GIF[:start] + data + _GIF[start:]


def rle_bmp(width: int, height: int) -> bytes:
    """A run-length encoded BMP whose rows hold one pixel each."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    rows = b"\1\1\0\0" * min(height, 100)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + b"\1\2\3\0" * 256 + rows


def deep_png() -> bytes:
    return png(28, 28, depth=16, colour=2, pixels=(b"\0" + b"\x12\x34" * 28 * 3) * 28)


class _Payload:
    """Creates a file if it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("unpickled", "w")


def _frames() -> list[Image.Image]:
    return [_GREY, _GREY.transpose(Image.Transpose.ROTATE_90), _GREY.transpose(Image.Transpose.ROTATE_180)]


def _animated(kind: str) -> bytes:
    first, *others = _frames()
    return saved(first, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))


_PNG, _JPEG, _GIF, _BMP = (saved(_GREY, kind) for kind in ("PNG", "JPEG", "GIF", "BMP"))
_TIFF, _WEBP, _PPM = saved(_GREY, "TIFF"), saved(_RGB, "WEBP"), saved(_GREY, "PPM")
_UNKNOWN = "not an image of a known format"
_ZEROS = zlib.compress(b"\0" * 2**26, 9)
_MEGABYTE = zlib.compress(b"\0" * 2**20, 9)

CASES: dict[str, Case] = {
    # Without content.
    "no image": Case(None, "null_image", "neither bytes nor a path"),
    "no bytes": Case(b"", "decode_failed", "0 bytes"),
    "only spaces": Case(b"   \n", "decode_failed", _UNKNOWN),
    "only zero bytes": Case(b"\0" * 1000, "decode_failed", _UNKNOWN),
    # Failed downloads.
    "an HTML error page": Case(b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "decode_failed", _UNKNOWN),
    "a JSON error message": Case(b'{"error": "rate limited"}', "decode_failed", _UNKNOWN),
    "base64 of an image": Case(b"iVBORw0KGgoAAAANSUhEUgAAABwAAAAc", "decode_failed", _UNKNOWN),
    "a PNG with converted line endings": Case(_PNG.replace(b"\r\n", b"\n"), "decode_failed", _UNKNOWN),
    # Truncated.
    "half a PNG": Case(_PNG[: len(_PNG) // 2], "decode_failed"),
    "only the signature of a PNG": Case(_PNG[:8], "decode_failed"),
    "only the header of a PNG": Case(_PNG[:33], "decode_failed"),
    "half a JPEG": Case(_JPEG[: len(_JPEG) // 2], "decode_failed", "runcated"),
    "the first bytes of a JPEG": Case(_JPEG[:3], "decode_failed"),
    "half a GIF": Case(_GIF[: len(_GIF) // 2], "decode_failed"),
    "a GIF without a frame": Case(b"GIF89a\x1c\0\x1c\0\0\0\0;", "decode_failed"),
    "half a BMP": Case(_BMP[: len(_BMP) // 2], "decode_failed"),
    "half a WebP": Case(_WEBP[: len(_WEBP) // 2], "decode_failed"),
    "half a TIFF": Case(_TIFF[: len(_TIFF) // 2], "decode_failed"),
    "half a PPM": Case(_PPM[: len(_PPM) // 2], "decode_failed"),
    # Damaged.
    "a PNG with a wrong checksum": Case(_PNG[:29] + b"\0\0\0\0" + _PNG[33:], "decode_failed"),
    "a PNG without pixels": Case(png(28, 28, pixels=b""), "decode_failed"),
    "a PNG with an unknown filter": Case(png(28, 28, pixels=b"\x09" * (29 * 28)), "decode_failed"),
    "a PNG with an unknown bit depth": Case(png(28, 28, depth=3), "decode_failed"),
    "a TIFF whose directory refers to itself": Case(tiff_in_a_circle(), "ok"),
    "a TIFF with an offset beyond its end": Case(tiff_pointing_outside(), "decode_failed"),
    "a PPM with a negative width and height": Case(b"P5 -28 28 255 " + b"\0" * 784, "decode_failed"),
    "a PPM that ends in a comment": Case(b"P5 #" + b"x" * 1000, "decode_failed"),
    # Too large, or with a header that states so.
    "a PNG of 60,000 x 60,000": Case(png(60_000, 60_000), "too_large", "pixels"),
    "a PNG of 2,147,483,647 x 2,147,483,647": Case(png(2**31 - 1, 2**31 - 1), "too_large"),
    "a PNG with the width 0": Case(png(0, 28), "decode_failed"),
    "a PNG with a side of 65,000": Case(
        png(65_000, 1, pixels=b"\0" * 65_001), "wrong_shape", "65000 x 1 pixels, but the model takes 28 x 28"
    ),
    "a highly compressed PNG of 10,000 x 10,000": Case(
        png(10_000, 10_000, depth=1, pixels=b"\0" * (1251 * 10_000)), "too_large", "10000 x 10000"
    ),
    "a JPEG whose header states 65,500 x 65,500": Case(lying_jpeg(65_500, 65_500), "too_large"),
    "a BMP whose header states 46,000 x 46,000": Case(lying_bmp(46_000, 46_000), "too_large"),
    "a BMP with a negative width": Case(lying_bmp(-28, 28), "too_large"),
    "a PNG whose text is a decompression bomb": Case(
        png(28, 28, chunk(b"zTXt", b"comment\0\0" + _ZEROS)), "decode_failed", "Decompressed data too large"
    ),
    "a PNG whose colour profile is a decompression bomb": Case(
        png(28, 28, chunk(b"iCCP", b"profile\0\0" + _ZEROS)), "decode_failed", "Decompressed data too large"
    ),
    "a PNG whose pixel data are a decompression bomb": Case(png(28, 28, pixels=b"\0" * 2**24), "ok"),
    # More work or memory than the pixels justify.
    "a PPM that consists of one comment": Case(b"P5 #" + b"x" * 100_000, "too_large", "more than 16384 reads"),
    "a PPM in text form with 2,000 comments": Case(b"P2 28 28 255\n" + b"#\n" * 2000, "too_large", "comments"),
    "a PPM with the largest value 100 and 4,194,304 pixels": Case(
        b"P5 2048 2048 100\n", "too_large", "for its encoding"
    ),
    "a run-length encoded BMP of 67,108,864 pixels": Case(rle_bmp(2**26, 1), "too_large", "for its encoding"),
    "a JPEG with 100,000 fill bytes": Case(jpeg_with(b"\xff" * 100_000), "too_large", "more than 16384 reads"),
    "a JPEG with 30,000 comments": Case(jpeg_with(b"\xff\xfe\0\2" * 30_000), "too_large", "more than 16384 reads"),
    "a progressive JPEG with 200 scans": Case(jpeg_scans(200, progressive=True), "too_large", "more than 100 scans"),
    "a sequential JPEG with 200 scans": Case(jpeg_scans(200, progressive=False), "too_large", "more than 100 scans"),
    "a progressive JPEG with segments between its scans": Case(
        saved(_GREY, "JPEG", progressive=True)[:-2] + b"\xff\xfe\0\2" * 70_000 + b"\xff\xda" * 200, "too_large", "scans"
    ),
    "a TIFF with a tile of 32,768 x 32,768": Case(
        tiff_tiles(2**15, 2**15), "too_large", "tiles of 32768 x 32768 pixels"
    ),
    "a TIFF of one column with wide tiles": Case(
        tiff(*[(322, 4, 1, 2048), (323, 4, 1, 2048)], width=1, height=2**26), "too_large", "tiles of 2048 x 2048 pixels"
    ),
    "a TIFF with two tile widths": Case(tiff((322, 4, 2, 8), (323, 4, 1, 16)), "decode_failed", "not a single integer"),
    "a TIFF with two widths": Case(tiff((256, 4, 1, 2**26)), "decode_failed", "not a single integer"),
    "a TIFF with 300,000 strips": Case(tiff((273, 4, 300_000, 8)), "too_large", "300000 tiles or strips"),
    "a TIFF whose fields share their bytes": Case(
        tiff(*((40_000 + tag, 7, 10_000, 8) for tag in range(100)), data=b"\0" * 10_000),
        "decode_failed",
        "whose fields have",
    ),
    "a PNG with 70,000 chunks": Case(_PNG[:-12] + chunk(b"prVt", b"") * 70_000 + _PNG[-12:], "too_large", "chunks"),
    "a PNG with 20 texts of 1 MB": Case(
        png(28, 28, *(chunk(b"zTXt", b"t%d\0\0" % number + _MEGABYTE) for number in range(20))), "too_large", "texts"
    ),
    "a PNG with 20 compressed texts of 1 MB": Case(
        png(28, 28, *(chunk(b"iTXt", b"t%d\0\1\0\0\0" % number + _MEGABYTE) for number in range(20))),
        "too_large",
        "texts",
    ),
    "a GIF with 40,000 comments": Case(
        gif_with(b"!\xfe" + b"\1a" * 40_000 + b"\0"), "too_large", "more than 16384 reads"
    ),
    # Not more than their pixels justify.
    "a JPEG with 100 fill bytes": Case(jpeg_with(b"\xff" * 100), "ok"),
    "a JPEG with scan markers in its metadata": Case(
        jpeg_with(b"\xff\xfe" + struct.pack(">H", 402) + b"\xff\xda" * 200, progressive=True) + b"\xff\xda" * 200, "ok"
    ),
    "a progressive JPEG with 60 scans": Case(jpeg_scans(50, progressive=True), "ok"),
    "a GIF with 2,000 frames": Case(_GIF[:-1] + _GIF[_GIF.index(b",") : -1] * 2000 + b";", "ok"),
    "a PNG with 1,000 texts": Case(png(28, 28, *(chunk(b"tEXt", b"t%d\0text" % n) for n in range(1000))), "ok"),
    "a PNG with 100 compressed texts": Case(
        png(28, 28, *(chunk(b"zTXt", b"t%d\0\0" % n + zlib.compress(b"text")) for n in range(100))), "ok"
    ),
    "a run-length encoded BMP": Case(rle_bmp(28, 28), "ok"),
    # Depths that are not 8 bits.
    "a PNG with 16-bit grey levels": Case(
        saved(Image.fromarray(np.full((28, 28), 40_000, np.uint16)), "PNG"), "decode_failed", "mode I;16"
    ),
    "a TIFF with floats as pixels": Case(saved(_GREY.convert("F"), "TIFF"), "decode_failed", "mode F"),
    "a TIFF with 32-bit integers as pixels": Case(saved(_GREY.convert("I"), "TIFF"), "decode_failed", "mode I"),
    "a PPM with 16-bit grey levels": Case(b"P5 28 28 65535 " + b"\x12\x34" * 784, "decode_failed", "mode I"),
    # Formats that are not decoded, among them all that run programs or scripts.
    "a PostScript file": Case(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(x) print quit\n", "decode_failed", _UNKNOWN
    ),
    "a PDF file": Case(b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n", "decode_failed", _UNKNOWN),
    "an SVG file": Case(b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"/>', "decode_failed", _UNKNOWN),
    "a pickle file": Case(pickle.dumps(_Payload()), "decode_failed", _UNKNOWN),
    "a NumPy file": Case(
        b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", "decode_failed", _UNKNOWN
    ),
    "an ICO file": Case(saved(_RGB, "ICO"), "decode_failed", _UNKNOWN),
    "a Targa image": Case(saved(_GREY, "TGA"), "decode_failed", _UNKNOWN),
    "a ZIP archive": Case(b"PK\x03\x04" + b"\0" * 26, "decode_failed", _UNKNOWN),
    # Of two formats at once.
    "a PDF header followed by a PNG": Case(b"%PDF-1.4 " + _PNG, "decode_failed", _UNKNOWN),
    "a JPEG followed by a ZIP archive": Case(_JPEG + b"PK\x03\x04" + b"\0" * 100, "ok"),
    "a GIF that is also a script": Case(b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1)", "decode_failed"),
    "a JPEG whose path ends in .png": Case(_JPEG, "ok", path="picture.png"),
    # Unusual but valid.
    "an animated GIF": Case(_animated("GIF"), "ok"),
    "an animated PNG": Case(_animated("PNG"), "ok"),
    "an animated WebP": Case(_animated("WEBP"), "ok"),
    "a TIFF with three pages": Case(_animated("TIFF"), "ok"),
    "a JPEG in CMYK": Case(saved(_RGB.convert("CMYK"), "JPEG"), "ok"),
    "a progressive JPEG": Case(saved(_GREY, "JPEG", progressive=True), "ok"),
    "a JPEG with an EXIF rotation": Case(turned_jpeg(), "ok"),
    "a TIFF with a rotation in its orientation tag": Case(turned_tiff(), "ok"),
    "a PNG with transparency": Case(saved(_RGB.convert("RGBA"), "PNG"), "ok"),
    "a PNG with a palette": Case(saved(_RGB.quantize(16), "PNG"), "ok"),
    "a PNG with 1 bit per pixel": Case(saved(_GREY.convert("1"), "PNG"), "ok"),
    "a PNG with 16-bit colours": Case(deep_png(), "ok"),
    # Paths; the image folder contains `here.png`, a pipe, a folder, a huge file, and a link to a file outside.
    "a path to an image in the folder": Case(None, "ok", path="here.png"),
    "a path to a missing file": Case(None, "path_not_found", "No such file", path="gone.png"),
    "a path that leads out of the folder by `..`": Case(
        None, "path_not_found", "is outside --image-root", path="../secret.png"
    ),
    "an absolute path": Case(None, "path_not_found", "is outside --image-root", path="/etc/passwd"),
    "a path to a link that leads out of the folder": Case(
        None, "path_not_found", "is outside --image-root", path="link.png"
    ),
    "a path with a zero byte": Case(None, "path_not_found", "null", path="a\0b.png"),
    "a path with a newline": Case(None, "path_not_found", "No such file", path="a\nb.png"),
    "a very long path": Case(None, "path_not_found", "too long", path="x" * 5000),
    "a path to a folder": Case(None, "path_not_found", "is not a regular file", path="folder"),
    "a path to a pipe": Case(None, "path_not_found", "is not a regular file", path="pipe"),
    "a path to a file of 1 TiB": Case(None, "too_large", "is a file of", path="huge"),
    "a web address": Case(None, "path_not_found", "No such file", path="https://example.org/cat.png"),
}


def prepare_folder(folder: Any) -> None:
    """Create the files for the paths above; `folder` is a Path that does not exist."""
    import os

    folder.mkdir(parents=True)
    (folder / "here.png").write_bytes(_PNG)
    (folder / "folder").mkdir()
    (folder.parent / "secret.png").write_bytes(_PNG)
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    os.mkfifo(folder / "pipe")
    with open(folder / "huge", "wb") as file:
        file.truncate(2**40)
