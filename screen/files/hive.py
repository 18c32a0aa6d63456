"""Read the values that Hive writes into the names of folders, as in `year=2024/month=01/a.parquet`.

In: the name of a shard. Out: keys and values. A value is always text: a type that depended on the values of all shards
would change when a shard with another value is added.
"""

from __future__ import annotations

from urllib.parse import unquote

_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Value with which Hive, Spark and pyarrow name the folder of the rows whose value is null."""


def folder_values(name: str) -> tuple[tuple[str, str | None], ...]:
    """Key and value of each folder with the form `key=value` in the name of a shard, in the order of the folders.

    Keys and values are URL-decoded; a text that is not UTF-8 after decoding stays encoded. None stands for null.

    Args:
        name: path of a shard relative to INPUT, with `/`.
    """
    pairs = (folder.partition("=") for folder in name.split("/")[:-1])
    return tuple(
        (_decode(key), None if value == _NULL else _decode(value)) for key, sign, value in pairs if key and sign
    )


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text
