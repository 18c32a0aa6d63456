from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.contract.metadata import DOMAIN, ModelContract
from export.contract.reader import ExportedModel
from export.errors import VerificationFailed
from export.graph.passes import with_rate_zero
from export.proof.verify import verify_model
from export.source.load import load_model
from export.source.network import KerasReference


@pytest.fixture(scope="module")
def reference(article_keras: Path, article: ExportedModel) -> KerasReference:
    return KerasReference(load_model(article_keras).network, article.contract.preprocessing)


def verify(
    model: onnx.ModelProto, contract: ModelContract, reference: KerasReference, folder: Path
) -> dict[str, float]:
    """Write a graph to a file, and verify it."""
    written, without_dropout = folder / "m.onnx", folder / "without.onnx"
    written.write_bytes(model.SerializeToString())
    without_dropout.write_bytes(with_rate_zero(model).SerializeToString())
    return verify_model(written, without_dropout, contract, reference)


def with_rates(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.domain == DOMAIN:
            next(attribute for attribute in node.attribute if attribute.name == "rate").f *= factor
    return changed


def test_the_exported_file_passes(article: ExportedModel, reference: KerasReference, tmp_path: Path) -> None:
    measured = verify(article.proto, article.contract, reference, tmp_path)
    assert measured["changed_outputs"] == 1
    assert measured["deterministic_difference"] < 1e-5


def test_dead_dropout_is_found(article: ExportedModel, reference: KerasReference, tmp_path: Path) -> None:
    dead = with_rate_zero(article.proto)
    with pytest.raises(VerificationFailed, match="its dropout is inactive"):
        verify(dead, article.contract, reference, tmp_path)


def test_a_wrong_scale_is_found(article: ExportedModel, reference: KerasReference, tmp_path: Path) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(article.proto)
    scale = next(value for value in wrong.graph.initializer if value.name == "oodscreen/mul_by")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(1 / 256, np.float32), scale.name))
    with pytest.raises(VerificationFailed, match="differs from Keras"):
        verify(wrong, article.contract, reference, tmp_path)


@pytest.mark.parametrize("factor", [0.3, 1.6])
def test_a_wrong_rate_is_found(
    article: ExportedModel, reference: KerasReference, factor: float, tmp_path: Path
) -> None:
    with pytest.raises(VerificationFailed, match=r"variance|mean"):
        verify(with_rates(article.proto, factor), article.contract, reference, tmp_path)


def test_rows_that_depend_on_their_batch_are_found(keras: Any, tmp_path: Path) -> None:
    from export.exporter import export_model

    layers = keras.layers
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(image)
    x = layers.Dropout(0.5)(x - keras.ops.mean(x, axis=0, keepdims=True))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    with pytest.raises(VerificationFailed, match="other rows of its batch"):
        export_model(model, tmp_path / "m.onnx", scale=1 / 255)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_number_of_outputs_is_found(article: ExportedModel, reference: KerasReference, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed):
        verify(article.proto, replace(article.contract, classes=9), reference, tmp_path)
