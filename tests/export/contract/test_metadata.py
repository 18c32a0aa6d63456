from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.contract.inputs import Preprocessing, Resize
from export.contract.insertion import RateChoice, RateTrial
from export.contract.metadata import INSERTED, ModelContract, Site
from export.contract.reader import read_model
from export.errors import ContractRefused

CONTRACT = ModelContract(
    input_name="image",
    output_name="output",
    height=28,
    width=20,
    channels=3,
    classes=4,
    output_kind="softmax",
    sites=(Site("block/drop", "MCBroadcastDropout", 0.3, (7, 5, 8), (1, 1, 8)),),
    preprocessing=Preprocessing(1 / 255, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)),
    class_names=("a", "b", "c", "<d>"),
    source_digest="ab" * 32,
    versions={"keras": "3"},
    verified={"passes": 200.0},
)


def test_a_contract_survives_the_metadata() -> None:
    assert ModelContract.from_metadata(CONTRACT.to_metadata(), origin="x") == CONTRACT


def test_a_contract_without_a_reshape_in_its_metadata_has_none() -> None:
    """Files that were exported before images could be reshaped."""
    metadata = CONTRACT.to_metadata()
    preprocessing = json.loads(metadata["oodscreen.preprocessing"])
    assert preprocessing.pop("reshape") == []
    metadata["oodscreen.preprocessing"] = json.dumps(preprocessing)
    assert ModelContract.from_metadata(metadata, origin="x") == CONTRACT
    reshaped = replace(CONTRACT, preprocessing=replace(CONTRACT.preprocessing, reshape=(28, 60)))
    assert ModelContract.from_metadata(reshaped.to_metadata(), origin="x") == reshaped


CHOICE = RateChoice(
    rate=0.1,
    rows=500,
    passes=20,
    trials=(
        RateTrial(0.0, 0.91, 0.31, 0.05, True),
        RateTrial(0.1, 0.912, 0.28, 0.03, True),
        RateTrial(0.5, 0.62, 1.1, 0.3, False),
    ),
    digests=(3, 2**64 - 1),
)


def test_an_inserted_site_and_the_choice_of_its_rate_survive_the_metadata_and_are_described() -> None:
    inserted = replace(CONTRACT, sites=(replace(CONTRACT.sites[0], origin=INSERTED),), rate_choice=CHOICE)
    assert ModelContract.from_metadata(inserted.to_metadata(), origin="x") == inserted
    text = inserted.describe()
    assert "(inserted: the model was not trained with this dropout)" in text
    assert "rate 0.1, chosen on 500 labelled rows with 20 passes" in text
    assert "0.1     91.20%  0.2800  0.0300  chosen" in text
    assert "significantly lower than without the inserted dropout: 0.5" in text
    assert "does not improve the probabilities" not in text


def test_the_metadata_of_a_file_without_inserted_dropout_does_not_mention_it() -> None:
    metadata = CONTRACT.to_metadata()
    assert "oodscreen.rate_choice" not in metadata
    assert "origin" not in metadata["oodscreen.sites"]
    damaged = replace(CONTRACT, rate_choice=CHOICE).to_metadata()
    damaged["oodscreen.rate_choice"] = "[]"
    with pytest.raises(ContractRefused, match="damaged oodscreen contract"):
        ModelContract.from_metadata(damaged, origin="x")


@pytest.mark.parametrize(
    ("kind", "classes", "task"),
    [
        ("softmax", 4, "classes"),
        ("logits", 2, "classes"),
        ("logits", 1, "binary"),
        ("sigmoid", 1, "binary"),
        ("sigmoid", 2, "labels"),
        ("regression", 1, "values"),
        ("regression", 3, "values"),
    ],
)
def test_the_kind_and_the_number_of_outputs_determine_their_meaning(kind: str, classes: int, task: str) -> None:
    assert replace(CONTRACT, output_kind=kind, classes=classes).task == task


def test_metadata_of_others_is_no_matter() -> None:
    metadata = {**CONTRACT.to_metadata(), "author": "someone"}
    assert ModelContract.from_metadata(metadata, origin="x") == CONTRACT


def test_only_scaled_decoding_needs_a_contract_version_that_older_readers_refuse() -> None:
    scaled = replace(CONTRACT, resize=Resize.parse("bilinear:crop:scaled"))
    assert CONTRACT.to_metadata()["oodscreen.contract_version"] == "1"
    assert scaled.to_metadata()["oodscreen.contract_version"] == "2"
    assert ModelContract.from_metadata(scaled.to_metadata(), origin="x") == scaled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"oodscreen.contract_version": "3"}, "contract version 3"),
        ({"oodscreen.image_shape": "[28]"}, "damaged"),
        ({"oodscreen.image_shape": "[28, 20, 5]"}, "damaged"),
        ({"oodscreen.sites": "nonsense"}, "damaged"),
        ({"oodscreen.output_kind": "poetry"}, "damaged"),
    ],
)
def test_a_contract_that_cannot_be_read_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ContractRefused, match=message):
        ModelContract.from_metadata({**CONTRACT.to_metadata(), **change}, origin="x")


def test_a_missing_key_is_a_damaged_contract() -> None:
    metadata = CONTRACT.to_metadata()
    del metadata["oodscreen.sites"]
    with pytest.raises(ContractRefused, match="damaged"):
        ModelContract.from_metadata(metadata, origin="x")


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractRefused, match="cannot be read"):
        read_model(tmp_path / "missing.onnx")
    with pytest.raises(ContractRefused, match="cannot be read"):
        read_model(tmp_path)
    text = tmp_path / "text.onnx"
    text.write_text("this is no protobuf")
    with pytest.raises(ContractRefused, match="not an ONNX file"):
        read_model(text)
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    with pytest.raises(ContractRefused, match="contains no ONNX graph"):
        read_model(empty)


def test_an_onnx_file_without_a_contract_is_refused_with_the_way_out(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph), tmp_path / "plain.onnx")
    with pytest.raises(ContractRefused, match="no oodscreen contract") as refused:
        read_model(tmp_path / "plain.onnx")
    assert "oodscreen export" in refused.value.next_step
