"""Deduplication ledger: the exported images of each project, so that no image is exported twice to one project.

In: a folder and a project. Out: a `Ledger` with the keys of exported images and the exported rows. Each export adds
small Parquet files to the folder. These files are written atomically, on disks and in object stores; their names are
`_*.pq`, or `*.pq` in earlier versions of oodscreen. A pending ledger file is written before the queue file appears
under its final name, and is confirmed afterwards. If an export is killed in between, the next export checks whether
the queue file exists.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from export.errors import OptionRefused, OutputLocked, OutputRefused, WriteFailed
from screen.files.failures import raise_if_refused
from screen.files.paths import as_path, is_local, name_place, open_parquet
from screen.files.storage import FileContent, StagingFile
from screen.output.locks.hold import hold_output
from screen.output.manifest_file import ManifestEntry

LEDGER_NAME = "_queue.ledger"
_ENDING, _PENDING = ".pq", ".pending"
_METADATA = b"oodscreen"
_FORMER_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]+\.pq(\.pending)?")

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(32), metadata={"description": "SHA-256 of the image's bytes."}),
        pa.field("input", pa.binary(16), metadata={"description": "Digest of the input shard's name and fingerprint."}),
        pa.field("row", pa.int64(), metadata={"description": "Position of the row in the input shard."}),
    ]
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One exported image.

    Attributes:
        key: SHA-256 of the image's bytes.
        input: digest of the input shard, by `input_digest`.
        row: position in the input shard.
    """

    key: bytes
    input: bytes
    row: int


def input_digest(entry: ManifestEntry) -> bytes:
    """Digest of an input shard's name and fingerprint when it was scored, 16 bytes."""
    text = json.dumps([entry.shard, entry.input], sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass
class Ledger:
    """The images exported to one project.

    Attributes:
        folder: folder of the ledger's files.
        project: name of the labelling project.
        keys: keys of all exported images.
        rows: exported rows by digest of the input shard.
        notes: messages about earlier exports that were killed, and about the lock.
        check_lock: function that raises an error if the lock of the folder was lost.
    """

    folder: Path
    project: str
    keys: set[bytes]
    rows: dict[bytes, set[int]]
    notes: list[str]
    check_lock: Callable[[], None]

    def add(self, entries: Sequence[LedgerEntry]) -> None:
        """Record images that have been exported.

        Raises:
            WriteFailed: the ledger cannot be written.
        """
        self._write(self.folder / f"{self._stem()}{_ENDING}", entries, {"project": self.project})
        self._remember(entries)

    def add_pending(self, entries: Sequence[LedgerEntry], target: Path, content: FileContent) -> Path:
        """Record the images of a queue file before it appears under its final name.

        Args:
            entries: the images in the file.
            target: final path of the file.
            content: size and digest of the file.

        Returns:
            The pending ledger file, for `confirm`.

        Raises:
            OutputLocked: another `oodscreen queue` has taken over the lock.
            WriteFailed: the ledger cannot be written.
        """
        self.check_lock()
        header: dict[str, str | int] = {
            "project": self.project,
            "target": name_place(target),
            "size": content.size,
            "sha256": content.sha256,
        }
        pending = self.folder / f"{self._stem()}{_ENDING}{_PENDING}"
        self._write(pending, entries, header)
        return pending

    def confirm(self, pending: Path) -> None:
        """Turn a pending ledger file into a confirmed ledger file, after the queue file has its final name."""
        entries, header = _read(pending)
        self._write(_confirmed_path(pending), entries, header)
        pending.unlink()
        self._remember(entries)

    def load(self, *, dry_run: bool = False) -> None:
        """Read the project's ledger files, and confirm or remove the pending files of killed exports.

        Args:
            dry_run: whether to read the pending files without changes to any file.

        Raises:
            OutputRefused: a ledger file cannot be read.
        """
        if not dry_run:
            _rename_former_files(self.folder)
        for pending in _find(self.folder, f"{self._prefix()}*{_ENDING}{_PENDING}"):
            entries, header = _read(pending)
            if dry_run:
                self._remember(entries if _target_exists(header) else [])
            elif _target_exists(header):
                self.confirm(pending)
                self.notes.append(
                    f"an earlier export was killed after it wrote {header['target']}; "
                    "the images in that file count as exported"
                )
            else:
                pending.unlink()
                if not _confirmed_path(pending).exists():
                    self.notes.append(
                        f"an earlier export was killed before it wrote {header['target']}; "
                        f"the {len(entries)} image(s) of that export can be exported again"
                    )
        for path in _find(self.folder, f"{self._prefix()}*{_ENDING}"):
            self._remember(_read(path)[0])

    def _remember(self, entries: Sequence[LedgerEntry]) -> None:
        for one in entries:
            self.keys.add(one.key)
            self.rows.setdefault(one.input, set()).add(one.row)

    def _prefix(self) -> str:
        return f"{hashlib.sha256(self.project.encode(errors='surrogatepass')).hexdigest()[:16]}-"

    def _stem(self) -> str:
        return f"_{self._prefix()}{time.time_ns():x}"

    def _write(self, path: Path, entries: Sequence[LedgerEntry], header: dict[str, str | int]) -> None:
        schema = _SCHEMA.with_metadata({_METADATA: json.dumps(header)})
        columns = [[getattr(one, name) for one in entries] for name in _SCHEMA.names]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        staging = StagingFile(path, unlocked=True)
        with staging.writing():
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), staging.path, compression="zstd")
        staging.commit()


