"""File format of manifests in OUTPUT: a line with the configuration, then a line for each finished shard.

In: `_manifest.jsonl`, and for each partition of an unfinished run `_manifest.I-of-N.jsonl`. Out: a `ManifestFile` that
combines them. In the manifest of a finished run or partition, the last line marks the end. An object store cannot
append to an object: there, the line of each shard that the run finishes is a small object in `_manifest.lines` (or
`_manifest.I-of-N.lines`) until the run ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from export.errors import InputRefused, OutputRefused
from screen.files.failures import raise_if_refused
from screen.files.paths import is_local
from screen.input.shards import UnreadableShard
from screen.partition import ShardPartition
from screen.version import own_version

MANIFEST_STEM = "_manifest."
MANIFEST_NAME = f"{MANIFEST_STEM}jsonl"
FINISHED = "finished"
UNREADABLE = "unreadable"
WITHDRAWN = "withdrawn"
VERSION = "version"


@dataclass(frozen=True)
class ManifestEntry:
    """One finished shard.

    Attributes:
        shard: name of the shard.
        root: the folder of INPUT.
        input: fingerprint of the input shard.
        size: size of the result file in bytes.
        sha256: SHA-256 of the result file.
        rows: number of rows in the result.
        flagged: number of flagged rows.
        statuses: number of rows with each status.
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
        """Number of rows that could not be scored."""
        return self.rows - self.statuses.get("ok", 0)

    def line(self) -> str:
        """The entry as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, line: str) -> ManifestEntry:
        """Entry parsed from a line of JSON.

        Raises:
            ValueError, TypeError: the line is not an entry.
        """
        entry = cls(**json.loads(line))
        for field in fields(cls):
            kind = {"str": str, "int": int}.get(str(field.type), dict)
            if not isinstance(getattr(entry, field.name), kind):
                raise TypeError(f"{field.name} is {getattr(entry, field.name)!r}")
        return entry


@dataclass(frozen=True)
class OneManifest:
    """One manifest, of a whole run or of a partition.

    Attributes:
        header: the configuration.
        entries: finished shards by name.
        finished: whether the run that wrote the manifest finished.
        unreadable: input shards that could not be read.
        withdrawn: in the manifest of a partition, shards that the partition started to score again; their entries in
            the whole run's manifest are not valid. In the manifest of a whole run, forgotten shards whose results must
            be removed.
    """

    header: dict[str, Any]
    entries: dict[str, ManifestEntry]
    finished: bool
    unreadable: tuple[UnreadableShard, ...]
    withdrawn: frozenset[str]

    @classmethod
    def read(cls, output: Path, partition: ShardPartition | None) -> OneManifest | None:
        """The manifest of a whole run or of a partition; None if it does not exist.

        Raises:
            OutputRefused: the manifest is damaged.
            ReadFailed: the system or the store refused to read the manifest.
        """
        path = manifest_path(output, partition)
        try:
            separate = [path.read_text(encoding="utf-8") for path in kept_lines(output, partition)]
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise_if_refused(path, error)
            reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
            raise refuse_manifest(path, f"cannot be read ({reason})") from error
        try:
            header = dict(json.loads(lines[0]))
            closing = json.loads(lines[-1]) if len(lines) > 1 else {}
            finished = FINISHED in closing
            withdrawn = json.loads(lines[1]).get(WITHDRAWN) if len(lines) > 1 else None
            first = 1 if withdrawn is None else 2
            entries = [ManifestEntry.parse(line) for line in (lines[first:-1] if finished else lines[first:])]
            own = header.get("configuration")
            divided = [text.split("\n") for text in separate]
            entries += [ManifestEntry.parse(line) for configuration, line, *_ in divided if configuration == own]
            unreadable = tuple(UnreadableShard(**one) for one in closing.get(UNREADABLE, ()))
        except (ValueError, IndexError, TypeError, AttributeError, RecursionError) as error:
            why = (
                str(error)
                if isinstance(error, ValueError)
                else "a line lacks a key, or has an unknown key or a value of a wrong type"
            )
            raise refuse_manifest(path, f"is damaged ({why})") from error
        return cls(
            header,
            {entry.shard: entry for entry in entries},
            finished and not separate,
            unreadable,
            frozenset(withdrawn or ()),
        )


@dataclass(frozen=True)
class ManifestFile:
    """All manifests of OUTPUT, combined.

    Attributes:
        path: path of the manifest that `header` comes from.
        header: the configuration.
        entries: finished shards by name.
        finished: whether the run finished; for a partitioned run, whether it was closed and the partitions that ran
            since then had no shards to score.
        partitions: manifests of the partitions, as long as they are not merged.
        missing: the unfinished partitions.
        forgotten: shards without an entry; a killed `oodscreen forget` has not removed their results.
    """

    path: Path
    header: dict[str, Any]
    entries: dict[str, ManifestEntry]
    finished: bool
    partitions: dict[ShardPartition, OneManifest]
    missing: tuple[ShardPartition, ...]
    forgotten: frozenset[str] = frozenset()

    @classmethod
    def read(cls, output: Path, configuration: str | None = None) -> ManifestFile | None:
        """All manifests of OUTPUT, combined; None if there is no manifest.

        Args:
            output: folder of results.
            configuration: fingerprint; a partition of another configuration counts as unfinished, because its manifest
                will be replaced. None to require the same configuration for all partitions.

        Raises:
            OutputRefused: a manifest cannot be read, or the manifests contradict each other.
        """
        path = manifest_path(output, None)
        whole = OneManifest.read(output, None)
        partitions = {}
        for partition in find_partitions(output):
            one = OneManifest.read(output, partition)
            if one is not None and configuration in (None, one.header.get("configuration")):
                partitions[partition] = one
        if not partitions:
            if whole is None:
                return None
            forgotten = whole.withdrawn - whole.entries.keys()
            return cls(path, whole.header, whole.entries, whole.finished, {}, (), forgotten)
        first = next(iter(partitions))
        header = partitions[first].header
        for partition, one in partitions.items():
            if partition.count != first.count:
                raise refuse_manifest(
                    manifest_path(output, partition),
                    f"belongs to a run of {partition.count} parts, but part {first} to a run of {first.count} parts",
                )
            if one.header != header:
                difference = describe_difference(one.header, header)
                raise refuse_manifest(
                    manifest_path(output, partition),
                    f"was written with another configuration than part {first} ({difference})",
                )
        entries = dict(whole.entries) if whole is not None and whole.header == header else {}
        for one in partitions.values():
            for name in one.withdrawn:
                entries.pop(name, None)
            entries.update(one.entries)
        ended = {partition for partition, one in partitions.items() if one.finished}
        missing = tuple(partition for partition in (first, *first.others()) if partition not in ended)
        finished = whole is not None and all(
            _adds_nothing(partition, one, whole) for partition, one in partitions.items()
        )
        forgotten = frozenset() if whole is None else whole.withdrawn - entries.keys()
        return cls(
            manifest_path(output, first), header, entries, finished, partitions, tuple(sorted(missing)), forgotten
        )

    @classmethod
    def require(cls, output: Path) -> ManifestFile:
        """All manifests of OUTPUT, combined.

        Raises:
            InputRefused: the folder contains no manifest.
            OutputRefused: a manifest cannot be read, or the manifests contradict each other.
        """
        manifest = cls.read(output)
        if manifest is None:
            raise InputRefused(
                f"{output} contains no {MANIFEST_NAME}.",
                wanted="the OUTPUT folder of an `oodscreen run`",
                next_step="check the path",
            )
        return manifest


def _adds_nothing(partition: ShardPartition, one: OneManifest, whole: OneManifest) -> bool:
    """Whether a partition has finished, and its manifest contains nothing that the closed run's manifest lacks."""
    known = tuple(shard for shard in whole.unreadable if partition.contains(shard.name))
    return (
        (one.finished and whole.finished and not one.withdrawn - one.entries.keys())
        and (one.header, one.unreadable) == (whole.header, known)
        and one.entries.items() <= whole.entries.items()
    )


