"""Fetch rows with their images: from the very shards that were scored, or not at all.

In: places in the results. Out: for each a digest of its image, and the row and image themselves in a temporary
file, because a queue is ordered by suspicion, but shards are read from front to back.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from export.contract.metadata import ModelContract
from export.errors import InputChanged, OptionRefused, WriteFailed
from screen.input.image_bytes import FORMATS, as_picture, image_sources, read_path, tensor_pixels
from screen.input.mapping import tensor_shape
from screen.input.rows import RowBatch, read_chosen_rows
from screen.input.shards import ShardRef
from screen.output.manifest_file import ManifestEntry
from screen.review.queue.row import RESULT_COLUMNS, QueuedImage
from screen.review.results import Results, RowPosition
from screen.review.sources import NotAsScored, find_source

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A row whose image is there.

    Attributes:
        place: of the row.
        key: SHA-256 of the image's bytes.
        offset: where row and image are in the temporary file.
    """

    place: RowPosition
    key: bytes
    offset: int


@dataclass
class Missing:
    """What could not be fetched.

    Attributes:
        shards: why nothing of a shard is handed on, by its name.
        rows: rows in these shards.
        images: rows without an image that can be shown, by why.
    """

    shards: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    images: Counter[str] = field(default_factory=Counter)


class Fetcher:
    """Reads chosen rows, each shard once in a call.

    Args:
        results: where rows are chosen.
        contract: of the model, where it is known; pixels without a shape need it.
        source: where the input is now; None: where it was.

    Raises:
        WriteFailed: there is no room for a temporary file.
    """

    def __init__(self, results: Results, contract: ModelContract | None, source: str | None) -> None:
        self._results, self._contract = results, contract
        self._source = source
        self._root, self._max_pixels, self._columns = results.image_root, results.max_pixels, results.columns
        self._spool = tempfile.TemporaryFile(prefix="oodscreen-queue-")  # noqa: SIM115  closed by close()
        self.missing = Missing()

    def close(self) -> None:
        """Let go of the temporary file."""
        with suppress(OSError):  # what could not be written when there was room no more
            self._spool.close()

    def fetch(self, places: list[RowPosition]) -> dict[RowPosition, Fetched]:
        """Read rows and images; what cannot be had is counted in `missing`.

        Raises:
            ReadFailed: a disk or a store stopped answering.
            WriteFailed: the temporary file has no room.
        """
        found: dict[RowPosition, Fetched] = {}
        wanted: dict[int, list[int]] = {}
        for place in places:
            wanted.setdefault(place.shard, []).append(place.row)
        for index in sorted(wanted):
            rows = np.array(sorted(wanted[index]), np.int64)
            entry = self._results.entries[index]
            try:
                shard = find_source(entry, self._columns, self._source)
                here = list(self._fetch_shard(index, shard, rows))
                if not shard.is_unchanged():
                    raise NotAsScored("changed while it was read")
            except NotAsScored as gone:
                self._miss(entry, str(gone), len(rows))
            except InputChanged:
                self._miss(entry, "changed while it was read", len(rows))
            else:
                found.update((one.place, one) for one in here)
        return found

    def load(self, one: Fetched) -> tuple[dict[str, Any], QueuedImage]:
        """The row of the results, by column, and its image."""
        self._spool.seek(one.offset)
        row, image = pickle.load(self._spool)  # noqa: S301  our own file, which nobody else can open
        return row, image

    def _miss(self, entry: ManifestEntry, why: str, rows: int) -> None:
        self.missing.shards[entry.shard] = why
        self.missing.rows += rows

    def _fetch_shard(self, index: int, shard: ShardRef, rows: NDArray[np.int64]) -> Iterator[Fetched]:
        scored = self._results.take(self._results.entries[index], rows, RESULT_COLUMNS)
        start = 0
        for batch in read_chosen_rows(shard, self._columns, rows):
            told = scored.slice(start, batch.count).to_pylist()
            start += batch.count
            for row, key, image in zip(told, batch.ids, self._images(batch), strict=True):
                if batch.images is not None and row["id"] != key:
                    raise NotAsScored(f"has {key!r} in row {row['row']}, where {row['id']!r} was scored")
                if isinstance(image, str):
                    self.missing.images[image] += 1
                else:
                    digest, queued = image
                    yield Fetched(RowPosition(index, row["row"]), digest, self._store(row, queued))

    def _store(self, row: dict[str, Any], image: QueuedImage) -> int:
        try:
            offset = self._spool.seek(0, io.SEEK_END)
            pickle.dump((row, image), self._spool, pickle.HIGHEST_PROTOCOL)
            self._spool.flush()
        except OSError as error:
            raise WriteFailed(
                f"A temporary file in {tempfile.gettempdir()} could not be written: {error.strerror or error}.",
                wanted="room for the images that are handed on, for as long as the command runs",
                next_step="make room there or set TMPDIR to another folder, or hand on fewer by --top",
            ) from error
        return offset

    def _images(self, batch: RowBatch) -> Iterator[tuple[bytes, QueuedImage] | str]:
        """For each row its digest and image, or why there is none."""
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
                else _as_image(data, None if path is None else path.decode(errors="replace"))
            )

    def _tensors(self, column: pa.Array, shape: tuple[int, ...]) -> Iterator[tuple[bytes, QueuedImage] | str]:
        """Bare pixels as PNG; their digest is that of the pixels."""
        if len(shape) == 1:
            if self._contract is None:
                raise OptionRefused(
                    f"The images are {shape[0]} numbers each, and nothing says their height and width.",
                    wanted="the model's file, which says them",
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


def _as_image(data: bytes, path: str | None) -> tuple[bytes, QueuedImage] | str:
    """The image and its digest; a reason where it is none that anybody could look at."""
    kind = None
    with suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        kind = image.format
    if kind is None:
        return "decode_failed"
    media_type = Image.MIME.get(kind, "application/octet-stream")
    return hashlib.sha256(data).digest(), QueuedImage(data, path, _SUFFIXES.get(kind, f".{kind.lower()}"), media_type)