@contextmanager
def open_ledger(folder: str | Path, project: str, *, dry_run: bool = False) -> Iterator[Ledger]:
    """The ledger of a project; its folder is locked within the block.

    Args:
        folder: folder of the ledger, which need not exist.
        project: name of the project.
        dry_run: whether to read the ledger without the lock, and to write nothing.

    Raises:
        OutputLocked: another `oodscreen queue` holds the lock.
        OutputRefused: a ledger file cannot be read.
        WriteFailed: the folder cannot be created or written to.
    """
    path = as_path(folder) if isinstance(folder, str) else folder
    if dry_run:
        ledger = Ledger(path, project, set(), {}, [], lambda: None)
        ledger.load(dry_run=True)
        yield ledger
        return
    try:
        with hold_output(path) as held:
            ledger = Ledger(path, project, set(), {}, [held.note] if held.note else [], held.check)
            ledger.load()
            yield ledger
    except OutputLocked as error:
        if not str(error.found).startswith(str(path)):
            raise
        raise OutputLocked(
            error.found,
            wanted="at most one `oodscreen queue` with the same ledger at a time",
            next_step="wait until the other command ends, then repeat this command",
        ) from error
    except WriteFailed as error:
        if not str(error.found).startswith(str(path)):
            raise
        raise WriteFailed(
            error.found, wanted="a writable folder for the ledger", next_step="give another folder with --ledger"
        ) from error


def read_exported(results: Path, folder: str | None) -> Iterator[LedgerEntry]:
    """The images that were exported to any project.

    Args:
        results: folder of results.
        folder: folder of the ledger; None for the default folder, in the folder of results.

    Raises:
        OutputRefused: a ledger file cannot be read.
    """
    path = results / LEDGER_NAME if folder is None else as_path(folder)
    for one in _find(path, f"*{_ENDING}"):
        yield from _read(one)[0]


def _find(folder: Path, pattern: str) -> list[Path]:
    """The ledger files whose name matches the pattern, with or without a leading `_`."""
    return sorted({*folder.glob(pattern), *folder.glob(f"_{pattern}")})


def _rename_former_files(folder: Path) -> None:
    """Add a leading `_` to file names of earlier versions, because Polars reads files without `_` as results.

    In object stores, which cannot rename files, the names stay.
    """
    for path in folder.glob(f"*{_ENDING}*") if is_local(folder) else ():
        if _FORMER_NAME.fullmatch(path.name):
            with suppress(OSError):  # both names are read
                path.rename(path.with_name(f"_{path.name}"))


def _confirmed_path(pending: Path) -> Path:
    return pending.with_name(pending.name.removesuffix(_PENDING))


def _read(path: Path) -> tuple[list[LedgerEntry], dict[str, str | int]]:
    try:
        with open_parquet(path) as file:
            header = json.loads((file.schema_arrow.metadata or {})[_METADATA])
            rows = file.read(_SCHEMA.names).to_pylist()
        return [LedgerEntry(**row) for row in rows], dict(header)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise_if_refused(path, error)
        raise OutputRefused(
            f"The ledger file {path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}.",
            wanted="an undamaged ledger file, the list of images that have been exported",
            next_step="restore the file from a backup, or delete the file; after the deletion, images that are only in "
            "this file are exported again",
        ) from error


def _target_exists(header: dict[str, str | int]) -> bool:
    """Whether the queue file exists with the recorded content."""
    with suppress(OSError, KeyError, OptionRefused):  # an address may need a password, which is not recorded
        content = FileContent.of(as_path(str(header["target"])))
        return content == FileContent(int(header["size"]), str(header["sha256"]))
    return False
