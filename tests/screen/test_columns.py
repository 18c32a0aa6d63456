from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from screen.columns import CALIBRATED, COLUMNS, DISTANCES, SCORES, null_columns, result_schema
from screen.engine.statistics import PassSummary
from tests.export.contract.test_metadata import CONTRACT


def test_column_names_are_unique_and_every_column_has_a_sentence() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(column.sentence.endswith(".") for column in COLUMNS)


def test_the_schema_carries_units_ranges_and_sentences() -> None:
    field = result_schema(pa.schema([("label", pa.int64())])).field("entropy")
    assert field.metadata[b"unit"] == b"nats"
    assert field.metadata[b"range"] == b"0 to ln C"
    assert field.metadata[b"description"]


def test_kept_columns_stand_between_identity_and_scores() -> None:
    names = result_schema(pa.schema([("label", pa.int64())])).names
    assert names[:5] == ["shard", "row", "id", "label", "prediction"]
    assert names[-6:] == ["flag", "flag_reason", "flag_reasons", "passes", "status", "error"]


def test_the_fields_of_a_summary_are_score_columns() -> None:
    scores = {column.name for column in SCORES} - {"ood_score", "p_value"}
    held = set(PassSummary.__dataclass_fields__) - {"passes"}
    assert held == scores


def test_null_columns_depend_on_the_kind_of_output() -> None:
    later = {*DISTANCES, "ood_score", "p_value"}
    assert null_columns(CONTRACT) == later | {"largest_label_entropy"}
    for kind in ("sigmoid", "logits"):
        nulls = {"energy", "largest_label_entropy"}
        assert null_columns(replace(CONTRACT, output_kind=kind, classes=1)) == later | nulls
    assert "prediction" in null_columns(replace(CONTRACT, output_kind="sigmoid"))
    assert "entropy" in null_columns(replace(CONTRACT, output_kind="regression"))


def test_a_calibration_fills_columns() -> None:
    assert null_columns(CONTRACT, CALIBRATED) == {"largest_label_entropy"}
    assert null_columns(CONTRACT, CALIBRATED - {"contrast_distance"}) == {"largest_label_entropy", "contrast_distance"}
