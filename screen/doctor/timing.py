"""Measure the time of a stage, in seconds for 1,000 images.

In: blocks of code. Out: a `Timing`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PER = 1000
"""Number of images to which the times of a stage refer."""


@dataclass
class Stopwatch:
    """Adds up the time of blocks of code.

    Attributes:
        seconds: elapsed time, in seconds.
        cpu_seconds: processor time of all threads of this process, in seconds.
    """

    seconds: float = field(default=0.0)
    cpu_seconds: float = field(default=0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time of a `with` block."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu

    def extrapolate(self, shorter: Stopwatch, rows: int, fewer: int, more: int) -> Stopwatch:
        """The time of `more` rows, extrapolated on the line through two measurements.

        Args:
            shorter: the measurement of `fewer` rows.
            rows: number of rows of this measurement.
            fewer: number of rows of `shorter`.
            more: number of rows to extrapolate to.
        """
        steps = (more - rows) / (rows - fewer)
        return Stopwatch(
            self.seconds + steps * max(0.0, self.seconds - shorter.seconds),
            self.cpu_seconds + steps * max(0.0, self.cpu_seconds - shorter.cpu_seconds),
        )

    def timing(self, rows: int) -> Timing:
        """The time for `PER` images, if the blocks processed `rows` images."""
        return Timing(self.seconds * PER / rows, self.cpu_seconds * PER / rows)


@dataclass(frozen=True)
class Timing:
    """Time of a stage for `PER` images, while no other stage runs.

    Attributes:
        seconds: elapsed time, in seconds.
        cpu_seconds: processor time of all threads, in seconds.
    """

    seconds: float
    cpu_seconds: float

    def __sub__(self, other: Timing) -> Timing:
        """The time of a stage without the time `other` of one of its parts; 0 if the difference is negative."""
        return Timing(max(0.0, self.seconds - other.seconds), max(0.0, self.cpu_seconds - other.cpu_seconds))
