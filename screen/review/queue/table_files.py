"""Write a queue as a table: Parquet or CSV.

In: an iterator of `QueueRow`s. Out: a file. In a CSV file, lists and structs are JSON, and an apostrophe marks the text
that a spreadsheet would run as a formula (https://owasp.org/www-community/attacks/CSV_Injection).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from screen.input.parquet.value_text import as_texts
from screen.review.queue.row import IMAGE_PATH, QueueRow, queue_schema

_ROW_GROUP_ROWS = 256
_STARTS = r"[=+\-@\t\r\n＝＋－＠]"  # noqa: RUF001  spreadsheets also take the wide forms as formulas
_FORMULA, _MARKED = re.compile(f"'*{_STARTS}"), re.compile(f"'+{_STARTS}")


def mark_formula(text: str) -> str:
    """The text with an apostrophe before it, if a spreadsheet would run it as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unmark_formula(text: str) -> str:
    """The text without the apostrophe that `mark_formula` added."""
    return text[1:] if _MARKED.match(text) else text


def write_parquet(rows: Iterable[QueueRow], path: Path, *, images: bool) -> None:
    """Write rows as Parquet.

    Args:
        rows: at least one row.
        path: file to write.
        images: whether to write the bytes of the images.
    """
    groups = _groups(rows)
    first = next(groups)
    schema = queue_schema(first[0].kept.schema, images=images)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for group in (first, *groups):
            table = _as_table(group)
            if images:
                values = [{"bytes": row.image.data, "path": row.image.path} for row in group]
                table = table.append_column(schema.field("image"), pa.array(values, schema.field("image").type))
            file.write_table(table)


def write_csv(rows: Iterable[QueueRow], path: Path) -> None:
    """Write rows as CSV in UTF-8, with the path of the image instead of its bytes; null is an empty cell.

    Args:
        rows: at least one row.
        path: file to write.
    """
    writer = None
    try:
        for group in _groups(rows):
            table = _as_table(group)
            paths = pa.array([row.image.path for row in group], IMAGE_PATH.type)
            table = _as_cells(table.append_column(IMAGE_PATH.field(), paths))
            writer = writer or pyarrow.csv.CSVWriter(str(path), table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _groups(rows: Iterable[QueueRow]) -> Iterator[list[QueueRow]]:
    remaining = iter(rows)
    while group := list(islice(remaining, _ROW_GROUP_ROWS)):
        yield group


def _as_table(group: list[QueueRow]) -> pa.Table:
    """The rows as a table with all columns except the image."""
    table = pa.Table.from_pylist([row.values() for row in group], schema=queue_schema(pa.schema([]), images=False))
    kept = pa.concat_tables([row.kept for row in group])
    for field in kept.schema:
        table = table.append_column(field, kept[field.name].combine_chunks())
    return table


def _as_cells(table: pa.Table) -> pa.Table:
    """The table for CSV: all values except numbers and booleans are text, and formulas are marked."""
    return pa.table({mark_formula(name): _cells(table[name]) for name in table.column_names})


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return column
    texts = as_texts(column)
    if not (pa.types.is_decimal(kind) or pa.types.is_float16(kind) or pa.types.is_temporal(kind)):
        texts = [None if text is None else mark_formula(text) for text in texts]
    return pa.array(texts, pa.string())
