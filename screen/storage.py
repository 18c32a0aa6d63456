"""Where files are: listing, and writing so that a reader sees a whole file or none.

In: local paths. Nothing else in `screen` renames or syncs a file.
"""

from __future__ import annotations

import glob
import os
import secrets
from pathlib import Path

from export.errors import InputRefused, WriteFailed

ASIDE_PREFIX = ".oodscreen-"
_ENDING = ".parquet"


def list_shards(source: str) -> tuple[Path, list[Path]]:
    """The Parquet files that INPUT names.

    Args:
        source: a file, a folder (searched with its subfolders) or a glob pattern. Names that
            start with `.` or `_` are passed over in a folder, as Parquet readers do.

    Returns:
        The folder that shard names are relative to, and the files in the order of their names.

    Raises:
        InputRefused: nothing is there.
    """
    path = Path(source)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        found = [
            file
            for file in path.rglob("*" + _ENDING)
            if file.is_file() and not any(part[0] in "._" for part in file.relative_to(path).parts)
        ]
        if not found:
            raise InputRefused(
                f"The folder {source} holds no {_ENDING} file.",
                wanted="Parquet shards with an image column",
                next_step=f"check the path; files that do not end in {_ENDING} can be named by a glob",
            )
        return path, sorted(found)
    if glob.has_magic(source):
        found = [Path(name) for name in glob.glob(source, recursive=True) if os.path.isfile(name)]
        if found:
            parts = Path(source).parts
            plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
            return Path(*parts[:plain]), sorted(found)
    raise InputRefused(
        f"There is no {source}.",
        wanted="a Parquet file, a folder of them, or a glob that matches some",
        next_step="check the path; put a glob in quotes",
    )


class AsideFile:
    """A file that is written beside its target and gets the target's name when it is whole.

    Args:
        target: the name it will have.

    Raises:
        WriteFailed: the target's folder cannot be made.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{ASIDE_PREFIX}{secrets.token_hex(8)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failed(target, error) from error

    def commit(self) -> None:
        """Sync the file and give it its name.

        Raises:
            WriteFailed: the system refused; the file aside is gone and the target is as it was.
        """
        try:
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.path, self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            self.discard()
            raise write_failed(self.target, error) from error

    def discard(self) -> None:
        """Remove the file aside."""
        self.path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left aside in a folder; only for the holder of its lock."""
    for path in folder.rglob(f"{ASIDE_PREFIX}*"):
        path.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a whole text file aside, and rename it.

    Raises:
        WriteFailed: the system refused; the target is as it was.
    """
    aside = AsideFile(target)
    try:
        aside.path.write_text(text, encoding="utf-8")
    except OSError as error:
        aside.discard()
        raise write_failed(target, error) from error
    aside.commit()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_failed(target: Path, error: OSError) -> WriteFailed:
    """The system's refusal to write, as one of our errors."""
    return WriteFailed(
        f"{target} could not be written: {error.strerror or error}.",
        wanted="a place with room that may be written to",
        next_step="make room or choose another OUTPUT, and run again: finished shards are not repeated",
    )
