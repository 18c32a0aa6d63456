"""Read the files of SOURCE ahead in threads, while the shard is written.

In: `ImageFile`s. Out: the same files in order, each with its bytes; a limited number of files and bytes is in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from screen.pack.image_file import ImageBytes, ImageFile, read_image
from screen.run.stopping import StopRequest

_THREADS = 8
"""Number of files that are read at the same time."""

_AHEAD_FILES, _AHEAD_BYTES = 64, 64 * 2**20
"""Maximum number and total bytes of the files that are read ahead; a single larger file is also read."""


class Reader:
    """Files of SOURCE, in order, read ahead in threads."""

    def __init__(self, files: Iterator[ImageFile], pool: ThreadPoolExecutor, stop: StopRequest) -> None:
        self._files, self._pool, self._stop = files, pool, stop
        self._waiting: deque[tuple[ImageFile, Future[ImageBytes]]] = deque()
        self._bytes = 0
        self._next: ImageFile | None = next(files, None)

    def has_more(self) -> bool:
        """Whether there is a next file."""
        return bool(self._waiting) or self._next is not None

    def read(self) -> tuple[ImageFile, ImageBytes]:
        """The next file with its bytes."""
        self._stop.check()
        while self._next is not None and (
            not self._waiting or (len(self._waiting) < _AHEAD_FILES and self._bytes + self._next.size <= _AHEAD_BYTES)
        ):
            self._waiting.append((self._next, self._pool.submit(read_image, self._next)))
            self._bytes += self._next.size
            self._next = next(self._files, None)
        file, future = self._waiting.popleft()
        self._bytes -= file.size
        return file, future.result()

    def skip(self) -> ImageFile:
        """The next file, without its bytes."""
        self._stop.check()
        if self._waiting:
            file, future = self._waiting.popleft()
            future.cancel()
            self._bytes -= file.size
            return file
        assert self._next is not None  # noqa: S101  the caller calls `has_more` first
        file, self._next = self._next, next(self._files, None)
        return file

    def close(self) -> None:
        """Cancel the reading of the files that were not returned."""
        for _, future in self._waiting:
            future.cancel()


@contextmanager
def read_ahead(files: Iterator[ImageFile], stop: StopRequest) -> Iterator[Reader]:
    """Yield a reader of the files; its threads end with the block."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pack") as pool:
        reader = Reader(files, pool, stop)
        try:
            yield reader
        finally:
            reader.close()
