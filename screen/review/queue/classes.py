"""The choices of an annotator: the model's class names, `out of distribution` and `unusable`.

In: results with the record of their run, and optionally the model. Out: `ClassNames`, whose choices are all different.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from export.contract.metadata import ModelContract
from export.contract.reader import read_model
from export.errors import OptionRefused
from screen.files.paths import as_path
from screen.review.results import Results

OUT_OF_DISTRIBUTION = "out of distribution"
UNUSABLE = "unusable"
IN_DISTRIBUTION = "in distribution"
_RESERVED = (OUT_OF_DISTRIBUTION, UNUSABLE, IN_DISTRIBUTION)


@dataclass(frozen=True)
class ClassNames:
    """The choices of an annotator.

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


def name_classes(results: Results, model: str | None) -> tuple[ClassNames, ModelContract | None]:
    """The choices of an annotator, and the contract of the model if its file is given.

    Without the file, the class names are those in the record of the run, which are the same as in the model; without a
    record, they are class numbers.

    Args:
        results: results of the model.
        model: path of the model file; None if it was not given.

    Raises:
        OptionRefused: the results were produced by another model.
    """
    if model is None:
        return _recorded_classes(results), None
    read = read_model(as_path(model))
    if read.digest != results.model:
        raise OptionRefused(
            f"--model {model} has the digest {read.digest[:16]}; the model of the results has {results.model[:16]}.",
            wanted="the model file that produced these results",
            next_step="give that file, or leave out --model to use the class names recorded by the run",
        )
    contract = read.contract
    if contract.output_kind == "regression":
        return ClassNames((), several=False), contract
    count = 2 if contract.output_kind == "sigmoid" and contract.classes == 1 else contract.classes
    names = contract.class_names if len(contract.class_names) == count else tuple(map(str, range(count)))
    return ClassNames(
        _make_distinct(names), several=contract.output_kind == "sigmoid" and contract.classes > 1
    ), contract


def _recorded_classes(results: Results) -> ClassNames:
    """The class names in the record of the run, if it has a name for each class; else class numbers."""
    numbers = _number_classes(results)
    recorded = () if results.record is None else results.record.class_names
    if not recorded or len(recorded) != len(numbers.names):
        return numbers
    return ClassNames(_make_distinct(recorded), several=numbers.several)


def _number_classes(results: Results) -> ClassNames:
    """Class numbers as names, their count from the first scored row; empty for a regression or without scored rows."""
    for entry in results.entries:
        for table in results.batches(entry, ["mean", "prediction", "largest_label_entropy"]):
            for row in table.to_pylist():
                if row["mean"] is None:
                    continue
                if row["prediction"] is None and row["largest_label_entropy"] is None:
                    return ClassNames((), several=False)
                count = max(2, len(row["mean"])) if row["prediction"] is not None else len(row["mean"])
                return ClassNames(tuple(map(str, range(count))), several=row["prediction"] is None)
    return ClassNames((), several=False)


def _make_distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Class names for a labelling form: on one line, printable and all different."""
    names: list[str] = []
    taken = set(_RESERVED)
    for index, text in enumerate(texts):
        printable = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in text)
        name = " ".join(printable.split())
        if not name or name in taken:
            name = f"{name} ({index})".strip()
        while name in taken:
            name += "'"
        taken.add(name)
        names.append(name)
    return tuple(names)
