from __future__ import annotations

from typing import Any

import pytest

from screen.review.classes import Choice, as_choice, classes_by_text

CHOICES: dict[str, tuple[Any, Choice | None]] = {
    "integer": (3, 3),
    "whole float": (3.0, 3),
    "other float": (3.5, "3.5"),
    "infinity": (float("inf"), "inf"),
    "text": (" cat\n", "cat"),
    "number as text": ("3", "3"),
    "bytes": (b"cat", "cat"),
    "boolean": (True, "True"),
    "null": (None, None),
    "NaN": (float("nan"), None),
    "blank text": (" ", None),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_whole_numbers_are_class_numbers_and_other_values_are_text(kind: str) -> None:
    value, choice = CHOICES[kind]
    assert as_choice(value) == choice
    assert type(as_choice(value)) is type(choice)


def test_text_names_a_class_by_its_name_or_its_number() -> None:
    numbers = {"0": (0,), "1": (1,)}
    assert classes_by_text((), 2) == numbers
    assert classes_by_text(("cat", "dog"), 2) == {"cat": (0,), "dog": (1,), **numbers}
    assert classes_by_text(("cat", "dog"), 3) == {**numbers, "2": (2,)}, "names that do not fit are ignored"


def test_numeric_names_are_never_read_as_numbers() -> None:
    assert classes_by_text(("1", "0"), 2) == {"1": (0,), "0": (1,)}
    assert "0" not in classes_by_text(("cat", "12"), 2)


def test_a_name_of_several_classes_names_all_of_them() -> None:
    """The names in a queue are distinct, and name one class each."""
    found = classes_by_text(("crane", "cat", "crane"), 3)
    assert (found["crane"], found["crane (2)"], found["cat"]) == ((0, 2), (2,), (1,))


def test_a_class_may_have_the_name_of_an_additional_choice_of_a_queue() -> None:
    found = classes_by_text(("unusable", "cat"), 2)
    assert found["unusable"] == found["unusable (0)"] == (0,)
