"""Read labels from a table with a column of labels: Parquet, JSON Lines or CSV.

In: a file. Out: `Annotations`. A row of a table names a row of the results by `shard` and `row`, or else by `id` or
`key`. In CSV, an empty cell is a missing value, a list is JSON, and the apostrophe with which a queue marks formulas is
removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from export.errors import InputRefused
from screen.files.csv_rows import read_csv_rows
from screen.files.paths import open_bytes, open_parquet
from screen.review.classes import Choice, as_choice
from screen.review.labels.votes import Annotations, RowName
from screen.review.queue.labelstudio import KEY
from screen.review.queue.table_files import unmark_formula
from screen.review.text import valid_text

TABLE_ENDINGS = (".parquet", ".jsonl", ".ndjson", ".csv")
_EMBEDDED = "data:"
_NUMBER = re.compile(r"(\d+)(?:\.0+)?", re.ASCII)
"""Regular expression of a whole number, with or without `.0`: some programs write a column with missing values as
floats."""


def read_table(path: Path, origin: str, label_column: str) -> Annotations:
    """The annotations in a table.

    Args:
        path: file; its extension, one of `TABLE_ENDINGS`, determines the format.
        origin: the path as the user gave it, for messages.
        label_column: column or field with the label: text, a class number, or a list of texts or numbers.

    Raises:
        InputRefused: the table lacks the column of labels, or no row of the table names a row of results.
        OSError, pa.ArrowException, ValueError: the file cannot be read or is damaged.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _read_rows(_parquet_rows(path, label_column), origin, label_column)
    with open_bytes(path) as file:
        rows = _csv_rows(file, label_column) if ending == ".csv" else _lines(file)
        return _read_rows(rows, origin, label_column)


def name_row(data: dict[str, Any]) -> RowName | None:
    """The row name in the data of a task; None without a valid `shard` and `row`."""
    name = _name_row(data)
    return name if name.is_complete else None


def refuse_foreign(annotations: Annotations, origin: str, *, others: str = "") -> None:
    """Raise an error if no task or row names a row of results.

    Args:
        annotations: the annotations that were read.
        origin: file or project, for the message.
        others: further columns that can name a row, as the end of a list in the message.

    Raises:
        InputRefused: at least one task or row was read, and no task or row names a row of results.
    """
    if annotations.read and annotations.foreign == annotations.read:
        raise InputRefused(
            f"None of the {annotations.read} task(s) or row(s) of {origin} has a valid `shard` and `row`{others}.",
            wanted=f"the fields or columns `shard` and `row` that `oodscreen queue` writes{others}",
            next_step="give labels that contain the values of `shard` and `row` from the queue",
        )


def without_images(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object with these pairs, except embedded images, and with text that UTF-8 can represent."""
    return {
        valid_text(name): valid_text(value) if isinstance(value, str) else value
        for name, value in pairs
        if not (isinstance(value, str) and value.startswith(_EMBEDDED))
    }


def _read_rows(rows: Iterator[dict[str, Any]], origin: str, label_column: str) -> Annotations:
    annotations = Annotations()
    for row in rows:
        annotations.read += 1
        if label_column not in row and annotations.read == 1:
            raise InputRefused(
                f"{origin} has no column {label_column!r}. Its columns: {', '.join(map(str, row)) or 'none'}.",
                wanted="a column of labels",
                next_step="give the name of this column with --label-column",
            )
        name = _name_row(row)
        if not name.is_complete and name.id is None and name.key is None:
            annotations.foreign += 1
            continue
        choices = _as_choices(row.get(label_column))
        if not choices:
            annotations.unlabelled += 1
            continue
        annotations.repeated += name in annotations.votes
        annotations.add(name, str(row.get("annotator") or ""), choices)
    refuse_foreign(annotations, origin, others=", an `id` or a `key`")
    return annotations


def _as_choices(value: Any) -> tuple[Choice, ...]:
    values = value if isinstance(value, list) else [value]
    choices = (as_choice(valid_text(one) if isinstance(one, str) else one) for one in values)
    return tuple(dict.fromkeys(choice for choice in choices if choice is not None))


def _parquet_rows(path: Path, label_column: str) -> Iterator[dict[str, Any]]:
    with open_parquet(path) as file:
        present = file.schema_arrow.names
        wanted = [label_column, "shard", "row", "id", "input_footer", "key", KEY, "source", "annotator"]
        names = [name for name in wanted if name in present] if label_column in present else []
        if not names:
            yield dict.fromkeys(present)
            return
        for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
            yield from batch.to_pylist()


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            row = json.loads(line, object_pairs_hook=without_images)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield row


def _csv_rows(file: IO[bytes], label_column: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file with a header."""
    rows = read_csv_rows(file)
    header = [unmark_formula(name) for name in next(rows, [])]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"the header has several columns {repeated[0]!r}")
    for cells in rows:
        row = {name: unmark_formula(cell) or None for name, cell in zip(header, cells, strict=True)}
        yield row | _typed_cells(row, label_column)


def _typed_cells(row: dict[str, str | None], label_column: str) -> dict[str, Any]:
    """The cells that are not text: the position of a row, and a label that is a JSON list."""
    typed: dict[str, Any] = {}
    position, label = row.get("row"), row.get(label_column)
    if position and (number := _NUMBER.fullmatch(position.strip())):
        typed["row"] = int(number[1])
    if label and label.startswith("["):
        try:
            typed[label_column] = json.loads(label)
        except ValueError:
            typed[label_column] = label
    return typed


def _name_row(data: dict[str, Any]) -> RowName:
    """The row name from the fields of a task or row; without a valid `shard` and `row`, the id may be an integer."""
    shard, row = data.get("shard"), data.get("row")
    shard = shard if isinstance(shard, str) else ""
    row = row if isinstance(row, int) and not isinstance(row, bool) else -1
    texts = {name: data[name] for name in ("id", "input_footer", "source") if isinstance(data.get(name), str)}
    key = data.get(KEY, data.get("key"))
    if (not shard or row < 0) and isinstance(data.get("id"), int) and not isinstance(data["id"], bool):
        texts["id"] = str(data["id"])
    return RowName(
        shard,
        row,
        texts.get("id"),
        texts.get("input_footer"),
        key.lower() if isinstance(key, str) else None,
        texts.get("source"),
    )
