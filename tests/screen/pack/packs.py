"""Helpers for the tests of packs: files to pack, a listener, and the rows of shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from screen.pack.config import PackConfig
from screen.pack.packing import pack_images
from screen.pack.summary import PackSummary
from screen.run.stopping import StopRequest


class PackRecorder:
    """A listener that remembers; it calls `at_finished` after each shard."""

    def __init__(self) -> None:
        self.rows = self.size = 0
        self.shards: list[str] = []

    def noted(self, text: str) -> None:
        raise AssertionError(text)

    def advanced(self, rows: int, size: int) -> None:
        self.rows += rows
        self.size += size

    def finished(self, shard: str) -> None:
        self.shards.append(shard)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files with a fixed modification time."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(10**18, 10**18))
    return folder


def pack(source: Path | str, shards: Path | str, stop: StopRequest | None = None, **options: Any) -> PackSummary:
    return pack_images(str(source), str(shards), PackConfig(**options), PackRecorder(), stop)


def shard_files(shards: Path) -> dict[str, bytes]:
    """The files of SHARDS but locks, and their content."""
    files = (path for path in sorted(shards.rglob("*")) if path.is_file() and not path.name.startswith("_lock"))
    return {str(path.relative_to(shards)): path.read_bytes() for path in files}


def rows_of(shards: Path) -> list[dict[str, Any]]:
    """The rows of all shards, in order."""
    return [row for path in sorted(shards.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
