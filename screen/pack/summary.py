"""PackSummary: the outcome of a pack as text, JSON and an exit code.

In: the records of the shards, and the findings of the search. Out: text for the terminal; JSON and an exit code for
a scheduler.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from export.errors import ExitCode
from screen.pack.findings import NAMED, PassedOver, Unread, name_some, on_one_line
from screen.pack.image_file import ImageFile
from screen.pack.shard_file import ShardRecord

_LABELS = 10_000
"""Maximum number of labels that are counted separately."""

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
"""Names of folders that contain parts of a data set, and not classes."""


class LabelCounts:
    """Counts the rows of each label.

    Args:
        columns: the columns after `image`; without a column `label` of texts, nothing is counted.
    """

    def __init__(self, columns: pa.Schema) -> None:
        index = columns.get_field_index("label")
        self._index = index if index >= 0 and pa.types.is_string(columns.field(index).type) else -1
        self._counts: Counter[str] = Counter()

    def counting(self, files: Iterator[ImageFile]) -> Iterator[ImageFile]:
        """Yield the files, and count the label of each."""
        for file in files:
            if self._index >= 0 and file.values[self._index] is not None:
                value = file.values[self._index]
                label = str(value.as_py() if isinstance(value, pa.Scalar) else value)
                if label in self._counts or len(self._counts) < _LABELS:
                    self._counts[label] += 1
            yield file

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """Number of rows of each label, by label."""
        return tuple(sorted(self._counts.items()))


@dataclass(frozen=True)
class PackSummary:
    """The outcome of a pack.

    Attributes:
        source: SOURCE, without secrets.
        output: folder of the shards.
        shards: the records of all shards, in order.
        skipped: number of shards that an earlier pack finished.
        labels: number of rows of each label.
        passed_over: files of SOURCE that are not images, and hidden files and folders.
        unread: the first folders, tars and members of tars that were not read.
        unread_count: number of all folders, tars and members of tars that were not read.
    """

    source: str
    output: str
    shards: tuple[ShardRecord, ...]
    skipped: int
    labels: tuple[tuple[str, int], ...] = ()
    passed_over: PassedOver = PassedOver()
    unread: tuple[Unread, ...] = ()
    unread_count: int = 0

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def size(self) -> int:
        """Size of all images in bytes."""
        return sum(shard.size for shard in self.shards)

    @property
    def missing(self) -> int:
        """Number of rows without an image, because the image file could not be read."""
        return sum(shard.missing for shard in self.shards)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the process."""
        return ExitCode.UNREADABLE_INPUT if self.missing or self.unread_count else ExitCode.DONE

    def to_text(self) -> str:
        """The summary as several lines of text."""
        lines = [f"{self.rows} rows in {len(self.shards)} shard(s), {self.size / 2**20:.1f} MiB of images"]
        if self.skipped:
            lines.append(f"skipped, finished earlier and unchanged: {self.skipped} shard(s)")
        lines += self._label_lines()
        if self.missing:
            examples = [one for shard in self.shards for one in shard.examples]
            lines.append(f"rows without an image: {self.missing}: {_name_unread(examples, self.missing)}")
        if self.unread_count:
            lines.append(f"not read: {self.unread_count}: {_name_unread(self.unread, self.unread_count)}")
        if besides := self.passed_over.describe():
            lines.append(f"skipped: {besides}")
        keep = " --keep label" if self.labels else ""
        lines.append(f"shards: {self.output}")
        lines.append(f"next: `oodscreen run MODEL.onnx {shlex.quote(self.output)} OUTPUT{keep}`")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The summary as one line of JSON."""
        outcome = {"skipped": self.skipped, "exit_code": int(self.exit_code)}
        return json.dumps({"source": self.source, "shards": self.output} | outcome | self._lasting())

    def lasting_json(self) -> str:
        """The values that do not depend on interruptions of the pack, as JSON."""
        return json.dumps(self._lasting(), indent=1) + "\n"

    def _lasting(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "bytes": self.size,
            "files": len(self.shards),
            "labels": dict(self.labels),
            "rows_without_image": self.missing,
            "examples": [asdict(one) for shard in self.shards for one in shard.examples][:NAMED],
            "not_read": self.unread_count,
            "not_read_examples": [asdict(one) for one in self.unread],
            "passed_over": asdict(self.passed_over) | {"endings": dict(self.passed_over.endings)},
        }

    def _label_lines(self) -> list[str]:
        if not self.labels:
            return []
        more_than = "at least " if len(self.labels) == _LABELS else ""
        named = ", ".join(f"{on_one_line(label)} {count}" for label, count in self.labels[:NAMED])
        lines = [f"labels: {more_than}{len(self.labels)} ({named}{', ...' if len(self.labels) > NAMED else ''})"]
        if all(label.lower() in _SPLITS for label, _ in self.labels):
            lines.append(
                "these labels are usual names for parts of a data set: pack each folder separately, or pack "
                "again into a new folder with --label-from last"
            )
        return lines


def _name_unread(unread: tuple[Unread, ...] | list[Unread], number: int) -> str:
    return name_some([f"{one.name or repr('')} ({one.reason})" for one in unread], number)
