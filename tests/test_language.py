"""Help, errors, docstrings and pages are free of the phrases that plain English avoids."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.language import REPOSITORY, find_files, find_phrases


@pytest.mark.parametrize("path", find_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_has_no_phrase_that_plain_english_avoids(path: Path) -> None:
    assert not list(find_phrases(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", '"""The run is told where it is."""'),
        ("a.py", 'x = "There is nobody\\n"'),
        ("a.py", 'x = f"{number} rows of\\ntheirs, and so many"'),
        ("a.py", '"""A file of\nours."""'),
        ("a.py", "x = 1  # of another mind"),
        ("a.md", "Do it anew.\n"),
        ("a.html", "<p>Whoever it is</p>"),
    ],
)
def test_a_phrase_is_found(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert list(find_phrases(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", 'nobody = anew["bank"]'),
        ("a.py", '"""The array `bank` of the file, such as it is under one mask: a thinned network."""'),
        ("a.py", 'x = f"{nobody} rows"'),
        ("a.md", "`anew`\n\n```sh\nnobody\n```\n"),
        ("a.html", "{% if nobody %}<b title='anew'>{{ surprise }}</b>{% endif %}"),
    ],
)
def test_a_name_is_no_phrase(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert not list(find_phrases(tmp_path / name))
