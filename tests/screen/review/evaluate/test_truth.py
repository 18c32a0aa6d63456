from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from export.errors import OptionRefused
from screen.review.evaluate.truth import read_classes

NAMES = ("cat", "dog", "sea lion")

SAME = {
    "numbers": (pa.array([2, None, 0, 1], pa.int8()), ()),
    "unsigned numbers": (pa.array([2, None, 0, 1], pa.uint64()), ()),
    "whole floats": (pa.array([2.0, float("nan"), 0.0, 1.0]), ()),
    "floats and null": (pa.array([2.0, None, 0.0, 1.0], pa.float32()), ()),
    "numbers as text": (pa.array(["2", "", " 0", "1"]), ()),
    "numbers as text of classes with names": (pa.array(["2", " ", "0", "1"], pa.large_string()), NAMES),
    "numbers of classes with names": (pa.array([2, None, 0, 1]), NAMES),
    "names": (pa.array(["sea lion", None, "cat", "dog "]), NAMES),
    "names as bytes": (pa.array([b"sea lion", None, b"cat", b"dog"]), NAMES),
    "names in a dictionary": (pa.array(["sea lion", None, "cat", "dog"]).dictionary_encode(), NAMES),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_class_can_be_given_by_number_and_by_name(kind: str) -> None:
    column, names = SAME[kind]
    chunks = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    assert read_classes(chunks, "truth", names, 3).tolist() == [2, -1, 0, 1]


REFUSED: dict[str, tuple[list[Any], tuple[str, ...], str]] = {
    "number beyond the last class": ([0, 3, 3, 1], (), "In --label-column truth, 2 of 4 .*: 3.$"),
    "negative number": ([0, -1], (), "1 of 2 .*: -1.$"),
    "float between numbers": ([1.0, 1.5], (), "1 of 2 .*: '1.5'.$"),
    "unknown name": (["cat", "kat"], NAMES, "1 of 2 .*: 'kat'.$"),
    "name without recorded names": (["cat", "cat"], (), "2 of 2 .*: 'cat'.$"),
    "name of two classes": (["crane", "cat"], ("crane", "cat", "crane"), r"'crane' \(the name of 2 classes\).$"),
    "boolean": ([True, False], (), "2 of 2 .*: 'True', 'False'.$"),
    "choice of a queue": (["unusable"], NAMES, "1 of 1 .*: 'unusable'.$"),
    "number as text among numeric names": (["0"], ("7", "8", "9"), "1 of 1 .*: '0'.$"),
    "many labels": (list(range(10, 20)), (), "10 of 10 .*: 10, 11, 12, 13, and 6 more.$"),
    "list": ([[0, 1]], (), "the type list"),
    "struct": ([{"class": 1}], (), "the type struct"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_label_that_is_no_class_is_refused_with_what_was_found(kind: str) -> None:
    values, names, message = REFUSED[kind]
    with pytest.raises(OptionRefused) as caught:
        read_classes(pa.chunked_array([values]), "truth", names, 3)
    assert re.search(message, caught.value.found)
    assert "class numbers from 0 to 2" in caught.value.wanted
    assert ("class names: " in caught.value.wanted) is bool(names)
    assert caught.value.next_step


def test_a_name_of_several_lines_is_also_accepted_on_one_line() -> None:
    """A queue shows names on one line."""
    column = pa.chunked_array([["sea\n lion", "sea lion"]])
    assert read_classes(column, "truth", ("cat", "dog", "sea\n lion"), 3).tolist() == [2, 2]


def test_a_number_beyond_64_bits_is_no_class() -> None:
    with pytest.raises(OptionRefused, match="does not name exactly one class"):
        read_classes(pa.chunked_array([np.array([1e300])]), "truth", (), 3)
