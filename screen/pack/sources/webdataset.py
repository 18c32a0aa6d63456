"""Images in tars of a WebDataset: the members with the same key are a sample, and each image of a sample becomes a row.

In: a tar, or a folder of tars. Out: `ImageFile`s in the order of the tars and of their members. Nothing is extracted:
an image is read from its position in the tar. Names in a tar are used as texts, and never opened as paths.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import pyarrow as pa

from screen.files.endings import is_image
from screen.files.paths import base_name, file_version, open_bytes
from screen.pack.findings import Findings
from screen.pack.image_file import ImageFile, printable_name, why_one_file
from screen.pack.sources.walk import FoundFile, walk

TAR_ENDING = ".tar"

_TEXTS = ("cls", "txt", "json")
"""Endings of the members whose texts become columns."""

_TEXT_BYTES = 2**20
"""Maximum size of a member whose text becomes a column, in bytes."""


@dataclass
class _Sample:
    """The members of a tar with the same key."""

    key: str
    images: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Ending, name, offset in the tar and size of each image; offset and size in bytes."""
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name and text of each member whose text becomes a column, by its ending."""


@dataclass(frozen=True)
class WebDataset:
    """One tar, or a folder of tars.

    Attributes:
        root: the tar or the folder; resolved, if it is local.
        is_folder: whether `root` is a folder.
    """

    root: Path
    is_folder: bool

    @property
    def identity(self) -> dict[str, str]:
        """The settings on which the rows depend."""
        return {"source": "WebDataset"}

    @property
    def columns(self) -> pa.Schema:
        """The columns after `image`."""
        return pa.schema([(name, pa.string()) for name in ("label", "id", "txt", "json")])

    def files(self, findings: Findings) -> Iterator[ImageFile]:
        """The images, one at a time.

        Raises:
            OSError: the folder cannot be listed.
            ReadFailed: the disk or the store failed.
        """
        if not self.is_folder:
            yield from self._read(FoundFile("", self.root, "file", *file_version(self.root)), findings)
            return
        for found in walk(self.root, is_tar, findings):
            if found.problem:
                findings.refuse(found.name, found.problem)
            else:
                yield from self._read(found, findings)

    def _read(self, tar: FoundFile, findings: Findings) -> Iterator[ImageFile]:
        """Yield the images of one tar; if the tar is damaged, yield those before the damage, and record the tar."""
        try:
            with open_bytes(tar.place) as raw:
                for sample in _samples(_TarFile(raw), f"{tar.name}/" if tar.name else "", findings):
                    yield from _rows(sample, tar, findings)
        except tarfile.TarError as error:
            findings.refuse(tar.name or base_name(self.root), f"the tar is damaged: {error}")
        except OSError as error:
            findings.refuse(tar.name or base_name(self.root), why_one_file(error, tar.place))


def is_tar(name: str) -> bool:
    """Whether a name has the ending of a tar."""
    return name.lower().endswith(TAR_ENDING)


def _rows(sample: _Sample, tar: FoundFile, findings: Findings) -> Iterator[ImageFile]:
    if not sample.images:
        for name, _ in sample.texts.values():
            findings.pass_over(name)
    texts = {ending: text for ending, (_, text) in sample.texts.items()}
    for ending, name, offset, size in sample.images:
        key = sample.key if len(sample.images) == 1 else f"{sample.key}.{ending}"
        values = ((texts.get("cls") or "").strip() or None, key, texts.get("txt"), texts.get("json"))
        yield ImageFile(name, tar.place, size, tar.version, values, offset)


class _TarFile:
    """The file of a tar; keeps the last block that was read, which shows whether the tar is complete."""

    def __init__(self, raw: BufferedReader) -> None:
        self._raw = raw
        self.last = b""
        self.seek, self.tell = raw.seek, raw.tell

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, and keep them as the last block."""
        self.last = self._raw.read(size)
        return self.last

    def why_damaged(self) -> str:
        """Why the tar is damaged, or "": tarfile treats any damaged header as the end of the tar."""
        if self.last.strip(b"\0"):
            return f"there is no valid header at byte {self._raw.tell() - len(self.last)}"
        while block := self._raw.read(2**20):
            if block.strip(b"\0"):
                return f"there are data after the end of the tar, before byte {self._raw.tell()}"
        return ""


def _samples(file: _TarFile, prefix: str, findings: Findings) -> Iterator[_Sample]:
    """Yield the samples of a tar: consecutive members with the same key."""
    sample: _Sample | None = None
    try:
        for member in _members(file):
            name = printable_name(member.name.removeprefix("./"))
            if member.isdir():
                continue
            folder, slash, base = name.rpartition("/")
            stem, _, ending = base.partition(".")
            if not stem or any(part.startswith(".") and part != ".." for part in folder.split("/")):
                findings.pass_hidden(prefix + name)
                continue
            if not member.isreg() or member.issparse():
                findings.refuse(prefix + name, "a link or another special member of a tar")
                continue
            key = f"{folder}{slash}{stem}"
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            _add(sample, ending.lower(), prefix + name, member, file, findings)
    except tarfile.TarError:
        if sample is not None:
            yield sample
        raise
    if sample is not None:
        yield sample
    if why := file.why_damaged():
        raise tarfile.ReadError(why)


def _members(file: _TarFile) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            yield member
            tar.members = []  # otherwise the memory grows with the number of members


def _add(sample: _Sample, ending: str, name: str, member: tarfile.TarInfo, file: _TarFile, findings: Findings) -> None:
    if is_image(name):
        sample.images.append((ending, name, member.offset_data, member.size))
    elif ending in _TEXTS and member.size <= _TEXT_BYTES:
        position = file.tell()
        file.seek(member.offset_data)
        text = file.read(member.size)
        file.seek(position)
        if len(text) == member.size:  # otherwise, the tar ends here, and the next read reports the damage
            sample.texts[ending] = name, text.decode(errors="backslashreplace")
    else:
        findings.pass_over(name, f".{ending}" if ending else "")
