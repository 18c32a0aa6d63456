"""Read the values of the options of an export from text: numbers, rates, image shapes, and classes in Python modules.

In: the text of an option. Out: its value, or `OptionRefused` with the forms that are accepted.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from export.contract.insertion import AUTO, LIST, Insertion
from export.errors import OptionRefused
from export.shares import parse_share


def parse_number(option: str, text: str) -> float:
    """Parse a number or a fraction, such as `0.5` or `1/255`.

    Raises:
        OptionRefused: the text is neither a number nor a fraction.
    """
    try:
        return float(Fraction(text.strip().replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise OptionRefused(
            f"{option} is {text!r}.",
            wanted="a number or a fraction, such as 1/255",
            next_step="give a number or a fraction",
        ) from error


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Parse numbers that are separated by commas."""
    return tuple(parse_number(option, part) for part in text.split(","))


def parse_rates(texts: Sequence[str]) -> dict[str, float]:
    """Rates by layer pattern: the pattern of `0.3` and `30%` is `*`, that of `PATTERN=0.3` is `PATTERN`."""
    rates = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        is_percentage = number.rstrip().endswith("%")
        rates[pattern or "*"] = (parse_share if is_percentage else parse_number)("--rate", number)
    return rates


def parse_insertions(texts: Sequence[str]) -> tuple[Insertion, ...]:
    """Sites to insert, each given as `LAYER=RATE`, where the rate is a number, a fraction, a percentage or `auto`.

    The text `list` gives `LIST`.

    Raises:
        OptionRefused: a text has another form, or a rate is not above 0 and below 1.
    """
    return tuple(_parse_insertion(text) for text in texts)


def as_insertions(given: Sequence[Insertion] | Mapping[str, float | str]) -> tuple[Insertion, ...]:
    """Sites to insert, given in Python as `Insertion`s or as rates by layer.

    Raises:
        OptionRefused: the value has another form, or a rate is not above 0 and below 1.
    """
    if isinstance(given, Mapping):
        return parse_insertions([f"{layer}={rate}" for layer, rate in given.items()])
    wrong = [one for one in given if not isinstance(one, Insertion)]
    if wrong:
        raise OptionRefused(
            f"--insert-dropout contains {wrong[0]!r}.",
            wanted="rates by the names of the layers",
            next_step="give a dict such as {'classifier': 0.2}",
        )
    return tuple(given)


def _parse_insertion(text: str) -> Insertion:
    if text.strip() == "list":
        return LIST
    layer, equals, rate = (part.strip() for part in text.rpartition("="))
    if not equals or not layer:
        raise OptionRefused(
            f"--insert-dropout is {text!r}.",
            wanted="LAYER=RATE, or list to print the layers",
            next_step="give the name of a layer and a rate, such as --insert-dropout 'classifier=0.2'",
        )
    if rate == AUTO:
        return Insertion(layer, None)
    try:
        number = (parse_share if rate.endswith("%") else parse_number)("--insert-dropout", rate)
    except OptionRefused as error:
        raise OptionRefused(
            f"--insert-dropout gives {layer} the rate {rate!r}.",
            wanted="a rate above 0 and below 1, such as 0.2, 1/5 or 20%, or auto",
            next_step=f"give another rate, such as --insert-dropout '{layer}=0.2'",
        ) from error
    return Insertion(layer, number)


def parse_image_shape(text: str) -> tuple[int, int, int]:
    """Parse the shape of an image, such as `28x28x1`.

    Raises:
        OptionRefused: the text is not three whole numbers with `x` between them.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip().lower())
    if match is None:
        raise OptionRefused(
            f"--image-shape is {text!r}.",
            wanted="HEIGHTxWIDTHxCHANNELS or CHANNELSxHEIGHTxWIDTH, with height and width in pixels",
            next_step="give three whole numbers, such as 28x28x1 or 224x224x3",
        )
    height, width, channels = map(int, match.groups())
    return height, width, channels


def find_objects(texts: Sequence[str]) -> dict[str, Any]:
    """Import classes and functions, each given as `module:Name` or `file.py:Name`, and return them by name."""
    return dict(find_object(text) for text in texts)


def find_object(text: str) -> tuple[str, Any]:
    """Import a class or function, given as `module:Name` or `file.py:Name`, and return its name and the object.

    Raises:
        OptionRefused: the import fails.
    """
    place, _, name = text.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, "")  # modules of the current folder, as `python -m` finds them
            try:
                module = importlib.import_module(place)
            finally:
                sys.path.remove("")
        return name, getattr(module, name)
    except Exception as error:
        raise OptionRefused(
            f"--custom-objects {text} cannot be imported: {type(error).__name__}: {error}.",
            wanted="module:Name or path/to/file.py:Name",
            next_step=f"check that the file {place} exists, runs without errors and defines {name}"
            if place.endswith(".py")
            else f"check that this command succeeds in this folder: python -c 'from {place} import {name}'",
        ) from error
