from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.accuracy import Accuracy
from export.contract.inputs import Preprocessing
from export.contract.labelled import LabelledBatch
from export.contract.metadata import ModelContract
from export.errors import InputRefused, OptionRefused
from export.proof.accuracy import check_labels_are_classes, find_alarms, measure_accuracy

CONTRACT = ModelContract(
    "image", "output", 1, 1, 1, classes=3, output_kind="softmax", sites=(), preprocessing=Preprocessing(1 / 255)
)


def batch(classes: list[int], labels: list[Any], unreadable: int = 0) -> LabelledBatch:
    """Images of one pixel, whose value is the class that `predict` returns."""
    images = np.array(classes, np.uint8).reshape(-1, 1, 1, 1)
    return LabelledBatch(images, tuple(labels), ("decode_failed",) * unreadable)


def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.eye(3, dtype=np.float32)[images[:, 0, 0, 0] % 3]


def measure(batches: list[LabelledBatch], contract: ModelContract = CONTRACT, exported: Any = predict) -> Accuracy:
    return measure_accuracy(batches, contract, keras=predict, exported=exported, stochastic=exported)


def test_accuracy_is_counted_over_batches() -> None:
    found = measure([batch([0, 1, 2, 0], [0, 1, 2, 1], unreadable=2), batch([1, 1], [1, None])])
    assert (found.rows, found.unreadable, found.unlabelled, found.differing) == (5, 2, 1, 0)
    assert found.exported == found.keras == found.monte_carlo == 0.8
    assert found.baseline == 0.6
    assert find_alarms(replace(found, unlabelled=0, unreadable=0, rows=500), CONTRACT) == []


def test_what_was_left_out_is_said() -> None:
    alarms = find_alarms(Accuracy(500, 0.9, 0.9, 0.9, 10, 0.4, 0, unreadable=2, unlabelled=1), CONTRACT)
    assert [alarm.split(";")[0] for alarm in alarms] == [
        "1 rows have no usable label and were left out",
        "2 rows have no decodable image and were left out",
    ]


@pytest.mark.parametrize(("share", "is_chance"), [(0.33, True), (0.40, True), (0.50, False)])
def test_accuracy_at_chance_is_an_alarm_within_its_noise(share: float, is_chance: bool) -> None:
    alarms = find_alarms(Accuracy(300, share, share, share, 10, 0.34, 0, 0, 0), CONTRACT)
    assert any("is at the level of chance" in alarm and "pixel * 0.0039" in alarm for alarm in alarms) == is_chance


def test_rows_of_a_single_label_are_judged_by_the_number_of_classes() -> None:
    all_right = measure([batch([1] * 50, [1] * 50)])
    assert all_right.baseline == 1
    assert find_alarms(all_right, CONTRACT) == []
    assert find_alarms(measure([batch([0] * 50, [1] * 50)]), CONTRACT) != []


def test_a_model_that_differs_from_keras_is_an_alarm() -> None:
    found = measure([batch([0, 1, 2] * 50, [0, 1, 2] * 50)], exported=lambda images: predict(images + 1))
    assert (found.keras, found.exported, found.differing) == (1.0, 0.0, 150)
    assert any("differ on 150 of 150" in alarm for alarm in find_alarms(found, CONTRACT))


