"""Choose a folder for temporary files if no folder of the system can be written to, as in a read-only container.

In: the outputs of a command. Out: a folder that Python's `tempfile` uses, and thus every library of this process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from export.errors import WriteFailed

_OUTPUTS = ("output", "out", "plot", "ledger", "results", "shards")
"""Keys of values that are paths of an output; `results` is included, because RESULTS contains the ledger of `queue`."""


@contextmanager
def usable_temporary_folder(values: Mapping[str, object]) -> Iterator[None]:
    """Let `tempfile` use the folder of an output in the block, if no temporary folder of the system can be written to.

    Args:
        values: values of the options and arguments of a command, by key.
    """
    before = os.environ.get("TMPDIR")
    is_changed = provide_temporary_folder(values.get(name) for name in _OUTPUTS)
    try:
        yield
    finally:
        if is_changed:
            tempfile.tempdir = None
            os.environ.pop("TMPDIR", None)
            os.environ.update({} if before is None else {"TMPDIR": before})


def provide_temporary_folder(outputs: Iterable[object]) -> bool:
    """Let `tempfile` use the folder of an output, if no temporary folder of the system can be written to.

    Args:
        outputs: outputs of the command: paths of files or folders, which need not exist, or addresses in a store. The
            first whose folder can be written to is used; if no folder can be written to, `temporary_folder` raises an
            error.

    Returns:
        Whether `tempfile` uses the folder of an output from now on.
    """
    if _system_folder() is not None:
        return False
    for output in outputs:
        if isinstance(output, str | Path) and "://" not in str(output):
            path = Path(output).absolute()
            folder = next((one for one in (path, *path.parents) if one.is_dir()), path)
            with suppress(OSError), tempfile.TemporaryFile(dir=folder):
                tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
                return True
    return False


def temporary_folder() -> Path:
    """The folder for temporary files.

    Raises:
        WriteFailed: no folder for temporary files can be written to.
    """
    folder = _system_folder()
    if folder is None:
        raise WriteFailed(
            "This process cannot write to any of the folders for temporary files.",
            wanted="a writable folder for temporary files, or an output in a writable local folder, which then also "
            "contains the temporary files",
            next_step="set the environment variable TMPDIR to a writable folder",
        )
    return folder


def _system_folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None
