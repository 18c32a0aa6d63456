"""Text form of the values of any Arrow type, for row ids and for reports.

In: a column. Out: one text per row, equal for equal values and independent of the batch. Most types have the text
from Arrow (`cast` to string); the other types have the forms that `docs/input.md` lists.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Control characters: bytes that contain a control character are treated as binary data, not as text."""


def as_texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """The values of a column as text; None for null.

    UUIDs are written in their canonical form, and bytes that are not text in hexadecimal digits. Lists, structs and
    maps are written in JSON.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [text for chunk in chunks for text in _texts(chunk)]


def as_json_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values as JSON values: null, bool, finite numbers, lists and objects; everything else as text."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [value for chunk in chunks for value in _json_values(chunk)]


def _texts(array: pa.Array) -> list[str | None]:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _texts(array.dictionary_decode())
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return [None if data is None else str(uuid.UUID(bytes=data)) for data in array.storage.to_pylist()]
        return _texts(array.storage)
    if _is_string(kind):
        texts = array.cast(pa.large_binary()).to_pylist()
        return [None if text is None else text.decode(errors="backslashreplace") for text in texts]
    if _is_bytes(kind):
        return [None if data is None else _text_of_bytes(data) for data in array.to_pylist()]
    if pa.types.is_nested(kind):
        values = _json_values(array)
        return [
            None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values
        ]
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        try:
            return list(array.cast(pa.string()).to_pylist())
        except pa.ArrowInvalid:  # an unknown time zone, or no time zone database
            array = array.cast(pa.timestamp(kind.unit, "UTC"))
    return list(array.cast(pa.string()).to_pylist())


def _text_of_bytes(data: bytes) -> str:
    """UTF-8 text without control characters as it is; other bytes as hexadecimal digits."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.hex()
    return data.hex() if _CONTROL.search(text) else text


def _json_values(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _json_values(array.dictionary_decode())
    if isinstance(kind, pa.BaseExtensionType) and pa.types.is_nested(kind.storage_type):
        return _json_values(array.storage)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        fields = [_json_values(field) for field in array.flatten()]
        rows = zip(*fields, strict=True) if fields else [()] * len(array)
        if len(set(names)) < len(names):  # an object would lose values
            return [list(row) if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]
        pairs = zip(rows, array.is_valid().to_pylist(), strict=True)
        return [dict(zip(names, row, strict=True)) if valid else None for row, valid in pairs]
    if pa.types.is_nested(kind):
        return [_json_values(value.values) if value.is_valid else None for value in array]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return list(array.to_pylist())
    if pa.types.is_floating(kind):
        numbers, texts = array.cast(pa.float64()), _texts(array)
        finite = pc.is_finite(numbers).to_pylist()
        # The shortest text of a float32 is parsed, so that 0.1 does not become 0.10000000149011612.
        return [float(text) if text and is_finite else text for text, is_finite in zip(texts, finite, strict=True)]
    return list(_texts(array))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
