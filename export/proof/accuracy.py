"""How many labelled rows a model has right, the exported one beside Keras: how people notice a wrong scale.

In: `LabelledBatch`es, and three ways to answer. Out: an `Accuracy` for the file's metadata, and
what is loudly wrong in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.labelled import LabelledBatch
from export.contract.metadata import Accuracy, ModelContract
from export.errors import InputRefused, OptionRefused

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""`uint8 [B, H, W, C]` to `[B, C]`."""

MONTE_CARLO_PASSES = 10
_STANDARD_ERRORS = 3.0
_DIFFERING_SHARE = 1e-3
_EXAMPLES = 3


def check_labels_are_classes(contract: ModelContract) -> None:
    """Accuracy is for classes.

    Raises:
        OptionRefused: the model is a regression.
    """
    if contract.output_kind == "regression":
        raise OptionRefused(
            "--check-data was given for a regression, which has no accuracy.",
            wanted="a model of classes",
            next_step="leave --check-data out, and compare values in Keras",
        )


def measure_accuracy(
    batches: Iterable[LabelledBatch], contract: ModelContract, *, keras: Answer, exported: Answer, stochastic: Answer
) -> Accuracy:
    """Count the rows that each model has right. With several labels a row, each label counts by itself.

    Args:
        batches: the labelled rows.
        contract: kind of output, number and names of the classes.
        keras: the Keras model without dropout.
        exported: the exported model without dropout.
        stochastic: the exported model as it is; its mean over `MONTE_CARLO_PASSES` passes is looked at.

    Raises:
        InputRefused: not one row has both an image and a label.
    """
    right = {"keras": 0.0, "exported": 0.0, "monte_carlo": 0.0}
    seen: Counter[tuple[int, int]] = Counter()
    rows = differing = unreadable = 0
    bad: list[str] = []
    for batch in batches:
        unreadable += len(batch.unreadable)
        read = [_read_label(label, contract) for label in batch.labels]
        bad += [repr(label) for label, found in zip(batch.labels, read, strict=True) if found is None]
        usable = np.array([found is not None for found in read], np.bool_)
        if not usable.any():
            continue
        images, labels = batch.images[usable], np.array([found for found in read if found is not None], np.int64)
        mean = np.mean([stochastic(images) for _ in range(MONTE_CARLO_PASSES)], axis=0)
        answers = {"keras": keras(images), "exported": exported(images), "monte_carlo": mean}
        predicted = {name: _predict(outputs, contract) for name, outputs in answers.items()}
        for name, classes in predicted.items():
            right[name] += float(np.mean(classes == labels, axis=1).sum())
        differing += int(np.any(predicted["keras"] != predicted["exported"], axis=1).sum())
        seen.update(placed for row in labels.tolist() for placed in enumerate(row))
        rows += len(images)
    if not rows:
        examples = ", ".join(list(dict.fromkeys(bad))[:_EXAMPLES])
        found = f"{len(bad)} labels that do not fit ({examples})" if bad else "no row with an image"
        raise InputRefused(
            f"The labelled rows hold {found}, and {unreadable} unreadable images.",
            wanted=f"images, and as labels {_wanted_labels(contract)}",
            next_step="check --label-column and --image-column; class names are looked up in --classes",
        )
    places = len({place for place, _ in seen})
    most = [max(count for (place, _), count in seen.items() if place == at) for at in range(places)]
    return Accuracy(
        rows=rows,
        keras=right["keras"] / rows,
        exported=right["exported"] / rows,
        monte_carlo=right["monte_carlo"] / rows,
        passes=MONTE_CARLO_PASSES,
        baseline=float(np.mean(most)) / rows,
        differing=differing,
        unreadable=unreadable,
        unlabelled=len(bad),
    )


def find_alarms(accuracy: Accuracy, contract: ModelContract) -> list[str]:
    """What a person must see before the file is used."""
    alarms = []
    chance = accuracy.baseline
    if chance == 1:  # one label only: nothing can be better than always saying it
        chance = 1 / max(2, contract.classes) if contract.output_kind != "sigmoid" else 0.5
    noise = _STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / accuracy.rows)
    if accuracy.exported <= chance + noise:
        alarms.append(
            f"the accuracy of {accuracy.exported:.2%} on {accuracy.rows} labelled rows is that of chance "
            f"({chance:.2%}): probably pixels are scaled otherwise than in training "
            f"(now: {contract.preprocessing.describe()}), or the labels are another model's"
        )
    if accuracy.differing > max(1, accuracy.rows * _DIFFERING_SHARE):
        alarms.append(
            f"the exported model and Keras differ on {accuracy.differing} of {accuracy.rows} labelled rows "
            f"(right: {accuracy.exported:.2%} and {accuracy.keras:.2%}); do not use this file, and report the model"
        )
    if accuracy.unlabelled:
        alarms.append(
            f"{accuracy.unlabelled} rows have no usable label and were left out; wanted: {_wanted_labels(contract)}"
        )
    if accuracy.unreadable:
        alarms.append(f"{accuracy.unreadable} rows have no image that could be decoded and were left out")
    return alarms


def _predict(outputs: NDArray[np.floating[Any]], contract: ModelContract) -> NDArray[np.int64]:
    """`[B, 1]` classes, or for sigmoids `[B, C]` of 0 and 1."""
    classes = outputs > 0.5 if contract.output_kind == "sigmoid" else outputs.argmax(axis=1)[:, None]
    return np.asarray(classes, np.int64)


def _read_label(label: Any, contract: ModelContract) -> list[int] | None:
    """A label as the classes that `_predict` gives, or None where it is none of the model's."""
    if contract.output_kind == "sigmoid":
        values = label if isinstance(label, list) else [label]
        numbers = [_whole_number(value) for value in values]
        fits = len(numbers) == contract.classes and all(number in (0, 1) for number in numbers)
        return [int(number) for number in numbers if number is not None] if fits else None
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    if isinstance(label, str):
        return [contract.class_names.index(label)] if label in contract.class_names else None
    number = _whole_number(label)
    return [number] if number is not None and 0 <= number < contract.classes else None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, int | float) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def _wanted_labels(contract: ModelContract) -> str:
    if contract.output_kind == "sigmoid":
        return "0 or 1" if contract.classes == 1 else f"lists of {contract.classes} values 0 or 1"
    names = ", or a name of --classes" if contract.class_names else "; names need --classes"
    return f"whole numbers 0 to {contract.classes - 1}{names}"
