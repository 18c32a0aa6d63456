"""What a labeler can choose: the model's classes by their names, and two words for what is none of them.

In: the results with the record of their run, and the model where it is given. Out: `ClassNames`,
in which no two choices are the same.
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
_OWN = (OUT_OF_DISTRIBUTION, UNUSABLE, IN_DISTRIBUTION)


@dataclass(frozen=True)
class ClassNames:
    """The choices of a labeler.

    Attributes:
        names: the classes, or the labels of a model of several; none for a regression.
        several: whether an image may have more than one.
    """

    names: tuple[str, ...]
    several: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """All of them, those that are no class last."""
        return (*(self.names or (IN_DISTRIBUTION,)), OUT_OF_DISTRIBUTION, UNUSABLE)

    def predicted(self, row: dict[str, Any]) -> tuple[str, ...]:
        """What the model would choose for a row of the results; nothing where it could not be scored."""
        if row["mean"] is None or not self.names:
            return ()
        if self.several:
            return tuple(name for name, mean in zip(self.names, row["mean"], strict=True) if mean > 0.5)
        return (self.names[row["prediction"]],)


def name_classes(results: Results, model: str | None) -> tuple[ClassNames, ModelContract | None]:
    """The class names of a model's file; without it those that the run recorded, which are the same; else numbers.

    Args:
        results: of the model.
        model: its file.

    Raises:
        OptionRefused: the results are another model's.
    """
    if model is None:
        return _recorded_classes(results), None
    read = read_model(as_path(model))
    if read.digest != results.model:
        raise OptionRefused(
            f"--model {model} has the digest {read.digest[:16]}; the results are of {results.model[:16]}.",
            wanted="the file that these results were made with",
            next_step="name that file, or leave --model out: classes have the names that the run recorded",
        )
    contract = read.contract
    if contract.output_kind == "regression":
        return ClassNames((), several=False), contract
    count = 2 if contract.output_kind == "sigmoid" and contract.classes == 1 else contract.classes
    given = contract.class_names if len(contract.class_names) == count else tuple(map(str, range(count)))
    return ClassNames(
        _made_distinct(given), several=contract.output_kind == "sigmoid" and contract.classes > 1
    ), contract


def _recorded_classes(results: Results) -> ClassNames:
    """The names in the record of the run, if there is one for each class of the results; else numbers."""
    numbers = _number_classes(results)
    given = () if results.record is None else results.record.class_names
    if not given or len(given) != len(numbers.names):
        return numbers
    return ClassNames(_made_distinct(given), several=numbers.several)


def _number_classes(results: Results) -> ClassNames:
    """Numbers, as many as the results have; of a row without a predicted class nothing can be said."""
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


def _made_distinct(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names that can stand in a form: in one line, printable, and none of them twice."""
    names: list[str] = []
    taken = set(_OWN)
    for index, text in enumerate(given):
        printable = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in text)
        name = " ".join(printable.split())
        if not name or name in taken:
            name = f"{name} ({index})".strip()
        while name in taken:
            name += "'"
        taken.add(name)
        names.append(name)
    return tuple(names)
