"""What labels were found and what they say of the flag, and the columns in which labelled rows are written.

In: counts. Out: a line of JSON; `show_labels.py` tells it to people.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from export.errors import ExitCode
from screen.columns import COLUMNS, Column
from screen.review.labels.precision import Worth
from screen.review.queue.row import HANDED_ON

NOT_PREDICTED, OTHER = "not predicted", "other"
COPIED_COLUMNS = (
    "shard", "row", "id", "prediction", "confidence", "entropy", "ood_score", "p_value", "flag", "flag_reason", "status"
)  # fmt: skip
_BY_NAME = {column.name: column for column in (*HANDED_ON, *COLUMNS)}

LABEL_COLUMNS = (
    Column("label", pa.string(), "", "", "What people said; several labels: joined by `, `."),
    Column("label_index", pa.int32(), "", "0 to C - 1", "The label's class; null where it is no class of the model."),
    Column("outcome", pa.string(), "", "see above", "What the label makes of the prediction."),
    Column("annotators", pa.int32(), "", "1 and up", "How many people labelled the row."),
    Column("agreement", pa.float32(), "share", "0 to 1", "Share of them who gave this label."),
    Column("source", pa.string(), "", "", "`flagged`; `audit`: random and not flagged; `other`: neither."),
    *(_BY_NAME[name] for name in ("key", "predicted", "model_version", "input_footer", *COPIED_COLUMNS)),
)


@dataclass
class LabelReport:
    """What labels were found, and what they say of the flag.

    Attributes:
        output: the file written.
        read: tasks or lines that were read.
        labelled: rows with a label that are in the file.
        worth: what the flag is worth.
        foreign: tasks without the name of a row.
        unlabelled: tasks without a label.
        skipped: annotations that were cancelled.
        repeated: tasks of a row that had one before.
        disputed: rows on which no label has most votes; they are not in the file.
        no_result: labelled rows that these results do not have, by why.
        not_predicted: labelled rows that the model could not score; they are in the file, not in the shares.
        no_class: labels that are neither a class of the model nor a word of ours.
        other: labelled rows that are neither flagged nor drawn at random; they are in the file, not in the shares.
        without_image: rows in the file whose image is not to be had any more.
        shards: input shards that are not what was scored, and why.
    """

    output: str
    read: int
    labelled: int
    worth: Worth
    foreign: int
    unlabelled: int
    skipped: int
    repeated: int
    disputed: int = 0
    no_result: dict[str, int] = field(default_factory=dict)
    not_predicted: int = 0
    no_class: int = 0
    other: int = 0
    without_image: int = 0
    shards: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        return ExitCode.UNREADABLE_INPUT if self.shards else ExitCode.DONE

    def to_json(self) -> str:
        """In one line."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})
