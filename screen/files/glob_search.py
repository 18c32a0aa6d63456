"""Find the files that match a glob, local or in an object store.

In: a glob. Out: a `Listing`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from export.errors import InputRefused
from screen.files.entries import Entry, examine, has_folders, match_keys
from screen.files.listed import Listing, PassedOver
from screen.files.paths import is_local
from screen.files.search import Search, identify_folder, is_shard


class GlobSearch(Search):
    """Finds the files that match a glob; the parts of the pattern are matched one after another, as by `glob.glob`.

    `glob.glob` itself skips folders that cannot be listed, and follows a link to a folder above the link repeatedly.

    Args:
        source: INPUT.
        pattern: the glob as a path.

    Raises:
        InputRefused: the glob has `..` after a wildcard.
    """

    def __init__(self, source: str, pattern: Path) -> None:
        behind = source[: source.rfind("..")]
        if ".." in pattern.parts and glob.has_magic(behind):
            raise InputRefused(
                f"The glob {source} has `..` after a wildcard.",
                wanted="shards below one folder, so that shard names can be relative to it",
                next_step="write the glob without `..` after its first wildcard",
            )
        root = pattern.parent
        while glob.has_magic(str(root)):
            root = root.parent
        super().__init__(source, root)
        self._pattern = pattern
        self._found: set[str] = set()

    def search(self) -> Listing:
        """List the files that match the glob.

        Raises:
            OSError: the folder in front of the first wildcard cannot be listed.
        """
        if has_folders(self.root):
            self._search_below(str(self._pattern)[len(str(self.root)) :].strip("/" + os.sep).replace(os.sep, "/"))
        else:
            for key in match_keys(self.root, self._pattern):
                self.add(key, self.root / key)
        self.folders = self.folders if "**" in self.source else []
        return self.finish(PassedOver())

    def _search_below(self, pattern: str) -> None:
        parts = pattern.split("/")
        waiting: list[tuple[Path, str, int, frozenset[Any]]] = [(self.root, "", 0, frozenset())]
        while waiting:
            folder, name, position, above = waiting.pop()
            part, is_last = parts[position], position == len(parts) - 1
            if part == "**":
                key = identify_folder(folder)
                if key is not None and key in above:
                    continue
                above |= {key}
                if not is_last:
                    waiting.append((folder, name, position + 1, frozenset()))
            for entry in self._matching(folder, name, part):
                inner = f"{name}/{entry.name}" if name else entry.name
                if part == "**" and entry.kind == "folder":
                    waiting.append((entry.path, inner, position, above))
                    self.folders += [entry.path] * entry.is_link
                elif not is_last and part != "**" and entry.kind == "folder":
                    waiting.append((entry.path, inner, position + 1, frozenset()))
                elif is_last and inner not in self._found:
                    self._found.add(inner)
                    self._add_entry(entry, inner)

    def _add_entry(self, entry: Entry, name: str) -> None:
        if entry.kind == "file":
            self.add(name, entry.path)
        elif entry.kind == "unknown" or (entry.kind != "folder" and is_shard(entry.name)):
            self.refuse(name, entry.path, entry.problem)

    def _matching(self, folder: Path, name: str, part: str) -> Iterable[Entry]:
        if is_local(folder) and not glob.has_magic(part):  # no permission to list the folder is needed
            path = folder / part
            if os.path.lexists(path):
                yield examine(path, path)
            return
        for entry in self.entries(folder, name):
            is_hidden = entry.name.startswith(".") and not part.startswith(".")
            if not is_hidden and (part == "**" or fnmatch(entry.name, part)):
                yield entry
