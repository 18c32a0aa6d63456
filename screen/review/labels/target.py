"""The file of labelled rows: its schema, and where it may go.

In: `--output`. Out: a place where nothing is lost by writing there: nothing is there yet, or an earlier such file.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from export.errors import OptionRefused, OutputRefused
from screen.files.paths import as_path, is_within, open_parquet
from screen.review.labels.summary import LABEL_COLUMNS
from screen.review.queue.row import IMAGE_FIELD

_ENDINGS = (".parquet", ".pq")


def label_schema(*, images: bool) -> pa.Schema:
    """The schema of labelled rows in Parquet."""
    fields = [column.field() for column in LABEL_COLUMNS]
    return pa.schema([*fields, IMAGE_FIELD] if images else fields)


def choose_target(output: str, results: Path) -> Path:
    """The place to write to.

    Args:
        output: as it was given.
        results: the folder of RESULTS, all of whose shards are read as results.

    Raises:
        OptionRefused: it does not end as Parquet does, or is a place in RESULTS.
        OutputRefused: what is there is no earlier file of labelled rows.
    """
    place = as_path(output)
    if place.suffix.lower() not in _ENDINGS:
        raise OptionRefused(
            f"--output {output} does not end in {' or '.join(_ENDINGS)}.",
            wanted="the name of a Parquet file, which is what is written",
            next_step="name it for example labels.parquet",
        )
    folder = results.resolve()
    if is_within(place.resolve(), folder) or is_within(place.parent.resolve(), folder):
        raise OptionRefused(
            f"--output {output} lies in RESULTS, {results}.",
            wanted="a file beside the results: each shard in there is read as results",
            next_step="write to another folder",
        )
    found = _what_is_there(place)
    if found:
        raise OutputRefused(
            f"--output {output} is there and {found}.",
            wanted="a new name, or that of an earlier file of `oodscreen labels`, which is replaced",
            next_step="choose another name, or remove that file",
        )
    return place


def _what_is_there(place: Path) -> str:
    """What a file is that must not be replaced; "" where there is none, or an earlier one of ours."""
    if not place.exists():
        return "is a link to nothing" if place.is_symlink() else ""
    if place.is_dir():
        return "is a folder"
    try:
        with open_parquet(place) as file:
            there = file.schema_arrow
    except (OSError, pa.ArrowException):
        return "cannot be read as Parquet"
    if any(there.equals(label_schema(images=images)) for images in (False, True)):
        return ""
    return f"has other columns than labelled rows: {', '.join(there.names[:6])}{', ...' if len(there) > 6 else ''}"
