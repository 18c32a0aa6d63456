"""Recognise arguments in a wrong order by the kinds of their paths, after a command has refused them.

In: an error, and the context of a command. Out: the error, with the right order as the next step. Only local paths are
examined, and only some files of a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from itertools import islice
from typing import Any, TypeVar

from export.errors import OodscreenError, Refused
from screen.command_line.sources import name_parameter
from screen.files.endings import is_image

Error = TypeVar("Error", bound=OodscreenError)

_LOOKED_AT = 200
"""Maximum number of files and folders examined below a folder."""

_MANIFEST = "_manifest.jsonl"
"""Name of a file by which the OUTPUT folder of a run is recognised."""


_OUTPUTS = ("output", "out", "shards")
"""Keys of paths that need not exist."""


class _Place(Enum):
    """Kind of a path."""

    KERAS = auto()
    ONNX = auto()
    SHARDS = auto()
    IMAGES = auto()
    RESULTS = auto()
    PAGE = auto()
    MISSING = auto()
    UNKNOWN = auto()


_WANTED: Mapping[str, _Place] = {
    "model": _Place.ONNX,
    "input": _Place.SHARDS,
    "in_distribution": _Place.SHARDS,
    "reference": _Place.SHARDS,
    "shard": _Place.SHARDS,
    "shards": _Place.SHARDS,
    "source": _Place.IMAGES,
    "results": _Place.RESULTS,
    "others": _Place.RESULTS,
    "against": _Place.RESULTS,
    "export model": _Place.KERAS,
    "export out": _Place.ONNX,
    "run output": _Place.RESULTS,
    "report output": _Place.PAGE,
}
"""Required kind of the path in an argument or option, by its key, or by its command and its key."""


def explain_order(error: Error, context: Any) -> Error:
    """The error; if the path of one argument fits another argument, the next step is the right order of the paths.

    Errors that are not refusals are returned unchanged.
    """
    if not isinstance(error, Refused):
        return error
    command = context.command
    places = {one.name: _recognise(context.params.get(one.name)) for one in command.params}
    wanted = {key: _WANTED.get(f"{command.name} {key}", _WANTED.get(key)) for key in places}
    unfit = [key for key, place in places.items() if place is not None and place is not wanted[key]]
    owners = [key for key in unfit if key not in _OUTPUTS or places[key] is not _Place.MISSING]
    swapped = next(((key, owner) for key in unfit for owner in owners if places[key] is wanted[owner]), None)
    if swapped is None:
        return error
    parts = [name_parameter(one) for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    parts += [f"{one.opts[0]} {one.metavar}" for one in options if one.required or one.name in swapped]
    order = f"{context.command_path} {' '.join(parts)}"
    return type(error)(error.found, wanted=error.wanted, next_step=f"give the paths in this order: {order}")


def _recognise(value: object) -> _Place | None:
    """Kind of a path; None for a value that is not a single path. An object in a store is recognised by name alone."""
    text = str(value)
    if not isinstance(value, str | os.PathLike):
        return None
    ending = os.path.splitext(text)[1].lower()
    endings = {
        ".onnx": _Place.ONNX,
        ".keras": _Place.KERAS,
        ".h5": _Place.KERAS,
        ".html": _Place.PAGE,
        ".parquet": _Place.SHARDS,
    }
    if not os.path.isdir(text):
        is_there = "://" in text or os.path.exists(text)
        return endings.get(ending, _Place.UNKNOWN if is_there else _Place.MISSING)
    if os.path.exists(os.path.join(text, _MANIFEST)):
        return _Place.RESULTS
    names = list(islice(_walk(text), _LOOKED_AT))
    if any(name.endswith(".parquet") for name in names):
        return _Place.SHARDS
    return _Place.IMAGES if any(map(is_image, names)) else _Place.UNKNOWN


def _walk(folder: str) -> Iterator[str]:
    """The names of the files below a folder, and "" for each folder."""
    for _, _, names in os.walk(folder):
        yield ""
        yield from names
