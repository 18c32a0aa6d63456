"""Labels and the classes that they name: the model's class names, `out of distribution` and `unusable`.

In: values of label columns, results with the record of their run, and optionally the model file. Out: `Choice`s;
`ClassNames`, whose choices are all different; and the classes that each text names.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Any

from export.contract.metadata import ModelContract
from export.contract.reader import read_model
from export.contract.validity import check_given_names
from export.errors import OptionRefused
from screen.files.paths import as_path
from screen.review.results import Results

OUT_OF_DISTRIBUTION = "out of distribution"
UNUSABLE = "unusable"
IN_DISTRIBUTION = "in distribution"
_RESERVED = (OUT_OF_DISTRIBUTION, UNUSABLE, IN_DISTRIBUTION)

Choice = str | int
"""A chosen label: a text, or a class number."""


def as_choice(value: Any) -> Choice | None:
    """The choice for a stored label: a class number for an integer or whole float, else a text.

    The result is None for a missing label: null, NaN or blank text.
    """
    if value is None or value != value:  # NaN marks a missing label in a float column
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip() or None


@dataclass(frozen=True)
class ClassNames:
    """The choices available to an annotator.

    Attributes:
        names: class names of a classifier; empty for a regression.
        several: whether an image may have several labels.
    """

    names: tuple[str, ...]
    several: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """All choices: the classes, or `in distribution` for a regression, then the choices outside the classes."""
        return (*(self.names or (IN_DISTRIBUTION,)), OUT_OF_DISTRIBUTION, UNUSABLE)

    def predicted(self, row: dict[str, Any]) -> tuple[str, ...]:
        """The predicted classes of a row; empty if the row was not scored or the model is a regression."""
        if row["mean"] is None or not self.names:
            return ()
        if self.several:
            return tuple(name for name, mean in zip(self.names, row["mean"], strict=True) if mean > 0.5)
        return (self.names[row["prediction"]],)

    def name_choice(self, choice: Choice) -> str:
        """Name of a choice; an integer is always a class number, even if the class names are numerals.

        A text is the name of a choice or, if no class name is a numeral, a class number such as `3` or `3.0`.
        """
        if isinstance(choice, str):
            number = re.fullmatch(r"(\d+)(?:\.0+)?", choice, re.ASCII)
            if choice in self.choices or number is None:
                return choice
            if number[1] in self.choices:
                return number[1]
            is_number = int(number[1]) < len(self.names) and not any(name.isdecimal() for name in self.names)
            return self.names[int(number[1])] if is_number else choice
        if 0 <= choice < len(self.names):
            return self.names[choice]
        return f"class {choice}" if str(choice) in self.choices else str(choice)


def classes_by_text(class_names: tuple[str, ...], count: int) -> dict[str, tuple[int, ...]]:
    """Class numbers by label text; a text that is the name of several classes has several numbers.

    A class has a name in the model and a name in a queue; these two differ if the name in the model is not unique, not
    printable, or equal to a choice that is not a class. A class number as text (`3`) is also a key of the result if no
    class name is a numeral.

    Args:
        class_names: class names of the model; ignored unless there is a name for each class.
        count: number of classes.
    """
    if len(class_names) != count:
        class_names = ()
    found: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(class_names):
        for text in {name.strip(), _make_printable(name)} - {""}:
            found[text] = (*found.get(text, ()), index)
    if not any(text.isdecimal() for text in found):
        found |= {str(index): (index,) for index in range(count)}
    in_queue = {name: (index,) for index, name in enumerate(_make_distinct(class_names))}
    return in_queue | found


def name_classes(results: Results, model: str | None) -> tuple[ClassNames, ModelContract | None]:
    """The choices available to an annotator, and the contract of the model if the model file is given.

    Without the file, the class names are those in the record of the run; without a record, class numbers are the names.
    Class names given for the results (`Results.given_names`) take precedence.

    Args:
        results: results of the model.
        model: path of the model file; None without `--model`.

    Raises:
        OptionRefused: the results were produced by another model.
    """
    if model is None:
        return _recorded_classes(results), None
    read = read_model(as_path(model))
    if read.digest != results.model:
        raise OptionRefused(
            f"The digest of --model {model} is {read.digest[:16]}, but the model of the results has the digest "
            f"{results.model[:16]}.",
            wanted="the model file that produced these results",
            next_step="give that file, or leave out --model to use the class names recorded by the run",
        )
    contract = read.contract
    if contract.task == "values":
        return ClassNames((), several=False), contract
    count = contract.class_count
    names = results.given_names or contract.class_names
    names = names if len(names) == count else tuple(map(str, range(count)))
    return ClassNames(_make_distinct(names), several=contract.task == "labels"), contract


def use_class_names(results: Results, names: tuple[str, ...]) -> Results:
    """The results with these class names in place of the recorded names; unchanged if `names` is empty.

    Raises:
        OptionRefused: the number of names is not the number of classes, two names are equal, a name is not printable,
            or the model is a regression.
    """
    if not names:
        return results
    numbers = _number_classes(results)
    check_given_names(names, len(names) if numbers is None else len(numbers.names))
    return replace(results, given_names=names)


def _recorded_classes(results: Results) -> ClassNames:
    """The given or recorded class names if there is a name for each class; else class numbers."""
    numbers = _number_classes(results) or ClassNames((), several=False)
    recorded = results.class_names
    if not recorded or len(recorded) != len(numbers.names):
        return numbers
    return ClassNames(_make_distinct(recorded), several=numbers.several)


def _number_classes(results: Results) -> ClassNames | None:
    """Class numbers as names, for the number of classes in the first scored row.

    The names are empty for a regression; the result is None without a scored row.
    """
    for entry in results.entries:
        for table in results.batches(entry, ["mean", "prediction", "largest_label_entropy"]):
            for row in table.to_pylist():
                if row["mean"] is None:
                    continue
                if row["prediction"] is None and row["largest_label_entropy"] is None:
                    return ClassNames((), several=False)
                count = max(2, len(row["mean"])) if row["prediction"] is not None else len(row["mean"])
                return ClassNames(tuple(map(str, range(count))), several=row["prediction"] is None)
    return None


def _make_distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Class names for a labelling configuration: each printable, on one line, and different from the other choices."""
    names: list[str] = []
    taken = set(_RESERVED)
    for index, text in enumerate(texts):
        name = _make_printable(text)
        if not name or name in taken:
            name = f"{name} ({index})".strip()
        while name in taken:
            name += "'"
        taken.add(name)
        names.append(name)
    return tuple(names)


def _make_printable(text: str) -> str:
    """The text on one line, with a single space for each sequence of spaces and unprintable characters."""
    return " ".join("".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in text).split())
