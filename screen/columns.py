"""The single definition of every result column: name, Arrow type, unit, range and description.

In: nothing. Out: the columns. The schema of the results, the names in flag rules and the table in the documentation are
generated from these definitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from export.contract.metadata import ModelContract

RESULT_KEY = b"oodscreen"
"""Key in the metadata of a result file; the value is the configuration of the run as JSON."""


@dataclass(frozen=True)
class Column:
    """One result column.

    Attributes:
        name: name of the column in the file.
        type: Arrow type.
        unit: `nats`, `probability`, ... or "" if the column has no unit.
        range: possible values, in words or as an interval; "" if not stated.
        sentence: description in one sentence.
    """

    name: str
    type: pa.DataType
    unit: str
    range: str
    sentence: str

    def field(self) -> pa.Field:
        """The Arrow field, with unit, range and description as its metadata."""
        metadata = {"unit": self.unit, "range": self.range, "description": self.sentence}
        return pa.field(self.name, self.type, metadata={key: text for key, text in metadata.items() if text})


_NUMBER, _LIST = pa.float32(), pa.list_(pa.float32())

IDENTITY = (
    Column("shard", pa.string(), "", "", "Name of the input shard, relative to INPUT."),
    Column("row", pa.int64(), "", "0 and up", "Position of the row in its shard."),
    Column(
        "id",
        pa.string(),
        "",
        "",
        "Row id: value of the id column of the input; `shard:row` if the input has no id column or the value is null.",
    ),
)

SCORES = (
    Column(
        "prediction",
        pa.int32(),
        "",
        "0 to C - 1",
        "Predicted class: the class with the largest mean (binary models: 1 if the mean is above 0.5, else 0).",
    ),
    Column("confidence", _NUMBER, "probability", "0 to 1", "Predictive mean of the predicted class."),
    Column(
        "mean",
        _LIST,
        "probability (regression: unit of the value)",
        "0 to 1 (regression: any)",
        "Predictive mean of each class over the passes (regression: of each value).",
    ),
    Column(
        "std",
        _LIST,
        "as mean",
        "0 to 0.5 (regression: 0 and up)",
        "Standard deviation of each class (regression: of each value) over the passes, ddof 0.",
    ),
    Column(
        "largest_std",
        _NUMBER,
        "as mean",
        "0 and up",
        "Largest standard deviation of the row, over its classes or values.",
    ),
    Column(
        "entropy",
        _NUMBER,
        "nats",
        "0 to ln C",
        "Predictive entropy: entropy of the mean (multi-label: sum over the labels).",
    ),
    Column(
        "expected_entropy",
        _NUMBER,
        "nats",
        "0 to entropy",
        "Entropy of the output of a pass, averaged over the passes: aleatoric uncertainty (noise in the data).",
    ),
    Column(
        "mutual_information",
        _NUMBER,
        "nats",
        "0 to entropy",
        "entropy - expected_entropy: epistemic uncertainty (disagreement of the passes).",
    ),
    Column(
        "variation_ratio",
        _NUMBER,
        "share of passes",
        "0 to 1",
        "Share of passes whose predicted class is not the most frequent class (multi-label: mean over the labels).",
    ),
    Column(
        "prediction_std",
        _NUMBER,
        "probability",
        "0 to 0.5",
        "Standard deviation, over the passes, of the probability of the predicted class.",
    ),
    Column(
        "skewness",
        _NUMBER,
        "",
        "any",
        "Skewness, over the passes, of the probability of the predicted class; 0 if prediction_std < 1e-6.",
    ),
    Column(
        "kurtosis",
        _NUMBER,
        "",
        "-2 and up",
        "Excess kurtosis, over the passes, of the probability of the predicted class; 0 if prediction_std < 1e-6.",
    ),
    Column(
        "energy",
        _NUMBER,
        "",
        "any",
        "Mean over the passes of -logsumexp(logits); high values are unusual. Null for models without logits, and for "
        "binary, multi-label and regression models.",
    ),
    Column("largest_label_entropy", _NUMBER, "nats", "0 to ln 2", "Multi-label: entropy of the least certain label."),
    Column(
        "layout_distance",
        _NUMBER,
        "",
        "0 and up, usually about 1",
        "Distance of the channel means of an early tensor in each spatial cell (of up to 3 x 3) from their nearest "
        "neighbours in the reference set; null unless the calibration measures this distance.",
    ),
    Column(
        "contrast_distance",
        _NUMBER,
        "",
        "0 and up, usually about 1",
        "Distance of the channel means and standard deviations of an early tensor from their nearest neighbours in the "
        "reference set; null unless the calibration measures this distance.",
    ),
    Column(
        "penultimate_distance",
        _NUMBER,
        "",
        "0 and up, usually about 1",
        "Distance of the input of the last layer with weights from its nearest neighbours in the reference set; null "
        "unless the calibration measures this distance.",
    ),
    Column(
        "ood_score",
        pa.float64(),
        "nats",
        "0 and up",
        "Combined score: Euclidean norm of the surprisals of all detectors; high values are unusual; null without a "
        "calibration.",
    ),
    Column(
        "p_value",
        pa.float64(),
        "probability",
        "above 0, to 1",
        "Conformal p-value: (1 + k) / (1 + n), where k of the n rows of the calibration set have at least this "
        "ood_score; null without a calibration.",
    ),
)

DECISION = (
    Column(
        "flag",
        pa.bool_(),
        "",
        "",
        "Whether a person should review the row: the flag rule holds, or the row could not be scored.",
    ),
    Column(
        "flag_reason",
        pa.string(),
        "",
        "",
        "Reasons for the flag: the comparisons of the flag rule that hold, with the values of the row, or the status; "
        "null if the row is not flagged.",
    ),
    Column(
        "flag_reasons",
        pa.list_(pa.string()),
        "",
        "",
        "The reasons in flag_reason as a list, without the values of the row, for counting and filtering: "
        "`entropy > 0.5`, `most unusual: entropy`, or the status; null if the row is not flagged.",
    ),
    Column("passes", pa.int32(), "passes", "0 to T", "Number of passes that were computed for the row."),
    Column("status", pa.string(), "", "see below", "`ok`, or the reason why the row could not be scored."),
    Column("error", pa.string(), "", "", "Error of the row; null if its status is `ok`."),
)

COLUMNS = (*IDENTITY, *SCORES, *DECISION)

FEATURE_DISTANCE = Column(
    "feature_distance",
    _NUMBER,
    "",
    "0 and up",
    "Distance of the features from the reference set, in results of format 1 or 2: cosine distance, or Mahalanobis "
    "distance.",
)
"""Column of results of format 1 or 2; in format 3, the columns of three distances replace this column."""

_FIRST_FORMAT = {"flag_reasons": 2, "layout_distance": 3, "contrast_distance": 3, "penultimate_distance": 3}
"""Format of the results in which a column was added, by column, for the columns that format 1 does not have."""


def columns_of_format(result_format: int) -> tuple[Column, ...]:
    """The columns of results in the given format, in order.

    Format 2 added `flag_reasons`. In format 3, the current format, three distances replace `feature_distance`.
    """
    columns = [column for column in COLUMNS if _FIRST_FORMAT.get(column.name, 1) <= result_format]
    if result_format < _FIRST_FORMAT["layout_distance"]:
        columns.insert([column.name for column in columns].index("ood_score"), FEATURE_DISTANCE)
    return tuple(columns)


STATUSES = {
    "ok": "the row was scored",
    "null_image": "the image is null, contains a null, or has neither bytes nor a path",
    "path_not_followed": "the row has a path instead of bytes, and no --image-root was given",
    "path_not_found": "the path is outside --image-root, or the file with this path could not be read",
    "decode_failed": "the bytes are damaged, or not an image of a supported format and pixel type",
    "too_large": "the image has more pixels than --max-pixels, or too many pixels after resizing, or the image file "
    "exceeds a limit on its size, header, scans or tiles",
    "too_slow": "decoding the image took too much processor time; the next run scores the shard again",
    "wrong_shape": "the image does not have the input size of the model, which was exported without --resize",
    "unreadable_page": "the row is in a damaged part of the Parquet file",
    "non_finite": "the model returned NaN or infinity",
    "not_probabilities": "the outputs should be probabilities, but are outside 0 to 1 or do not sum to 1",
}
"""Meaning of each value of the column `status`."""

RETRIED_STATUS = "too_slow"
"""Status that depends on the load of the machine; a shard with a row of this status is scored again by the next run."""


DISTANCES = ("layout_distance", "contrast_distance", "penultimate_distance")
"""Columns of the distances that a calibration can measure."""

CALIBRATED = frozenset([*DISTANCES, "ood_score", "p_value"])
"""Score columns that are null without a calibration."""

SCORES_OF_ALL_FORMATS = (*SCORES, FEATURE_DISTANCE)
"""Score columns of results of any format."""


def null_columns(contract: ModelContract, calibrated: frozenset[str] = frozenset()) -> frozenset[str]:
    """Score columns that are always null for a contract and a calibration.

    `energy` is not among them for a model with classes, because the contract does not record whether the graph has
    logits.

    Args:
        contract: contract of the model.
        calibrated: the columns of `CALIBRATED` that the calibration fills; empty without a calibration.
    """
    nulls = set(CALIBRATED - calibrated)
    classes = {"prediction", "confidence", "prediction_std", "skewness", "kurtosis"}
    probabilities = {"entropy", "expected_entropy", "mutual_information", "variation_ratio", "energy"}
    by_task = {
        "values": {*classes, *probabilities, "largest_label_entropy"},
        "labels": {*classes, "energy"},
        "binary": {"largest_label_entropy", "energy"},
        "classes": {"largest_label_entropy"},
    }
    return frozenset(nulls | by_task[contract.task])


def result_schema(kept: pa.Schema) -> pa.Schema:
    """The schema of a result shard: identity, kept input columns, scores, decision.

    Args:
        kept: schema of the kept input columns.
    """
    fields = [column.field() for column in IDENTITY]
    fields += list(kept)
    fields += [column.field() for column in (*SCORES, *DECISION)]
    return pa.schema(fields)
