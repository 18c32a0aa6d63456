"""Read the true class of each row from a column of labels.

In: a column that `run --keep` copied, and the class names of the model. Out: class numbers `[n]`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from export.errors import OptionRefused
from screen.review.classes import as_choice, classes_by_text
from screen.review.text import clip

_EXAMPLES = 4
"""Maximum number of unusable labels, and of class names, in a message."""


def read_classes(column: pa.ChunkedArray, name: str, class_names: tuple[str, ...], count: int) -> NDArray[np.int64]:
    """The class number of each row, `[n]`; -1 for a missing label: null, NaN or blank text.

    A label is a class number (an integer or whole float), a class name, or a class number as text.

    Args:
        column: `[n]`, the labels.
        name: name of the column, for the error message.
        class_names: class names of the model; empty if they are unknown.
        count: number of classes.

    Raises:
        OptionRefused: a label is not a class of the model, or is the name of several classes; or the column contains
            neither numbers nor text.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        values = column.unique()
        positions = np.asarray(pc.index_in(column, value_set=values))
    except pa.ArrowNotImplementedError as error:
        raise OptionRefused(
            f"The column {name!r} of --label-column has the type {column.type}.",
            wanted=f"one label in each row: {_describe(class_names, count)}",
            next_step="give a column of integers or text",
        ) from error
    texts = classes_by_text(class_names, count)
    classes = np.full(len(values), -1, np.int64)
    unusable: dict[int, str] = {}
    for index, value in enumerate(values.to_pylist()):
        choice = as_choice(value)
        if choice is None:
            continue
        found = texts.get(choice, ()) if isinstance(choice, str) else (choice,) if 0 <= choice < count else ()
        if len(found) == 1:
            classes[index] = found[0]
        else:
            unusable[index] = clip(repr(choice), 60) + (f" (the name of {len(found)} classes)" if found else "")
    if unusable:
        rows = int(np.isin(positions, list(unusable)).sum())
        raise _refuse(name, rows, len(column), list(unusable.values()), class_names, count)
    found_classes: NDArray[np.int64] = classes[positions]
    return found_classes


def _refuse(
    name: str, rows: int, of: int, unusable: list[str], class_names: tuple[str, ...], count: int
) -> OptionRefused:
    more = f", and {len(unusable) - _EXAMPLES} more" if len(unusable) > _EXAMPLES else ""
    next_step = "give another column, or set these labels to null, which leaves out their rows"
    if len(class_names) != count:
        next_step = "give class numbers, or record class names: run the same `oodscreen run` again with --classes"
    return OptionRefused(
        f"In --label-column {name}, {rows} of {of} scored row(s) have a label that does not name exactly one class of "
        f"the model: {', '.join(unusable[:_EXAMPLES])}{more}.",
        wanted=_describe(class_names, count),
        next_step=next_step,
    )


def _describe(class_names: tuple[str, ...], count: int) -> str:
    """Description of the labels that are valid for a model with these classes."""
    numbers = f"class numbers from 0 to {count - 1}"
    if len(class_names) != count:
        return f"{numbers} (these results contain no name for each class)"
    names = ", ".join(clip(repr(name), 60) for name in class_names[:_EXAMPLES])
    return f"{numbers}, or class names: {names}{', ...' if count > _EXAMPLES else ''}"
