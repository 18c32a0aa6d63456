from __future__ import annotations

from typing import Any

import pytest

from export.errors import ModelRefused, OptionRefused
from export.model_source import ImageInput
from export.source.inputs import find_image_input


def model_of(keras: Any, shape: tuple[int | None, ...], first: str) -> Any:
    """A model with an input of a shape, whose first layer has a `data_format` or none."""
    layers = keras.layers
    convolution = layers.Conv2D(2, 1, data_format=first) if first else layers.Identity()
    return keras.Sequential([keras.Input(shape), convolution])


LAST, FIRST, NONE = "channels_last", "channels_first", ""


@pytest.mark.parametrize(
    ("shape", "first", "stated", "wanted"),
    [
        ((8, 9, 3), LAST, None, ImageInput((8, 9, 3))),
        ((3, 8, 9), FIRST, None, ImageInput((8, 9, 3), channels_first=True)),
        ((1, 28, 28), NONE, None, ImageInput((28, 28, 1), channels_first=True)),
        ((8, 9, 3), LAST, (8, 9, 3), ImageInput((8, 9, 3))),
        ((None, None, 3), LAST, (64, 48, 3), ImageInput((64, 48, 3))),
        ((3, None, None), FIRST, (64, 48, 3), ImageInput((64, 48, 3), channels_first=True)),
        ((3, None, None), FIRST, (3, 64, 48), ImageInput((64, 48, 3), channels_first=True)),
        ((None, 28, 1), LAST, (30, 28, 1), ImageInput((30, 28, 1))),
        ((3, 8, 9), LAST, (8, 9, 3), ImageInput((8, 9, 3), channels_first=True)),
        ((1, 28, 30), LAST, (28, 30, 1), ImageInput((28, 30, 1), channels_first=True)),
        ((3072,), NONE, (32, 32, 3), ImageInput((32, 32, 3), reshape=(3072,))),
        ((3072,), NONE, (3, 32, 32), ImageInput((32, 32, 3), channels_first=True, reshape=(3072,))),
        ((6,), NONE, (2, 3, 1), ImageInput((2, 3, 1), reshape=(6,))),
        ((32, 96), NONE, (32, 32, 3), ImageInput((32, 32, 3), reshape=(32, 96))),
        ((784, 1), NONE, (28, 28, 1), ImageInput((28, 28, 1), reshape=(784, 1))),
        ((28, 1, 28, 1), NONE, (28, 28, 1), ImageInput((28, 28, 1), reshape=(28, 1, 28, 1))),
    ],
)
def test_an_image_is_taken_as_it_is_transposed_or_reshaped(
    keras: Any, shape: tuple[int, ...], first: str, stated: Any, wanted: ImageInput
) -> None:
    found = find_image_input(model_of(keras, shape, first), stated, "m")
    assert found == wanted
    assert found.input_shape == tuple(size or wanted.input_shape[axis] for axis, size in enumerate(shape))


@pytest.mark.parametrize(
    ("shape", "first", "image"),
    [
        ((28, 28), NONE, (28, 28, 1)),
        ((20, 30), NONE, (20, 30, 1)),
        ((784,), NONE, (28, 28, 1)),
        ((1, 28, 30), LAST, (28, 30, 1)),
    ],
)
def test_the_grey_image_of_an_unambiguous_shape_is_told(
    keras: Any, shape: tuple[int, ...], first: str, image: tuple[int, int, int]
) -> None:
    found = find_image_input(model_of(keras, shape, first), None, "m")
    assert (found.image_shape, found.channels_first, found.reshape) == (image, False, shape)
    assert f"a grey image of {image[0]} x {image[1]} pixels" in found.notice


@pytest.mark.parametrize(
    ("shape", "first", "step"),
    [
        ((3072,), NONE, "--image-shape 32x32x3 .* --image-shape 3x32x32"),
        ((None, None, 3), LAST, "--image-shape 224x224x3"),
        ((1, None, None), FIRST, "--image-shape 224x224x1"),
        ((3, 32, 40), LAST, "--image-shape 3x32x40"),
        ((32, 40, 3), FIRST, "--image-shape 32x40x3 if the last axis"),
        ((4,), NONE, "HEIGHTxWIDTHxCHANNELS"),
        ((784, 1), NONE, "HEIGHTxWIDTHxCHANNELS"),
        ((28, 28, 5), LAST, "train the model on images with 3 channels"),
        ((4, 28, 28, 1), NONE, "HEIGHTxWIDTHxCHANNELS"),
    ],
)
def test_a_shape_that_may_be_another_image_or_none_is_refused_with_the_option(
    keras: Any, shape: tuple[int, ...], first: str, step: str
) -> None:
    with pytest.raises(ModelRefused, match=rf"(?s)takes an input of shape \[N, .*next: .*{step}"):
        find_image_input(model_of(keras, shape, first), None, "m")


@pytest.mark.parametrize(
    ("shape", "first", "stated"),
    [
        ((784,), NONE, (32, 32, 1)),
        ((None, None, 3), LAST, (64, 64, 1)),
        ((28, 28, 3), LAST, (28, 30, 3)),
        ((32, 28, 3), LAST, (28, 32, 3)),
        ((14, 56), NONE, (28, 28, 1)),
        ((32, 32, 3), LAST, (3, 48, 64)),
        ((None,), NONE, (28, 28, 1)),
    ],
)
def test_a_stated_shape_that_contradicts_the_input_is_refused(
    keras: Any, shape: tuple[int, ...], first: str, stated: tuple[int, int, int]
) -> None:
    with pytest.raises(OptionRefused, match=r"but the input of m has the shape \[N, "):
        find_image_input(model_of(keras, shape, first), stated, "m")


@pytest.mark.parametrize("stated", [(28, 28, 2), (0, 28, 1), (3, 0, 4)])
def test_a_stated_shape_that_is_no_image_is_refused(keras: Any, stated: tuple[int, int, int]) -> None:
    with pytest.raises(OptionRefused, match=r"--image-shape is \d+x\d+x\d+\."):
        find_image_input(model_of(keras, (784,), NONE), stated, "m")
