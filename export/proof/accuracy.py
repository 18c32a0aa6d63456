"""Measure the accuracies of the exported and of the source model on labelled rows, to detect a wrong preprocessing.

In: `LabelledBatch`es and three prediction functions. Out: an `Accuracy` for the file's metadata, and warnings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.accuracy import Accuracy
from export.contract.labelled import LabelledBatch
from export.contract.metadata import ModelContract
from export.contract.probabilities import to_probabilities
from export.errors import InputRefused, OptionRefused

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Prediction function from `uint8 [B, H, W, C]` to outputs `[B, C]`."""

MONTE_CARLO_PASSES = 10
"""Number of stochastic passes in the Monte Carlo accuracy."""

_STANDARD_ERRORS = 3.0
"""Maximum distance above chance, in standard errors, at which an accuracy counts as chance."""

_DIFFERING_SHARE = 1e-3
"""Maximum fraction of rows with different predictions without a warning; one row is always allowed."""

_EXAMPLES = 3
"""Maximum number of unusable labels in a message."""


def check_labels_are_classes(contract: ModelContract) -> None:
    """Check that accuracy is defined for the output kind of the model.

    Raises:
        OptionRefused: the output kind is `regression`.
    """
    if contract.task == "values":
        raise OptionRefused(
            "--check-data was given for a regression, which has no accuracy.",
            wanted="a classification model",
            next_step="leave out --check-data, and measure the error of the regression with the source model",
        )


def measure_accuracy(
    batches: Iterable[LabelledBatch], contract: ModelContract, *, keras: Predict, exported: Predict, stochastic: Predict
) -> Accuracy:
    """Accuracy of the source model and of the exported model. For several labels, the mean accuracy over the labels.

    Args:
        batches: labelled rows.
        contract: contract of the model, with its output kind and its classes.
        keras: outputs of the source model without dropout.
        exported: outputs of the exported model without dropout.
        stochastic: outputs of one stochastic pass of the exported model; the mean of the probabilities of
            `MONTE_CARLO_PASSES` passes is evaluated.

    Raises:
        InputRefused: no row has both an image and a usable label.
    """
    correct = {"keras": 0.0, "exported": 0.0, "monte_carlo": 0.0}
    counts: Counter[tuple[int, int]] = Counter()
    rows = differing = unreadable = 0
    bad: list[Any] = []
    for batch in batches:
        unreadable += len(batch.unreadable)
        read = [read_label(label, contract) for label in batch.labels]
        bad += [label for label, found in zip(batch.labels, read, strict=True) if found is None]
        usable = np.array([found is not None for found in read], np.bool_)
        if not usable.any():
            continue
        images, labels = batch.images[usable], np.array([found for found in read if found is not None], np.int64)
        passes = [to_probabilities(stochastic(images), contract) for _ in range(MONTE_CARLO_PASSES)]
        probabilities = {
            "keras": to_probabilities(keras(images), contract),
            "exported": to_probabilities(exported(images), contract),
            "monte_carlo": np.mean(passes, axis=0),
        }
        predicted = {name: predict(values, contract) for name, values in probabilities.items()}
        for name, classes in predicted.items():
            correct[name] += float(np.mean(classes == labels, axis=1).sum())
        differing += int(np.any(predicted["keras"] != predicted["exported"], axis=1).sum())
        counts.update(pair for row in labels.tolist() for pair in enumerate(row))
        rows += len(images)
    if not rows:
        raise refuse_no_labels(bad, unreadable, contract)
    outputs = len({index for index, _ in counts})
    most = [max(count for (index, _), count in counts.items() if index == output) for output in range(outputs)]
    return Accuracy(
        rows=rows,
        keras=correct["keras"] / rows,
        exported=correct["exported"] / rows,
        monte_carlo=correct["monte_carlo"] / rows,
        passes=MONTE_CARLO_PASSES,
        baseline=float(np.mean(most)) / rows,
        differing=differing,
        unreadable=unreadable,
        unlabelled=len(bad),
    )


