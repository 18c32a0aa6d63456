"""The drift alarm: test the rows of the last runs together against the calibration. Pure: no I/O.

In: the numbers of readable and flagged rows of runs, the newest first, and the size of the calibration set. Out: a
`Drift`, which compares the number of flagged rows with a prediction interval. For in-distribution rows, each run raises
an alarm with a probability of at most 0.1 %, averaged over calibrations. Which runs are tested together depends only on
their numbers of rows, so this probability also holds if a run is tested together with earlier runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from screen.decide.intervals import FlagInterval, flag_interval


@dataclass(frozen=True)
class FlagCount:
    """Flags of one run.

    Attributes:
        rows: number of readable rows.
        flags: number of flagged rows among them.
    """

    rows: int
    flags: int


@dataclass(frozen=True)
class Drift:
    """Drift test: flags among the readable rows of the last runs, and the prediction interval of the calibration.

    Attributes:
        rows: number of readable rows.
        flags: number of flagged rows among them.
        runs: number of runs that are tested together.
        needed: minimum number of readable rows for a test.
        band: the prediction interval; None if there are fewer than `needed` rows.
        is_new: whether the last run scored readable rows; if not, only rows of earlier runs are tested.
    """

    rows: int
    flags: int
    runs: int
    needed: int
    band: FlagInterval | None
    is_new: bool

    @property
    def is_alarm(self) -> bool:
        """Whether the number of flags is outside the prediction interval."""
        return self.band is not None and not self.band.holds(self.flags)

    def describe(self) -> str:
        """The result of the test on one line."""
        found = f"{self.flags} of {self.rows} readable rows flagged"
        found += f" in the last {self.runs} runs" if self.runs > 1 else ""
        start = "drift: " if self.is_new else "drift, from earlier runs: "
        if self.band is None:
            return f"{start}not tested: {found}, at least {self.needed} readable rows needed"
        result = "ALARM, outside" if self.is_alarm else "none, within"
        return f"{start}{result} the prediction interval: {found}, {self.band.low} to {self.band.high} expected"


def find_drift(calibration_rows: int, rank: int, counts: Iterable[FlagCount], needed: int) -> Drift:
    """Test the flags of the last runs against the prediction interval of the calibration.

    Args:
        calibration_rows: number of rows in the calibration set.
        rank: rank of the threshold among the calibration scores; the highest score has rank 1.
        counts: the runs, the newest first; further runs are read only while there are fewer than `needed` rows.
        needed: minimum number of rows that are tested together.
    """
    rows = flags = runs = 0
    is_new = False
    for position, count in enumerate(counts):
        if count.rows:
            rows, flags, runs = rows + count.rows, flags + count.flags, runs + 1
            is_new |= position == 0
        if rows >= needed:
            break
    band = flag_interval(calibration_rows, rank, rows) if rows >= needed else None
    return Drift(rows, flags, runs, needed, band, is_new)
