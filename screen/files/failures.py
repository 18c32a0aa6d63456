"""Explain errors of the operating system, of its file systems and of object stores: found, wanted and next step.

In: an exception that no module of the project raised. Out: an error of the project, with the path, the reason from the
system and the action that resolves this reason. Commands explain in this way the exceptions of the system and of stores
that they do not handle.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import OodscreenError, ReadFailed, printable, reason_of

_STORE_LIBRARIES = (
    *("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "httpx", "huggingface_hub"),
    *("requests", "s3fs", "upath"),
)
"""Top-level packages whose exceptions come from an object store or from the network."""

_NEXT_STEPS = {
    errno.EACCES: "give this user access to the path, for example with chmod or a shared group, or run the command as "
    "the owner of the path; in an object store, check the credentials and their rights",
    errno.EROFS: "choose a location on a file system that is not read-only",
    errno.ENOSPC: "free space, or choose another location",
    errno.ENOENT: "check that the path still exists and that no other program moves or deletes files there; then run "
    "the command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer processes or threads",
    errno.EIO: "check the disk, the mount or the network; then run the command again",
    errno.EBUSY: "wait until the store or the file system is no longer busy; then run the command again",
    errno.ENAMETOOLONG: "use a shorter path",
}
_SAME_AS = {
    errno.EPERM: errno.EACCES,
    errno.EDQUOT: errno.ENOSPC,
    errno.EFBIG: errno.ENOSPC,
    errno.ENFILE: errno.EMFILE,
    errno.ESTALE: errno.EIO,
    errno.ETIMEDOUT: errno.EIO,
}

_SHOWN = 80
"""Maximum number of characters that are shown on each side of a character that cannot be written."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Error numbers of a path without a readable file; the caller of `raise_if_refused` explains these errors."""


def explain_environment(error: Exception) -> OodscreenError | None:
    """The error of the project for an exception of the system or of an object store; None for any other exception."""
    if isinstance(error, OSError):
        return OodscreenError(
            f"{_named(error)}{_reason(error, error.filename)}.",
            wanted="an input that this process can read, and an output that this process can write",
            next_step=next_step_for(error),
        )
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[max(0, error.start - _SHOWN) : error.end + _SHOWN]
        return OodscreenError(
            f"The text {printable(shown)!r} cannot be written as {error.encoding}.",
            wanted="file names in valid UTF-8, and a UTF-8 locale",
            next_step="set the environment variable LC_ALL to C.UTF-8, and rename files with names that are not UTF-8",
        )
    if isinstance(error, MemoryError):
        return OodscreenError(
            f"The memory of this process is too small: {error or 'an allocation failed'}.",
            wanted="free memory for the data of this command",
            next_step="stop other processes, or use a machine or a container with more memory",
        )
    if type(error).__module__.partition(".")[0] in _STORE_LIBRARIES:
        return OodscreenError(
            f"The object store or the server failed: {type(error).__name__}: {printable(str(error))}.",
            wanted="a store or a server that can be reached, and valid credentials",
            next_step="check the address, the network and the credentials; then run the command again",
        )
    return None


@contextmanager
def explained_errors() -> Iterator[None]:
    """Replace an exception of the system or of a store in the block by the error that explains the exception."""
    try:
        yield
    except Exception as error:
        explained = None if isinstance(error, OodscreenError) else explain_environment(error)
        if explained is None:
            raise
        raise explained from error


def raise_if_refused(path: Path, error: Exception) -> None:
    """Raise an error if the system or a store refused to read a file; return if the file is missing or damaged.

    Without this distinction, the advice for a damaged file (delete it, repeat the run) would be given for a file that
    belongs to another user.

    Args:
        path: the file that was read.
        error: the exception, which has an `errno` if it comes from the system or the store.

    Raises:
        ReadFailed: the system or the store refused to read the file.
    """
    if not isinstance(error, OSError) or error.errno in (None, *_ABSENT):
        return
    raise ReadFailed(
        f"{printable(str(path))} could not be read: {_reason(error, path)}.",
        wanted="a file that this process can read",
        next_step=next_step_for(error),
    ) from error


def _reason(error: OSError, name: object) -> str:
    """The reason from the system; if access was refused, followed by the mode and the owner of the path."""
    reason = printable(reason_of(error))
    return f"{reason}{_describe_access(name)}" if isinstance(error, PermissionError) else reason


def next_step_for(error: OSError) -> str:
    """The action that resolves an error of the system."""
    code = error.errno or (errno.EACCES if isinstance(error, PermissionError) else errno.EIO)
    return _NEXT_STEPS.get(_SAME_AS.get(code, code), _NEXT_STEPS[errno.EIO])


def _named(error: OSError) -> str:
    """The path or the two paths in an error, as the start of a sentence; "" if the error has no path."""
    names = [
        os.fsdecode(one) for one in (error.filename, error.filename2) if isinstance(one, str | bytes | os.PathLike)
    ]
    return f"{printable(' -> '.join(names))}: " if names else ""


def _describe_access(name: object) -> str:
    """Mode and owner of a path, or of its nearest parent that can be examined; "" without user IDs (Windows)."""
    if not isinstance(name, str | bytes | os.PathLike) or not hasattr(os, "geteuid"):
        return ""
    path = Path(os.fsdecode(name)).absolute()
    for one in (path, *path.parents):
        try:
            status = one.stat()
        except OSError:
            continue
        owner = f"{stat.filemode(status.st_mode)}, and belongs to user {status.st_uid}"
        return f" ({printable(str(one))} has the mode {owner}; this process runs as user {os.geteuid()})"
    return ""
