"""Read the rows of a CSV file whose cells are separated by commas, semicolons or tabs.

In: an open file. Out: lists of texts, the header first. Spreadsheet programs write semicolons in countries where the
decimal sign is a comma.
"""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Iterator
from itertools import chain
from typing import IO

SEPARATORS = ",;\t"
"""Characters that may separate the cells. The first of them that splits the header is the separator of the file."""


def read_csv_rows(file: IO[bytes], separators: str = SEPARATORS) -> Iterator[list[str]]:
    """Yield the rows of a file in UTF-8, the header first; blank lines are left out.

    Args:
        file: the file, opened in binary mode and at its beginning; a byte order mark is skipped.
        separators: characters that may separate the cells, in the order in which they are tried; the first of them is
            used if none splits the header.

    Raises:
        UnicodeDecodeError: the file is not in UTF-8.
        ValueError: a line is invalid; the message contains its number and the reason.
    """
    csv.field_size_limit(sys.maxsize)  # an embedded image is longer than the default limit
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        first = next(lines, "")
        separator = next((one for one in separators if len(_cells(first, one)) > 1), separators[0])
        reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
        width = 0
        try:
            for row in reader:
                width = width or len(row)
                if row and len(row) != width:
                    raise ValueError(f"line {reader.line_num} has {len(row)} cell(s), and the header has {width}")
                if row:
                    yield row
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def how_to_convert(place: str, error: UnicodeDecodeError) -> str:
    """The next step for a text file that is not in UTF-8.

    Args:
        place: path of the file.
        error: the error from reading the file.
    """
    is_utf16 = error.start == 0 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
    encoding = "UTF-16" if is_utf16 else "WINDOWS-1252"
    other = "" if is_utf16 else " (WINDOWS-1252 is usual for old programs; give the actual encoding of the file)"
    return f"save the file in UTF-8, or convert it: `iconv -f {encoding} -t UTF-8 {shlex.quote(place)} > NEW`{other}"


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])
