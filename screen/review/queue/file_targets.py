"""Write a queue to files: Parquet, JSON Lines, a folder of images, or tasks for Label Studio's import.

In: `QueueRow`s, one after the other. Out: the file or folder, whole or not at all, and its images in the ledger.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from export.errors import OptionRefused, OutputRefused
from screen.files.paths import as_path, is_local
from screen.files.storage import STAGING_PREFIX, FileContent, StagingFile, sync_folder, write_failed, write_text
from screen.review.queue.classes import ClassNames
from screen.review.queue.labelstudio import ImageUrl, embed, label_config, make_task, standard_form
from screen.review.queue.ledger import Ledger, LedgerEntry
from screen.review.queue.row import QueueRow, queue_schema

FILE_FORMATS = ("parquet", "jsonl", "imagefolder", "label-studio-tasks")
METADATA_NAME = "metadata.jsonl"
_ENDINGS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_ROWS = 256


def format_of(target: str, given: str | None) -> str:
    """The format of a file, by its ending where it is not given.

    Raises:
        OptionRefused: it follows from neither.
    """
    if given is not None:
        return given
    ending = Path(target).suffix.lower()
    if ending not in _ENDINGS:
        raise OptionRefused(
            f"--output {target} says no format.",
            wanted=f"a name that ends in {', '.join(_ENDINGS)}, or a format beside it",
            next_step="add --to imagefolder for a folder of images, or --to label-studio-tasks for tasks to import",
        )
    return _ENDINGS[ending]


@dataclass(frozen=True)
class FileDestination:
    """A file or a folder.

    Attributes:
        target: its name.
        format: one of `FILE_FORMATS`.
        project: whose ledger counts.
        classes: what a labeler can choose.
        images: whether the images' bytes go into Parquet and JSON Lines.
        url: where images are found instead; None embeds them in tasks.
    """

    target: Path
    format: str
    project: str
    classes: ClassNames
    images: bool
    url: ImageUrl | None

    def describe(self) -> str:
        """For people."""
        return str(self.target)

    def has(self, keys: Sequence[bytes]) -> set[bytes]:
        """A file asks nobody; the ledger knows."""
        return set()

    def refuse_if_there(self) -> None:
        """Refuse to replace a queue that somebody may not have seen yet.

        Raises:
            OutputRefused: the target exists.
        """
        if self.format == "imagefolder" and not is_local(self.target):
            raise OutputRefused(
                f"{self.target} is in an object store, where a folder does not appear all at once.",
                wanted="a folder on a disk",
                next_step="write it to a disk and copy it, or write Parquet: --output QUEUE.parquet",
            )
        if self.target.exists() or (is_local(self.target) and self.target.is_symlink()):
            raise OutputRefused(
                f"{self.target} exists already.",
                wanted="a new file for each queue: the old one may hold rows that nobody has seen yet",
                next_step='choose another name, for example with the date in it: "queue-$(date +%F).parquet"',
            )

        form = self.target.with_suffix(".xml")
        if self.format == "label-studio-tasks" and form.exists() and form.read_bytes() != self._form():
            raise OutputRefused(
                f"{form} exists already, and {self.target.name} would have its labeling configuration there.",
                wanted="room for both files",
                next_step="choose another name for the tasks",
            )

    def _form(self) -> bytes:
        return label_config(self.classes).encode()

    def hand_on(self, rows: Iterable[QueueRow], handed: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Write the file, note what it holds, give it its name, and confirm.

        Raises:
            WriteFailed: the system refused; nothing is there, and nothing is in the ledger.
        """
        if self.format == "imagefolder":
            self._write_folder(rows, handed, ledger)
            return
        aside = StagingFile(self.target)
        with aside.writing():
            write = {"parquet": self._parquet, "jsonl": self._lines, "label-studio-tasks": self._tasks}[self.format]
            write(rows, aside.path)
            if self.format == "label-studio-tasks":
                write_text(self.target.with_suffix(".xml"), self._form().decode())
            note = ledger.intend(handed, self.target, FileContent.of(aside.path))
        aside.commit()
        ledger.confirm(note)

    def _parquet(self, rows: Iterable[QueueRow], path: Path) -> None:
        schema = queue_schema(images=self.images)
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            left = iter(rows)
            while some := list(islice(left, _ROWS)):
                values = [row.values() for row in some]
                if self.images:
                    for value, row in zip(values, some, strict=True):
                        value["image"] = {"bytes": row.image.data, "path": row.image.path}
                file.write_table(pa.Table.from_pylist(values, schema=schema))

    def _lines(self, rows: Iterable[QueueRow], path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                values = row.values()
                if self.images:
                    values["image"] = embed(row.image)
                file.write(to_json(values) + "\n")

    def _tasks(self, rows: Iterable[QueueRow], path: Path) -> None:
        form = standard_form(self.classes)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("[\n")
            for index, row in enumerate(rows):
                file.write((",\n" if index else "") + to_json(make_task(row, form, self.url)))
            file.write("\n]\n")

    def _write_folder(self, rows: Iterable[QueueRow], handed: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Images and their metadata aside, then the folder gets its name; file names hold nothing of the data."""
        aside = self.target.with_name(f"{STAGING_PREFIX}{self.target.name}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            with open(aside / METADATA_NAME, "w", encoding="utf-8", newline="\n") as file:
                for row in rows:
                    name = f"{row.rank:06d}-{row.key[:16]}{row.image.suffix}"
                    with open(aside / name, "wb") as image:
                        image.write(row.image.data)
                        _sync(image)
                    file.write(to_json({"file_name": name, **row.values()}) + "\n")
                _sync(file)
            sync_folder(aside)
            note = ledger.intend(handed, self.target / METADATA_NAME, FileContent.of(aside / METADATA_NAME))
            os.rename(aside, self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            raise write_failed(self.target, error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        ledger.confirm(note)


def make_file_destination(
    target: str, given: str | None, project: str, classes: ClassNames, *, images: bool, url: ImageUrl | None
) -> FileDestination:
    """Find out what is to be written where.

    Raises:
        OptionRefused: the format does not follow, or an option says nothing in it.
    """
    kind = format_of(target, given)
    if url is not None and kind != "label-studio-tasks":
        raise OptionRefused(
            f"--image-url says nothing in {kind}.",
            wanted="an address for the images of Label Studio's tasks",
            next_step="leave it out, or add --to label-studio-tasks",
        )
    if not images and kind not in ("parquet", "jsonl"):
        raise OptionRefused(
            f"--no-images was given with {kind}.",
            wanted="parquet or jsonl, which can do without",
            next_step="leave it out" + ("; --image-url names images instead" if kind == "label-studio-tasks" else ""),
        )
    if kind == "label-studio-tasks" and target.lower().endswith(".xml"):
        raise OptionRefused(
            f"--output {target} ends in .xml, where the labeling configuration of the tasks goes.",
            wanted="a name for the tasks, which are JSON",
            next_step="for example --output tasks.json: the configuration is tasks.xml then",
        )
    place = as_path(target)
    return FileDestination(place.absolute() if is_local(place) else place, kind, project, classes, images, url)


def to_json(value: Any) -> str:
    """One line of JSON; what is not finite becomes null, for JSON has no word for it."""
    return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
