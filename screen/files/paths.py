"""Paths of files, local or in an object store, with one interface.

In: a path or an address such as `s3://bucket/folder`. Out: an object with the methods of `pathlib.Path` (for object
stores a `UPath` of the library universal-pathlib), and open files.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from export.addresses import without_secrets
from export.errors import OodscreenError, OptionRefused, reason_of

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.ASCII)


def as_path(text: str | Path) -> Path:
    """The path object of a local path or of an address in an object store.

    Args:
        text: a path, or an address like `s3://bucket/folder`. An address with `file://` is a local path.

    Raises:
        OptionRefused: the store's library is not installed, or the store cannot be reached.
    """
    address = _ADDRESS.match(text) if isinstance(text, str) else None
    if address is None:
        return Path(text)
    if address[1] == "file":
        return Path(str(text)[address.end() :])
    wanted = "an address of a store that fsspec supports, the Python library of that store, and valid credentials"
    try:
        from upath import UPath

        path = UPath(text, use_listings_cache=False)
        path.exists()
    except (ImportError, ValueError) as error:
        raise OptionRefused(
            f"{text} cannot be used: {error}.",
            wanted=wanted,
            next_step="run pip install 'oodscreen[s3]' (or [gs], [hf]); for another store, install universal-pathlib "
            "and the store's fsspec library",
        ) from error
    except Exception as error:
        raise OptionRefused(
            f"{text} cannot be reached: {type(error).__name__}: {error}.",
            wanted=wanted,
            next_step="check the address, the network and the credentials, for example with the store's command-line "
            "tool",
        ) from error
    return cast(Path, path)


def name_place(place: str | Path) -> str:
    """The text of a path or an address for messages and records, without user, password and query.

    This text may not be sufficient to open the path again.
    """
    text = str(place)
    settings: dict[str, Any] = {} if isinstance(place, str | Path) else place.storage_options
    host, port = settings.get("host"), settings.get("port")
    if host and ":///" in text:  # the client of ftp, sftp or smb keeps the host apart from the path
        text = text.replace(":///", f"://{host}{f':{port}' if port else ''}/", 1)
    return without_secrets(text)


def base_name(path: Path) -> str:
    """The last part of a path, or of an address without its query."""
    return path.name if is_local(path) else name_place(path).rstrip("/").rpartition("/")[2]


def is_local(path: Path) -> bool:
    """Whether a path is in a file system, where files can be locked, synced and appended to."""
    return isinstance(path, Path)


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path equals a folder or is inside it; both paths must be resolved."""
    return f"{path}/".startswith(f"{str(folder).rstrip('/')}/")


def file_version(path: Path) -> tuple[int, int | str]:
    """Size in bytes and version of a file.

    The version is the modification time in ns. In an object store, the version is the entity tag, else a digest or a
    time from the description of the object, else "".
    """
    status = path.stat()
    if is_local(path):
        return status.st_size, status.st_mtime_ns
    info: dict[str, Any] = path.fs.info(path.path)  # type: ignore[attr-defined]
    return status.st_size, version_in(info)


def version_in(info: Mapping[str, Any]) -> str:
    """The version of an object as in `file_version`, from the description of the object by its store."""
    tags = (info.get(key) for key in ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "created"))
    return str(next((tag for tag in tags if tag), ""))


class _StoreFile(io.RawIOBase):
    """A file in an object store, open for reading; any exception of the store's client becomes an OSError with `errno`.

    An OSError without `errno`, as raised by pyarrow, means a damaged file.
    """

    def __init__(self, path: Path) -> None:
        with as_os_error():
            self._file = path.open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with as_os_error():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def as_os_error() -> Iterator[None]:
    """Turn exceptions of a store's client in the block into an OSError with `errno`; an `OodscreenError` stays."""
    try:
        yield
    except OodscreenError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        code = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO
        raise OSError(code, reason_of(error)) from error
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def open_bytes(path: Path) -> io.BufferedReader:
    """Open a file for reading, local or in a store.

    Raises:
        OSError: the file cannot be read.
    """
    return open(path, "rb") if is_local(path) else io.BufferedReader(_StoreFile(path), 2**20)


@contextmanager
def open_parquet(path: Path, int96_unit: str = "ns", buffer_size: int = 0) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or in a store; the pages are verified on reading if the file has checksums.

    Args:
        path: the file.
        int96_unit: unit of INT96 timestamps, "ns" or "us"; a value outside the range of this unit wraps.
        buffer_size: number of bytes to read at a time from each column of a row group; 0 for the whole column.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read. An OSError with `errno` comes from the system or the
            store; an OSError without `errno` means that the file is damaged, for example in the name of a column.
    """
    options: dict[str, Any] = {
        "coerce_int96_timestamp_unit": int96_unit,
        "buffer_size": buffer_size,
        "pre_buffer": buffer_size == 0,
        "page_checksum_verification": True,
    }
    with nullcontext(path) if is_local(path) else open_bytes(path) as source:
        try:
            file = pq.ParquetFile(source, **options)
        except UnicodeDecodeError as error:
            raise OSError(f"the name of a column in the footer is not UTF-8: {error}") from error
        with file:
            yield file


def modified_at(path: Path) -> datetime:
    """Modification time of a file, with time zone.

    Raises:
        OSError: the file does not exist, or the store cannot be reached or does not list modification times.
    """
    if is_local(path):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    with as_os_error():
        time: datetime = path.fs.modified(path.path)  # type: ignore[attr-defined]
    return time if time.tzinfo else time.replace(tzinfo=UTC)
