from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.contract.insertion import LIST, Insertion
from export.errors import ModelRefused
from export.source.choice import SiteChoice
from export.source.describe import describe_model
from export.source.insertion.places import Place
from export.source.stochastic import NoiseRecorder, keep_identity


def branched(keras: Any) -> Any:
    """A model with a nested model, a layer that is called twice, a recurrent layer, and layers that take no dropout."""
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    shared = layers.Conv2D(2, 1, name="shared")
    x = layers.Add(name="sum")([shared(image), shared(image * 0.5)])
    encoder = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(2, 3, name="inner")], name="encoder")
    x = layers.Reshape((6, 12), name="rows")(encoder(x))
    x = layers.SimpleRNN(4, name="steps")(x)
    levels = layers.Embedding(3, 4, name="levels")(layers.Reshape((64,))(image))
    x = layers.Concatenate(name="both")([x, layers.GlobalAveragePooling1D(name="mean")(levels)])
    return keras.Model(image, layers.Softmax()(layers.Dense(3, name="top")(layers.Dropout(0.0, name="idle")(x))))


def test_the_places_of_a_network_are_found_by_a_trace(keras: Any) -> None:
    source = describe_model(branched(keras), choice=SiteChoice(insertions=(LIST,)))
    places = {place.path: place for place in source.places}
    possible = {path: place.shape for path, place in places.items() if not place.problem and place.has_weights}
    assert possible == {"shared": (8, 8, 1), "encoder/inner": (8, 8, 2), "top": (8,)}
    assert [path for path, place in places.items() if place.makes_outputs] == ["top"]
    assert places["encoder"] == Place("encoder", "Sequential", (8, 8, 2))
    assert {path: place.problem for path, place in places.items() if place.problem} == {
        "sum": "the layer has 2 inputs",
        "steps/simple_rnn_cell": "the layer is called in the steps of a loop, such as in a recurrent layer",
        "levels": "the input of the layer consists of integers",
        "both": "the layer has 2 inputs",
        "idle": "the layer draws noise itself",
    }


def test_weights_of_each_element_make_no_classifier(keras: Any) -> None:
    layers = keras.layers
    end = [layers.PReLU(name="slope"), layers.LayerNormalization(axis=(1, 2, 3), name="norm"), layers.Flatten()]
    stack = [keras.Input((4, 4, 1)), layers.Conv2D(2, 3, name="top"), *end, layers.Softmax()]
    source = describe_model(keras.Sequential(stack), choice=SiteChoice(insertions=(LIST,)))
    assert [place.path for place in source.places if place.has_weights] == ["top"]
    assert [place.path for place in source.places if place.makes_outputs] == ["top"]


def test_layers_that_do_not_lead_to_the_output_are_no_places(keras: Any) -> None:
    class Aside(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.flat = keras.layers.Flatten(name="flat")
            self.used, self.unused = keras.layers.Dense(2, name="used"), keras.layers.Dense(2, name="unused")
            self.uncalled = keras.layers.Dense(2, name="uncalled")

        def build(self, _shape: Any) -> None:
            for layer in (self.used, self.unused, self.uncalled):
                layer.build((None, 16))

        def call(self, images: Any) -> Any:
            flat = self.flat(images)
            self.unused(inputs=flat)
            return self.used(inputs=flat)

    model = Aside()
    model(np.zeros((1, 4, 4, 1), np.float32))
    source = describe_model(model, choice=SiteChoice(insertions=(LIST,)), image_shape=(4, 4, 1))
    assert {place.path: place.problem for place in source.places} == {
        "flat": "",
        "used": "",
        "unused": "the output does not depend on the layer",
        "uncalled": "the model does not call the layer",
    }


def test_inserted_dropout_changes_the_input_of_one_layer_and_leaves_the_model_as_it_was(keras: Any) -> None:
    layers = keras.layers
    image = keras.Input((4, 4, 1))
    shared = layers.Conv2D(2, 1, name="shared")
    x = layers.Flatten()(shared(image) + shared(image * 0.5))
    model = keras.Model(image, layers.Dense(3, name="top")(x))
    images = np.random.default_rng(0).random((4, 4, 4, 1)).astype(np.float32)
    before = np.asarray(model(images))
    source = describe_model(model, choice=SiteChoice(insertions=(Insertion("top", 0.4), Insertion("shared", 0.2))))
    assert source.sites == ("before:top", "before:shared")
    np.testing.assert_array_equal(source.network.forward(images, keep_identity), before)
    noise = {}
    for precision in ("float32", "float64"):  # with other masks, the comparison with other roundings would fail
        recorder = NoiseRecorder(3)
        drawn = np.asarray(source.network.forward(images, recorder, precision=precision))
        assert np.abs(drawn - before).max() > 1e-3
        noise[precision] = {name: np.asarray(factor) for name, (factor, _) in recorder.noise.items()}
    assert sorted(noise["float32"]) == ["before:shared", "before:shared#2", "before:top"]
    np.testing.assert_allclose(np.unique(noise["float32"]["before:top"]), [0, 1 / 0.6], rtol=1e-6)
    np.testing.assert_allclose(np.unique(noise["float32"]["before:shared#2"]), [0, 1 / 0.8], rtol=1e-6)
    for name, factor in noise["float32"].items():
        np.testing.assert_array_equal(noise["float64"][name], factor)
    assert "call" not in vars(model.get_layer("top"))
    np.testing.assert_array_equal(np.asarray(model(images)), before)


def test_a_model_without_dropout_is_refused_with_the_option_that_inserts_it(keras: Any) -> None:
    with pytest.raises(ModelRefused) as caught:
        describe_model(keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]))
    assert "--insert-dropout 'classifier=0.2'" in str(caught.value)
    assert "docs/without-dropout.md" in str(caught.value)
