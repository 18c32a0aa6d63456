"""Search a folder, local or in an object store, for Parquet files.

In: a folder. Out: a `Listing`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from export.errors import InputRefused
from screen.files.entries import Entry, has_folders, read_keys
from screen.files.kinds import recognise_folder
from screen.files.listed import ENDING, PACK_FOLDER, Listing, PassedOver
from screen.files.search import Search, identify_folder, is_shard


class FolderSearch(Search):
    """Searches a folder and its subfolders; links to folders are followed after all folders are searched."""

    def __init__(self, source: str, root: Path) -> None:
        super().__init__(source, root)
        self._seen: set[Any] = set()
        self._links: list[tuple[Path, str]] = []
        self._endings: Counter[str] = Counter()
        self._examples: dict[str, Path] = {}
        self._hidden = self._listed = self._broken = 0

    def search(self) -> Listing:
        """List the Parquet files in the folder and its subfolders.

        Raises:
            InputRefused: the folder contains no shard.
            OSError: the folder cannot be listed.
        """
        if has_folders(self.root):
            self._search_below(self.root, "")
            for path, name in self._links:  # the list grows: a linked folder may contain links
                self._follow(path, name)
        else:
            for key in read_keys(self.root):
                self._add_key(key)
        endings = tuple(sorted(self._endings.items(), key=lambda item: (-item[1], item[0])))
        passed_over = PassedOver(endings, self._hidden, self._listed, self._broken)
        if not self.files and not self.unlisted:
            besides = passed_over.describe()
            content = recognise_folder(self.root, [self._examples[ending] for ending, _ in endings])
            is_content = "" if content is None else f" It contains {content.found}."
            raise InputRefused(
                f"The folder {self.source} contains no {ENDING} file{f'; skipped: {besides}' if besides else ''}."
                f"{is_content}",
                wanted="Parquet shards with an image column",
                next_step=f"check the path; to read files whose names do not end in {ENDING}, give a glob"
                if content is None
                else content.next_step,
            )
        return self.finish(passed_over)

    def _follow(self, path: Path, name: str) -> None:
        if identify_folder(path) in self._seen:
            self._listed += 1
        else:
            self.folders.append(path)
            self._search_below(path, name)

    def _search_below(self, path: Path, name: str) -> None:
        waiting = [(path, name)]
        while waiting:
            path, name = waiting.pop()
            key = identify_folder(path)
            if key is not None and key in self._seen:
                continue
            self._seen.add(key)
            for entry in self.entries(path, name):
                inner = f"{name}/{entry.name}" if name else entry.name
                if entry.name[0] in "._":
                    self._hidden += entry.name != PACK_FOLDER
                elif entry.kind == "folder":
                    (self._links if entry.is_link else waiting).append((entry.path, inner))
                else:
                    self._add_entry(entry, inner)

    def _add_entry(self, entry: Entry, name: str) -> None:
        if not is_shard(entry.name):
            if entry.kind == "file":
                self._pass_over(entry.path, entry.name)
            elif entry.kind == "broken":
                self._broken += 1
            elif entry.kind == "unknown":
                self.refuse(name, entry.path, entry.problem)
        elif entry.kind == "file":
            self.add(name, entry.path)
        else:
            self.refuse(name, entry.path, entry.problem)

    def _add_key(self, name: str) -> None:
        parts = PurePosixPath(name).parts
        if any(part[0] in "._" and part != ".." for part in parts):
            self._hidden += PACK_FOLDER not in parts
        elif is_shard(name):
            self.add(name, self.root / name)
        else:
            self._pass_over(self.root / name, parts[-1])

    def _pass_over(self, path: Path, name: str) -> None:
        ending = _ending(name)
        self._endings[ending] += 1
        self._examples.setdefault(ending, path)


def _ending(name: str) -> str:
    """The last two parts of the ending of a name, for example `.parquet.gzip`; "" without an ending."""
    return "".join(PurePosixPath(name).suffixes[-2:])
