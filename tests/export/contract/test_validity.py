from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.contract.metadata import ModelContract
from export.contract.reader import read_model
from export.contract.validity import check_contract
from export.errors import ContractRefused
from tests.export.contract.test_metadata import CONTRACT

NUMBERS: Any = (1, 2, 3, 4)


def with_site(**values: Any) -> ModelContract:
    return replace(CONTRACT, sites=(replace(CONTRACT.sites[0], **values),))


def with_preprocessing(**values: Any) -> ModelContract:
    return replace(CONTRACT, preprocessing=replace(CONTRACT.preprocessing, **values))


def test_a_valid_contract_is_accepted() -> None:
    check_contract(CONTRACT, "x.onnx")


@pytest.mark.parametrize("names", [("cat", "dog"), ("cat",), ()])
def test_a_single_probability_may_have_two_class_names_or_one_of_an_earlier_version(names: tuple[str, ...]) -> None:
    check_contract(replace(CONTRACT, output_kind="sigmoid", classes=1, class_names=names), "x.onnx")


@pytest.mark.hostile(
    "A model whose contract has impossible values: a rate of NaN, a shape of 2**40, names that are not printable text",
    "the model is refused, and the error names the value",
)
@pytest.mark.parametrize(
    ("contract", "found"),
    [
        (replace(CONTRACT, class_names=("a", "b", "c")), "3 class names for 4 classes"),
        (replace(CONTRACT, class_names=("a", "b", "c", "d", "e")), "5 class names for 4 classes"),
        (replace(CONTRACT, class_names=("a", "b", "b", "d")), "the class name 'b' 2 times"),
        (replace(CONTRACT, class_names=NUMBERS), "class name 1, which is not printable text"),
        (replace(CONTRACT, class_names=("a", "b", "c", "\x1b[2J")), r"class name '\\x1b\[2J', which is not"),
        (replace(CONTRACT, class_names=("a", "b", "c", "\ud800")), "which is not printable text"),
        (replace(CONTRACT, class_names=("a", "b", "c", " ")), "a blank class name"),
        (replace(CONTRACT, height=2**40), "image_shape of shape"),
        (replace(CONTRACT, width=0), "image_shape of shape"),
        (replace(CONTRACT, classes=2**40), "1099511627776 outputs"),
        (replace(CONTRACT, sites=()), "sites "),
        (replace(CONTRACT, sites=CONTRACT.sites * 2), "sites "),
        (with_site(rate=float("nan")), "with rate nan"),
        (with_site(rate=0.0), "with rate 0"),
        (with_site(rate=1.0), "with rate 1"),
        (with_site(kind="Dropout"), "of the kind 'Dropout'"),
        (with_site(shape=(2**40, 1, 1)), "of shape"),
        (with_site(shape=(7, 5, 8.5)), "of shape"),
        (with_site(noise_shape=(1, 1)), "with masks of"),
        (with_site(noise_shape=(1, 1, 4)), "with masks of"),
        (with_site(name="\x07"), "site name"),
        (with_preprocessing(scale=float("inf")), "scale inf"),
        (with_preprocessing(scale=0.0), "scale 0"),
        (with_preprocessing(mean=(0.1, 0.2)), "mean "),
        (with_preprocessing(std=(0.1, 0.0, 0.1)), "std 0"),
        (replace(CONTRACT, verified={"counts": float("nan")}), "verified nan"),
        (replace(CONTRACT, versions={"keras": "\x1b[31m3"}), "not printable"),
    ],
)
def test_an_impossible_value_is_refused_by_name(contract: ModelContract, found: str) -> None:
    with pytest.raises(ContractRefused, match=found) as refused:
        check_contract(contract, "x.onnx")
    assert str(refused.value).isascii()


def _edit(source: Path, target: Path, change: Callable[[onnx.ModelProto, dict[str, Any]], None]) -> Path:
    """Change a model and the sites in its metadata."""
    proto = onnx.load(source)
    metadata = {entry.key: entry for entry in proto.metadata_props}
    sites = json.loads(metadata["oodscreen.sites"].value)
    change(proto, sites)
    metadata["oodscreen.sites"].value = json.dumps(sites)
    target.write_bytes(proto.SerializeToString())
    return target


def _state_another_rate(proto: onnx.ModelProto, sites: Any) -> None:
    sites[0]["rate"] = 0.9


def _forget_a_site(proto: onnx.ModelProto, sites: Any) -> None:
    del sites[0]


def _name_another_site(proto: onnx.ModelProto, sites: Any) -> None:
    sites[0]["name"] = "other"


def _change_the_kind(proto: onnx.ModelProto, sites: Any) -> None:
    sites[0]["kind"] = "MCGaussianDropout"


@pytest.mark.hostile(
    "A model whose contract and graph state different rates, kinds or names of a dropout site",
    "the model is refused, and the error names both values",
)
@pytest.mark.parametrize("change", [_state_another_rate, _forget_a_site, _name_another_site, _change_the_kind])
def test_sites_that_differ_between_contract_and_graph_are_refused(
    change: Callable[[onnx.ModelProto, Any], None], article_onnx: Path, tmp_path: Path
) -> None:
    with pytest.raises(ContractRefused, match="at the dropout site"):
        read_model(_edit(article_onnx, tmp_path / "m.onnx", change))
