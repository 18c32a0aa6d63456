"""Write and recognise the shards of a pack.

In: images and their values, in order. Out: shards `images-000000.parquet` and so on, in the layout of Hugging Face;
a shard exists under its name exactly when it is finished. Its metadata record the files from which it was made, so that
a restarted pack needs no separate record of its progress.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from screen.files.paths import open_parquet
from screen.files.storage import StagingFile
from screen.pack.findings import NAMED, Unread
from screen.pack.image_file import ImageBytes, ImageFile

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAME = re.compile(r"images-(\d{6,})\.parquet")

_FORMAT = 1
"""Version of the layout of shards and of their metadata."""

_KEY = "oodscreen.pack"
"""Key of the record in the metadata of a shard."""

_GROUP_ROWS = 1_000
"""Maximum number of rows in a row group."""

_GROUP_BYTES = 32 * 2**20
"""Bytes of images at which a row group ends."""

_PAGE_VALUES = 16
"""Number of values between two checks of the size of a page, so that pages of large images stay small."""

_HUGGING_FACE = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
"""Metadata by which the library `datasets` recognises the column of images."""


@dataclass(frozen=True)
class ShardRecord:
    """The record in the metadata of a shard.

    Attributes:
        identity: settings on which the rows of all shards depend, by name.
        rows: number of rows.
        size: size of the images in bytes.
        files: SHA-256 of the fingerprints of the files, from `ImageFile.fingerprint`.
        missing: number of rows without an image.
        examples: the first of these rows, with the reasons.
    """

    identity: dict[str, str]
    rows: int
    size: int
    files: str
    missing: int = 0
    examples: tuple[Unread, ...] = ()

    def to_json(self) -> str:
        """The record as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def read(cls, path: Path) -> ShardRecord | None:
        """The record of a shard; None if the file was not written by a pack of this format.

        Raises:
            OSError: the file cannot be opened; the error has an `errno` if the system or the store refused.
        """
        try:
            with open_parquet(path) as file:
                text = (file.metadata.metadata or {}).get(_KEY.encode())
            values = json.loads(text or b"{}")
            if not text or values.pop("format") != _FORMAT:
                return None
            values["examples"] = tuple(Unread(**one) for one in values["examples"])
            return cls(**values)
        except (pa.ArrowException, ValueError, TypeError, KeyError):
            return None


def shard_name(number: int) -> str:
    """File name of the shard with this number; the first shard has the number 0."""
    return f"images-{number:06d}.parquet"


class FilesDigest:
    """Digest of the files of a shard, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, file: ImageFile) -> None:
        """Add a file."""
        self._digest.update(file.fingerprint + b"\n")

    def text(self) -> str:
        """The digest as hexadecimal text."""
        return self._digest.hexdigest()


@dataclass
class _Group:
    """Rows that wait to be written."""

    images: list[dict[str, Any] | None] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)
    size: int = 0


class ShardFile:
    """Writes one shard to a staging file.

    Args:
        path: final path of the shard.
        columns: the columns after `image`.
        identity: settings on which the rows of all shards depend, by name.

    Raises:
        WriteFailed: the file could not be written; also raised by `add` and `finish`. The staging file is then removed.
    """

    def __init__(self, path: Path, columns: pa.Schema, identity: dict[str, str]) -> None:
        self.rows = self.size = 0
        self._identity = identity
        self._schema = pa.schema([("image", IMAGE_TYPE), *columns]).with_metadata(_HUGGING_FACE)
        self._group = _Group()
        self._digest = FilesDigest()
        self._missing: list[Unread] = []
        self._missing_count = 0
        self._staging = StagingFile(path)
        texts = [one.name for one in columns if pa.types.is_string(one.type)]
        with self._staging.writing():
            self._file = pq.ParquetWriter(
                self._staging.path,
                self._schema,
                compression={name: "NONE" if name == "image.bytes" else "ZSTD" for name in _leaves(self._schema)},
                use_dictionary=[name for name in texts if name != "id"],
                write_statistics=texts,
                write_batch_size=_PAGE_VALUES,
                write_page_checksum=True,
            )

    def add(self, file: ImageFile, image: ImageBytes) -> None:
        """Append the row of a file, and write the row group if it is full."""
        self._digest.add(file)
        if image.data is None:
            self._missing_count += 1
            if len(self._missing) < NAMED:
                self._missing.append(Unread(file.name, image.problem))
        size = 0 if image.data is None else len(image.data)
        self._group.images.append(None if image.data is None else {"bytes": image.data, "path": file.name})
        self._group.values.append(file.values)
        self._group.size += size
        self.rows += 1
        self.size += size
        if len(self._group.images) >= _GROUP_ROWS or self._group.size >= _GROUP_BYTES:
            self._write()

    def finish(self) -> ShardRecord:
        """Write the remaining rows and the record; then close, sync and rename the file."""
        if self._group.images:
            self._write()
        missing = self._missing_count, tuple(self._missing)
        record = ShardRecord(self._identity, self.rows, self.size, self._digest.text(), *missing)
        with self._staging.writing():
            self._file.add_key_value_metadata({_KEY: record.to_json()})
            self._file.close()
        self._staging.commit()
        return record

    def abandon(self) -> None:
        """Remove the staging file."""
        with suppress(OSError):  # writing the footer also fails on a full disk; the file is removed anyway
            self._file.close()
        self._staging.discard()

    def _write(self) -> None:
        group, self._group = self._group, _Group()
        columns = list(zip(*group.values, strict=True)) or [()] * (len(self._schema) - 1)
        arrays = [pa.array(group.images, IMAGE_TYPE)]
        arrays += [
            pa.array(list(values), kind.type) for values, kind in zip(columns, list(self._schema)[1:], strict=True)
        ]
        with self._staging.writing():
            self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=_GROUP_ROWS)


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of the leaf columns in Parquet, as pyarrow names them in its options."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    stored = pq.ParquetFile(sink.getvalue()).schema
    return [stored.column(index).path for index in range(len(stored))]
