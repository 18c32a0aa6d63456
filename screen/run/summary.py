"""RunSummary: the outcome of a run as numbers, text, JSON and an exit code.

In: the shards and options of a run. Out: text for the terminal; JSON and an exit code for a scheduler.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.errors import ExitCode
from screen.decide.drift import Drift
from screen.files.listed import PassedOver
from screen.files.paths import name_place
from screen.input.shards import UnreadableShard
from screen.output.manifest_file import ManifestEntry
from screen.output.writer import WrittenShard
from screen.partition import ShardPartition
from screen.settings.bad_rows import BadRowLimit

_NAMED = 5
"""Maximum number of shards or parts that are named on one line."""


@dataclass(frozen=True)
class SummaryLine:
    """One line of the summary of a run.

    Attributes:
        text: the line.
        is_warning: whether the line states why the exit code is not 0, or that results are missing or outdated.
    """

    text: str
    is_warning: bool = False


@dataclass
class RunSummary:
    """The outcome of a run.

    Attributes:
        output: folder of results.
        rule: the flag rule.
        passes: number of passes per row, T.
        max_bad_rows: limit on rows that could not be scored.
        device: device that ran the passes; "" if no shard had to be scored.
        part: the partition that the run scored; None for a run without partitions.
        open_parts: the unfinished partitions; empty after the manifests of all partitions are merged.
        seconds: wall time in seconds.
        stages: busy time of each stage in seconds; stages overlap.
        reasons: why each shard had to be scored, by shard name.
        shards: result shards that the run wrote, in the order of INPUT.
        earlier: entries of the unchanged shards of INPUT that an earlier run finished.
        unreadable: shards that could not be read or scored; they have no result, or the result of an earlier run.
        outdated: names of the unreadable shards that have the intact result of an earlier run.
        vanished: names of the finished shards whose input no longer exists.
        left_over: names of the shards that have a result of another configuration, and were not scored again.
        gone: names of the shards in `vanished` whose results are missing or damaged.
        drift: drift test of this run and, if needed, the runs before it; None if it was not requested or the run has no
            calibration.
        passed_over: numbers of files and folders in INPUT that are not read.
    """

    output: Path
    rule: str
    passes: int
    max_bad_rows: BadRowLimit
    device: str = ""
    part: ShardPartition | None = None
    open_parts: tuple[ShardPartition, ...] = ()
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    shards: list[WrittenShard] = field(default_factory=list)
    earlier: list[ManifestEntry] = field(default_factory=list)
    unreadable: list[UnreadableShard] = field(default_factory=list)
    outdated: frozenset[str] = frozenset()
    vanished: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    drift: Drift | None = None
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def rows(self) -> int:
        """Number of rows written by this run."""
        return sum(shard.rows for shard in self.shards)

    @property
    def flagged(self) -> int:
        """Number of rows flagged by this run, including the rows that could not be scored."""
        return sum(shard.flagged for shard in self.shards)

    @property
    def skipped(self) -> list[str]:
        """Names of the unchanged shards that an earlier run finished."""
        return [entry.shard for entry in self.earlier]

    @property
    def statuses(self) -> dict[str, int]:
        """Number of rows of this run by status."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for status, count in shard.statuses.items():
                total[status] = total.get(status, 0) + count
        return total

    @property
    def bad(self) -> int:
        """Number of rows of this run that could not be scored."""
        return self.rows - self.statuses.get("ok", 0)

    @property
    def readable(self) -> tuple[int, int]:
        """Number of readable rows of this run, and number of flagged rows among them."""
        return self.rows - self.bad, self.flagged - self.bad

    @property
    def flag_rate(self) -> float:
        """Share of this run's readable rows that are flagged; 0 without readable rows."""
        rows, flags = self.readable
        return flags / rows if rows else 0.0

    @property
    def has_too_many_bad(self) -> bool:
        """Whether the limit on bad rows is exceeded.

        The limit is applied to the rows of this run and again to all rows of INPUT, so that bad rows are reported even
        if an interrupted run scored them, or if earlier runs scored many good rows.
        """
        all_rows = self.rows + sum(entry.rows for entry in self.earlier)
        all_bad = self.bad + sum(entry.bad for entry in self.earlier)
        limit = self.max_bad_rows
        return limit.is_exceeded(self.bad, self.rows) or limit.is_exceeded(all_bad, all_rows)

    @property
    def has_alarm(self) -> bool:
        """Whether the drift alarm is raised by this run; an alarm of earlier runs is not raised again."""
        return self.drift is not None and self.drift.is_new and self.drift.is_alarm

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the process."""
        if self.unreadable or self.gone or self.has_too_many_bad:
            return ExitCode.UNREADABLE_INPUT
        return ExitCode.DRIFT if self.has_alarm else ExitCode.DONE

    def plan_lines(self) -> list[str]:
        """Lines of text: the shards to score, one line per reason; then the shards and files that are not scored."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.reasons.items():
            by_reason.setdefault(reason, []).append(name)
        lines = [f"to score, {reason}: {_name_some(names)}" for reason, names in by_reason.items()]
        if self.earlier:
            lines.append(f"skipped, finished earlier and unchanged: {_name_some(self.skipped)}")
        if self._kept:
            lines.append(f"no longer in INPUT, results kept: {_name_some(self._kept)}")
        lines += self._stale_lines() + self._gone_lines()
        return lines + self._passed_over_lines() + self._unreadable_lines()

    def to_text(self) -> str:
        """The summary as several lines of text."""
        return "\n".join(line.text for line in self.lines())

    def lines(self) -> list[SummaryLine]:
        """The lines of the summary; some are marked as warnings."""
        rate = self.flagged / self.rows if self.rows else 0.0
        speed = self.rows / self.seconds if self.seconds else 0.0
        counts = f"{self.rows} rows in {len(self.shards)} shard(s), {self.flagged} flagged ({rate:.1%}), "
        where = f" on {self.device} ({speed:.0f} rows/s)" if self.device else ""
        lines = [SummaryLine(f"{counts}{self.seconds:.1f} s{where}")]
        if self.stages:
            times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items())
            slowest = max(self.stages, key=lambda stage: self.stages[stage])
            lines.append(SummaryLine(f"stages (overlapping): {times}; slowest: {slowest}"))
        lines.append(SummaryLine(f"flag rule: {self.rule}"))
        if self.drift is not None:
            lines.append(SummaryLine(self.drift.describe(), self.has_alarm))
        bad = {status: count for status, count in sorted(self.statuses.items()) if status != "ok"}
        if bad:
            counts = ", ".join(f"{status} {count}" for status, count in bad.items())
            text = f"not scored, flagged for review: {self.bad} row(s) ({counts})"
            lines.append(SummaryLine(text, self.has_too_many_bad))
        if self.earlier:
            lines.append(SummaryLine(f"skipped, finished earlier and unchanged: {len(self.earlier)} shard(s)"))
        if self._kept:
            lines.append(SummaryLine(f"no longer in INPUT, results kept: {len(self._kept)} shard(s)"))
        lines += [SummaryLine(text, is_warning=True) for text in self._stale_lines() + self._gone_lines()]
        lines += [SummaryLine(text) for text in self._passed_over_lines()]
        lines += [SummaryLine(text, is_warning=True) for text in self._unreadable_lines()]
        if self.part is not None:
            lines.append(SummaryLine(f"part {self.part} is finished; {self._describe_open_parts()}"))
        lines.append(SummaryLine(f"results: {name_place(self.output)}"))
        return lines

    def _describe_open_parts(self) -> str:
        if not self.open_parts:
            return "all parts are finished, and their manifests are merged"
        named = ", ".join(map(str, self.open_parts[:_NAMED])) + (", ..." if len(self.open_parts) > _NAMED else "")
        return f"{len(self.open_parts)} unfinished part(s): {named}"

    @property
    def _kept(self) -> list[str]:
        """Names of the vanished shards with intact results."""
        return [name for name in self.vanished if name not in set(self.gone)]

    def _stale_lines(self) -> list[str]:
        if not self.left_over:
            return []
        command = f"oodscreen check {shlex.quote(str(self.output))}"
        return [
            "not scored again, and not in the manifest: results of another configuration: "
            f"{_name_some(self.left_over)}; `{command}` prints the commands that remove these results"
        ]

    def _gone_lines(self) -> list[str]:
        if not self.gone:
            return []
        command = f"oodscreen forget {shlex.quote(str(self.output))} --damaged"
        return [
            f"no longer in INPUT, and the results are missing or damaged: {_name_some(self.gone)}; "
            f"restore the files, or run `{command}`"
        ]

    def _passed_over_lines(self) -> list[str]:
        besides = self.passed_over.describe()
        return [f"skipped in INPUT: {besides}"] if besides else []

    def _unreadable_lines(self) -> list[str]:
        """One line for each shard that could not be read or scored."""
        lines = []
        for shard in self.unreadable:
            result = "earlier result kept" if shard.name in self.outdated else "no result"
            lines.append(f"unreadable, {result}: {_plain(shard.name)}: {shard.reason}")
        return lines

    def to_json(self) -> str:
        """The summary as one line of JSON."""
        code = self.exit_code
        values: dict[str, Any] = {
            "exit_code": int(code),
            "meaning": code.meaning,
            "output": name_place(self.output),
            "part": None if self.part is None else str(self.part),
            "open_parts": [str(part) for part in self.open_parts],
            "rule": self.rule,
            "device": self.device or None,
            "passes": self.passes,
            "rows": self.rows,
            "flagged": self.flagged,
            "flag_rate": self.flag_rate,
            "bad": self.bad,
            "statuses": self.statuses,
            "seconds": round(self.seconds, 3),
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
            "scored": {shard.shard.name: self.reasons[shard.shard.name] for shard in self.shards},
            "skipped": self.skipped,
            "unreadable": {shard.name: shard.reason for shard in self.unreadable},
            "vanished": self.vanished,
            "passed_over": {**asdict(self.passed_over), "endings": dict(self.passed_over.endings)},
            "left_over": self.left_over,
            "gone": self.gone,
            "drift": None if self.drift is None else {"alarm": self.drift.is_alarm, **asdict(self.drift)},
        }
        return json.dumps(values)


def _name_some(names: Iterable[str]) -> str:
    """The number of shards and the first names, on one line."""
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} shard(s): " + ", ".join(map(_plain, names[:_NAMED])) + more


def _plain(name: str) -> str:
    """A name on one line, with control characters escaped."""
    return name if name.isprintable() else repr(name)
