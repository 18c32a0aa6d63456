"""The endings of file names by which images and lists of paths are recognised.

In: a name. Out: whether the name is that of an image.
"""

from __future__ import annotations

from pathlib import PurePosixPath

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"),
    *(".jpe", ".jfif", ".dib", ".pgm", ".pbm", ".pnm"),
)
"""Endings of the formats that a run decodes, in lower case, the most common first."""

TEXT_LIST_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Endings of lists of paths in text form; a list may also be a Parquet file."""


def is_image(name: str) -> bool:
    """Whether a name has the ending of an image format that a run decodes, in upper or lower case."""
    return PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS
