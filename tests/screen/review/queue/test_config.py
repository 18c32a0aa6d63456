from __future__ import annotations

from typing import Any, get_args

import pytest

from export.errors import OptionRefused
from screen.review.queue.config import QueueConfig, QueueFormat, TargetConfig
from screen.review.queue.file_targets import FILE_FORMATS


@pytest.mark.parametrize(
    ("values", "found", "wanted"),
    [
        ({"top": 0}, "--top is 0.", "a whole number, 1 or more"),
        ({"per_class": 0}, "--per-class is 0.", "a whole number, 1 or more"),
        ({"seed": -1}, "--audit-seed is -1.", "a whole number, 0 or more"),
    ],
)
def test_a_number_out_of_range_is_refused(values: dict[str, Any], found: str, wanted: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        QueueConfig(**values)
    assert (caught.value.found, caught.value.wanted) == (found, wanted)


def test_an_unknown_reason_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--reason"):
        QueueConfig(reasons=["beauty"])


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--to is 'xlsx'"):
        TargetConfig(to="xlsx")  # type: ignore[arg-type]


def test_the_formats_are_those_of_files_and_the_server() -> None:
    assert get_args(QueueFormat) == (*FILE_FORMATS, "label-studio")


@pytest.mark.parametrize("text", ["0%", "0", "101%", "half", "1", "5", "-1%"])
def test_a_random_share_is_a_percentage(text: str) -> None:
    with pytest.raises(OptionRefused, match="--include-random is"):
        QueueConfig(include_random=text)
    assert QueueConfig(include_random="0.5 %").share() == QueueConfig(include_random="0.005").share() == 0.005
