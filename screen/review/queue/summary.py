"""The report of `oodscreen queue`: exported and skipped rows.

In: counts. Out: text, one line of JSON, and an exit code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from export.errors import ExitCode
from screen.review.queue.row import QueueRow
from screen.review.text import clip

SHOWN_ROWS = 20
"""Maximum number of rows that a dry run prints."""


@dataclass(frozen=True)
class PlannedRow:
    """A row that the command would export without `--dry-run`.

    Attributes:
        rank: position in the queue, from 1.
        source: `flagged` or `audit`.
        shard: name of the input shard.
        row: position in the shard.
        id: id of the row.
        suspicion: the score that orders the queue, negated if low values are suspicious; None if the score is null.
        predicted: names of the predicted classes, joined by `, `; None without a prediction.
        reason: reason of the flag; None for a row of the random sample.
    """

    rank: int
    source: str
    shard: str
    row: int
    id: str
    suspicion: float | None
    predicted: str | None
    reason: str | None

    @classmethod
    def of(cls, row: QueueRow) -> PlannedRow:
        """The planned row of a queue row."""
        values = row.values()
        return cls(
            rank=row.rank,
            source=row.source,
            shard=values["shard"],
            row=values["row"],
            id=values["id"],
            suspicion=row.suspicion,
            predicted=values["predicted"],
            reason=values["flag_reason"],
        )

    def to_text(self) -> str:
        """The row as one line of text."""
        suspicion = "" if self.suspicion is None else f" {self.suspicion:.4g}"
        reason = self.source if self.reason is None else self.reason
        predicted = "" if self.predicted is None else f" predicted {clip(self.predicted, 40)!r},"
        return (
            f"{self.rank:>6}{suspicion} {clip(self.shard)}:{self.row} id {clip(self.id)!r},{predicted} {clip(reason)}"
        )


@dataclass
class QueueReport:
    """Counts of exported and skipped rows.

    Attributes:
        to: description of the destination.
        rows: number of rows in the results.
        flagged: number of flagged rows.
        matching: number of flagged rows with a selected reason; all flagged rows if no reason is selected.
        order: the score that orders the queue.
        handed_on: number of exported flagged rows.
        audit: number of exported rows of the random sample.
        before: number of rows whose image was exported earlier.
        same_image: number of rows whose image is already in this queue, from another row.
        without_image: counts of rows whose image cannot be shown, by reason.
        shards: for each input shard that cannot be used, the reason, by the name of the shard.
        shard_rows: number of selected rows in the shards that cannot be used.
        reasons: counts of the flagged rows by main reason.
        notes: further messages for the user.
        dry_run: whether the rows were only selected; `handed_on` and `audit` then count rows that would be exported.
        first_rows: for a dry run, the first rows that would be exported; empty otherwise.
    """

    to: str
    rows: int
    flagged: int
    matching: int
    order: str
    handed_on: int = 0
    audit: int = 0
    before: int = 0
    same_image: int = 0
    without_image: dict[str, int] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    shard_rows: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dry_run: bool = False
    first_rows: list[PlannedRow] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command."""
        return ExitCode.UNREADABLE_INPUT if self.shards else ExitCode.DONE

    def to_json(self) -> str:
        """The report as one line of JSON."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})

    def to_text(self) -> str:
        """The report as text for the terminal."""
        lines = [f"{self.flagged} of {self.rows} rows are flagged"]
        if self.matching != self.flagged:
            lines[0] += f", {self.matching} of them for a selected reason"
        if self.reasons and not self.matching:
            lines.append(f"  reasons: {_format_counts(self.reasons)}")
        if self.handed_on or self.audit:
            audit = f" and {self.audit} random unflagged row(s) as an audit" if self.audit else ""
            exported = "would be exported" if self.dry_run else "exported"
            lines.append(
                f"{exported} to {self.to}: {self.handed_on} flagged row(s) in the order of {self.order}{audit}"
            )
            lines += [row.to_text() for row in self.first_rows]
            if self.dry_run and (rest := self.handed_on + self.audit - len(self.first_rows)):
                lines.append(f"   ... and {rest} more row(s)")
        else:
            lines.append(f"no new rows for {self.to}")
        if self.before:
            lines.append(f"  exported earlier: {self.before} row(s); another --project starts a separate queue")
        if self.same_image:
            lines.append(f"  same image as another row of this queue: {self.same_image} row(s)")
        if self.without_image:
            lines.append(
                f"  without an image to show: {sum(self.without_image.values())} row(s) "
                f"({_format_counts(self.without_image)}); RESULTS/_quarantine.pq lists the rows that the run could not "
                "score"
            )
        for name, why in list(self.shards.items())[:5]:
            lines.append(f"  not exported: {name!r} {why}")
        if self.shards:
            more = f"{len(self.shards) - 5} more shard(s) like these; " if len(self.shards) > 5 else ""
            lines.append(
                f"  {more}{self.shard_rows} row(s) in {len(self.shards)} shard(s) are pending; next: restore the "
                "shards, give their current location with --input, or score the changed shards with `oodscreen run`"
            )
        if self.dry_run:
            lines.append("dry run: nothing was written")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in list(counts.items())[:6])
