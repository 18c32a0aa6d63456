from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from export.errors import InputRefused, OptionRefused
from screen import Screener
from screen.engine.session import choose_device
from tests.screen.engine.graphs import raw_values


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((28, 28, 1), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((2, 28, 28, 1), np.float32),
        np.zeros((0, 28, 28, 1), np.uint8),
        [[1]],
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(article: ExportedModel, images: Any) -> None:
    with pytest.raises(InputRefused, match="The images are") as refused:
        Screener(article, passes=2, device="cpu").score(images)
    assert "uint8 [B, 28, 28, 1]" in refused.value.wanted


def test_raw_passes_come_in_blocks_with_t_passes_in_total(article_onnx: Path, digits: NDArray[np.uint8]) -> None:
    blocks = list(Screener(article_onnx, passes=40, device="cpu").raw_passes(digits[:3]))
    assert len(blocks) > 1
    assert np.concatenate(blocks).shape == (40, 3, 10)


def test_a_rule_flags_rows(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    everything = Screener(article, passes=2, flag_if="confidence > 0", device="cpu")
    assert everything.score(digits[:4]).flag.all()


def test_a_row_whose_outputs_are_no_probabilities_is_flagged_without_scores() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[1] = 200
    rows = Screener(raw_values("softmax"), passes=10, flag_if="confidence < 0", device="cpu").score(images)
    assert rows.flag.tolist() == [False, True, False]
    assert [reason.condition for reason in rows.reasons[1]] == ["not_probabilities"]
    assert rows.scores["prediction"].tolist() == [2, -1, 2]
    assert (
        np.isnan(rows.scores["entropy"]).tolist()
        == np.isnan(rows.scores["mean"][:, 0]).tolist()
        == [False, True, False]
    )


def test_cuda_is_cuda_or_an_error(article: ExportedModel) -> None:
    if choose_device("auto", 1).name == "cuda":
        assert Screener(article, passes=2, device="cuda").device.name == "cuda"
    else:
        with pytest.raises(OptionRefused, match="--device cuda was requested, but"):
            Screener(article, passes=2, device="cuda")


def test_auto_notes_in_one_line_only_that_a_gpu_does_not_work(article: ExportedModel) -> None:
    device = Screener(article, passes=2, device="auto").device
    assert device.name == "cpu" or not device.note
    assert "\n" not in device.note


@pytest.mark.parametrize("options", [{"passes": 0}, {"seed": -1}, {"memory": 0}, {"masks": "none"}])
def test_invalid_options_are_refused(article: ExportedModel, options: dict[str, Any]) -> None:
    with pytest.raises(OptionRefused):
        Screener(article, **options)


def test_an_unknown_device_is_refused(article: ExportedModel) -> None:
    with pytest.raises(OptionRefused, match="--device is 'tpu'"):
        Screener(article, device="tpu")
