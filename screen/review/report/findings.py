"""The contents of a report as plain values, independent of the results' format and of the page.

In: nothing. Out: dataclasses that `gather` fills and `page` renders. Texts from data are cut to a maximum length.
"""

from __future__ import annotations

from dataclasses import dataclass

from screen.output.record import RunRecord
from screen.review.report.cards import Card, TopRow
from screen.review.report.trend import Trend
from screen.review.results import Settings


@dataclass(frozen=True)
class Histogram:
    """Distribution of one score over the scored rows.

    Attributes:
        score: the score's column.
        unit: unit of the score; "" if it has none.
        edges: `[n + 1]`, ascending edges of bins of equal width.
        rows: `[n]`, number of scored rows in each bin.
        flagged: `[n]`, number of flagged scored rows in each bin.
        limits: thresholds of the score in the flag rule; for `ood_score`, also the threshold of the calibration.
    """

    score: str
    unit: str
    edges: tuple[float, ...]
    rows: tuple[int, ...]
    flagged: tuple[int, ...]
    limits: tuple[float, ...]


@dataclass(frozen=True)
class GroupShare:
    """Counts of one class, shard or flag reason.

    Attributes:
        name: name of the class, shard or reason.
        rows: number of scored rows; for a reason, number of all flagged scored rows.
        flagged: number of flagged scored rows; for a reason, number of scored rows flagged for this reason.
        bad: number of rows that could not be scored; they are not included in `rows`.
    """

    name: str
    rows: int
    flagged: int
    bad: int = 0

    @property
    def rate(self) -> float:
        """Flagged share of `rows`, 0 to 1; 0 without rows."""
        return self.flagged / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Rate:
    """The observed flag rate, with the target rate and the range expected from the calibration.

    Attributes:
        rows: number of scored rows.
        flagged: number of flagged scored rows.
        low: lower end of the 95 % interval of the flag rate (Wilson 1927).
        high: upper end of the 95 % interval.
        target: target rate of the calibration; None without a calibration.
        by_calibration: number of rows that the calibrated threshold alone would flag, without the other conditions of
            the flag rule.
        expected: 99.9 % prediction interval of `by_calibration`, in rows, low to high; None without a record of the
            calibration, or with too few rows.
    """

    rows: int
    flagged: int
    low: float
    high: float
    target: float | None
    by_calibration: int
    expected: tuple[int, int] | None

    @property
    def share(self) -> float:
        """Flagged share of the scored rows, 0 to 1; 0 without rows."""
        return self.flagged / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class BadRow:
    """A row or a whole shard in quarantine; `row` is None for a whole shard."""

    source: str
    row: int | None
    id: str
    status: str
    error: str


@dataclass(frozen=True)
class Quarantine:
    """Rows and shards that could not be scored.

    Attributes:
        total: number of rows and shards.
        statuses: name and count of each status.
        first: the first entries of the quarantine table.
    """

    total: int
    statuses: tuple[tuple[str, int], ...]
    first: tuple[BadRow, ...]


@dataclass(frozen=True)
class Counts:
    """Counts of one run.

    Attributes:
        shards: number of result shards.
        rows: number of rows in all shards.
        flagged: number of flagged rows, including rows that could not be scored.
        bad: number of rows that could not be scored; each of these rows is flagged.
        rate: flag rate of the scored rows.
        classes: counts by predicted class, in class order; empty if the model predicts no class.
        reasons: counts of flagged scored rows by `flag_reasons`, most frequent first.
    """

    shards: int
    rows: int
    flagged: int
    bad: int
    rate: Rate
    classes: tuple[GroupShare, ...]
    reasons: tuple[GroupShare, ...]


@dataclass(frozen=True)
class ChangedRow:
    """A row whose flag changed since the earlier run, with its earlier and current score."""

    shard: str
    row: int
    id: str
    prediction: str
    before: float
    now: float


@dataclass(frozen=True)
class RowChanges:
    """Rows whose flag differs between the two runs, in input shards that are unchanged.

    Attributes:
        rows: number of compared rows.
        newly: number of rows flagged only in the current run.
        no_longer: number of rows flagged only in the earlier run.
        score: name of the score whose values `ChangedRow` contains.
        newly_first: the first newly flagged rows, in descending order of current suspicion.
        no_longer_first: the first rows that are no longer flagged, in descending order of earlier suspicion.
    """

    rows: int
    newly: int
    no_longer: int
    score: str
    newly_first: tuple[ChangedRow, ...]
    no_longer_first: tuple[ChangedRow, ...]


@dataclass(frozen=True)
class Comparison:
    """Differences from an earlier run.

    Attributes:
        name: name of the earlier results.
        counts: counts of the earlier run.
        differences: name, earlier value and current value of each setting that differs.
        incomparable: names of the differing settings that make rows incomparable; empty if the runs are comparable.
        new_shards: number of shards that only the current run scored.
        gone_shards: number of shards that only the earlier run scored.
        changed_shards: number of shards whose input changed between the runs.
        changes: flag changes row by row; None if the runs are not comparable.
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
    """The contents of a report.

    Attributes:
        name: name of the results.
        title: title of the page.
        next_command: words of the command that exports rows for labelling, quoted for a shell; empty if a word cannot
            be displayed exactly.
        model_version: digests of the model and of the run's configuration.
        settings: settings of the run.
        record: record of the last run; None if the record is missing, unreadable or of another configuration.
        counts: counts of the run.
        histograms: distributions of the scores.
        shards: the shards with the largest flag rates, in descending order.
        order: the score that ranks rows; "" if all scores are null.
        high: whether high values of the score `order` are suspicious.
        cards: the top-ranked rows; rows whose images are similar to that of an earlier card are on this card.
        compared: number of flagged rows whose images were compared.
        notes: reasons for missing thumbnails, one sentence each.
        quarantine: rows and shards that could not be scored.
        trend: the nights of the history; None if the history has fewer than two nights.
        comparison: differences from an earlier run; None if no earlier run is given.
    """

    name: str
    title: str
    next_command: tuple[str, ...]
    model_version: str
    settings: Settings
    record: RunRecord | None
    counts: Counts
    histograms: tuple[Histogram, ...]
    shards: tuple[GroupShare, ...]
    order: str
    high: bool
    cards: tuple[Card, ...]
    compared: int
    notes: tuple[str, ...]
    quarantine: Quarantine
    trend: Trend | None
    comparison: Comparison | None

    @property
    def top_rows(self) -> tuple[TopRow, ...]:
        """The rows of the cards."""
        return tuple(card.row for card in self.cards)

    @property
    def flagged_elsewhere(self) -> int:
        """Number of flagged scored rows that are neither shown nor counted on a card."""
        return self.counts.rate.flagged - sum(card.row.flag * (1 + card.count) for card in self.cards)
