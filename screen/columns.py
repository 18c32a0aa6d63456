"""Every result column, once: name, Arrow type, unit, range and one sentence.

The writer makes its schema from this list, the rules their vocabulary, and README its table.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from export.contract.metadata import ModelContract


@dataclass(frozen=True)
class Column:
    """One result column.

    Attributes:
        name: as in the file.
        type: Arrow type.
        unit: `nats`, `probability`, ... or "" where there is none.
        range: the values it can take, in words or as an interval.
        sentence: what it says.
    """

    name: str
    type: pa.DataType
    unit: str
    range: str
    sentence: str

    def field(self) -> pa.Field:
        """The Arrow field, with unit, range and sentence as its metadata."""
        notes = {"unit": self.unit, "range": self.range, "description": self.sentence}
        return pa.field(self.name, self.type, metadata={key: text for key, text in notes.items() if text})


_NUMBER, _LIST = pa.float32(), pa.list_(pa.float32())

IDENTITY = (
    Column("shard", pa.string(), "", "", "Name of the input shard, relative to INPUT."),
    Column("row", pa.int64(), "", "0 and up", "Position of the row in its shard."),
    Column("id", pa.string(), "", "", "The input's key column; where there is none, `shard:row`."),
)

SCORES = (
    Column(
        "prediction",
        pa.int32(),
        "",
        "0 to C - 1",
        "Predicted class: the largest mean (one sigmoid output: 1 if above 0.5).",
    ),
    Column("confidence", _NUMBER, "probability", "0 to 1", "Mean probability of the prediction."),
    Column(
        "mean",
        _LIST,
        "probability",
        "0 to 1",
        "Predictive mean of each class over the passes (regression: of each value).",
    ),
    Column("std", _LIST, "probability", "0 to 0.5", "Standard deviation of each class over the passes, ddof 0."),
    Column(
        "largest_std",
        _NUMBER,
        "as mean",
        "0 and up",
        "Largest standard deviation of the row, over its classes or values.",
    ),
    Column(
        "entropy", _NUMBER, "nats", "0 to ln C", "Predictive entropy: of the mean (several labels: summed over labels)."
    ),
    Column(
        "expected_entropy",
        _NUMBER,
        "nats",
        "0 to entropy",
        "Mean over passes of the entropy of one pass: noise in the data.",
    ),
    Column(
        "mutual_information",
        _NUMBER,
        "nats",
        "0 to entropy",
        "entropy - expected_entropy: how much the passes disagree.",
    ),
    Column(
        "variation_ratio",
        _NUMBER,
        "share of passes",
        "0 to 1",
        "Share of passes that vote against the most frequent class (several labels: mean over labels).",
    ),
    Column(
        "prediction_std", _NUMBER, "probability", "0 to 0.5", "Standard deviation over passes of the predicted class."
    ),
    Column(
        "skewness", _NUMBER, "", "any", "Skewness over passes of the predicted class; 0 where prediction_std < 1e-6."
    ),
    Column(
        "kurtosis",
        _NUMBER,
        "",
        "-2 and up",
        "Excess kurtosis over passes of the predicted class; 0 where prediction_std < 1e-6.",
    ),
    Column(
        "energy",
        _NUMBER,
        "",
        "any",
        "Mean over passes of -logsumexp(logits), where the model has logits; high is unusual.",
    ),
    Column("largest_label_entropy", _NUMBER, "nats", "0 to ln 2", "Several labels: entropy of the least certain one."),
    Column(
        "feature_distance",
        _NUMBER,
        "",
        "0 and up",
        "How far the trunk's features are from known ones: 1 - mean cosine to the nearest (or the Mahalanobis "
        "distance); null without a calibration, or where it found no features.",
    ),
    Column(
        "ood_score",
        pa.float64(),
        "nats",
        "0 and up",
        "How unusual the row is among known rows, all detectors together; null without a calibration.",
    ),
    Column(
        "p_value",
        pa.float64(),
        "probability",
        "above 0, to 1",
        "Share of known rows that are at least as unusual, conservative; null without a calibration.",
    ),
)

VERDICT = (
    Column("flag", pa.bool_(), "", "", "A person should look: the rule holds, or the row could not be scored."),
    Column("flag_reason", pa.string(), "", "", "The comparisons that held, with their values; null where not flagged."),
    Column(
        "flag_reasons",
        pa.list_(pa.string()),
        "",
        "",
        "The same reasons as a list without the row's values, to count and to filter by: `entropy > 0.5`, "
        "`most unusual: entropy`, or the status; null where not flagged.",
    ),
    Column("passes", pa.int32(), "passes", "0 to T", "How many passes the row had."),
    Column("status", pa.string(), "", "see below", "`ok`, or why the row could not be scored."),
    Column("error", pa.string(), "", "", "What was wrong with the row; null where its status is `ok`."),
)

COLUMNS = (*IDENTITY, *SCORES, *VERDICT)

_SINCE_FORMAT_2 = frozenset(["flag_reasons"])


def columns_of_format(result_format: int) -> tuple[Column, ...]:
    """The result columns of a format of results: 1 has no `flag_reasons`, 2 is today's."""
    return tuple(column for column in COLUMNS if result_format > 1 or column.name not in _SINCE_FORMAT_2)


STATUSES = {
    "ok": "the row was scored",
    "null_image": "the image column is null, or has neither bytes nor a path",
    "path_not_followed": "the row has a path instead of bytes, and no --image-root was given",
    "path_not_found": "the path could not be read under --image-root",
    "decode_failed": "the bytes are not an image that can be decoded",
    "too_large": "the image has more pixels than the limit; it was not decoded",
    "wrong_shape": "the image is not of the size that the model takes",
    "unreadable_page": "this part of the Parquet file is damaged",
    "non_finite": "the model gave NaN or infinity",
}
"""Every value of the column `status`, with its meaning."""


CALIBRATED = frozenset(["feature_distance", "ood_score", "p_value"])
"""The scores that only a calibration gives."""


def null_columns(contract: ModelContract, calibrated: frozenset[str] = frozenset()) -> frozenset[str]:
    """The scores that a model of this output kind never has.

    Args:
        contract: the model's.
        calibrated: those of `CALIBRATED` that the calibration gives.
    """
    always = set(CALIBRATED - calibrated)
    classes = {"prediction", "confidence", "prediction_std", "skewness", "kurtosis"}
    probabilities = {"entropy", "expected_entropy", "mutual_information", "variation_ratio", "energy"}
    if contract.output_kind == "regression":
        return frozenset(always | classes | probabilities | {"largest_label_entropy"})
    if contract.output_kind == "sigmoid":
        always |= {"energy"}
        return frozenset(always | (classes if contract.classes > 1 else {"largest_label_entropy"}))
    return frozenset(always | {"largest_label_entropy"})


def result_schema(kept: pa.Schema) -> pa.Schema:
    """The schema of a result shard: identity, kept input columns, scores, verdict."""
    fields = [column.field() for column in IDENTITY]
    fields += list(kept)
    fields += [column.field() for column in (*SCORES, *VERDICT)]
    return pa.schema(fields)
