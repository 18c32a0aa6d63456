"""A manifest as it stands in a file: first the configuration, then a line for each finished shard.

In: `_manifest.jsonl` of OUTPUT. Out: a `ManifestFile`. At the very end, once a run is through, a line says so. An
object store cannot append: there each line is a small object in `_manifest.parts` until the run is through.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.places import is_local

MANIFEST_STEM = "_manifest."
MANIFEST_NAME = f"{MANIFEST_STEM}jsonl"
PARTS_NAME = f"{MANIFEST_STEM}parts"
FINISHED = "finished"


@dataclass(frozen=True)
class ManifestEntry:
    """One finished shard.

    Attributes:
        shard: its name.
        root: the folder of INPUT.
        input: the input shard's fingerprint.
        size: bytes of the result.
        sha256: of the result.
        rows: rows of the result.
        flagged: how many of them are flagged.
        statuses: how many of them have which status.
    """

    shard: str
    root: str
    input: dict[str, int | str]
    size: int
    sha256: str
    rows: int
    flagged: int
    statuses: dict[str, int]

    @property
    def bad(self) -> int:
        """Rows that could not be scored."""
        return self.rows - self.statuses.get("ok", 0)

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, line: str) -> ManifestEntry:
        """Read a line back.

        Raises:
            ValueError, TypeError: it is none.
        """
        entry = cls(**json.loads(line))
        for field in fields(cls):
            kind = {"str": str, "int": int}.get(str(field.type), dict)
            if not isinstance(getattr(entry, field.name), kind):
                raise TypeError(f"{field.name} is {getattr(entry, field.name)!r}")
        return entry


@dataclass(frozen=True)
class ManifestFile:
    """A manifest as it stands in a file.

    Attributes:
        header: the configuration.
        entries: finished shards by their names.
        finished: whether the run that wrote it came to its end.
    """

    header: dict[str, Any]
    entries: dict[str, ManifestEntry]
    finished: bool

    @classmethod
    def read(cls, output: Path) -> ManifestFile | None:
        """The manifest of OUTPUT; None where there is none.

        Raises:
            OutputRefused: it cannot be read.
        """
        path = output / MANIFEST_NAME
        try:
            parts = _read_parts(output)
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise refuse_manifest(path, f"cannot be read ({error})") from error
        try:
            header = dict(json.loads(lines[0]))
            finished = len(lines) > 1 and FINISHED in json.loads(lines[-1])
            entries = [ManifestEntry.parse(line) for line in (lines[1:-1] if finished else lines[1:])]
            entries += [ManifestEntry.parse(line) for made_by, line in parts if made_by == header.get("configuration")]
        except (ValueError, IndexError, TypeError) as error:
            raise refuse_manifest(path, f"is damaged ({error})") from error
        return cls(header, {entry.shard: entry for entry in entries}, finished and not parts)


def part_of(output: Path, entry: ManifestEntry) -> Path:
    """Where a shard's line is kept in a store; names of shards may be too long or too strange for a file."""
    return output / PARTS_NAME / f"{hashlib.sha256(entry.shard.encode()).hexdigest()}.json"


def _read_parts(output: Path) -> list[tuple[str, str]]:
    """The configuration and the line of every part; none on a local disk."""
    if is_local(output):
        return []
    parts = [part.read_text(encoding="utf-8").split("\n") for part in (output / PARTS_NAME).glob("*.json")]
    return [(lines[0], lines[1]) for lines in parts]


def refuse_manifest(path: Path, what: str) -> OutputRefused:
    """A manifest that a run cannot go on from, as one of our errors."""
    return OutputRefused(
        f"The manifest {path} {what}.",
        wanted="results of one configuration in one OUTPUT",
        next_step="choose another OUTPUT, or add --force to do every shard again",
    )
