from __future__ import annotations

import pytest

from export.errors import OptionRefused
from screen.config import BadRowLimit, RunConfig


@pytest.mark.parametrize(
    ("text", "bad", "rows", "is_exceeded"),
    [
        ("1%", 1, 100, False),
        ("1%", 2, 100, True),
        ("0%", 0, 10, False),
        ("0%", 1, 10**9, True),
        ("0.5 %", 5, 1000, False),
        ("0.5%", 6, 1000, True),
        ("3", 3, 3, False),
        ("3", 4, 10**9, True),
        ("0", 1, 2, True),
        ("100%", 5, 5, False),
        ("1%", 0, 0, False),
    ],
)
def test_bad_rows_are_too_many_above_the_limit_and_not_at_it(text: str, bad: int, rows: int, is_exceeded: bool) -> None:
    assert BadRowLimit.parse(text).is_exceeded(bad, rows) is is_exceeded


@pytest.mark.parametrize("text", ["", "%", "-1", "101%", "1e3", "many", "1%%", "0x10", "٣", "nan%"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--max-bad-rows is"):
        RunConfig(max_bad_rows=text)


def test_an_unknown_kind_of_force_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--force is 'some'"):
        RunConfig(force="some")
