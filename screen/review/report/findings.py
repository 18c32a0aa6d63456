"""What a report tells, as plain values: gathering makes them, and the page shows them.

Nothing here knows where a value came from, or how it will look. Texts that come from data are cut to a length that
fits on a page.
"""

from __future__ import annotations

from dataclasses import dataclass

from screen.input.preview import Preview
from screen.output.record import RunRecord
from screen.review.results import Settings


@dataclass(frozen=True)
class Histogram:
    """How one score is distributed over the readable rows.

    Attributes:
        score: its column.
        unit: of the score; "" where it has none.
        edges: `[n + 1]`, ascending, of bins of one width.
        rows: `[n]`, readable rows in each bin.
        flagged: `[n]`, how many of them are flagged.
        limits: the numbers that the flag rule compares it with.
    """

    score: str
    unit: str
    edges: tuple[float, ...]
    rows: tuple[int, ...]
    flagged: tuple[int, ...]
    limits: tuple[float, ...]


@dataclass(frozen=True)
class GroupShare:
    """Part of the readable rows, and how many of it are flagged.

    Attributes:
        name: of the class, the shard or the reason.
        rows: readable rows.
        flagged: how many of them are flagged.
        bad: rows beside these that could not be scored.
    """

    name: str
    rows: int
    flagged: int
    bad: int = 0

    @property
    def rate(self) -> float:
        """The share that is flagged."""
        return self.flagged / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Rate:
    """How many readable rows are flagged, beside what was promised.

    Attributes:
        rows: readable rows.
        flagged: how many of them are flagged.
        low: the true rate lies above it, with 97.5 % confidence.
        high: and below it, with the same.
        promised: the review rate of the calibration; None without one.
        by_calibration: how many rows the calibration by itself flags; a rule beside it may flag more.
        expected: from how many to how many flags of a calibration are to be expected in 99.9 of 100 runs; None
            where that is not known, or the rows are too few to say.
    """

    rows: int
    flagged: int
    low: float
    high: float
    promised: float | None
    by_calibration: int
    expected: tuple[int, int] | None

    @property
    def share(self) -> float:
        """The share that is flagged."""
        return self.flagged / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class ClassValue:
    """What the passes say of one class (or one value of a regression): mean and standard deviation over passes."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class TopRow:
    """One of the most suspicious rows.

    Attributes:
        shard: name of its shard.
        row: position in it.
        id: its key.
        prediction: predicted class; "" where the model has no classes.
        flag: whether it is flagged.
        reason: as in the results; "" where it is not flagged.
        reasons: the same without the row's own values, one by one.
        scores: name and value of each score that the results have.
        values: the classes with the largest mean, in this order; of a regression its first values.
        has_classes: whether `values` are probabilities.
        others: how many classes or values are not among them.
        kept: name and value of the copied input columns.
        preview: its picture, or why there is none.
    """

    shard: str
    row: int
    id: str
    prediction: str
    flag: bool
    reason: str
    reasons: tuple[str, ...]
    scores: tuple[tuple[str, float], ...]
    values: tuple[ClassValue, ...]
    has_classes: bool
    others: int
    kept: tuple[tuple[str, str], ...]
    preview: Preview | str


@dataclass(frozen=True)
class BadRow:
    """A row or a whole shard in quarantine."""

    source: str
    row: int | None
    id: str
    status: str
    error: str


@dataclass(frozen=True)
class Quarantine:
    """What could not be scored.

    Attributes:
        total: rows and shards in it.
        statuses: how many of them have which status.
        first: the first of them.
    """

    total: int
    statuses: tuple[tuple[str, int], ...]
    first: tuple[BadRow, ...]


@dataclass(frozen=True)
class Counts:
    """A run in numbers.

    Attributes:
        shards: result shards.
        rows: rows in them.
        bad: of these, rows that could not be scored.
        rate: how many of the others are flagged.
        classes: readable rows by predicted class, in the order of the classes; empty where there are none.
        reasons: flagged readable rows by reason, the most frequent first.
    """

    shards: int
    rows: int
    bad: int
    rate: Rate
    classes: tuple[GroupShare, ...]
    reasons: tuple[GroupShare, ...]


@dataclass(frozen=True)
class ChangedRow:
    """A row whose flag is another than it was."""

    shard: str
    row: int
    id: str
    prediction: str
    before: float
    now: float


@dataclass(frozen=True)
class RowChanges:
    """Rows of shards that both runs scored, and that are unchanged between them.

    Attributes:
        rows: how many were compared.
        newly: how many are flagged now, and were not.
        no_longer: how many were flagged, and are not now.
        score: what `ChangedRow` gives of them.
        newly_first: the most suspicious of the newly flagged.
        no_longer_first: those that were the most suspicious.
    """

    rows: int
    newly: int
    no_longer: int
    score: str
    newly_first: tuple[ChangedRow, ...]
    no_longer_first: tuple[ChangedRow, ...]


@dataclass(frozen=True)
class Comparison:
    """What is different from an earlier run.

    Attributes:
        name: of the earlier results.
        counts: of the earlier run.
        differences: what else decided its results: name, then, now.
        incomparable: which of these make scores, classes and rows incomparable; empty where they may be compared.
        new_shards: shards that it did not score.
        gone_shards: shards that only it scored.
        changed_shards: shards that changed since it scored them.
        changes: row by row; None where that cannot be compared.
    """

    name: str
    counts: Counts
    differences: tuple[tuple[str, str, str], ...]
    incomparable: tuple[str, ...]
    new_shards: int
    gone_shards: int
    changed_shards: int
    changes: RowChanges | None


@dataclass(frozen=True)
class Findings:
    """All that a report tells.

    Attributes:
        name: of the results.
        settings: what decided them.
        record: what the last run was like; None where that was not recorded.
        counts: the run in numbers.
        histograms: of the scores that the results have.
        shards: rows by shard, those with the largest flagged share first; perhaps not all.
        order: the score by which rows are suspicious.
        high: whether what is high in it is suspicious.
        suspects: the most suspicious rows.
        notes: why pictures are missing, one sentence each.
        quarantine: what could not be scored.
        comparison: None where there is nothing to compare with.
    """

    name: str
    settings: Settings
    record: RunRecord | None
    counts: Counts
    histograms: tuple[Histogram, ...]
    shards: tuple[GroupShare, ...]
    order: str
    high: bool
    suspects: tuple[TopRow, ...]
    notes: tuple[str, ...]
    quarantine: Quarantine
    comparison: Comparison | None
