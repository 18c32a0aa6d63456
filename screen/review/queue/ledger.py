"""What was handed on, so that nobody is shown an image twice.

In: a folder and a project. Out: a `Ledger`: keys of images, and the rows that they came from. Each queue that is
handed on adds one small Parquet file (`*.pq`) to the folder, written whole or not at all, so it works in an object
store as on a disk. What goes into a file is noted before that file gets its name, and confirmed after: a queue
that is killed in between finds out at its next start whether the file is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from export.errors import OutputRefused, WriteFailed
from screen.files.paths import as_path, open_parquet
from screen.files.storage import FileContent, StagingFile
from screen.output.lock import hold_output
from screen.output.manifest_file import ManifestEntry

LEDGER_NAME = "_queue.ledger"
_ENDING, _PENDING = ".pq", ".pending"
_METADATA = b"oodscreen"

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(32), metadata={"description": "SHA-256 of the image's bytes."}),
        pa.field("input", pa.binary(16), metadata={"description": "Digest of the input shard's name and fingerprint."}),
        pa.field("row", pa.int64(), metadata={"description": "Position in that shard."}),
    ]
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One image that was handed on.

    Attributes:
        key: SHA-256 of its bytes.
        input: of the shard that it came from, by `input_digest`.
        row: position in that shard.
    """

    key: bytes
    input: bytes
    row: int


def input_digest(entry: ManifestEntry) -> bytes:
    """An input shard as it was scored, in 16 bytes."""
    text = json.dumps([entry.shard, entry.input], sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass
class Ledger:
    """What one project was handed.

    Attributes:
        folder: of the ledger's files.
        project: whose.
        keys: of all images that it was handed.
        rows: for each input shard the rows that these came from.
        notes: what a person should know of an earlier queue that was killed.
    """

    folder: Path
    project: str
    keys: set[bytes]
    rows: dict[bytes, set[int]]
    notes: list[str]

    def add(self, handed: Sequence[LedgerEntry]) -> None:
        """Write down what is handed on already.

        Raises:
            WriteFailed: the system refused.
        """
        self._write(self.folder / f"{self._stem()}{_ENDING}", handed, {"project": self.project})
        self._remember(handed)

    def intend(self, handed: Sequence[LedgerEntry], target: Path, content: FileContent) -> Path:
        """Note what a file that is about to get its name holds.

        Args:
            handed: the images in it.
            target: the name.
            content: what it will hold under that name.

        Returns:
            The note, for `confirm`.

        Raises:
            WriteFailed: the system refused.
        """
        told: dict[str, str | int] = {
            "project": self.project,
            "target": str(target),
            "size": content.size,
            "sha256": content.sha256,
        }
        note = self.folder / f"{self._stem()}{_ENDING}{_PENDING}"
        self._write(note, handed, told)
        return note

    def confirm(self, note: Path) -> None:
        """The file has its name: what was noted is handed on."""
        handed, told = _read(note)
        self._write(_confirmed(note), handed, told)
        note.unlink()
        self._remember(handed)

    def load(self) -> None:
        """Read what is there, and settle what a killed queue left.

        Raises:
            OutputRefused: a file of the ledger cannot be read.
        """
        for note in sorted(self.folder.glob(f"{self._prefix()}*{_ENDING}{_PENDING}")):
            handed, told = _read(note)
            if _is_there(told):
                self.confirm(note)
                self.notes.append(f"an earlier queue was killed when {told['target']} was there; it counts")
            else:
                note.unlink()
                if not _confirmed(note).exists():
                    self.notes.append(
                        f"an earlier queue was killed before {told['target']} was there; "
                        f"its {len(handed)} image(s) are free again"
                    )
        for part in sorted(self.folder.glob(f"{self._prefix()}*{_ENDING}")):
            self._remember(_read(part)[0])

    def _remember(self, handed: Sequence[LedgerEntry]) -> None:
        for one in handed:
            self.keys.add(one.key)
            self.rows.setdefault(one.input, set()).add(one.row)

    def _prefix(self) -> str:
        return f"{hashlib.sha256(self.project.encode(errors='surrogatepass')).hexdigest()[:16]}-"

    def _stem(self) -> str:
        return f"{self._prefix()}{time.time_ns():x}"

    def _write(self, path: Path, handed: Sequence[LedgerEntry], told: dict[str, str | int]) -> None:
        schema = _SCHEMA.with_metadata({_METADATA: json.dumps(told)})
        columns = [[getattr(one, name) for one in handed] for name in _SCHEMA.names]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        aside = StagingFile(path)
        with aside.writing():
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), aside.path, compression="zstd")
        aside.commit()


@contextmanager
def open_ledger(folder: str | Path, project: str) -> Iterator[Ledger]:
    """The ledger of a project, for the time of the block; nobody else has the folder's meanwhile.

    Raises:
        OutputLocked: another queue holds it.
        OutputRefused: it cannot be read.
        WriteFailed: its folder cannot be made or written to.
    """
    place = as_path(folder) if isinstance(folder, str) else folder
    try:
        with hold_output(place) as note:
            ledger = Ledger(place, project, set(), {}, [note] if note else [])
            ledger.load()
            yield ledger
    except WriteFailed as error:
        if not str(error.found).startswith(str(place)):
            raise
        raise WriteFailed(
            error.found, wanted="a folder for the ledger that may be written to", next_step="name one by --ledger"
        ) from error


def _confirmed(note: Path) -> Path:
    return note.with_name(note.name.removesuffix(_PENDING))


def _read(path: Path) -> tuple[list[LedgerEntry], dict[str, str | int]]:
    try:
        with open_parquet(path) as file:
            told = json.loads((file.schema_arrow.metadata or {})[_METADATA])
            rows = file.read(_SCHEMA.names).to_pylist()
        return [LedgerEntry(**row) for row in rows], dict(told)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise OutputRefused(
            f"{path} of the ledger cannot be read: {str(error).splitlines()[0] if str(error) else error!r}.",
            wanted="the ledger as it was written: it says which images were handed on already",
            next_step="restore the file, or remove it: what only it knew is then handed on again",
        ) from error


def _is_there(told: dict[str, str | int]) -> bool:
    with suppress(OSError, KeyError):
        content = FileContent.of(as_path(str(told["target"])))
        return content == FileContent(int(told["size"]), str(told["sha256"]))
    return False
