"""Class names in options: separated by commas, or in a text file with one name per line.

In: the text of `--classes`. Out: the names in the order of the class numbers.
"""

from __future__ import annotations

from pathlib import Path

from export.errors import OptionRefused

CLASSES_HELP = (
    "Class names in the order of the class numbers: separated by commas, or a text file with one name per line."
)


def parse_class_names(text: str) -> tuple[str, ...]:
    """Class names from a text such as `cat,dog`, or from the file whose path is the text, without spaces around names.

    An existing file is read even if its path contains commas. Blank lines in the file are ignored.

    Raises:
        OptionRefused: the text contains no comma and is not the path of a file, the file cannot be read, or a name
            between commas is empty.
    """
    path = Path(text)
    try:
        if "," in text and not path.is_file():
            names = tuple(name.strip() for name in text.split(","))
        else:
            names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise OptionRefused(
            f"The file of class names {text} cannot be read: {getattr(error, 'strerror', None) or error}.",
            wanted="names separated by commas, such as cat,dog, or a text file (UTF-8) with one name per line",
            next_step="check the path and the encoding of the file, or give the names",
        ) from error
    if "" in names:
        raise OptionRefused(
            f"--classes is {text!r}, in which name {names.index('') + 1} is empty.",
            wanted="names separated by commas, such as cat,dog, or a text file with one name per line",
            next_step="remove the comma, or write the name",
        )
    return names