def refuse_no_labels(bad: Sequence[Any], unreadable: int, contract: ModelContract) -> InputRefused:
    """The error for labelled rows of which none has both an image and a usable label.

    Args:
        bad: the unusable labels.
        unreadable: number of rows without a decodable image.
        contract: contract of the model.
    """
    examples = ", ".join(list(dict.fromkeys(map(repr, bad)))[:_EXAMPLES])
    found = f"{len(bad)} unusable labels ({examples})" if bad else "no unusable labels"
    return InputRefused(
        f"No labelled row has both an image and a usable label: {found}; unreadable images: {unreadable}.",
        wanted=f"rows with a decodable image and a label; labels are {_wanted_labels(contract)}",
        next_step="check --label-column and --image-column; if the labels are class names, also check --classes",
    )


def find_alarms(accuracy: Accuracy, contract: ModelContract) -> list[str]:
    """Warnings for the user about a measured accuracy and about rows that were left out."""
    alarms = []
    chance = accuracy.baseline
    if chance == 1:  # all rows have one label, so a constant prediction is always right
        chance = 1 / contract.classes if contract.task == "classes" else 0.5
    if is_at_chance(accuracy.exported, chance, accuracy.rows):
        alarms.append(
            f"the accuracy of {accuracy.exported:.2%} on {accuracy.rows} labelled rows is at the level of chance "
            f"({chance:.2%}): probably training used another preprocessing than "
            f"{contract.preprocessing.describe()}, or the labels belong to another model"
        )
    if accuracy.differing > max(1, accuracy.rows * _DIFFERING_SHARE):
        alarms.append(
            f"the exported model and {contract.source_name} differ on {accuracy.differing} of {accuracy.rows} labelled "
            f"rows (accuracy: {accuracy.exported:.2%} and {accuracy.keras:.2%}); do not use this file, and report the "
            "model to the developers of oodscreen"
        )
    if accuracy.unlabelled:
        alarms.append(
            f"{accuracy.unlabelled} rows have no usable label and were left out; wanted: {_wanted_labels(contract)}"
        )
    if accuracy.unreadable:
        alarms.append(f"{accuracy.unreadable} rows have no decodable image and were left out")
    return alarms


def is_at_chance(accuracy: float, chance: float, rows: int) -> bool:
    """Whether an accuracy on a number of rows is at most three standard errors above the accuracy by chance."""
    return accuracy <= chance + _STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / rows)


def predict(probabilities: NDArray[np.floating[Any]], contract: ModelContract) -> NDArray[np.int64]:
    """Predicted classes `[B, 1]`; for one probability or several labels, predicted labels `[B, C]` of 0 and 1."""
    classes = probabilities.argmax(axis=1)[:, None] if contract.task == "classes" else probabilities > 0.5
    return np.asarray(classes, np.int64)


def read_label(label: Any, contract: ModelContract) -> list[int] | None:
    """A label in the format of a row of `predict`; None if it is not a label of the model.

    As in `oodscreen evaluate`, a text that is a numeral (`"3"`) is a class number unless a class name is a numeral.
    """
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    if isinstance(label, str) and label.isdecimal() and not any(name.isdecimal() for name in contract.class_names):
        label = int(label)
    if isinstance(label, str) and label in contract.class_names:
        label = contract.class_names.index(label)
    if contract.task in ("binary", "labels"):
        values = label if isinstance(label, list) else [label]
        numbers = [_whole_number(value) for value in values]
        fits = len(numbers) == contract.classes and all(number in (0, 1) for number in numbers)
        return [int(number) for number in numbers if number is not None] if fits else None
    number = _whole_number(label)
    return [number] if number is not None and 0 <= number < contract.classes else None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, int | float) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def _wanted_labels(contract: ModelContract) -> str:
    if contract.task == "labels":
        return f"lists of {contract.classes} values, each 0 or 1"
    names = " or names in --classes" if contract.class_names else " (for class names, add --classes)"
    return f"integers from 0 to {contract.class_count - 1}{names}"
