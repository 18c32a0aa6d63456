"""Let one stage work ahead of the next, in a thread, a bounded number of items."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def work_ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The same items in the same order, made in another thread up to `depth` ahead.

    An exception of `items` is raised where its item would have come. Closing the generator stops
    the thread after the item it is at.
    """
    waiting: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, Item | BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:  # noqa: BLE001  handed over to the consumer, whatever it is
            put((False, error))

    thread = threading.Thread(target=work, name="work-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = waiting.get()
            if more:
                yield item  # type: ignore[misc]  # an item, because `more` is true
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]  # an exception, because `more` is false
    finally:
        stopped.set()
        thread.join()
