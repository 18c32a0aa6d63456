"""Where files are: a path on a disk, or a place in an object store that is read in the same way.

In: a path or an address such as `s3://bucket/folder`. Out: an object with the methods of `pathlib.Path` (for
stores by the libraries universal-pathlib and fsspec), and files opened through it.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from export.errors import OptionRefused

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.ASCII)


def as_path(text: str | Path) -> Path:
    """A local path, or a place in an object store, which is used in the same way.

    Args:
        text: a path, or an address like `s3://bucket/folder`. `file://` is a local path.

    Raises:
        OptionRefused: what the store needs is not installed, or it cannot be reached.
    """
    address = _ADDRESS.match(text) if isinstance(text, str) else None
    if address is None:
        return Path(text)
    if address[1] == "file":
        return Path(str(text)[address.end() :])
    wanted = "an address of a store that fsspec knows, with its library installed and its credentials set"
    try:
        from upath import UPath

        place = UPath(text, use_listings_cache=False)
        place.exists()
    except (ImportError, ValueError) as error:
        raise OptionRefused(
            f"{text} cannot be used: {error}.",
            wanted=wanted,
            next_step="pip install 'oodscreen[s3]' (or [gs], [hf]); other stores: pip install universal-pathlib "
            "and the store's fsspec library",
        ) from error
    except Exception as error:
        raise OptionRefused(
            f"{text} cannot be reached: {type(error).__name__}: {error}.",
            wanted=wanted,
            next_step="check the address, the network and the credentials, for example by the store's own command",
        ) from error
    return cast(Path, place)


def is_local(place: Path) -> bool:
    """Whether a place is in a file system, where files can be locked, synced and appended to."""
    return isinstance(place, Path)


def is_within(place: Path, folder: Path) -> bool:
    """Whether a place is a folder or in it; both resolved."""
    return f"{place}/".startswith(f"{str(folder).rstrip('/')}/")


def look_at_version(place: Path) -> tuple[int, int | str]:
    """Size and what changes with every write: the time in ns, or a store's entity tag."""
    status = place.stat()
    if is_local(place):
        return status.st_size, status.st_mtime_ns
    info: dict[str, Any] = place.fs.info(place.path)  # type: ignore[attr-defined]
    tags = (info.get(key) for key in ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "created"))
    return status.st_size, str(next((tag for tag in tags if tag), ""))


class _StoreFile(io.RawIOBase):
    """A file in a store, whose client may raise anything; here it is an OSError with a number.

    So that a network that fails is told from a file that is damaged.
    """

    def __init__(self, place: Path) -> None:
        with as_os_error():
            self._file = place.open("rb")

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
    """Whatever a store's client raises within the block comes out as an OSError with a number."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.EIO, str(error)) from error
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def open_bytes(place: Path) -> io.BufferedReader:
    """Open a file for reading, wherever it is.

    Raises:
        OSError: it cannot be read.
    """
    return open(place, "rb") if is_local(place) else io.BufferedReader(_StoreFile(place), 2**20)


@contextmanager
def open_parquet(place: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, wherever it is.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read; an OSError that has a number comes from the
            system or the store, one that has none from a damaged file.
    """
    if is_local(place):
        with pq.ParquetFile(place) as file:
            yield file
    else:
        with open_bytes(place) as raw, pq.ParquetFile(raw) as file:
            yield file
