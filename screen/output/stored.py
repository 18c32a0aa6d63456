"""Stored results: find result shards that are missing or damaged, and remove result shards.

In: OUTPUT and manifest entries. Out: whether a result is intact, whether its input still exists, and removed files.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from export.errors import OptionRefused, ReadFailed
from screen.files.paths import as_os_error, as_path, is_local, name_place
from screen.files.storage import FileContent, sync_folder, write_failed
from screen.output.manifest_file import ManifestEntry


def is_intact(output: Path, entry: ManifestEntry) -> bool:
    """Whether a result exists with the recorded size and digest; the file is read completely.

    Raises:
        ReadFailed: the object store failed.
    """
    try:
        return FileContent.of(output / entry.shard) == FileContent(entry.size, entry.sha256)
    except OSError as error:
        refuse_if_store_failed(output, error)
        return False


def refuse_if_store_failed(output: Path, error: OSError) -> None:
    """Raise an error if a read failed because of the object store, and not because a file is missing or damaged.

    Raises:
        ReadFailed: an object store failed; the file may be intact.
    """
    if not is_local(output) and error.errno is not None and not isinstance(error, FileNotFoundError):
        raise ReadFailed(
            f"A result in {output} could not be read: {error.strerror or error}.",
            wanted="an object store that can be reached",
            next_step="check the network and the credentials, then run the same command again",
        ) from error


def has_input(entry: ManifestEntry, root: Path | None = None) -> bool:
    """Whether the input shard of a result still exists; True if its store cannot be reached.

    On a local disk, a folder that has replaced the shard is not a shard.

    Args:
        entry: manifest entry of the result. The recorded address of INPUT contains no password.
        root: folder of INPUT in this run, opened with its password; used if its address is the recorded address.
    """
    try:
        with as_os_error():
            folder = root if root is not None and entry.root == name_place(root) else as_path(entry.root)
            path = folder / entry.shard
            return path.exists() and not (is_local(path) and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, OptionRefused):
        return True


def remove_results(output: Path, names: Iterable[str]) -> None:
    """Remove result shards, and subfolders of OUTPUT that are empty afterwards; missing files are ignored.

    Raises:
        WriteFailed: a file could not be removed.
    """
    folders = set()
    for name in names:
        path = output / name
        try:
            with as_os_error():
                path.unlink(missing_ok=True)
        except NotADirectoryError:
            continue
        except OSError as error:
            raise write_failed(path, error) from error
        folders.add(path.parent)
    if not is_local(output):
        return
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):
            sync_folder(folder)
            while folder != output:
                folder.rmdir()
                folder = folder.parent
