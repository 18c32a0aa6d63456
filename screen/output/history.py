"""The history of an OUTPUT: one small file for each run that scored rows, in `_history/`; no result depends on it.

In: the `Night` of a run. Out: `_history/_TIME.json`, or `_history/_TIME.I-of-N.json` for a partition, and a `History`
read back from these files. TIME is the start of the run. A run that continues a killed run has the start of the killed
run, so that both runs are one night. When a partitioned run is closed, the files of its partitions are merged into one
file. The `KEPT_NIGHTS` newest files stay in OUTPUT. Like `_run.json`, the files contain times and differ between equal
runs. File names start with `_`, because some readers of Parquet folders, for example Polars, skip a file if its own
name starts with `_`, but not if the name of its folder does.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

from screen.decide.score_counts import ScoreCounts
from screen.files.storage import write_text
from screen.partition import ShardPartition

HISTORY_FOLDER = "_history"
KEPT_NIGHTS = 400
"""Maximum number of files in the history; with one run per night, these files cover more than a year."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Levels of the score quantiles."""

_FORMAT = 1
_NAME = re.compile(r"_(\d{8}T\d{6}\.\d{6}Z)(?:\.(\d+-of-\d+))?\.json", re.ASCII)
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Exceptions that are raised when a missing or damaged file is read."""


@dataclass(frozen=True)
class Night:
    """One run that scored rows; a partitioned run, with all its partitions, is one night.

    Attributes:
        started: start of the run, ISO 8601, UTC.
        finished: end of the run, ISO 8601, UTC.
        version: version of oodscreen that finished the run.
        configuration: fingerprint of the configuration, as in the manifest.
        calibration: digest of the calibration; None without a calibration.
        shards: number of result shards that the run wrote.
        rows: number of rows in these shards.
        flagged: number of flagged rows, including the rows that could not be scored.
        statuses: number of rows by status, sorted by status.
        unreadable: number of shards that could not be read.
        score: column whose scores are counted in `scores`.
        scores: counts of the scores of the readable rows.
        rescored: whether the run scored all shards of INPUT again, so that earlier nights contain the same rows.
        merged: names of the files of partitions that were merged into this night's file.
    """

    started: str
    finished: str
    version: str
    configuration: str
    calibration: str | None
    shards: int
    rows: int
    flagged: int
    statuses: tuple[tuple[str, int], ...]
    unreadable: int
    score: str
    scores: ScoreCounts
    rescored: bool = False
    merged: tuple[str, ...] = ()

    @property
    def bad(self) -> int:
        """Number of rows that could not be scored."""
        return self.rows - dict(self.statuses).get("ok", 0)

    @property
    def readable(self) -> tuple[int, int]:
        """Number of readable rows, and number of flagged rows among them."""
        return self.rows - self.bad, self.flagged - self.bad

    @property
    def flag_rate(self) -> float | None:
        """Share of the readable rows that are flagged; None without readable rows."""
        rows, flags = self.readable
        return flags / rows if rows else None

    @property
    def quantiles(self) -> tuple[tuple[float, float], ...]:
        """Pairs of level and score quantile for the levels in `QUANTILES`; empty without scores.

        The relative error of a quantile is at most 1 %.
        """
        found = ((level, self.scores.quantile(level)) for level in QUANTILES)
        return tuple((level, value) for level, value in found if value is not None)

    def text(self) -> str:
        """The night as JSON, with its quantiles, so that readers of the file need not compute them."""
        values = {**asdict(self), "scores": self.scores.bins, "quantiles": self.quantiles, "format": _FORMAT}
        return json.dumps(values) + "\n"

    @classmethod
    def parse(cls, text: str) -> Night:
        """Night parsed from the content of its file.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, RecursionError: the content is damaged, or has a newer
                format.
        """
        values: dict[str, Any] = dict(json.loads(text))
        if values.pop("format") != _FORMAT:
            raise ValueError("a newer format")
        values.pop("quantiles")
        night = cls(
            **{
                **values,
                "statuses": tuple((str(status), int(count)) for status, count in values["statuses"]),
                "scores": ScoreCounts(tuple((int(number), int(count)) for number, count in values["scores"])),
                "merged": tuple(map(str, values["merged"])),
            }
        )
        datetime.fromisoformat(night.started)
        datetime.fromisoformat(night.finished)
        if min(int(night.rows), int(night.flagged) - night.bad, int(night.shards), night.bad) < 0:
            raise ValueError("negative counts")
        return night


@dataclass(frozen=True)
class History:
    """The nights of an OUTPUT.

    Attributes:
        nights: the nights, the oldest first.
        damaged: names of the files that cannot be read.
    """

    nights: tuple[Night, ...]
    damaged: tuple[str, ...] = ()


def read_history(output: Path, *, without: str = "") -> History:
    """The history of an OUTPUT; it has no nights if OUTPUT has no files in `_history/`.

    The partitions of a run that has not been closed are combined into one night.

    Args:
        output: folder of results.
        without: name of a file to leave out; "" to leave out no file.
    """
    read: dict[str, Night] = {}
    damaged = []
    for name in _names(output):
        try:
            read[name] = _read(output, name)
        except DAMAGED:
            damaged.append(name)
    left_out = {without, *(name for night in read.values() for name in night.merged)}
    nights = [night for name, night in read.items() if name not in left_out and not _is_part(name)]
    parts = [night for name, night in read.items() if name not in left_out and _is_part(name)]
    nights += [merge_nights(parts)] if parts else []
    return History(tuple(sorted(nights, key=lambda night: night.started)), tuple(damaged))


def latest_nights(output: Path, *, without: str = "") -> Iterator[Night]:
    """Yield the nights of an OUTPUT, the newest first.

    If the history has no files of partitions, a file is read only when its night is yielded.

    Args:
        output: folder of results.
        without: name of a file to leave out; "" to leave out no file.
    """
    names = _names(output)
    if any(map(_is_part, names)):  # a merged file may list files of partitions with later names
        yield from reversed(read_history(output, without=without).nights)
        return
    for name in reversed(names):
        if name != without:
            with suppress(*DAMAGED):
                yield _read(output, name)


def merge_nights(nights: Sequence[Night]) -> Night:
    """Combine several nights into one.

    Args:
        nights: at least one night. Version, configuration, calibration and score are taken from the night that ended
            last.
    """
    last = max(nights, key=lambda night: night.finished)
    statuses: Counter[str] = Counter()
    for night in nights:
        statuses.update(dict(night.statuses))
    return Night(
        started=min(night.started for night in nights),
        finished=last.finished,
        version=last.version,
        configuration=last.configuration,
        calibration=last.calibration,
        shards=sum(night.shards for night in nights),
        rows=sum(night.rows for night in nights),
        flagged=sum(night.flagged for night in nights),
        statuses=tuple(sorted(statuses.items())),
        unreadable=sum(night.unreadable for night in nights),
        score=last.score,
        scores=reduce(
            ScoreCounts.__add__, (night.scores for night in nights if night.score == last.score), ScoreCounts()
        ),
        rescored=any(night.rescored for night in nights),
    )


def night_name(started: datetime, partition: ShardPartition | None = None) -> str:
    """The name of a night's file.

    Args:
        started: start of the run, with a time zone.
        partition: the partition that the run scored; None for a whole run.
    """
    part = "" if partition is None else f".{partition.name}"
    return f"_{started.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}{part}.json"


def write_night(output: Path, name: str, night: Night, owner: str = "") -> None:
    """Write the file of a night; for a whole run, also remove the oldest files if there are more than `KEPT_NIGHTS`.

    Args:
        output: folder of results, which the caller holds.
        name: name of the file, from `night_name`.
        night: the night.
        owner: name of the partition, used in the name of the staging file; "" for a run without partitions.

    Raises:
        WriteFailed: OUTPUT cannot be written to.
    """
    write_text(output / HISTORY_FOLDER / name, night.text(), owner)
    if not owner:  # files of partitions are counted when they are merged
        _remove(output, _names(output)[:-KEPT_NIGHTS])


def close_parts(output: Path) -> None:
    """Merge the files of all partitions into the file of one night; the caller holds OUTPUT.

    If the process is killed before the files of the partitions are removed, `read_history` ignores these files, because
    the merged file lists them, and the next call of `close_parts` removes them.

    Raises:
        WriteFailed: OUTPUT cannot be written to.
    """
    names = [name for name in _names(output) if _is_part(name)]
    if not names:
        return
    read = {}
    for name in _names(output):
        with suppress(*DAMAGED):
            read[name] = _read(output, name)
    merged = {name for night in read.values() for name in night.merged}
    parts = {name: read[name] for name in names if name in read and name not in merged}
    if parts:
        night = replace(merge_nights(list(parts.values())), merged=tuple(parts))
        write_night(output, f"{min(parts).partition('Z')[0]}Z.json", night)
    _remove(output, names)


def _names(output: Path) -> list[str]:
    """Names of the files in the history, the oldest first; empty if the folder is missing or cannot be listed."""
    with suppress(OSError):
        return sorted(path.name for path in (output / HISTORY_FOLDER).glob("_*.json") if _NAME.fullmatch(path.name))
    return []


def _is_part(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and match[2] is not None


def _read(output: Path, name: str) -> Night:
    return Night.parse((output / HISTORY_FOLDER / name).read_text(encoding="utf-8"))


def _remove(output: Path, names: Iterable[str]) -> None:
    for name in names:
        with suppress(OSError):
            (output / HISTORY_FOLDER / name).unlink(missing_ok=True)
