"""Draw mutations of small Parquet shards, each with the rows that a run is still allowed to score.

In: a number and a seed. Out: `MutatedShard`s of five kinds; the same seed gives the same mutations.

- `bytes`: edits of bytes anywhere, only in the pages, or only in the footer.
- `row counts`: the footer, and in some shards the page headers too, state other row counts.
- `page sizes`: the header of a page states another size in memory.
- `dictionaries`: many rows refer to a dictionary of large entries that compress well.
- `checksums`: bits of a page that has a checksum are changed.

Row counts and sizes are found by their encoding in Thrift's compact protocol. In the unmutated shards, they therefore
have values that do not occur elsewhere in the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from benchmarks.mutations import EDITS, Edit, draw, edit
from tests.conftest import IMAGE_TYPE
from tests.hostile_images import CASES


@dataclass(frozen=True)
class MutatedShard:
    """A mutated shard.

    Attributes:
        data: the file.
        original: the file before the mutation.
        trusted: positions of the rows that are allowed to have the status `ok`, with the same scores as in `original`;
            None if the mutation can change rows in a way that cannot be detected.
    """

    data: bytes
    original: bytes
    trusted: frozenset[int] | None = None


def mutate_shards(count: int, seed: int) -> dict[str, list[MutatedShard]]:
    """Mutated small shards, by kind of mutation; half of the shards are of the kind `bytes`."""
    each = count // (2 * len(_OTHERS))
    drawn = {"bytes": draw(_edited(), count - each * len(_OTHERS), seed)}
    return drawn | {kind: draw(make(), each, seed) for kind, make in _OTHERS.items() if each}


def valid_images() -> list[bytes]:
    """Six small images that a run decodes."""
    valid = [case.data for case in CASES.values() if case.status == "ok" and case.data and len(case.data) < 5000]
    return valid[:6]


def write_shard(column: pa.Array, **options: Any) -> bytes:
    """A shard with one image column."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column}), buffer, **options)
    return buffer.getvalue()


def good_shard() -> bytes:
    """A shard with seven rows, one of which has no image."""
    images: list[bytes | None] = [*valid_images(), None]
    return write_shard(pa.array([{"bytes": data, "path": None} for data in images], IMAGE_TYPE))


def _seed_files() -> list[bytes]:
    images: list[bytes | None] = [*valid_images(), None]
    structs = pa.array([{"bytes": data, "path": None} for data in images], IMAGE_TYPE)
    keys = pa.array([f"k{number}" for number in range(len(images))])
    tables = [
        pa.table({"image": structs, "id": keys}),
        pa.table({"image": pa.array(images, pa.binary()).dictionary_encode(), "id": keys}),
        pa.table({"image": pa.array([[7] * 784] * 5, pa.list_(pa.uint8(), 784))}),
    ]
    files = []
    for table in tables:
        for options in (
            {"compression": "none"},
            {"compression": "zstd", "row_group_size": 2},
            {"data_page_version": "2.0"},
        ):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, **options)
            files.append(buffer.getvalue())
    return files


def edit_within(data: bytes, edits: list[Edit], region: str) -> bytes:
    """Edit a shard anywhere, or only its pages or footer, with correct magic numbers and length."""
    length = int.from_bytes(data[-8:-4], "little")
    pages, footer = data[4 : -8 - length], data[-8 - length : -8]
    if region == "anywhere":
        return edit(data, edits)
    if region == "pages":
        pages = edit(pages, edits)
    else:
        footer = edit(footer, edits)
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _edited() -> st.SearchStrategy[MutatedShard]:
    def make(data: bytes, edits: list[Edit], region: str) -> MutatedShard:
        return MutatedShard(edit_within(data, edits, region), data)

    regions = st.sampled_from(["anywhere", "pages", "footer"])
    return st.builds(make, st.sampled_from(_seed_files()), st.lists(EDITS, min_size=1, max_size=3), regions)


def encode_number(value: int) -> bytes:
    """A number in the encoding of Thrift's compact protocol: zigzag, then seven bits per byte."""
    value = value << 1 if value >= 0 else (-value << 1) - 1
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _read_number(data: bytes, start: int) -> tuple[int, int]:
    """The non-negative number at a position, and the position after the number."""
    end = start
    while data[end] > 127:
        end += 1
    value = sum((byte & 127) << 7 * index for index, byte in enumerate(data[start : end + 1]))
    return value >> 1, end + 1


_I32, _I64, _I64_AFTER_NEXT = b"\x15", b"\x16", b"\x26"
"""Starts of fields with a number of 32 or 64 bits, one or two fields after the previous one."""

_ROWS = 77
"""Rows of the shards whose row counts are changed."""

_COUNTS = st.one_of(
    st.integers(0, 2 * _ROWS),
    st.integers(0, 62).map(lambda power: 2**power),
    st.integers(-(2**62), 2**62),
).filter(lambda count: count != _ROWS)


def _split_footer(data: bytes) -> tuple[bytes, bytes]:
    """The pages, and the footer without its length."""
    length = int.from_bytes(data[-8:-4], "little")
    return data[4 : -8 - length], data[-8 - length : -8]


def _join_footer(pages: bytes, footer: bytes) -> bytes:
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _replace_some(data: bytes, old: bytes, new: bytes, chosen: Sequence[bool]) -> bytes:
    """Replace `old` at the chosen occurrences."""
    parts = data.split(old)
    assert len(parts) == len(chosen) + 1, f"{len(parts) - 1} places, wanted {len(chosen)}"
    joints = [new if here else old for here in chosen]
    return b"".join(part + joint for part, joint in zip(parts, [*joints, b""], strict=True))


