from __future__ import annotations

from typing import Any, get_args

import pytest

from export.config.accuracy import AccuracyConfig
from export.config.exporting import ExportConfig, FileExportConfig
from export.config.values import parse_insertions, parse_rates
from export.contract.inputs import PREPROCESSINGS, PreprocessingName
from export.contract.insertion import LIST, Insertion, check_insertions
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


def test_dropout_to_insert_is_a_layer_and_a_rate() -> None:
    texts = ["top=0.2", "block/a=b = 1/4", "classifier=20%", "head=auto", "list"]
    assert parse_insertions(texts) == (
        Insertion("top", 0.2),
        Insertion("block/a=b", 0.25),
        Insertion("classifier", 0.2),
        Insertion("head", None),
        LIST,
    )


@pytest.mark.parametrize("rate", ["some", "Auto", "", "nan", "1/0", "200%"])
def test_the_error_for_a_rate_of_dropout_to_insert_names_the_layer_and_the_possible_rates(rate: str) -> None:
    with pytest.raises(OptionRefused, match=f"gives top the rate '{rate}'") as caught:
        parse_insertions([f"top={rate}"])
    assert "above 0 and below 1" in str(caught.value)
    assert "or auto" in str(caught.value)


@pytest.mark.parametrize("text", ["top", "=0.2", "top=", "top=0", "top=1", "top=100%", "top=-0.1", "top=some"])
def test_other_dropout_to_insert_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--insert-dropout") as caught:
        parse_insertions([text])
    assert "next" in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["top=0.2", "top=0.3"], "names top 2 times"),
        (["top=auto", "block=0.3"], "gives auto for some layers and a rate for others"),
        (["top=auto"], "'top=auto' was given without --check-data"),
        (["list"], "only the command"),
    ],
)
def test_dropout_to_insert_that_contradicts_itself_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(OptionRefused, match=message):
        check_insertions(parse_insertions(texts), labelled=False)


def test_dropout_to_insert_is_a_dict_in_python() -> None:
    config = ExportConfig(insert_dropout={"top": 0.2, "block": "auto", "head": "5%"})
    assert config.insertions == (Insertion("top", 0.2), Insertion("block", None), Insertion("head", 0.05))
    wrong: Any = [("top", 0.2)]
    with pytest.raises(OptionRefused, match="--insert-dropout contains"):
        ExportConfig(insert_dropout=wrong)
