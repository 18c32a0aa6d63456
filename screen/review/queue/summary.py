"""What a queue handed on and what not, for people and for programs.

In: counts. Out: text, a line of JSON, and an exit code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from export.errors import ExitCode


@dataclass
class QueueReport:
    """What was handed on, and what was not.

    Attributes:
        to: where to.
        rows: rows of the results.
        flagged: of these, flagged.
        matching: of these, with a reason that was asked for.
        order: the score that they are ordered by.
        handed_on: flagged rows that were handed on.
        audit: random other rows that were.
        before: rows whose image was handed on before.
        same_image: rows whose image is in the queue already, by a more suspicious row.
        without_image: rows without an image that can be shown, by why.
        shards: input shards of which nothing could be handed on, and why.
        shard_rows: rows in them that were wanted.
        reasons: flagged rows by their reason.
        notes: what else a person should know.
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

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        return ExitCode.UNREADABLE_INPUT if self.shards else ExitCode.DONE

    def to_json(self) -> str:
        """In one line."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.flagged} of {self.rows} rows are flagged"]
        if self.matching != self.flagged:
            lines[0] += f", {self.matching} of them for a reason that was asked for"
        if self.reasons and not self.matching:
            lines.append(f"  reasons: {_told(self.reasons)}")
        if self.handed_on or self.audit:
            audit = f" and {self.audit} random other row(s), to audit the flag" if self.audit else ""
            lines.append(f"handed on to {self.to}: {self.handed_on} row(s) by {self.order}{audit}")
        else:
            lines.append(f"nothing new for {self.to}")
        if self.before:
            lines.append(f"  handed on before: {self.before} row(s); another --project starts a queue of its own")
        if self.same_image:
            lines.append(f"  same image as a row before it: {self.same_image} row(s)")
        if self.without_image:
            lines.append(
                f"  without an image to show: {sum(self.without_image.values())} row(s) "
                f"({_told(self.without_image)}); RESULTS/_quarantine.pq names them"
            )
        for name, why in list(self.shards.items())[:5]:
            lines.append(f"  not handed on: {name!r} {why}")
        if self.shards:
            more = f"{len(self.shards) - 5} more shard(s) like these; " if len(self.shards) > 5 else ""
            lines.append(
                f"  {more}{self.shard_rows} row(s) in {len(self.shards)} shard(s) wait; next: bring the shards back, "
                "name where they are by --input, or run the model over the new ones"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in list(counts.items())[:6])