def _with_other_row_counts() -> st.SearchStrategy[MutatedShard]:
    """Shards with changed row counts of the file, the column or the row group in the footer, or in the page header."""
    images = pa.array([valid_images()[row % 6] for row in range(_ROWS)])
    structs = pa.StructArray.from_arrays([images], ["bytes"])
    options = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    seeds = [
        write_shard(column, compression=compression, **options)
        for column in (images, structs)
        for compression in ("none", "zstd")
    ]

    def make(data: bytes, count: int, in_footer: list[bool], in_page: bool) -> MutatedShard:
        pages, footer = _split_footer(data)
        old, new = encode_number(_ROWS), encode_number(count)
        footer = _replace_some(footer, _I64 + old, _I64 + new, in_footer)
        if in_page:  # all numbers keep their length, so that the position of the page in the footer stays right
            new = new[: len(old)] if len(new) >= len(old) else bytes([new[0] | 128, 0])
            page = pages.index(_I32 + old)
            pages = pages[: page + 1] + new + pages[page + 1 + len(old) :]
        return MutatedShard(_join_footer(pages, footer), data, _trusted(all(in_footer) and in_page))

    def _trusted(consistent: bool) -> frozenset[int]:
        return frozenset(range(_ROWS)) if consistent else frozenset()

    everywhere = st.just([True] * 3) | st.lists(st.booleans(), min_size=3, max_size=3).filter(any)
    return st.builds(make, st.sampled_from(seeds), _COUNTS, everywhere, st.booleans())


def _with_other_page_sizes() -> st.SearchStrategy[MutatedShard]:
    """Shards with a changed size in the header of the only dictionary page or of the only data page."""
    images = pa.array([valid_images()[row % 6] for row in range(_ROWS)])
    seeds = [write_shard(images, compression="zstd"), write_shard(images, compression="none")]

    def make(data: bytes, size: int, of_dictionary: bool) -> MutatedShard:
        chunk = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
        start = chunk.dictionary_page_offset if of_dictionary else chunk.data_page_offset
        _, start = _read_number(data, start + 1)
        old, end = _read_number(data, start + 1)
        more = len(encode_number(size)) - len(encode_number(old))
        pages, footer = _split_footer(data[: start + 1] + encode_number(size) + data[end:])
        stored = chunk.total_compressed_size
        footer = footer.replace(_I64 + encode_number(stored), _I64 + encode_number(stored + more))
        if of_dictionary:
            place = chunk.data_page_offset
            footer = footer.replace(
                _I64_AFTER_NEXT + encode_number(place), _I64_AFTER_NEXT + encode_number(place + more)
            )
        return MutatedShard(_join_footer(pages, footer), data, frozenset(range(_ROWS)))

    sizes = st.integers(0, 2**12) | st.integers(12, 31).map(lambda power: 2**power - 1)
    return st.builds(make, st.sampled_from(seeds), sizes, st.booleans())


def _with_large_dictionaries() -> st.SearchStrategy[MutatedShard]:
    """Shards of 1 to 4,096 rows with dictionary entries of 1 KiB to 64 MiB; each entry repeats one byte."""

    def make(entry: float, rows: float, entries: int) -> MutatedShard:
        values = pa.array([bytes([number]) * int(2**entry) for number in range(entries)])
        count = int(2**rows)
        column = pa.DictionaryArray.from_arrays(pa.array([row % entries for row in range(count)], pa.int32()), values)
        data = write_shard(column, compression="zstd", dictionary_pagesize_limit=2**30)
        return MutatedShard(data, data, frozenset())

    return st.builds(make, st.floats(10, 26), st.floats(0, 12), st.integers(1, 3))


def _with_wrong_checksums() -> st.SearchStrategy[MutatedShard]:
    """Shards without compression, with changed bits in the values of one row group."""
    images = pa.array(valid_images())
    tensors = pa.array([[row * 9] * 784 for row in range(6)], pa.list_(pa.uint8(), 784))
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "row_group_size": 2}
    seeds = [(write_shard(images, **options), images), (write_shard(tensors, **options), tensors)]

    def make(seed: tuple[bytes, pa.Array], group: int, edits: list[tuple[float, int]]) -> MutatedShard:
        data, column = seed
        rows = range(2 * group, 2 * group + 2)
        chunk = pq.read_metadata(io.BytesIO(data)).row_group(group).column(0)
        size = sum(len(column[row].as_py()) for row in rows)  # the last bytes of the page are values
        end = chunk.data_page_offset + chunk.total_compressed_size
        changed = bytearray(data)
        for share, bit in edits:
            changed[end - size + int(share * size)] ^= 1 << bit
        trusted = frozenset(range(6)) - (frozenset(rows) if changed != data else frozenset())
        return MutatedShard(bytes(changed), data, trusted)

    shares = st.floats(0, 1, exclude_max=True)
    edits = st.lists(st.tuples(shares, st.integers(0, 7)), min_size=1, max_size=3)
    return st.builds(make, st.sampled_from(seeds), st.integers(0, 2), edits)


_OTHERS: dict[str, Callable[[], st.SearchStrategy[MutatedShard]]] = {
    "row counts": _with_other_row_counts,
    "page sizes": _with_other_page_sizes,
    "dictionaries": _with_large_dictionaries,
    "checksums": _with_wrong_checksums,
}
