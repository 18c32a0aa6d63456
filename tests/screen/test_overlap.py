from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from screen.overlap import StageClock, work_ahead


def count(to: int, made: list[int] | None = None, closed: list[bool] | None = None) -> Generator[int, None, None]:
    try:
        for number in range(to):
            if made is not None:
                made.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(True)


def test_items_come_in_order() -> None:
    assert list(work_ahead(count(1000), 3)) == list(range(1000))
    assert list(work_ahead(count(0), 3)) == []


def test_at_most_depth_items_are_produced_ahead() -> None:
    made: list[int] = []
    items = work_ahead(count(1000, made), 2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 1 + 2 + 1
    items.close()


def test_an_error_is_raised_in_place_of_its_item() -> None:
    def fail() -> Generator[int, None, None]:
        yield 1
        raise KeyError("lost")

    items = work_ahead(fail(), 5)
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


def test_closing_the_last_stage_stops_every_stage_before_it() -> None:
    before = threading.active_count()
    closed: list[bool] = []
    clock = StageClock()
    first = work_ahead(clock.make("first", count(10**9, closed=closed)), 2)
    second = work_ahead(clock.apply("second", lambda number: number + 1, first), 2)
    assert next(second) == 1
    second.close()
    assert threading.active_count() == before
    assert closed == [True]


def test_waiting_for_another_stage_is_not_counted() -> None:
    def slow() -> Generator[int, None, None]:
        for number in range(3):
            time.sleep(0.1)
            yield number

    clock = StageClock()
    assert list(clock.apply("quick", str, work_ahead(clock.make("slow", slow()), 1))) == ["0", "1", "2"]
    assert clock.seconds["slow"] >= 0.3
    assert clock.seconds["quick"] < clock.seconds["slow"] / 2
