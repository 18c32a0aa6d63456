"""SavedModel folders, written by Keras 2 and Keras 3."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import ModelRefused
from export.source.load import load_model
from export.source.network import KerasNetwork
from export.source.stochastic import keep_identity
from tests.agreement import assert_close_to_scale, drop_last_activation
from tests.conftest import oodscreen
from tests.export import family
from tests.export.test_refusals import Refusal

FUNCTIONS = (
    Refusal(
        "without noise",
        family.sequential,
        "traced in inference mode, without dropout",
        what="SavedModel folders of Keras 3's `model.export` (they contain traced functions without layers)",
    ),
    Refusal(
        "with noise",
        family.always_on,
        "random operations, but no layers and no rates",
    ),
)


def save(model: Any, path: Path) -> Path:
    """Save a model with Keras 2, as `.h5` or as a SavedModel folder by the extension of the path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 warns that its formats are outdated
        model.save(path, save_format="h5" if path.suffix == ".h5" else "tf")
    return path


def shuffle(keras: Any, model: Any) -> Any:
    """Set weights that are all different, so that a weight in a wrong place is seen, and keep activations of order one.

    Kernels have He's variance for their fan-in. Activations of order one keep rounding errors small on any processor.
    """
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if any(part in weight.name for part in ("variance", "gamma")):
            own = rng.uniform(0.5, 1.5, weight.shape)
        elif "kernel" in weight.name:
            fan_in = np.prod(weight.shape[:2] if "depthwise" in weight.name else weight.shape[:-1])
            own = rng.normal(0, np.sqrt(2 / fan_in), weight.shape)
        else:
            own = rng.normal(0, 0.3, weight.shape)
        weight.assign(own)
    family.set_norm_statistics(keras, model)
    return model


def of_many_layers(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Normalization(mean=(0.1, 0.2, 0.3), variance=(1.0, 2.0, 3.0))(image)
    x = layers.BatchNormalization()(layers.SeparableConv2D(8, 3, activation="elu")(x))
    x = layers.SpatialDropout2D(0.2)(layers.DepthwiseConv2D(3, use_bias=False)(x))
    x = layers.Add()([x, layers.Conv2D(8, 1)(x)])
    x = layers.PReLU()(layers.LayerNormalization()(layers.Flatten()(x)))
    x = layers.Dropout(0.3)(layers.GRU(5)(layers.Reshape((16, 32))(x)))
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


def of_a_base(keras: Any) -> Any:
    """A network of `keras.applications` with a new head and a frozen base."""
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    base.trainable = False
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(base.output))
    return keras.Model(base.input, keras.layers.Dense(4, activation="softmax")(x))


def images(model: Any) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)


@pytest.mark.parametrize("build", [family.sequential, of_many_layers, of_a_base])
@pytest.mark.parametrize("name", ["saved", "saved.h5"])
def test_what_keras_2_saved_says_what_it_said_there(build: Callable[[Any], Any], name: str, tmp_path: Path) -> None:
    keras_2 = family.import_keras_2()
    model = shuffle(keras_2, build(keras_2))
    source = load_model(save(model, tmp_path / name))
    rows = images(model)

    def both() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.asarray(source.network.forward(rows, keep_identity)), np.asarray(model(rows, training=False))

    assert_close_to_scale(*both(), tolerance=5e-5)
    assert isinstance(source.network, KerasNetwork)
    drop_last_activation(source.network.model)
    drop_last_activation(model)
    logits, expected = both()
    assert_close_to_scale(logits, expected, tolerance=5e-5)
    assert 0.1 < np.abs(expected).max() < 30
    assert np.ptp(logits, axis=0).max() > 0.01 * np.abs(expected).max()
    assert len(source.digest) == 64


def refusal(path: Path) -> str:
    with pytest.raises(ModelRefused) as caught:
        load_model(path)
    return str(caught.value)


@pytest.mark.parametrize("refusal", FUNCTIONS, ids=lambda one: one.name)
def test_functions_that_keras_3_traced_are_refused_by_what_is_in_them(
    keras: Any, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal.build(keras).export(tmp_path / "saved", verbose=False)
    assert oodscreen("export", tmp_path / "saved", tmp_path / "m.onnx", "--scale", "1", monkeypatch=monkeypatch) == 2
    message = capsys.readouterr().err
    assert refusal.message in message
    assert "model.save('NAME.keras')" in message
    assert not (tmp_path / "m.onnx").exists()


def test_a_subclassed_model_of_keras_2_is_refused(tmp_path: Path) -> None:
    keras_2 = family.import_keras_2()

    class Net(keras_2.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.last = keras_2.layers.Dropout(0.5), keras_2.layers.Dense(3)

        def call(self, image: Any) -> Any:
            return self.last(self.drop(image[:, 0, 0]))

    model = Net()
    model(np.zeros((1, 4, 4, 3), np.float32))
    assert "of the class Net, without the class's code" in refusal(save(model, tmp_path / "saved"))


def test_code_in_a_folder_is_refused_before_it_can_run(tmp_path: Path) -> None:
    path = save(family.with_lambda(family.import_keras_2()), tmp_path / "saved")
    assert "contains code that loading would run: lambda" in refusal(path)


def test_models_within_models_of_keras_2_are_refused(tmp_path: Path) -> None:
    """Keras 3 reads nested models in another format than Keras 2 writes."""
    assert "has the weights" in refusal(save(family.nested(family.import_keras_2()), tmp_path / "saved"))


def test_weights_that_do_not_fit_the_layers_are_refused(tmp_path: Path) -> None:
    keras_2 = family.import_keras_2()
    path = save(family.sequential(keras_2), tmp_path / "saved")
    other = keras_2.Sequential([keras_2.Input((10, 10, 1)), keras_2.layers.Flatten(), keras_2.layers.Dense(40)])
    keras_2.backend.clear_session()
    foreign = save(other, tmp_path / "other")
    for part in (foreign / "variables").iterdir():
        part.replace(path / "variables" / part.name)
    assert "has the weights" in refusal(path)


def test_folders_that_are_no_models_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    assert "is a folder without a file saved_model.pb" in refusal(folder)
    (folder / "saved_model.pb").write_bytes(b"\xff" * 100)
    (folder / "keras_metadata.pb").write_bytes(b"\xff" * 100)
    assert "has a keras_metadata.pb that cannot be read" in refusal(folder)
