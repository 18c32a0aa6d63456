"""Stop a run before it writes anything, if no row drawn from INPUT can be read and one option corrects the reason.

In: shards, the columns, a `RunConfig` and a model's contract. Out: nothing, or an error with the reason and the option.
A few rows are read at a time, and the first readable row ends the check: usually, the check reads a single row. The
rows are drawn from several shards, because one damaged shard must not end a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace

import pyarrow as pa

from export.contract.metadata import ModelContract
from export.errors import InputRefused
from screen.config import RunConfig
from screen.input.decode import Decoder
from screen.input.image_bytes import Failure
from screen.input.mapping import ColumnMapping, image_columns
from screen.input.row_batch import RowBatch
from screen.input.rows import read_first_rows
from screen.input.shard_errors import SHARD_ERRORS
from screen.input.shards import ShardRef

_SHARDS, _ROWS = 10, 1000
"""Maximum number of shards from which rows are drawn, and maximum number of rows that are drawn from all of them."""

_SHARE = 0.9
"""Minimum share of the drawn rows that fail for the stated reason; often, a few rows fail because of damaged files."""

_DAMAGED_PAGE = "unreadable_page"
"""Status of a row in a damaged row group; other shards are usually not damaged, so these rows are not counted."""

_SIZES = 3
"""Maximum number of image sizes in an error."""


def refuse_failing_rows(
    shards: Sequence[ShardRef],
    columns: ColumnMapping,
    config: RunConfig,
    contract: ModelContract,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Raise an error if no drawn row can be read, and an option corrects the reason for most of the rows.

    Args:
        shards: the shards to score.
        columns: the input columns.
        config: image column, pixel limit, base folder of paths; with `go_on` no row is read.
        contract: image size and colour of the model.
        check: callback, called after each image; an exception of the callback ends this function.

    Raises:
        InputRefused: no drawn row can be read, and an option corrects the reason.
    """
    if config.go_on:
        return
    failures: list[Failure] = []
    only_images = replace(columns, id=None, keep=(), kept_schema=pa.schema([]))
    decoder = Decoder(
        contract, max_pixels=config.max_pixels, image_root=config.image_root, threads=config.threads, check=check
    )
    with closing(decoder), closing(_draw(shards, only_images)) as pieces:
        for piece in pieces:
            batch = decoder.decode([piece])
            if batch.readable.any():
                return
            failures += batch.failures.values()
    failures = [failure for failure in failures if failure[0] != _DAMAGED_PAGE]
    places = [shard for shard in shards if shard.rows]
    advice = _advise(failures, columns, config, contract, places[0].schema) if failures else None
    if advice is not None:
        found, wanted, next_step = advice
        raise InputRefused(
            f"None of {len(failures)} rows, drawn from {min(_SHARDS, len(places))} of {len(places)} shard(s), has a "
            f"usable image: {found}.",
            wanted=wanted,
            next_step=f"{next_step}; to continue with these rows, add --go-on",
        )


def _draw(shards: Sequence[ShardRef], columns: ColumnMapping) -> Generator[RowBatch, None, None]:
    """Yield the first rows of some shards; the first batch has one row. After an error, the next shard is read."""
    is_first = True
    places = [shard for shard in shards if shard.rows]
    count = min(_SHARDS, len(places))
    for index in range(count):
        shard = places[index * (len(places) - 1) // max(1, count - 1)]
        with suppress(*SHARD_ERRORS):
            for batch in read_first_rows(shard, columns, _ROWS // count):
                if is_first and batch.count > 1:
                    one, batch = batch.split(1)
                    yield one
                is_first = False
                yield batch


def _advise(
    failures: Sequence[Failure],
    columns: ColumnMapping,
    config: RunConfig,
    contract: ModelContract,
    schema: pa.Schema,
) -> tuple[str, str, str] | None:
    """The three parts of the error for the reason of most failures; None if no option corrects this reason.

    Args:
        failures: status and reason of each drawn row.
        columns: the input columns.
        config: the options.
        contract: image size of the model.
        schema: schema of a shard, whose other columns may contain the images.
    """
    statuses = Counter(status for status, _ in failures)

    def prevail(*names: str) -> bool:
        return sum(statuses[name] for name in names) >= _SHARE * len(failures)

    reasons = [reason for status, reason in failures if status == statuses.most_common(1)[0][0]]
    others = [name for name in image_columns(schema) if name != columns.image]
    other = f"use --image-column {others[0]!r}, if this column contains the images" if others else ""
    if prevail("wrong_shape"):
        sizes = Counter(reason.partition(",")[0] for reason in reasons).most_common(_SIZES)
        return (
            "the images have " + ", ".join(f"{size} ({count} row(s))" for size, count in sizes),
            f"images of {contract.width} x {contract.height} pixels, because the model was exported without --resize",
            "export the model with --resize and the method with which the training images were resized, or write "
            "images of the model's size",
        )
    if prevail("path_not_followed"):
        return (
            f"the rows contain paths instead of images ({reasons[0]})",
            "encoded images, or paths together with --image-root",
            "add --image-root FOLDER with the folder to which the paths are relative",
        )
    if prevail("path_not_followed", "path_not_found"):
        return (
            f"no file could be read at the paths of the rows ({reasons[0]})",
            f"paths of image files below --image-root {config.image_root}",
            "give --image-root with the folder to which the paths are relative",
        )
    if prevail("null_image"):
        return (
            f"the column {columns.image!r} has neither bytes nor paths",
            "an image in each row",
            other or "give --image-column with the name of the image column, or add the images to the shards",
        )
    if prevail("decode_failed") and other:
        return f"the column {columns.image!r} has no images ({reasons[0]})", "encoded images", other
    if prevail("too_large") and "more than the limit of" in reasons[0]:
        return f"the images are too large ({reasons[0]})", "images within --max-pixels", "give a larger --max-pixels"
    return None
