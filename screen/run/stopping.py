"""Stop on signals: SIGINT and SIGTERM end a run after the current batch.

In: signals. Out: a `StopRequest` that the run checks between batches. The first signal therefore never interrupts
the run between the rename of a shard and its line in the manifest. A second signal ends the process at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from export.errors import Interrupted, Terminated


class StopRequest:
    """Request to stop a run, made by a signal or because the lock of OUTPUT is lost."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self.check_output: Callable[[], None] = lambda: None
        """Raises an error if the lock of OUTPUT is lost or cannot be renewed; called before each write."""

    def record(self, number: int) -> None:
        """Request a stop.

        Args:
            number: number of the signal.
        """
        self._signal = number

    def check(self) -> None:
        """Raise an error if a stop was requested.

        Raises:
            OodscreenError: the lock of OUTPUT is lost or cannot be renewed.
            Interrupted: SIGINT was received.
            Terminated: SIGTERM was received.
        """
        self.check_output()
        if self._signal is None:
            return
        kind = Terminated if self._signal == signal.SIGTERM else Interrupted
        raise kind(
            f"The run was interrupted by {signal.Signals(self._signal).name}; finished shards stay.",
            wanted="a run that ends before a signal arrives",
            next_step="run the same command again; without --force, it skips finished shards",
        )


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record SIGINT and SIGTERM in a `StopRequest` within the block; to be called only in the main thread."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.record(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
