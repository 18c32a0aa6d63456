from __future__ import annotations

from pathlib import Path

import pytest

from export.class_names import parse_class_names
from export.config.exporting import ExportConfig
from export.errors import OptionRefused


def test_a_file_of_class_names_is_read_line_by_line(tmp_path: Path) -> None:
    for name in ("names.txt", "a,b"):
        (tmp_path / name).write_text("cat\n\n dog, or wolf \n")
        assert parse_class_names(str(tmp_path / name)) == ("cat", "dog, or wolf")


def test_names_may_be_separated_by_commas() -> None:
    assert parse_class_names("cat, sea lion ,chat noir") == ("cat", "sea lion", "chat noir")


@pytest.mark.parametrize(
    ("text", "found"),
    [("none.txt", "The file of class names none.txt cannot be read"), ("", "cannot be read"),
     ("cat,,dog", "name 2 is empty"), ("cat,", "name 2 is empty"), ("a\0b", "cannot be read")],
)  # fmt: skip
def test_other_texts_are_refused(text: str, found: str) -> None:
    with pytest.raises(OptionRefused, match=found):
        parse_class_names(text)


def test_python_callers_give_a_sequence() -> None:
    assert ExportConfig(scale=1, class_names=["a", "b"]).class_names == ("a", "b")
