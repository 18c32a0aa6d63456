"""The report of `oodscreen labels`, and the columns of the labelled rows.

In: counts, and the precision of the flag. Out: the report as one line of JSON; `show.py` prints the report as text.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from export.errors import ExitCode
from screen.columns import COLUMNS, Column
from screen.review.labels.precision import FlagEvaluation
from screen.review.queue.row import ADDED_COLUMNS

NOT_PREDICTED, OTHER = "not predicted", "other"
COPIED_COLUMNS = (
    "shard", "row", "id", "prediction", "confidence", "entropy", "ood_score", "p_value", "flag", "flag_reason", "status"
)  # fmt: skip
_BY_NAME = {column.name: column for column in (*ADDED_COLUMNS, *COLUMNS)}

LABEL_COLUMNS = (
    Column("label", pa.string(), "", "", "The reviewers' label; several labels are joined by `, `."),
    Column(
        "label_index",
        pa.int32(),
        "",
        "0 to C - 1",
        "Class number of the label; null for several labels, or if the label is not a class of the model.",
    ),
    Column(
        "outcome",
        pa.string(),
        "",
        "`kept`, `changed`, `out of distribution`, `unusable`, `not predicted`",
        "Outcome of the review, from label and prediction.",
    ),
    Column("annotators", pa.int32(), "", "1 and up", "Number of annotators who labelled the row."),
    Column("agreement", pa.float32(), "share", "0 to 1", "Share of the annotators who chose `label`."),
    Column("source", pa.string(), "", "", "`flagged`; `audit`: random sample of unflagged rows; `other`: neither."),
    *(_BY_NAME[name] for name in ("key", "predicted", "model_version", "input_footer", *COPIED_COLUMNS)),
)


@dataclass
class LabelReport:
    """Counts of the labels read, and the precision of the flag.

    Attributes:
        output: path of the written file.
        read: number of tasks or rows read.
        labelled: number of labelled rows in the file.
        worth: precision of the flag.
        foreign: number of tasks or rows that name no row of results.
        unlabelled: number of tasks or rows without a label.
        skipped: number of cancelled annotations.
        repeated: number of tasks or rows that repeat a labelled row; their votes are merged.
        disputed: number of rows with a tied vote, which are not in the file.
        no_result: number of labelled rows that do not match the results, by reason.
        not_predicted: number of labelled rows without a prediction, which are in the file; they are excluded from the
            shares of corrections.
        no_class: number of labelled rows with a label that is neither a class of the model nor an additional choice
            such as `unusable`.
        other: number of labelled rows that are neither flagged nor in the random sample, but in the file; they are
            excluded from the shares of corrections.
        without_image: number of rows in the file whose image is no longer available.
        ignored: number of rows with answers to another question, by its name; these answers are not labels.
        shards: for each input shard that cannot be used, the reason, by the name of the shard.
    """

    output: str
    read: int
    labelled: int
    worth: FlagEvaluation
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
    ignored: dict[str, int] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command."""
        return ExitCode.UNREADABLE_INPUT if self.shards else ExitCode.DONE

    def to_json(self) -> str:
        """The report as one line of JSON."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})