def manifest_text(header: dict[str, Any], entries: dict[str, ManifestEntry], withdrawn: Iterable[str] = ()) -> str:
    """Text of a manifest without its closing line; entries are sorted by name of the shard."""
    names = sorted(withdrawn)
    lines = [json.dumps(header, sort_keys=True), *([json.dumps({WITHDRAWN: names})] if names else [])]
    return "\n".join([*lines, *(entries[name].line() for name in sorted(entries))]) + "\n"


def closing_line(shards: int, rows: int, unreadable: Iterable[UnreadableShard]) -> str:
    """The last line of the manifest of a finished run with these numbers of shards and rows."""
    in_order = sorted(unreadable, key=lambda shard: shard.name)
    closing = {
        FINISHED: {"shards": shards, "rows": rows},
        UNREADABLE: [asdict(shard) for shard in in_order],
        VERSION: own_version(),
    }
    return json.dumps(closing) + "\n"


def describe_difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """Text that lists the settings whose values in a manifest, `there`, and in a configuration, `now`, differ."""
    changed = [key for key in now if key != "configuration" and there.get(key) != now[key]]
    return "; ".join(f"{key}: {there.get(key)!r} instead of {now[key]!r}" for key in changed)


def manifest_path(output: Path, partition: ShardPartition | None) -> Path:
    """Path of the manifest of a whole run or of a partition."""
    return output / (MANIFEST_NAME if partition is None else f"{MANIFEST_STEM}{partition.name}.jsonl")


def line_path(output: Path, partition: ShardPartition | None, entry: ManifestEntry) -> Path:
    """Path of the object with a shard's line; its name is a hash, which is always a valid file name."""
    return _lines_folder(output, partition) / f"{hashlib.sha256(entry.shard.encode()).hexdigest()}.json"


def kept_lines(output: Path, partition: ShardPartition | None) -> Iterator[Path]:
    """Paths of the objects with one manifest line each in a store; none on a local disk."""
    return iter(()) if is_local(output) else iter(_lines_folder(output, partition).glob("*.json"))


def _lines_folder(output: Path, partition: ShardPartition | None) -> Path:
    return output / f"{MANIFEST_STEM}{f'{partition.name}.' if partition else ''}lines"


def find_partitions(output: Path) -> list[ShardPartition]:
    """The partitions that have a manifest in OUTPUT."""
    names = (path.name for path in output.glob(f"{MANIFEST_STEM}*-of-*.jsonl"))
    found = (ShardPartition.from_name(name.removeprefix(MANIFEST_STEM).removesuffix(".jsonl")) for name in names)
    return sorted(partition for partition in found if partition is not None)


def refuse_manifest(path: Path, problem: str) -> OutputRefused:
    """The `OutputRefused` for a manifest that cannot be used."""
    return OutputRefused(
        f"The manifest {path} {problem}.",
        wanted="an undamaged manifest, and a run with the configuration and the number of parts in this manifest",
        next_step="choose another OUTPUT, or add --force to `oodscreen run` to score every shard again",
    )
