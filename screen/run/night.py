"""The night of a run: its entry in the history, which the drift alarm reads.

In: the shards that a run scores. Out: the `Night` in the history of OUTPUT. Until the run ends, `_history/_open.json`
(for a partition `_history/_open.I-of-N.json`) lists the shards to score. A run that continues a killed run reads this
file and has the same night: it adds the shards that the killed run finished, so that the history equals the history
without the kill. A run without partitions also continues killed partitions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from screen.decide.drift import FlagCount
from screen.decide.score_counts import ScoreCounts
from screen.files.paths import as_os_error, open_parquet
from screen.files.storage import write_text
from screen.input.shards import ShardRef
from screen.output.history import DAMAGED, HISTORY_FOLDER, Night, close_parts, latest_nights, night_name, write_night
from screen.output.manifest_file import ManifestEntry
from screen.output.writer import WrittenShard
from screen.partition import ShardPartition
from screen.version import own_version

_READ_ERRORS = (OSError, pa.ArrowException, ValueError, KeyError)


@dataclass(frozen=True)
class _OpenNight:
    """The content of the file of a night that has not ended.

    Attributes:
        started: start of the first run, ISO 8601, UTC; runs that continue a killed run do not change it.
        configuration: fingerprint of the configuration.
        rescored: whether all shards of INPUT are scored again.
        shards: names of the shards that are scored already or will be scored.
    """

    started: str
    configuration: str
    rescored: bool
    shards: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, configuration: str) -> _OpenNight | None:
        """The night of a killed run; None if the file is missing, damaged or of another configuration."""
        try:
            with as_os_error():
                values = dict(json.loads(path.read_text(encoding="utf-8")))
            night = cls(**{**values, "shards": tuple(map(str, values["shards"]))})
            datetime.fromisoformat(night.started)
        except DAMAGED:
            return None
        return night if night.configuration == configuration else None


class RunNight:
    """The night of a run, or of one partition of a run.

    Args:
        output: folder of results, which the caller holds.
        partition: the partition that the run scores; None for a whole run.
        configuration: fingerprint of the configuration.
        calibration: digest of the calibration; None without a calibration.
        score: column whose scores are counted.
    """

    def __init__(
        self,
        output: Path,
        partition: ShardPartition | None,
        *,
        configuration: str,
        calibration: str | None,
        score: str,
    ) -> None:
        self._output, self._partition = output, partition
        self._owner = "" if partition is None else partition.name
        folder = output / HISTORY_FOLDER
        self._path = folder / ("_open.json" if partition is None else f"_open.{partition.name}.json")
        self._calibration, self._score = calibration, score
        self._found = [self._path]
        if partition is None:
            with suppress(OSError):
                self._found = sorted(folder.glob("_open.*json"))
        killed = [night for path in self._found if (night := _OpenNight.read(path, configuration)) is not None]
        self._open = _OpenNight(
            min([night.started for night in killed], default=datetime.now(UTC).isoformat(timespec="microseconds")),
            configuration,
            rescored=any(night.rescored for night in killed),
            shards=tuple(shard for night in killed for shard in night.shards),
        )
        self._carried: list[ManifestEntry] = []
        self._night: Night | None = None

    def start(self, todo: list[ShardRef], earlier: list[ManifestEntry], *, rescored: bool) -> None:
        """Record the shards that the run is about to score; a run that scores no shard writes nothing.

        Args:
            todo: the shards to score.
            earlier: entries of the finished shards that the run skips; the shards that a killed run of this night
                finished are added to the night.
            rescored: whether the run scores all shards of INPUT again.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        begun = set(self._open.shards)
        self._carried = [entry for entry in earlier if entry.shard in begun]
        if todo:
            names = [*(entry.shard for entry in self._carried), *(shard.name for shard in todo)]
            self._open = replace(self._open, rescored=rescored or self._open.rescored, shards=tuple(names))
            write_text(self._path, json.dumps(asdict(self._open)) + "\n", self._owner)

    def record(self, written: list[WrittenShard], unreadable: int) -> None:
        """Write the night into the history; a night without scored shards is not written.

        Args:
            written: result shards that the run wrote.
            unreadable: number of shards that could not be read.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        if not written and not self._carried:
            return
        statuses: Counter[str] = Counter()
        scores = ScoreCounts()
        for shard in written:
            statuses.update(shard.statuses)
            scores += shard.scores
        for entry in self._carried:
            statuses.update(entry.statuses)
            scores += self._read_scores(entry)
        both: list[WrittenShard | ManifestEntry] = [*written, *self._carried]
        self._night = Night(
            started=self._open.started,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            version=own_version(),
            configuration=self._open.configuration,
            calibration=self._calibration,
            shards=len(both),
            rows=sum(shard.rows for shard in both),
            flagged=sum(shard.flagged for shard in both),
            statuses=tuple(sorted(statuses.items())),
            unreadable=unreadable,
            score=self._score,
            scores=scores,
            rescored=self._open.rescored,
        )
        if self._partition is None:
            close_parts(self._output)
        write_night(self._output, self._name, self._night, self._owner)

    def flag_counts(self) -> Iterator[FlagCount]:
        """Flags of this run and of the runs before it with the same calibration, the newest first.

        The runs before a run that scored all shards again are left out, because they scored the same rows.
        """
        yield FlagCount(*self._night.readable) if self._night is not None else FlagCount(0, 0)
        if self._night is not None and self._night.rescored:
            return
        for night in latest_nights(self._output, without=self._name):
            if night.calibration != self._calibration:
                return
            yield FlagCount(*night.readable)
            if night.rescored:
                return

    def close(self) -> None:
        """Remove the files that list the shards to score; called after the manifest is finished."""
        for path in (self._path, *self._found) if self._open.shards else self._found:
            with suppress(OSError), as_os_error():
                path.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        return night_name(datetime.fromisoformat(self._open.started), self._partition)

    def _read_scores(self, entry: ManifestEntry) -> ScoreCounts:
        """Counts of the scores of a shard that a killed run finished; empty if the result cannot be read."""
        scores = ScoreCounts()
        with suppress(*_READ_ERRORS), open_parquet(self._output / entry.shard) as file:
            for batch in file.iter_batches(columns=[self._score]):
                scores += ScoreCounts.of(batch.column(0).drop_null().to_numpy())
        return scores
