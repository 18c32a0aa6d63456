from __future__ import annotations

from typing import Any, get_args

import pytest

from export.config.accuracy import AccuracyConfig
from export.config.exporting import ExportConfig, FileExportConfig
from export.config.values import parse_rates
from export.contract.inputs import PREPROCESSINGS, PreprocessingName
from export.errors import OptionRefused


def test_the_choices_of_preprocess_are_those_that_exist() -> None:
    assert get_args(PreprocessingName) == tuple(PREPROCESSINGS)


def test_a_rate_is_for_all_layers_or_for_patterns() -> None:
    assert parse_rates(["0.3", "block*=1/4"]) == {"*": 0.3, "block*": 0.25}
    assert ExportConfig(rate=0.3).rates == {"*": 0.3}
    assert ExportConfig(rate={"top": 0.1}).rates == {"top": 0.1}
    assert ExportConfig().rates == {}


def test_sequences_become_tuples() -> None:
    config = FileExportConfig(mean=[0.5], keep=["a"], class_names=["x", "y"])
    assert (config.mean, config.keep, config.class_names) == ((0.5,), ("a",), ("x", "y"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preprocess": "imagenet"}, "--preprocess is 'imagenet'"),
        ({"output_kind": "poetry"}, "--output-kind is 'poetry'"),
        ({"opset": 16}, "--opset is 16"),
    ],
)
def test_a_value_that_is_no_choice_or_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionRefused, match=message):
        ExportConfig(**values)


@pytest.mark.parametrize("name", ["label_column", "image_column", "image_root"])
def test_options_of_the_accuracy_check_need_its_data(name: str) -> None:
    values: dict[str, Any] = {name: "x"}
    with pytest.raises(OptionRefused, match=f"--{name.replace('_', '-')} was given without --check-data"):
        AccuracyConfig(**values)
    assert AccuracyConfig(check_data="shards", **values).rows == 500
