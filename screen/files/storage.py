"""List shards, and write so that a reader sees a whole file or none.

In: places, local or in an object store. Nothing else in `screen` renames, uploads or syncs a file.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from export.errors import InputRefused, WriteFailed
from screen.files.paths import as_os_error, as_path, is_local, open_bytes

STAGING_PREFIX = ".oodscreen-"
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
    path = as_path(source)
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
        behind = source[: source.rfind("..")]
        if ".." in path.parts and glob.has_magic(behind):
            raise InputRefused(
                f"The glob {source} goes up by `..` behind a wildcard.",
                wanted="shards below one folder, which their names can be relative to",
                next_step="put the folder first and the wildcards behind it",
            )
        root = path.parent
        while glob.has_magic(str(root)):
            root = root.parent
        if is_local(path):
            found = [Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)]
        else:
            names = path.fs.glob(path.path)  # type: ignore[attr-defined]
            found = [as_path(path.fs.unstrip_protocol(name)) for name in names]  # type: ignore[attr-defined]
            found = [place for place in found if place.is_file()]
        if found:
            return root, sorted(found)
    raise InputRefused(
        f"There is no {source}.",
        wanted="a Parquet file, a folder of them, or a glob that matches some",
        next_step="check the path; put a glob in quotes",
    )


@dataclass(frozen=True)
class FileContent:
    """What a file holds, in short.

    Attributes:
        size: bytes.
        sha256: digest of the bytes, as hexadecimal text.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileContent:
        """Read a file through."""
        with open_bytes(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)


class StagingFile:
    """A file that is written aside and gets the target's name when it is whole.

    Where the target is local, aside is beside it; where it is in a store, aside is a temporary file, and the
    upload of a whole object is what readers see or do not see.

    Args:
        target: the name it will have.
        owner: whose it is, where several write into one folder at the same time.

    Raises:
        WriteFailed: the target's folder cannot be made.
    """

    def __init__(self, target: Path, owner: str = "") -> None:
        self.target = target
        name = f"{_prefix(owner)}{secrets.token_hex(8)}"
        self.path = target.with_name(name) if is_local(target) else Path(tempfile.gettempdir()) / name
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failed(target, error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Remove the file aside when anything goes wrong in the block.

        Raises:
            WriteFailed: the system refused.
        """
        try:
            yield
        except OSError as error:
            self.discard()
            raise write_failed(self.target, error) from error
        except BaseException:
            self.discard()
            raise

    def commit(self) -> FileContent:
        """Sync the file and give it its name.

        Raises:
            WriteFailed: the system or the store refused; the file aside is gone and the target is as it was.
        """
        try:
            content = FileContent.of(self.path)
            if is_local(self.target):
                with open(self.path, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self.path, self.target)
                sync_folder(self.target.parent)
            else:
                with as_os_error():
                    self.target.fs.put_file(str(self.path), self.target.path)  # type: ignore[attr-defined]
                self.discard()
        except OSError as error:
            self.discard()
            raise write_failed(self.target, error) from error
        return content

    def discard(self) -> None:
        """Remove the file aside."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _prefix(owner: str) -> str:
    return f"{STAGING_PREFIX}{owner}-" if owner else STAGING_PREFIX


def find_stale_staging(folder: Path, owner: str = "") -> list[Path]:
    """What killed runs left aside in a folder, all of them or one owner's; in a store nothing is ever aside."""
    return sorted(folder.rglob(f"{_prefix(owner)}*"))


def remove_stale_staging(folder: Path, owner: str = "") -> None:
    """Remove what killed runs left aside in a folder; only for the holder of the owner's lock."""
    for path in find_stale_staging(folder, owner):
        path.unlink(missing_ok=True)


def write_text(target: Path, text: str, owner: str = "") -> None:
    """Write a whole text file, so that a reader sees all of it or what was there before.

    Args:
        target: its name.
        text: what it will hold.
        owner: as for `StagingFile`.

    Raises:
        WriteFailed: the system refused; the target is as it was.
    """
    aside = StagingFile(target, owner)
    with aside.writing():
        aside.path.write_text(text, encoding="utf-8", newline="\n")
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
