"""Edit bytes at random, and draw mutations of the images of `tests/hostile_images.py`.

In: a number and a seed. Out: the mutations; the same seed gives the same mutations.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.hostile_images import CASES

Drawn = TypeVar("Drawn")

Edit = tuple[str, float, bytes]
"""Kind of the edit, its position as a share of the length, and its bytes."""

_INTERESTING = [b"\0", b"\x7f", b"\x80", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"]
EDITS = st.tuples(
    st.sampled_from(["flip", "put", "insert", "cut", "repeat", "end"]),
    st.integers(0, 10**6).map(lambda number: number * 0.6180339887 % 1),  # uniform, without a preference for the ends
    st.sampled_from(_INTERESTING) | st.binary(min_size=1, max_size=12),
)


def edit(data: bytes, edits: list[Edit]) -> bytes:
    """Apply edits in order."""
    for kind, share, new in edits:
        start = int(share * len(data))
        if kind == "flip":
            data = data[:start] + bytes(byte ^ new[0] for byte in data[start : start + 1]) + data[start + 1 :]
        elif kind == "put":
            data = data[:start] + new + data[start + len(new) :]
        elif kind == "insert":
            data = data[:start] + new + data[start:]
        elif kind == "cut":
            data = data[:start] + data[start + 1 + new[0] % 64 :]
        elif kind == "repeat":
            data = data[: start + 1 + new[0]] + data[start:]
        else:
            data = data[:start]
    return data


def draw(strategy: st.SearchStrategy[Drawn], count: int, seed_: int) -> list[Drawn]:
    """Draw `count` examples of a strategy; the same seed gives the same examples."""
    drawn: list[Drawn] = []

    @seed(seed_)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(data: Drawn) -> None:
        drawn.append(data)

    while len(drawn) < count:
        collect()
        seed_ += 1
    return drawn[:count]


def mend_png(data: bytes) -> bytes:
    """Correct the checksum of each chunk of a PNG, so that decoders read the damaged content."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    start, mended = 8, data[:8]
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        content = data[start + 4 : start + 8 + length]
        mended += data[start : start + 4] + content + zlib.crc32(content).to_bytes(4)
        start += 12 + length
    return mended


def mutate_images(count: int, seed_: int) -> list[bytes]:
    """Mutations of the readable images of all formats, half of them with correct PNG checksums."""
    seeds = [case.data for case in CASES.values() if case.data and case.status != "decode_failed"]
    seeds = [data for data in seeds if len(data) < 20_000]
    edited = st.builds(edit, st.sampled_from(seeds), st.lists(EDITS, min_size=1, max_size=3))
    return draw(edited | edited.map(mend_png), count, seed_)
