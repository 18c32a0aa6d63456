"""The output file of `oodscreen labels`: its schema, and checks of its path.

In: `--output`. Out: the path to write, which does not exist or is an earlier file of labelled rows.
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
    """Arrow schema of the labelled rows."""
    fields = [column.field() for column in LABEL_COLUMNS]
    return pa.schema([*fields, IMAGE_FIELD] if images else fields)


def choose_target(output: str, results: Path) -> Path:
    """The path to write to.

    Args:
        output: value of `--output`.
        results: folder of RESULTS; the output must not be in this folder, because other programs read each Parquet file
            in RESULTS as results.

    Raises:
        OptionRefused: the path has no Parquet extension, or is in RESULTS.
        OutputRefused: the path exists and is not an earlier file of labelled rows.
    """
    path = as_path(output)
    if path.suffix.lower() not in _ENDINGS:
        raise OptionRefused(
            f"--output {output} does not end in {' or '.join(_ENDINGS)}.",
            wanted="the name of a Parquet file",
            next_step="give a name such as --output labels.parquet",
        )
    folder = results.resolve()
    if is_within(path.resolve(), folder) or is_within(path.parent.resolve(), folder):
        raise OptionRefused(
            f"--output {output} is in RESULTS, {results}.",
            wanted="a file outside RESULTS, because other programs read each Parquet file in RESULTS as results",
            next_step="choose another folder",
        )
    problem = _why_not_replaceable(path)
    if problem:
        raise OutputRefused(
            f"--output {output} exists and {problem}.",
            wanted="a new file, or an earlier file of `oodscreen labels` to replace",
            next_step="choose another name, or remove the existing file",
        )
    return path


def _why_not_replaceable(path: Path) -> str:
    """The reason why a path must not be replaced; "" if it is unused or an earlier file of labelled rows."""
    if not path.exists():
        return "is a broken link" if path.is_symlink() else ""
    if path.is_dir():
        return "is a folder"
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
    except (OSError, pa.ArrowException):
        return "cannot be read as Parquet"
    if any(schema.equals(label_schema(images=images)) for images in (False, True)):
        return ""
    more = ", ..." if len(schema) > 6 else ""
    return f"has other columns than those of labelled rows: {', '.join(schema.names[:6])}{more}"
