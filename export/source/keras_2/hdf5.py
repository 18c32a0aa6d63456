"""Read the groups, datasets and attributes of HDF5 files as Keras 2 writes them.

In: an open group. Out: its parts. Links to data in other files are refused, because a link can refer to any file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

from export.errors import ModelRefused


class Mismatch(Exception):
    """Some saved weights, or some weights of the model, have no counterpart; both are listed as text."""

    def __init__(self, saved: Sequence[str], wanted: Sequence[str]) -> None:
        super().__init__()
        self.saved = saved
        self.wanted = wanted


def item_at(group: Any, name: str) -> Any:
    """The group or dataset with a name.

    Raises:
        ModelRefused: the group or dataset is not stored in the same file.
    """
    import h5py

    for part in name.split("/"):
        if isinstance(group.get(part, getlink=True), h5py.ExternalLink):
            raise _outside(f"{group.name}/{part}")
        group = group[part]
    return within_file(group)


def within_file(item: Any) -> Any:
    """The group or dataset, after a check that its values are stored in the same file.

    Raises:
        ModelRefused: the values are stored in another file.
    """
    if getattr(item, "external", None) or getattr(item, "is_virtual", False):
        raise _outside(item.name)
    return item


def _outside(name: str) -> ModelRefused:
    return ModelRefused(
        f"The weights {name} refer to data in another file.",
        wanted="a file that contains all weights",
        next_step="if you trust the file, export copy.h5, which this Python code writes with all weights, where FILE "
        "is this file: import h5py; source, copy = h5py.File(FILE, 'r'), h5py.File('copy.h5', 'w'); "
        "[source.copy(source[name], copy, name, expand_external=True) for name in source]; "
        "copy.attrs.update(source.attrs); copy.close()",
    )


def texts_of(group: Any, name: str) -> list[str]:
    """The texts of an attribute; Keras divides a long attribute into several, whose names end in 0, 1 and so on."""
    attributes = {} if group is None else group.attrs
    numbered = takewhile(lambda key: key in attributes, (f"{name}{number}" for number in count()))
    texts = [text for key in ([name] if name in attributes else numbered) for text in attributes[key]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
