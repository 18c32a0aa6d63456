"""Manifests as they stand in OUTPUT: first the configuration, then a line for each finished shard.

In: `_manifest.jsonl`, and while parts of a run are at work `_manifest.I-of-N.jsonl` of each. Out: a `ManifestFile`,
which is what they say together. At the very end of a run or a part a line says so. An object store cannot append: there
each line is a small object in `_manifest.lines` (or `_manifest.I-of-N.lines`) until the run is through.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.files.paths import is_local
from screen.input.shards import UnreadableShard
from screen.partition import ShardPartition

MANIFEST_STEM = "_manifest."
MANIFEST_NAME = f"{MANIFEST_STEM}jsonl"
FINISHED = "finished"
UNREADABLE = "unreadable"
WITHDRAWN = "withdrawn"


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
class OneManifest:
    """One manifest, of a whole run or of a part.

    Attributes:
        header: the configuration.
        entries: finished shards by their names.
        finished: whether the run that wrote it came to its end.
        unreadable: shards that have no result.
        withdrawn: shards of a part that it set out to do again: what a whole run said of them holds no more.
    """

    header: dict[str, Any]
    entries: dict[str, ManifestEntry]
    finished: bool
    unreadable: tuple[UnreadableShard, ...]
    withdrawn: frozenset[str]

    @classmethod
    def read(cls, output: Path, part: ShardPartition | None) -> OneManifest | None:
        """The manifest of a whole run or of a part; None where there is none.

        Raises:
            OutputRefused: it cannot be read.
        """
        path = manifest_path(output, part)
        try:
            apart = _read_lines(output, part)
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise refuse_manifest(path, f"cannot be read ({error})") from error
        try:
            header = dict(json.loads(lines[0]))
            closing = json.loads(lines[-1]) if len(lines) > 1 else {}
            finished = FINISHED in closing
            withdrawn = json.loads(lines[1]).get(WITHDRAWN) if len(lines) > 1 else None
            first = 1 if withdrawn is None else 2
            entries = [ManifestEntry.parse(line) for line in (lines[first:-1] if finished else lines[first:])]
            entries += [ManifestEntry.parse(line) for made_by, line in apart if made_by == header.get("configuration")]
            unreadable = tuple(UnreadableShard(**one) for one in closing.get(UNREADABLE, ()))
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            raise refuse_manifest(path, f"is damaged ({error})") from error
        return cls(
            header,
            {entry.shard: entry for entry in entries},
            finished and not apart,
            unreadable,
            frozenset(withdrawn or ()),
        )


@dataclass(frozen=True)
class ManifestFile:
    """What the manifests of OUTPUT say together.

    Attributes:
        path: the one that the configuration is from.
        header: the configuration.
        entries: finished shards by their names.
        finished: whether the run that wrote them came to its end; of parts, whether one has closed them, and those
            that ran since found nothing to do.
        parts: the parts that are at work or wait for others, with their manifests.
        missing: the parts that have not come to their end.
    """

    path: Path
    header: dict[str, Any]
    entries: dict[str, ManifestEntry]
    finished: bool
    parts: dict[ShardPartition, OneManifest]
    missing: tuple[ShardPartition, ...]

    @classmethod
    def read(cls, output: Path, configuration: str | None = None) -> ManifestFile | None:
        """The manifests of OUTPUT; None where there is none.

        Args:
            output: folder of results.
            configuration: fingerprint; parts of another one, which are to be replaced, count as missing. None: all
                must have the same.

        Raises:
            OutputRefused: they cannot be read, or do not belong together.
        """
        path = manifest_path(output, None)
        whole = OneManifest.read(output, None)
        parts = {part: one for part in find_parts(output) if (one := OneManifest.read(output, part)) is not None}
        if configuration is not None:
            parts = {part: one for part, one in parts.items() if one.header.get("configuration") == configuration}
        if not parts:
            return None if whole is None else cls(path, whole.header, whole.entries, whole.finished, {}, ())
        first = next(iter(parts))
        header = parts[first].header
        for part, one in parts.items():
            if part.count != first.count:
                raise refuse_manifest(manifest_path(output, part), f"is of another number of parts than part {first}")
            if one.header != header:
                told = tell_difference(one.header, header)
                raise refuse_manifest(
                    manifest_path(output, part), f"was written with another configuration than part {first} ({told})"
                )
        entries = dict(whole.entries) if whole is not None and whole.header == header else {}
        for one in parts.values():
            for name in one.withdrawn:
                entries.pop(name, None)
            entries.update(one.entries)
        ended = {part for part, one in parts.items() if one.finished}
        missing = tuple(part for part in (first, *first.others()) if part not in ended)
        finished = whole is not None and all(_adds_nothing(part, one, whole) for part, one in parts.items())
        return cls(manifest_path(output, first), header, entries, finished, parts, tuple(sorted(missing)))


def _adds_nothing(part: ShardPartition, one: OneManifest, whole: OneManifest) -> bool:
    """Whether a part ended with what a closed run already says of it."""
    known = tuple(shard for shard in whole.unreadable if part.has(shard.name))
    return (
        (one.finished and whole.finished and not one.withdrawn - one.entries.keys())
        and (one.header, one.unreadable) == (whole.header, known)
        and one.entries.items() <= whole.entries.items()
    )


def closing_line(shards: int, rows: int, unreadable: Iterable[UnreadableShard]) -> str:
    """The last line of a manifest whose run came to its end."""
    in_order = sorted(unreadable, key=lambda shard: shard.name)
    closing = {FINISHED: {"shards": shards, "rows": rows}, UNREADABLE: [asdict(shard) for shard in in_order]}
    return json.dumps(closing) + "\n"


def tell_difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What of a configuration is not as it was."""
    changed = [key for key in now if key != "configuration" and there.get(key) != now[key]]
    return "; ".join(f"{key}: {there.get(key)!r} there, {now[key]!r} now" for key in changed)


