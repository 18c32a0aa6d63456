from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.contract.metadata import ModelContract
from export.errors import ModelRefused
from export.model_source import SourcePass
from export.proof.output_values import check_output_values

CONTRACT = ModelContract("image", "output", 6, 5, 3, 3, "softmax", (), Preprocessing(1.0))
Outputs = NDArray[np.float32]


@dataclass(frozen=True)
class Fake:
    """A reference whose outputs depend on the brightness of an image, without and with dropout."""

    plain: Callable[[Outputs], Outputs]
    noisy: Callable[[Outputs], Outputs] | None = None

    def deterministic(self, images: NDArray[np.uint8]) -> Outputs:
        return self.plain(images.mean(axis=(1, 2, 3))[:, None].astype(np.float32) / 255)

    def draw(self, images: NDArray[np.uint8], seed: int) -> SourcePass:
        outputs = (self.noisy or self.plain)(images.mean(axis=(1, 2, 3))[:, None].astype(np.float32) / 255)
        return SourcePass(outputs, None, {}, ())


def softmax(x: Outputs) -> Outputs:
    return np.concatenate([x / 2, x / 2, 1 - x], axis=1)


def logits(x: Outputs) -> Outputs:
    return np.concatenate([4 * x - 2, 1 - x, -3 * x], axis=1)


def labels(x: Outputs) -> Outputs:
    return np.concatenate([x, x, x], axis=1)


def undefined_without_contrast(x: Outputs) -> Outputs:
    return np.where(np.isin(x, [0, 1]), np.float32(np.nan), softmax(x))


CASES: dict[str, Callable[[Outputs], Outputs]] = {"softmax": softmax, "logits": logits, "sigmoid": labels}


@pytest.mark.parametrize("kind", ["softmax", "logits", "sigmoid", "regression"])
@pytest.mark.parametrize("actual", CASES)
def test_outputs_are_accepted_for_the_kinds_they_can_be(kind: str, actual: str) -> None:
    possible = {
        "softmax": {"softmax", "sigmoid", "regression"},
        "logits": {"logits", "regression"},
        "sigmoid": {"logits", "sigmoid", "regression"},
    }
    contract = replace(CONTRACT, output_kind=kind)
    if kind in possible[actual]:
        check_output_values(Fake(CASES[actual]), contract, "m")
        return
    with pytest.raises(ModelRefused):
        check_output_values(Fake(CASES[actual]), contract, "m")


def test_the_next_step_is_the_kind_that_the_values_have() -> None:
    for kind, classes, actual, step in (
        ("softmax", 3, logits, "--output-kind logits"),
        ("softmax", 3, labels, "--output-kind sigmoid"),
        ("logits", 3, softmax, "--output-kind softmax"),
        ("sigmoid", 3, logits, "keras.layers.Activation('sigmoid')"),
        ("sigmoid", 1, lambda x: 4 * x - 2, "a sigmoid of the output"),
    ):
        contract = replace(CONTRACT, output_kind=kind, classes=classes)
        with pytest.raises(ModelRefused) as refused:
            check_output_values(Fake(actual), contract, "m")
        assert step in refused.value.next_step


def test_the_passes_with_dropout_are_checked_too() -> None:
    check_output_values(Fake(softmax, softmax), CONTRACT, "m")
    with pytest.raises(ModelRefused, match="values from -3 to 2"):
        check_output_values(Fake(softmax, logits), CONTRACT, "m")


def test_an_image_without_finite_outputs_is_left_out_but_not_all_images() -> None:
    check_output_values(Fake(undefined_without_contrast), CONTRACT, "m")
    undefined = Fake(lambda x: softmax(x) * np.float32(np.nan))
    for kind in ("softmax", "regression"):
        with pytest.raises(ModelRefused, match="NaN or infinity for every test image"):
            check_output_values(undefined, replace(CONTRACT, output_kind=kind), "m")
