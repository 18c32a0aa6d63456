"""Fetch rows of the results, and their images from input shards that are unchanged since the run.

In: positions in the results. Out: a digest of each row's image. Row and image are stored in a temporary file, because
shards are read sequentially, whereas a queue is written in the order of suspicion. A copied input column whose type
differs between result shards becomes text.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from export.contract.metadata import ModelContract
from export.errors import InputChanged, OptionRefused, ShardRefused, WriteFailed
from screen.files.temporary import temporary_folder
from screen.input.image_bytes import as_picture, image_sources, read_path, tensor_pixels
from screen.input.image_file import ImageRefused, open_image
from screen.input.mapping import tensor_shape
from screen.input.parquet.value_text import as_texts
from screen.input.row_batch import RowBatch
from screen.input.rows import read_chosen_rows
from screen.input.shards import ShardRef
from screen.output.manifest_file import ManifestEntry
from screen.review.queue.row import RESULT_COLUMNS, QueuedImage, name_kept
from screen.review.results import Results, RowPosition
from screen.review.sources import SourceMismatch, find_source

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}


@dataclass(frozen=True, slots=True)
class FetchedRow:
    """A row with an available image.

    Attributes:
        position: position of the row in the results.
        key: SHA-256 of the image's bytes.
        offset: byte offset of row and image in the temporary file.
    """

    position: RowPosition
    key: bytes
    offset: int


@dataclass
class Missing:
    """Rows that could not be fetched.

    Attributes:
        shards: for each unavailable input shard, the reason, by the name of the shard.
        rows: number of requested rows in these shards.
        images: counts of rows whose image cannot be shown, by reason.
    """

    shards: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    images: Counter[str] = field(default_factory=Counter)


class Fetcher:
    """Reads selected rows and their images, each shard once per call of `fetch`.

    Args:
        results: results that the rows belong to.
        contract: contract of the model, which is required for pixels that are stored without a shape; None if the model
            was not given.
        source: current location of the input shards; None if they were not moved.
        dry_run: whether the images are needed only for their digests, and are not stored.

    Raises:
        WriteFailed: the temporary file cannot be created.
    """

    def __init__(
        self, results: Results, contract: ModelContract | None, source: str | None, *, dry_run: bool = False
    ) -> None:
        self._results, self._contract, self._dry_run = results, contract, dry_run
        self._keep = [str(name) for name in results.identity.get("keep", [])]
        self._kept_types: dict[str, set[pa.DataType]] = {name: set() for name in name_kept(self._keep)}
        self._source = source
        self._root, self._max_pixels, self._columns = results.image_root, results.max_pixels, results.columns
        self._spool = tempfile.TemporaryFile(prefix="oodscreen-queue-", dir=temporary_folder())  # noqa: SIM115  closed by close()
        self.missing = Missing()

    def close(self) -> None:
        """Delete the temporary file."""
        with suppress(OSError):  # closing flushes again, which fails on a full disk
            self._spool.close()

    def fetch(self, positions: list[RowPosition]) -> dict[RowPosition, FetchedRow]:
        """The fetched rows by position; unavailable rows are counted in `missing`.

        Raises:
            ReadFailed: the disk or the object store failed.
            WriteFailed: the temporary file cannot be written.
        """
        found: dict[RowPosition, FetchedRow] = {}
        wanted: dict[int, list[int]] = {}
        for position in positions:
            wanted.setdefault(position.shard, []).append(position.row)
        for index in sorted(wanted):
            rows = np.array(sorted(wanted[index]), np.int64)
            entry = self._results.entries[index]
            try:
                shard = find_source(entry, self._columns, self._source)
                fetched = list(self._fetch_shard(index, shard, rows))
                if not shard.is_unchanged():
                    raise SourceMismatch("changed while it was read")
            except SourceMismatch as problem:
                self._miss(entry, str(problem), len(rows))
            except InputChanged:
                self._miss(entry, "changed while it was read", len(rows))
            except ShardRefused as problem:
                self._miss(entry, problem.found, len(rows))
            else:
                found.update((one.position, one) for one in fetched)
        return found

    def load(self, one: FetchedRow) -> tuple[dict[str, Any], pa.Table, QueuedImage]:
        """The values of a fetched row by result column, its copied input columns as a table, and its image."""
        self._spool.seek(one.offset)
        row, kept, image = pickle.load(self._spool)  # noqa: S301  written by this process, and inaccessible to others
        for index, (name, kinds) in enumerate(self._kept_types.items()):
            if len(kinds) > 1:
                kept = kept.set_column(index, name, pa.array(as_texts(kept[name]), pa.string()))
        return row, kept, image

    def _miss(self, entry: ManifestEntry, why: str, rows: int) -> None:
        self.missing.shards[entry.shard] = why
        self.missing.rows += rows

    def _fetch_shard(self, index: int, shard: ShardRef, rows: NDArray[np.int64]) -> Iterator[FetchedRow]:
        table = self._results.take(self._results.entries[index], rows, [*RESULT_COLUMNS, *self._keep])
        scored, all_kept = table.select(RESULT_COLUMNS), table.select(self._keep).rename_columns([*self._kept_types])
        for name, kinds in self._kept_types.items():
            kinds.add(all_kept.schema.field(name).type)
        start = 0
        for batch in read_chosen_rows(shard, self._columns, rows):
            result_rows = scored.slice(start, batch.count).to_pylist()
            # `take` copies the row: a pickled slice would contain the whole table.
            kept_rows = (all_kept.take([index]) for index in range(start, start + batch.count))
            start += batch.count
            for row, kept, key, image in zip(result_rows, kept_rows, batch.ids, self._images(batch), strict=True):
                if batch.images is not None and row["id"] != key:
                    raise SourceMismatch(f"has the id {key!r} in row {row['row']}, but the results have {row['id']!r}")
                if isinstance(image, str):
                    self.missing.images[image] += 1
                else:
                    digest, queued = image
                    yield FetchedRow(RowPosition(index, row["row"]), digest, self._store(row, kept, queued))

    def _store(self, row: dict[str, Any], kept: pa.Table, image: QueuedImage) -> int:
        if self._dry_run:
            image = replace(image, data=b"")
        try:
            offset = self._spool.seek(0, io.SEEK_END)
            pickle.dump((row, kept, image), self._spool, pickle.HIGHEST_PROTOCOL)
            self._spool.flush()
        except OSError as error:
            raise WriteFailed(
                f"A temporary file in {temporary_folder()} could not be written: {error.strerror or error}.",
                wanted="temporary disk space for the exported images",
                next_step="free disk space, set TMPDIR to another folder, or export fewer rows with --top",
            ) from error
        return offset

    def _images(self, batch: RowBatch) -> Iterator[tuple[bytes, QueuedImage] | str]:
        """For each row, the digest and the image, or the reason why there is no image."""
        if batch.images is None:
            yield from ["unreadable_page"] * batch.count
            return
        shape = tensor_shape(batch.images.type)
        if shape is not None:
            yield from self._tensors(batch.images, shape)
            return
        for data, path in image_sources(batch.images):
            if data is None and path:
                read = read_path(self._root, path, self._max_pixels)
                if isinstance(read, tuple):
                    yield read[0]
                    continue
                data = read
            yield (
                "null_image"
                if data is None
                else _as_image(data, None if path is None else path.decode(errors="replace"), self._max_pixels)
            )

    def _tensors(self, column: pa.Array, shape: tuple[int, ...]) -> Iterator[tuple[bytes, QueuedImage] | str]:
        """For each row, the digest of the raw pixels and the image as PNG, or the reason why there is no image."""
        if len(shape) == 1:
            if self._contract is None:
                raise OptionRefused(
                    f"The images are lists of {shape[0]} numbers without height and width.",
                    wanted="the model file, which records height and width",
                    next_step="add --model MODEL.onnx",
                )
            shape = self._contract.image_shape
        for value in column:
            pixels = tensor_pixels(value, shape)
            if pixels is None:
                yield "null_image"
                continue
            buffer = io.BytesIO()
            as_picture(pixels).save(buffer, "PNG")
            yield hashlib.sha256(pixels.tobytes()).digest(), QueuedImage(buffer.getvalue(), None, ".png", "image/png")


def _as_image(data: bytes, path: str | None, max_pixels: int) -> tuple[bytes, QueuedImage] | str:
    """The digest and the image, or the status of a row whose image cannot be opened or exceeds `max_pixels`."""
    try:
        with open_image(data, max_pixels) as image:
            kind = image.format or ""
    except ImageRefused as refused:
        return refused.status
    except Exception:  # noqa: BLE001  Pillow's plugins raise many types on broken files
        return "decode_failed"
    media_type = Image.MIME.get(kind, "application/octet-stream")
    return hashlib.sha256(data).digest(), QueuedImage(data, path, _SUFFIXES.get(kind, f".{kind.lower()}"), media_type)
