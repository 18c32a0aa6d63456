"""Let the stages of a run work at the same time, each in a thread, a bounded number of items ahead.

In: an iterator. Out: the same items. What each stage takes is measured here, the only place that
sees them all.
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

_LOOK_SECONDS = 0.1


class StageClock:
    """Seconds that each stage was busy, by its name; waiting for another stage does not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def busy(self, stage: str) -> AbstractContextManager[None]:
        """Count the time of the block for a stage."""
        return self._count(stage, 1)

    def make(self, stage: str, items: Iterator[Item]) -> Generator[Item, None, None]:
        """The same items; the time that an item takes to come is the stage's."""
        while True:
            with self.busy(stage):
                item = next(items, _END)
            if isinstance(item, _End):
                return
            yield item

    def run(
        self, stage: str, function: Callable[[Iterator[Item]], Iterator[Result]], items: Generator[Item, None, None]
    ) -> Generator[Result, None, None]:
        """What a function makes of the items; closing this closes `items`."""

        def given() -> Iterator[Item]:
            while True:
                with self._count(stage, -1):  # the stage is busy around it
                    item = next(items, _END)
                if isinstance(item, _End):
                    return
                yield item

        with closing(items):
            yield from self.make(stage, function(given()))

    def apply(
        self, stage: str, function: Callable[[Item], Result], items: Generator[Item, None, None]
    ) -> Generator[Result, None, None]:
        """What a function makes of each item; closing this closes `items`."""
        return self.run(stage, partial(map, function), items)

    @contextmanager
    def _count(self, stage: str, sign: int) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + sign * (time.perf_counter() - started)


class _End:
    """What comes after the last item."""


_END = _End()


class _Failure(Generic[Item]):
    """An exception on its way from one thread to another."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def work_ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """The same items in the same order, made in a thread of their own up to `depth` ahead.

    An exception of `items` is raised where its item would have come. Closing this generator stops
    the thread after the item that it is at, and closes `items` there.
    """
    waiting: queue.Queue[Item | _End | _Failure[Item]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: Item | _End | _Failure[Item]) -> None:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
            put(_END)
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits, whatever it is
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
    finally:
        stopped.set()
        thread.join()