def test_the_mean_over_passes_is_what_monte_carlo_means() -> None:
    passes = iter([[0.0, 0.9, 0.1]] + [[0.4, 0.3, 0.3]] * 9)

    def noisy(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([next(passes)], np.float32)

    found = measure_accuracy([batch([0], [1])], CONTRACT, keras=predict, exported=predict, stochastic=noisy)
    assert (found.passes, found.monte_carlo) == (10, 0.0)
    passes = iter([[0.0, 0.9, 0.1]] * 2 + [[0.4, 0.3, 0.3]] * 8)
    assert (
        measure_accuracy([batch([0], [1])], CONTRACT, keras=predict, exported=predict, stochastic=noisy).monte_carlo
        == 1.0
    )


def test_labels_are_numbers_or_names_and_nothing_is_guessed() -> None:
    named = replace(CONTRACT, class_names=("cat", "dog", "eel"))
    good: list[Any] = [0, True, 2.0, "eel", b"dog"]
    assert measure([batch([0, 1, 2, 2, 1], good)], named).exported == 1
    bad: list[Any] = [3, -1, 1.5, float("nan"), "cow", None, [1], "3"]
    found = measure([batch([0] * 9, [0, *bad])], named)
    assert (found.rows, found.unlabelled) == (1, 8)
    assert measure([batch([0, 0], [0, "cat"])]).unlabelled == 1


def test_a_class_number_may_be_text_unless_a_class_name_is_a_numeral() -> None:
    assert measure([batch([0, 1, 2], ["0", b"1", "2"])]).exported == 1
    assert measure([batch([0, 1], ["cat", "1"])], replace(CONTRACT, class_names=("cat", "dog", "eel"))).exported == 1
    numerals = replace(CONTRACT, class_names=("2", "1", "0"))
    assert measure([batch([0, 1, 2], ["2", "1", "0"])], numerals).exported == 1
    assert measure([batch([0, 0], ["2", "3"])], numerals).unlabelled == 1


def test_sigmoids_count_each_label() -> None:
    many = replace(CONTRACT, output_kind="sigmoid")
    found = measure([batch([0, 1], [[1, 0, 0], [1, 1, 0]]), batch([2], [[0, 1]])], many)
    assert (found.rows, found.unlabelled) == (2, 1)
    assert found.exported == pytest.approx(5 / 6)
    assert found.baseline == pytest.approx((2 + 1 + 2) / 6)
    one = replace(CONTRACT, output_kind="sigmoid", classes=1)
    answer = lambda images: (images[:, 0, 0] / np.float32(255)).astype(np.float32)  # noqa: E731
    found = measure_accuracy(
        [batch([0, 255, 255, 0], [0, 1, False, 2])], one, keras=answer, exported=answer, stochastic=answer
    )
    assert (found.rows, found.unlabelled) == (3, 1)
    assert found.exported == pytest.approx(2 / 3)
    named = replace(one, class_names=("cat", "dog"))
    found = measure_accuracy(
        [batch([0, 255, 255, 0], ["cat", "dog", "1", "cow"])], named, keras=answer, exported=answer, stochastic=answer
    )
    assert (found.rows, found.unlabelled, found.exported) == (3, 1, 1.0)


def test_a_logit_is_compared_with_0_and_the_passes_are_averaged_as_probabilities() -> None:
    """The mean of the logits of the passes is 1.8, the mean of their probabilities 0.43."""
    passes = iter([9.0] * 4 + [-3.0] * 6)
    found = measure_accuracy(
        [batch([0], [0])],
        replace(CONTRACT, output_kind="logits", classes=1),
        keras=lambda _: np.array([[0.4]], np.float32),
        exported=lambda _: np.array([[-0.4]], np.float32),
        stochastic=lambda _: np.array([[next(passes)]], np.float32),
    )
    assert (found.keras, found.exported, found.monte_carlo, found.differing) == (0, 1, 1, 1)


def test_no_usable_row_is_refused_with_examples() -> None:
    with pytest.raises(InputRefused, match=r"3 unusable labels \('a', 'b'\); unreadable images: 1") as refused:
        measure([batch([0, 1, 2], ["a", "b", "a"], unreadable=1)])
    assert (
        refused.value.wanted
        == "rows with a decodable image and a label; labels are integers from 0 to 2 (for class names, add --classes)"
    )
    with pytest.raises(InputRefused, match="no unusable labels; unreadable images: 4"):
        measure([batch([], [], unreadable=4)])


def test_a_regression_has_no_accuracy() -> None:
    with pytest.raises(OptionRefused, match="regression"):
        check_labels_are_classes(replace(CONTRACT, output_kind="regression"))
    check_labels_are_classes(CONTRACT)
