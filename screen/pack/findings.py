"""Findings: numbers and names of the files and folders of SOURCE that get no row.

In: names, while SOURCE is searched. Out: a `PassedOver` and a list of `Unread` for the summary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from export.errors import printable

NAMED = 5
"""Maximum number of names in a line of the summary."""

_ENDINGS = 100
"""Maximum number of endings that are counted separately."""


@dataclass(frozen=True)
class Unread:
    """A file, folder, tar or member of a tar that is not read.

    Attributes:
        name: path relative to SOURCE.
        reason: why it is not read.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class PassedOver:
    """Files of SOURCE that are not images, and hidden files and folders.

    Attributes:
        endings: number of files without the ending of an image, by ending.
        names: names of the first of these files.
        hidden: number of files and folders whose names start with a dot.
        hidden_names: names of the first of these files and folders.
    """

    endings: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    hidden: int = 0
    hidden_names: tuple[str, ...] = ()

    def describe(self) -> str:
        """The numbers and names on one line; "" if nothing was skipped."""
        parts = []
        if self.endings:
            files = sum(count for _, count in self.endings)
            counts = ", ".join(f"{ending or 'no ending'} {count}" for ending, count in self.endings[:NAMED])
            more = ", ..." if len(self.endings) > NAMED else ""
            parts.append(
                f"{files} file(s) without the ending of an image ({counts}{more}): {name_some(self.names, files)}"
            )
        if self.hidden:
            parts.append(f"{self.hidden} name(s) that start with a dot: {name_some(self.hidden_names, self.hidden)}")
        return "; ".join(parts)


class Findings:
    """The files and folders that a search has found besides images.

    Attributes:
        unread: the first folders, tars and members of tars that are not read.
        unread_count: number of all folders, tars and members of tars that are not read.
    """

    def __init__(self) -> None:
        self.unread: list[Unread] = []
        self.unread_count = 0
        self._endings: Counter[str] = Counter()
        self._names: list[str] = []
        self._hidden = 0
        self._hidden_names: list[str] = []

    def pass_over(self, name: str, ending: str | None = None) -> None:
        """Count a file that is not an image.

        Args:
            name: name of the file.
            ending: its ending; None: the last ending of the name.
        """
        ending = PurePosixPath(name).suffix.lower() if ending is None else ending
        self._endings[ending if ending in self._endings or len(self._endings) < _ENDINGS else "other endings"] += 1
        if len(self._names) < NAMED:
            self._names.append(name)

    def pass_hidden(self, name: str) -> None:
        """Count a file or folder whose name starts with a dot."""
        self._hidden += 1
        if len(self._hidden_names) < NAMED:
            self._hidden_names.append(name)

    def refuse(self, name: str, reason: str) -> None:
        """Count a folder, tar or member of a tar that is not read."""
        self.unread_count += 1
        if len(self.unread) < NAMED:
            self.unread.append(Unread(name, reason))

    @property
    def passed_over(self) -> PassedOver:
        """Numbers and names of the files that are not images and of the hidden files and folders, counted so far."""
        endings = tuple(sorted(self._endings.items(), key=lambda item: (-item[1], item[0])))
        return PassedOver(endings, tuple(self._names), self._hidden, tuple(self._hidden_names))


def on_one_line(name: str) -> str:
    """A name, in which control characters and line breaks are escaped."""
    return printable(name).replace("\n", "\\n")


def name_some(names: tuple[str, ...] | list[str], count: int) -> str:
    """The first names on one line, followed by "..." if there are more names; `count` is the number of all names."""
    return ", ".join(map(on_one_line, names[:NAMED])) + (", ..." if count > min(NAMED, len(names)) else "")
