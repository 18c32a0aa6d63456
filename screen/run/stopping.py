"""Stop when asked to: SIGINT and SIGTERM end a run behind the batch that it is at.

In: signals. Out: a `StopRequest` that the loop looks at between batches. A signal therefore never
lands between a shard's rename and its line in the manifest. A second signal ends the process at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from export.errors import Interrupted, Terminated


class StopRequest:
    """Whether a run should end."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def ask(self, number: int) -> None:
        """Ask to stop, as the signal of this number does."""
        self._signal = number

    def check(self) -> None:
        """Go on, unless asked to stop.

        Raises:
            Interrupted: SIGINT came.
            Terminated: SIGTERM came.
        """
        if self._signal is None:
            return
        kind = Terminated if self._signal == signal.SIGTERM else Interrupted
        raise kind(
            f"The run was interrupted by {signal.Signals(self._signal).name}; finished shards stay.",
            wanted="time to finish",
            next_step="run the same command again: it goes on behind the finished shards",
        )


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request for the time of the block; only in the main thread."""
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        request.ask(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
