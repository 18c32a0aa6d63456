from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from export.contract.validity import check_given_names
from export.errors import OptionRefused
from tests.export.contract.test_metadata import CONTRACT


@pytest.mark.parametrize(("kind", "outputs", "count"), [("softmax", 3, 3), ("sigmoid", 1, 2), ("sigmoid", 3, 3)])
def test_there_is_one_name_for_each_class(kind: Any, outputs: int, count: int) -> None:
    contract = replace(CONTRACT, output_kind=kind, classes=outputs, class_names=())
    check_given_names(tuple("abc"[:count]), contract.class_count)
    check_given_names((), contract.class_count)
    with pytest.raises(OptionRefused, match=rf"has {count + 1} name\(s\), and the model has {count} classes"):
        check_given_names(tuple("abcd"[: count + 1]), contract.class_count)


def test_a_regression_has_no_class_names() -> None:
    with pytest.raises(OptionRefused, match="the model is a regression"):
        check_given_names(("a",), replace(CONTRACT, output_kind="regression", classes=1, class_names=()).class_count)


@pytest.mark.parametrize(
    ("names", "found"),
    [("aba", "the class name 'a' 2 times"), ("a\x1bb", "class name '"), ("a b", "a blank class name")],
)
def test_equal_and_unprintable_names_are_refused_as_by_the_export(names: str, found: str) -> None:
    contract = replace(CONTRACT, output_kind="softmax", classes=3, class_names=())
    with pytest.raises(OptionRefused, match=f"--classes contains {found}"):
        check_given_names(tuple(names), contract.class_count)
