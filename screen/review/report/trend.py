"""Flag rates, scores and rows that could not be scored, by night, from the history of an OUTPUT.

In: the folder of the results. Out: a `Trend`. A night is one run that scored rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from screen.output.history import Night, read_history

_MAX_NIGHTS = 60
"""Maximum number of nights on a page; the latest nights are shown."""

_LEVELS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class TrendNight:
    """One night of the history: a run that scored rows.

    Attributes:
        started: start of the run, ISO 8601, UTC.
        rows: number of rows.
        flagged: number of flagged rows, including those that could not be scored.
        bad: number of rows that could not be scored.
        rate: flagged share of the scored rows; None without scored rows.
        quantiles: the 5 %, 50 % and 95 % quantiles of the score of the scored rows; empty if no row was scored, or if
            the score in the history or the calibration differs from that of the last night.
        version: version of oodscreen that finished the run.
    """

    started: str
    rows: int
    flagged: int
    bad: int
    rate: float | None
    quantiles: tuple[float, ...]
    version: str

    @property
    def label(self) -> str:
        """Date and time of the start, to the minute."""
        return self.started[:16].replace("T", " ")


@dataclass(frozen=True)
class Trend:
    """The nights of a history.

    Attributes:
        score: name of the score of the quantiles.
        nights: the latest nights, the oldest first.
        earlier: number of earlier nights that are left out.
        damaged: number of history files that cannot be read.
    """

    score: str
    nights: tuple[TrendNight, ...]
    earlier: int
    damaged: int


def read_trend(output: Path) -> Trend | None:
    """The trend of an OUTPUT; None if the history has fewer than two nights."""
    history = read_history(output)
    nights = history.nights
    if len(nights) < 2:
        return None
    last = nights[-1]
    shown = tuple(_describe(night, last) for night in nights[-_MAX_NIGHTS:])
    return Trend(last.score, shown, len(nights) - len(shown), len(history.damaged))


def _describe(night: Night, last: Night) -> TrendNight:
    is_comparable = (night.score, night.calibration) == (last.score, last.calibration)
    quantiles = [night.scores.quantile(level) for level in _LEVELS] if is_comparable else []
    return TrendNight(
        started=night.started,
        rows=night.rows,
        flagged=night.flagged,
        bad=night.bad,
        rate=night.flag_rate,
        quantiles=tuple(value for value in quantiles if value is not None),
        version=night.version,
    )
