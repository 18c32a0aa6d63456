from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.contract.inputs import (
    PREPROCESSINGS,
    RESIZE_METHODS,
    Preprocessing,
    Resize,
    choose_preprocessing,
    choose_resize,
    fit_preprocessing,
)
from export.errors import OptionRefused
from export.graph.passes import add_uint8_input
from export.runtime import onnxruntime
from tests.agreement import assert_close_to_scale

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
MODES = ["tf", "torch", "caffe"]


def in_the_graph(preprocessing: Preprocessing, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    shape = list(images.shape[1:])
    if preprocessing.channels_first:
        shape = [shape[2], *shape[:2]]
    shape = list(preprocessing.reshape) or shape
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    add_uint8_input(model, preprocessing, (images.shape[1], images.shape[2], images.shape[3]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["N", *images.shape[1:]]
    return np.asarray(session.run(None, {"image": images})[0], np.float32)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_name_means_what_keras_means_by_it(keras: Any, mode: str, channels_first: bool) -> None:
    layout = "channels_first" if channels_first else "channels_last"
    own = PIXELS.transpose(0, 3, 1, 2) if channels_first else PIXELS
    wanted = keras.applications.imagenet_utils.preprocess_input(own.copy(), data_format=layout, mode=mode)
    preprocessing = fit_preprocessing(PREPROCESSINGS[mode], channels=3, channels_first=channels_first)
    assert_close_to_scale(preprocessing.apply(PIXELS), wanted, 1e-6)
    assert_close_to_scale(in_the_graph(preprocessing, PIXELS), wanted, 1e-6)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("shape", [(126,), (6, 21), (1, 6, 21, 1)])
def test_a_reshape_is_the_last_step(shape: tuple[int, ...], channels_first: bool) -> None:
    """The values for each channel are applied before it."""
    preprocessing = fit_preprocessing(PREPROCESSINGS["torch"], channels=3, channels_first=channels_first, reshape=shape)
    wanted = (PIXELS / 255 - PREPROCESSINGS["torch"].mean) / PREPROCESSINGS["torch"].std
    wanted = (wanted.transpose(0, 3, 1, 2) if channels_first else wanted).reshape(5, *shape)
    assert_close_to_scale(preprocessing.apply(PIXELS), wanted, 1e-6)
    assert_close_to_scale(in_the_graph(preprocessing, PIXELS), wanted, 1e-6)


def test_unit_is_zero_to_one() -> None:
    np.testing.assert_allclose(in_the_graph(PREPROCESSINGS["unit"], PIXELS), PIXELS / 255, atol=1e-7)


def test_grey_images_can_have_unit_and_tf_alone(keras: Any) -> None:
    grey = PIXELS[..., :1]
    wanted = keras.applications.imagenet_utils.preprocess_input(grey.copy(), data_format="channels_last", mode="tf")
    preprocessing = fit_preprocessing(PREPROCESSINGS["tf"], channels=1, channels_first=False)
    assert_close_to_scale(in_the_graph(preprocessing, grey), wanted, 1e-6)
    for mode in ("torch", "caffe"):
        with pytest.raises(OptionRefused, match="model of grey images"):
            fit_preprocessing(PREPROCESSINGS[mode], channels=1, channels_first=False)


def test_a_name_together_with_numbers_is_refused() -> None:
    assert choose_preprocessing("torch", None, [], []) == PREPROCESSINGS["torch"]
    assert choose_preprocessing(None, 2.0, [1.0], [3.0]) == Preprocessing(2.0, (1.0,), (3.0,))
    contradictions: list[tuple[float | None, list[float], list[float]]] = [
        (1 / 255, [], []),
        (None, [0.5], []),
        (None, [], [0.5]),
    ]
    for numbers in contradictions:
        with pytest.raises(OptionRefused, match="together with"):
            choose_preprocessing("torch", *numbers)
    with pytest.raises(OptionRefused, match="There is no preprocessing named 'imagenet'"):
        choose_preprocessing("imagenet", None, [], [])


def test_the_formula_is_told_in_the_order_in_which_it_is_done() -> None:
    caffe = fit_preprocessing(PREPROCESSINGS["caffe"], channels=3, channels_first=True)
    assert caffe.describe() == ("caffe: RGB to BGR, (pixel * 1 - [103.939, 116.779, 123.68]), then to [N, C, H, W]")
    assert Preprocessing(None).describe().startswith("none outside the model")


def test_every_resize_survives_its_text() -> None:
    texts = [*RESIZE_METHODS]
    texts += [f"{method}:{fit}" for method in RESIZE_METHODS[1:-1] for fit in ("crop", "pad", "short=256")]
    texts += [f"{text}:scaled" for text in texts if text not in ("none", "crop-or-pad")]
    for text in texts:
        assert str(Resize.parse(text)) == text
        assert Resize.parse(text).describe()
    assert Resize.parse("bilinear:stretch") == Resize("bilinear")
    assert Resize.parse("none") == Resize()


NONSENSE = ["", "cubic", "bilinear:", "bilinear:squash", "none:crop", "crop-or-pad:pad", "bilinear:crop:pad"]
NONSENSE += ["none:scaled", "crop-or-pad:scaled", "scaled", ":scaled", "bilinear:scaled:crop", "bilinear:scaled:scaled"]
NONSENSE += ["bilinear:short=", "bilinear:short=-3", "bilinear:short=0"]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_resize_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--resize is"):
        choose_resize(text, height=8, width=8)


def test_a_short_side_below_the_models_size_is_refused() -> None:
    assert choose_resize("bilinear:short=12", height=10, width=12).short_side == 12
    with pytest.raises(OptionRefused, match="too small for the model"):
        choose_resize("bilinear:short=11", height=10, width=12)
