"""Write a queue to files: Parquet, JSON Lines, CSV, a folder of images, or tasks for Label Studio's import.

In: an iterator of `QueueRow`s. Out: the file or folder, written atomically, and ledger entries for its images.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from export.errors import OptionRefused, OutputRefused
from export.leftovers import StagingPlace
from screen.files.paths import as_path, is_local, name_place
from screen.files.storage import UNLOCKED_PREFIX, FileContent, StagingFile, sync_folder, write_failed, write_text
from screen.review.classes import ClassNames
from screen.review.queue.labelstudio import ImageUrl, embed, label_config, make_task, standard_form
from screen.review.queue.ledger import Ledger, LedgerEntry
from screen.review.queue.row import QueueRow
from screen.review.queue.table_files import write_csv, write_parquet

FILE_FORMATS = ("parquet", "jsonl", "csv", "imagefolder", "label-studio-tasks")
METADATA_NAME = "metadata.jsonl"
_ENDINGS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def format_of(target: str, chosen: str | None) -> str:
    """The format of a queue: the chosen format, or else the format of the extension.

    Raises:
        OptionRefused: no format was chosen, and the extension is unknown.
    """
    if chosen is not None:
        return chosen
    ending = Path(target).suffix.lower()
    if ending not in _ENDINGS:
        raise OptionRefused(
            f"--output {target} has no extension that determines the format.",
            wanted=f"a name that ends in {', '.join(_ENDINGS)}, or a format in --to",
            next_step="add --to imagefolder for a folder of images, or --to label-studio-tasks for a file of tasks",
        )
    return _ENDINGS[ending]


@dataclass(frozen=True)
class FileDestination:
    """A file or a folder as the destination of a queue.

    Attributes:
        target: path of the file or folder.
        format: one of `FILE_FORMATS`.
        project: name of the project in the ledger.
        classes: the choices available to an annotator.
        images: whether to write image bytes into Parquet and JSON Lines.
        url: template for the addresses of the images in tasks; None to embed the images.
    """

    target: Path
    format: str
    project: str
    classes: ClassNames
    images: bool
    url: ImageUrl | None

    def describe(self) -> str:
        """Description for messages."""
        return name_place(self.target)

    def find_existing(self, keys: Sequence[bytes]) -> set[bytes]:
        """The empty set: for files, only the ledger records exported images."""
        return set()

    def refuse_overwrite(self) -> None:
        """Raise an error if the export would replace an earlier queue, whose rows may not be labelled yet.

        Raises:
            OutputRefused: the target exists, its labelling configuration exists with other content, or the target is a
                folder in an object store.
        """
        if self.format == "imagefolder" and not is_local(self.target):
            raise OutputRefused(
                f"{self.target} is in an object store, where folders cannot be created atomically.",
                wanted="a folder on a disk",
                next_step="write the folder to a disk and copy it, or write a Parquet file: --output QUEUE.parquet",
            )
        if self.target.exists() or (is_local(self.target) and self.target.is_symlink()):
            raise OutputRefused(
                f"{self.target} already exists.",
                wanted="a new file or folder for each queue, because rows of an earlier queue may not be labelled yet",
                next_step='choose another name, for example with the date in it: "queue-$(date +%F).parquet"',
            )

        form = self.target.with_suffix(".xml")
        if self.format == "label-studio-tasks" and form.exists() and form.read_bytes() != self._form():
            raise OutputRefused(
                f"{form} already exists with other content; the labelling configuration of {self.target.name} "
                "needs this name.",
                wanted=f"a task file for which {form.name} does not exist, or has the content of this configuration",
                next_step="choose another file name for the tasks (--output)",
            )

    def _form(self) -> bytes:
        return label_config(self.classes).encode()

    def export(self, rows: Iterable[QueueRow], entries: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Write a staging file, write a pending ledger file, rename the staging file, and confirm the ledger file.

        Raises:
            WriteFailed: the queue or the ledger cannot be written; the next export confirms or removes a pending ledger
                file.
        """
        if self.format == "imagefolder":
            self._write_folder(rows, entries, ledger)
            return
        staging = StagingFile(self.target, unlocked=True)
        with staging.writing():
            writers: dict[str, Callable[[Iterable[QueueRow], Path], None]] = {
                "parquet": partial(write_parquet, images=self.images),
                "jsonl": self._lines,
                "csv": write_csv,
                "label-studio-tasks": self._tasks,
            }
            writers[self.format](rows, staging.path)
            if self.format == "label-studio-tasks":
                write_text(self.target.with_suffix(".xml"), self._form().decode(), unlocked=True)
            pending = ledger.add_pending(entries, self.target, FileContent.of(staging.path))
        staging.commit()
        ledger.confirm(pending)

    def _lines(self, rows: Iterable[QueueRow], path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                image = {"image": embed(row.image)} if self.images else {}
                file.write(to_json({**row.values(), **row.kept_values(), **image}) + "\n")

    def _tasks(self, rows: Iterable[QueueRow], path: Path) -> None:
        form = standard_form(self.classes)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("[\n")
            for index, row in enumerate(rows):
                file.write((",\n" if index else "") + to_json(make_task(row, form, self.url)))
            file.write("\n]\n")

    def _write_folder(self, rows: Iterable[QueueRow], entries: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Write images and metadata to a staging folder and rename it; file names contain no text from the data."""
        place = None
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            place = StagingPlace(self.target.parent, UNLOCKED_PREFIX, is_folder=True)
            staging = place.path
            with open(staging / METADATA_NAME, "w", encoding="utf-8", newline="\n") as file:
                for row in rows:
                    name = f"{row.rank:06d}-{row.key[:16]}{row.image.suffix}"
                    with open(staging / name, "wb") as image:
                        image.write(row.image.data)
                        _sync(image)
                    file.write(to_json({"file_name": name, **row.values(), **row.kept_values()}) + "\n")
                _sync(file)
            sync_folder(staging)
            pending = ledger.add_pending(entries, self.target / METADATA_NAME, FileContent.of(staging / METADATA_NAME))
            os.rename(staging, self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            raise write_failed(self.target, error) from error
        finally:
            if place is not None:
                shutil.rmtree(place.path, ignore_errors=True)
                place.release()
        ledger.confirm(pending)


def make_file_destination(
    target: str, chosen: str | None, project: str, classes: ClassNames, *, images: bool, url: ImageUrl | None
) -> FileDestination:
    """The file destination for the given options.

    Raises:
        OptionRefused: the format cannot be determined, or an option has no effect in the format.
    """
    kind = format_of(target, chosen)
    if url is not None and kind != "label-studio-tasks":
        raise OptionRefused(
            f"--image-url has no effect in the format {kind}.",
            wanted="Label Studio tasks, together with --image-url",
            next_step="leave out --image-url, or add --to label-studio-tasks",
        )
    if not images and kind not in ("parquet", "jsonl"):
        raise OptionRefused(
            f"--no-images was given with the format {kind}.",
            wanted="the format parquet or jsonl, together with --no-images",
            next_step="leave out --no-images"
            + ("; a CSV queue contains no image bytes" if kind == "csv" else "")
            + ("; --image-url links to images instead of embedding them" if kind == "label-studio-tasks" else ""),
        )
    if kind == "label-studio-tasks" and target.lower().endswith(".xml"):
        raise OptionRefused(
            f"--output {target} ends in .xml, the extension of the labelling configuration.",
            wanted="a name for the tasks, which are JSON",
            next_step="give a name such as --output tasks.json; the configuration is then written to tasks.xml",
        )
    path = as_path(target)
    return FileDestination(path.absolute() if is_local(path) else path, kind, project, classes, images, url)


def to_json(value: Any) -> str:
    """The value as one line of JSON; non-finite numbers become null, because JSON cannot represent them."""
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
