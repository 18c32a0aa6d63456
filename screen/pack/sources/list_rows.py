"""Rows of a list: a CSV, TSV, JSONL or Parquet file.

In: a file, local or in an object store. Out: a `ListRows` with the columns, and a function that reads the rows. The
values of CSV and JSONL files are text, so that the types do not depend on the rows: a value in JSONL that is
neither a string nor null becomes its JSON text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from export.errors import InputRefused
from screen.files.csv_rows import SEPARATORS, how_to_convert, read_csv_rows
from screen.files.endings import TEXT_LIST_ENDINGS
from screen.files.failures import raise_if_refused
from screen.files.paths import base_name, name_place, open_bytes, open_parquet

_BATCH_ROWS = 1024
"""Number of rows that are read together from a Parquet list."""

LIST_ENDINGS = (*TEXT_LIST_ENDINGS, ".parquet")


@dataclass(frozen=True)
class ListRows:
    """An opened list.

    Attributes:
        columns: names and types of the columns.
        read: function that returns an iterator over the rows; a row has a value for each column, a Python value or an
            Arrow scalar.
    """

    columns: pa.Schema
    read: Callable[[], Iterator[tuple[Any, ...]]]


def open_list(path: Path) -> ListRows:
    """Open a list; the ending of its name determines the format.

    Raises:
        InputRefused: the list cannot be read.
    """
    ending = PurePosixPath(base_name(path)).suffix.lower()
    if ending == ".parquet":
        return _open_parquet_list(path)
    if ending in (".csv", ".tsv"):
        lines = partial(_read_csv, path, SEPARATORS[:: -1 if ending == ".tsv" else 1])
        header = next(lines(), ())
        return ListRows(_text_columns(path, [name or "" for name in header]), partial(_without_first, lines))
    names = tuple(dict.fromkeys(name for row in _read_json_lines(path) for name in row))
    return ListRows(_text_columns(path, names), partial(_read_json_rows, path, names))


def _text_columns(path: Path, names: Sequence[str]) -> pa.Schema:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        raise InputRefused(
            f"The list {path} has {f'more than one column {twice[0]!r}' if twice else 'no columns'}.",
            wanted="a first line with a name for each column (CSV), or objects with these names (JSONL)",
            next_step="correct the list",
        )
    return pa.schema([(name, pa.string()) for name in names])


def _without_first(read: Callable[[], Iterator[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
    rows = read()
    next(rows, None)
    return rows


def _read_csv(path: Path, separators: str) -> Iterator[tuple[str | None, ...]]:
    """Yield the rows of a CSV file, the names of the columns first; an empty value is None."""
    try:
        with open_bytes(path) as file:
            for row in read_csv_rows(file, separators):
                yield tuple(value or None for value in row)
    except ValueError as error:
        raise _refuse(path, error) from error


def _read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_bytes(path) as raw:
        for number, line in enumerate(raw, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
            except UnicodeDecodeError as error:
                raise _refuse(path, error) from error
            except json.JSONDecodeError as error:
                raise _refuse(path, f"line {number}: {error.msg} at character {error.pos + 1}") from error
            except (ValueError, RecursionError) as error:
                raise _refuse(path, f"line {number}: {error}") from error
            yield row


def _read_json_rows(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str | None, ...]]:
    for row in _read_json_lines(path):
        values = (row.get(name) for name in names)
        yield tuple(
            value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in values
        )


def _refuse(path: Path, reason: ValueError | str) -> InputRefused:
    if isinstance(reason, UnicodeDecodeError):
        return InputRefused(
            f"The list {name_place(path)} is not in UTF-8.",
            wanted="a CSV or JSONL file in UTF-8",
            next_step=how_to_convert(name_place(path), reason),
        )
    return InputRefused(
        f"The list {name_place(path)} cannot be read: {reason}.",
        wanted="a CSV file with a line of column names, or a JSONL file with an object on each line, both in UTF-8",
        next_step="correct the line",
    )


def _open_parquet_list(path: Path) -> ListRows:
    try:
        with open_parquet(path) as file:
            schema: pa.Schema = file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise_if_refused(path, error)
        raise _refuse_parquet(path, error) from error
    fields = [pa.field(field.name, _plain_type(field.type)) for field in schema]
    return ListRows(pa.schema(fields), partial(_read_parquet, path))


def _read_parquet(path: Path) -> Iterator[tuple[Any, ...]]:
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from zip(*map(_plain, batch.columns), strict=True)
    except (OSError, pa.ArrowException) as error:
        raise_if_refused(path, error)
        raise _refuse_parquet(path, error) from error


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(column: pa.Array) -> pa.Array:
    """The column without a dictionary or an extension type."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _refuse_parquet(path: Path, error: Exception) -> InputRefused:
    return InputRefused(
        f"The list {path} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
        wanted="a Parquet file with a column of paths",
        next_step="check that the file is complete, or write the list again",
    )