def manifest_path(output: Path, part: ShardPartition | None) -> Path:
    """Where the manifest of a whole run or of a part is."""
    return output / (MANIFEST_NAME if part is None else f"{MANIFEST_STEM}{part.name}.jsonl")


def line_path(output: Path, part: ShardPartition | None, entry: ManifestEntry) -> Path:
    """Where a shard's line is kept in a store; names of shards may be too long or too strange for a file."""
    return _lines_folder(output, part) / f"{hashlib.sha256(entry.shard.encode()).hexdigest()}.json"


def kept_lines(output: Path, part: ShardPartition | None) -> Iterator[Path]:
    """The objects that hold one line each; none on a local disk."""
    return iter(()) if is_local(output) else iter(_lines_folder(output, part).glob("*.json"))


def _lines_folder(output: Path, part: ShardPartition | None) -> Path:
    return output / f"{MANIFEST_STEM}{f'{part.name}.' if part else ''}lines"


def _read_lines(output: Path, part: ShardPartition | None) -> list[tuple[str, str]]:
    """The configuration and the line of each object that holds one."""
    lines = [path.read_text(encoding="utf-8").split("\n") for path in kept_lines(output, part)]
    return [(one[0], one[1]) for one in lines]


def find_parts(output: Path) -> list[ShardPartition]:
    """The parts that have a manifest in OUTPUT."""
    names = (path.name for path in output.glob(f"{MANIFEST_STEM}*-of-*.jsonl"))
    found = (ShardPartition.of_name(name.removeprefix(MANIFEST_STEM).removesuffix(".jsonl")) for name in names)
    return sorted(part for part in found if part is not None)


def refuse_manifest(path: Path, what: str) -> OutputRefused:
    """A manifest that a run cannot go on from, as one of our errors."""
    return OutputRefused(
        f"The manifest {path} {what}.",
        wanted="results of one configuration in one OUTPUT",
        next_step="choose another OUTPUT, or add --force to do every shard again",
    )
