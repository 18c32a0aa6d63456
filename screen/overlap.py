"""Run the stages of a pipeline concurrently, each in its own thread, a bounded number of items ahead of the next stage.

In: an iterator. Out: the items, or the results of a stage for the items. The busy time of each stage is measured, too.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.1
"""Seconds between two checks of whether the consumer has stopped, while the queue is full."""


class StageClock:
    """Measures the busy time of each stage, without the time that the stage waits for another stage.

    Attributes:
        seconds: busy time in seconds, by stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def busy(self, stage: str) -> AbstractContextManager[None]:
        """Context manager that adds the time of its block to a stage."""
        return self._count(stage, 1)

    def make(self, stage: str, items: Iterator[Item]) -> Generator[Item, None, None]:
        """Yield the given items; the time to produce each item is added to the stage."""
        while True:
            with self.busy(stage):
                item = next(items, _END)
            if isinstance(item, _End):
                return
            yield item
            del item  # while the next item is made, only the consumer holds this item

    def run(
        self, stage: str, function: Callable[[Iterator[Item]], Iterator[Result]], items: Generator[Item, None, None]
    ) -> Generator[Result, None, None]:
        """Apply a function to the iterator of items, and yield the results.

        The time of the function is added to the stage, without the time of `items`. Closing this generator closes
        `items`.
        """

        def timed_items() -> Iterator[Item]:
            while True:
                with self._count(stage, -1):  # `make` counts the time of the whole step
                    item = next(items, _END)
                if isinstance(item, _End):
                    return
                yield item
                del item

        with closing(items):
            yield from self.make(stage, function(timed_items()))

    def apply(
        self, stage: str, function: Callable[[Item], Result], items: Generator[Item, None, None]
    ) -> Generator[Result, None, None]:
        """Apply a function to each item, and yield the results; closing this generator closes `items`."""
        return self.run(stage, partial(map, function), items)

    @contextmanager
    def _count(self, stage: str, sign: int) -> Iterator[None]:
        """Add the time of the block, times `sign`, to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + sign * (time.perf_counter() - started)


class _End:
    """Marker for the end of the items."""


_END = _End()


class _Failure(Generic[Item]):
    """Exception of the producing thread, for the consuming thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def work_ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """Yield the given items in their order; a separate thread produces them ahead, into a queue of `depth` items.

    An exception that `items` raises is raised in place of the item. Closing this generator stops the thread after the
    current item, and closes `items` in the thread.
    """
    waiting: queue.Queue[Item | _End | _Failure[Item]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: Item | _End | _Failure[Item]) -> None:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item)
                del item
                if stopped.is_set():
                    break
            put(_END)
        except BaseException as error:  # noqa: BLE001  every exception is raised again by the consumer
            put(_Failure(error))
        finally:
            items.close()

    thread = threading.Thread(target=work, name="work-ahead", daemon=True)
    thread.start()
    try:
        while True:
            entry = waiting.get()
            if isinstance(entry, _End):
                return
            if isinstance(entry, _Failure):
                raise entry.error
            yield entry
            del entry
    finally:
        stopped.set()
        thread.join()
