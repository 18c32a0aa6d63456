"""SavedModel folders, written by Keras 2 and Keras 3."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.errors import ModelRefused
from export.source.load import load_model
from export.source.network import KerasNetwork
from export.source.stochastic import keep_identity
from tests.agreement import assert_close_to_scale
from tests.conftest import oodscreen
from tests.export import family, keras_2
from tests.export.folders import as_tensorflow_2_0, as_tensorflow_2_4, save_folder
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


def of_wrappers(keras: Any) -> Any:
    """Layers that contain layers."""
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(5).normal(0.5, 0.3, (50, 18)).astype(np.float32))
    x = norm(layers.Reshape((24, 18))(image))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3, dropout=0.1)(x, x)])
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    x = layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True)(x)
    x = layers.Bidirectional(layers.GRU(4, reset_after=False), merge_mode="sum")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.3)(x)))


def of_unknown_shape(keras: Any) -> Any:
    """A sequential model without an input layer, which takes the shape of the first images."""
    layers = keras.layers
    hidden = layers.Dense(8, activation="tanh")
    model = keras.Sequential([layers.Flatten(), hidden, layers.Dropout(0.3), layers.Dense(4, activation="softmax")])
    model(np.zeros((1, 6, 6, 3), np.float32))
    return model


def compare_folder(model: Any, path: Path, **options: Any) -> None:
    """Compare a loaded folder with the model without its last activation that it contains."""
    source = load_model(path, **options)
    assert isinstance(source.network, KerasNetwork)
    keras_2.without_last_activation(source.network.model)
    largest = 255.0 if source.scales_itself else 1.0
    rows = largest * np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)
    expected = np.asarray(model(rows, training=False))
    assert_close_to_scale(np.asarray(source.network.forward(rows, keep_identity)), expected, tolerance=1e-5)
    assert 0.05 < np.abs(expected).max() < 30
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()
    assert len(source.digest) == 64


@pytest.mark.parametrize(
    "build",
    [
        family.sequential,
        of_many_layers,
        of_wrappers,
        of_unknown_shape,
        keras_2.shared_models,
        keras_2.odd_names,
        keras_2.tiles,
        keras_2.operations,
        keras_2.augmented,
    ],
)
def test_a_folder_of_each_version_of_tensorflow_2_says_what_it_said_there(
    build: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = keras_2.made(build)
    path = save_folder(model, tmp_path / "saved", traces=build in (family.sequential, of_unknown_shape))
    keras_2.without_last_activation(model)
    compare_folder(model, path)
    for change in (as_tensorflow_2_4, as_tensorflow_2_0):
        change(path)
        compare_folder(model, path)


def test_layers_with_renamed_weights_are_read_from_hdf5(tmp_path: Path) -> None:
    model = keras_2.made(of_many_layers)
    keras_2.check(model, keras_2.save(model, tmp_path / "saved.h5"))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelRefused) as caught:
        load_model(path, **options)
    return str(caught.value)


def follow(message: str, monkeypatch: pytest.MonkeyPatch, folder: Path, **names: Any) -> None:
    """Run the lines of Python in the advice of a message, in a folder."""
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 warns that its formats are outdated
        exec(message.partition("in Python: ")[2], names)  # noqa: S102  the advice, as users would run it


@pytest.mark.parametrize("refusal", FUNCTIONS, ids=lambda one: one.name)
def test_functions_that_keras_3_traced_are_refused_by_what_is_in_them(
    keras: Any, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice leads to the same model, with the weights of the folder."""
    model = refusal.build(keras)
    model.export(tmp_path / "saved", verbose=False)
    assert oodscreen("export", tmp_path / "saved", tmp_path / "m.onnx", "--scale", "1", monkeypatch=monkeypatch) == 2
    message = capsys.readouterr().err
    assert refusal.message in message
    assert not (tmp_path / "m.onnx").exists()
    follow(message, monkeypatch, tmp_path, model=refusal.build(keras))
    compare_folder(keras_2.without_last_activation(model), tmp_path / "model.keras")


def test_a_model_without_descriptions_of_its_layers_is_refused_with_a_way_to_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "saved", keras_2.made(family.sequential)
    save_folder(model, path)
    (path / "keras_metadata.pb").unlink()
    message = refusal(path)
    assert "a Keras model without the configuration of its layers" in message
    follow(message, monkeypatch, tmp_path, model=family.sequential(family.import_keras_2()))
    compare_folder(keras_2.without_last_activation(model), tmp_path / "model.h5")


def make_net(keras: Any) -> Any:
    """A subclassed model, for Keras 2 or 3; its normalization and its list of layers test the paths of the weights."""

    class Net(keras.Model):  # type: ignore[misc]
        def __init__(self, units: int = 5, **options: Any) -> None:
            super().__init__(**options)
            self.norm = keras.layers.BatchNormalization()
            self.blocks = [keras.layers.Dense(units, activation="tanh"), keras.layers.Dense(4, activation="softmax")]
            self.drop = keras.layers.Dropout(0.5)

        def call(self, image: Any, training: Any = None) -> Any:
            hidden = self.blocks[0](self.norm(image[:, 0, 0], training=training))
            return self.blocks[1](self.drop(hidden, training=training))

    return Net


@pytest.mark.parametrize("change", [None, as_tensorflow_2_4, as_tensorflow_2_0])
def test_a_subclassed_model_needs_the_code_of_its_class(
    keras: Any, change: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    """The advice of each refusal leads to the same model, with the weights of the folder."""
    model = make_net(family.import_keras_2())()
    rows = np.random.default_rng(6).random((3, 4, 4, 3)).astype(np.float32)
    model(rows)
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    path = save_folder(model, tmp_path / "saved")
    if change:
        change(path)
    assert "--custom-objects 'MODULE:Net'" in refusal(path)
    source = load_model(path, custom_objects={"Net": make_net(keras)})
    assert len(source.sites) == 1
    expected = np.asarray(model(rows, training=False))
    assert_close_to_scale(np.asarray(source.network.forward(rows, keep_identity)), expected, tolerance=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01


def test_a_class_whose_arguments_are_unknown_is_refused_with_a_way_out(keras: Any, tmp_path: Path) -> None:
    class Net(make_net(family.import_keras_2())):  # type: ignore[misc]
        def get_config(self) -> dict[str, Any]:
            return {}

    class Strict(make_net(keras)):  # type: ignore[misc]
        def __init__(self, units: int, **options: Any) -> None:
            super().__init__(units, **options)

    model = Net(units=6)
    model(np.zeros((1, 4, 4, 3), np.float32))
    path = save_folder(model, tmp_path / "saved")
    message = refusal(path, custom_objects={"Net": Strict})
    assert "does not contain the arguments of the class Net" in message
    assert "in the module of Net, set the defaults of its other arguments" in message
    Strict.__init__.__defaults__ = (6,)
    assert load_model(path, custom_objects={"Net": Strict}).classes == 4


def make_trained(keras: Any) -> Any:
    """A class that changes the training of functional models, for Keras 2 or 3."""

    class Trained(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            raise NotImplementedError

    return Trained


@pytest.mark.parametrize("change", [None, as_tensorflow_2_0])
def test_a_class_that_changes_the_training_only_is_built_as_a_functional_model(
    keras: Any, change: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    model = keras_2.made(small)
    path = save_folder(make_trained(family.import_keras_2())(model.inputs, model.outputs), tmp_path / "saved")
    if change:
        change(path)
    assert "--custom-objects 'MODULE:Trained'" in refusal(path)
    compare_folder(keras_2.without_last_activation(model), path, custom_objects={"Trained": make_trained(keras)})


def make_blocks(keras: Any) -> Any:
    """A layer with layers in a list and in a dictionary, and weights of its own, for Keras 2 or 3."""

    class Blocks(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.many = [keras.layers.Dense(8, activation="tanh") for _ in range(3)]
            self.named = {"first": keras.layers.Dense(8), "second": keras.layers.Dense(8)}

        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(name="scale", shape=(8,), initializer="ones")
            self.offset = self.add_weight(name="shift", shape=(8,), initializer="zeros")
            super().build(shape)

        def call(self, inputs: Any) -> Any:
            x = inputs
            for one in self.many:
                x = one(x)
            return self.factor * self.named["second"](self.named["first"](x)) + self.offset

    return Blocks


def test_weights_in_a_class_of_ones_own_are_matched_by_attributes(keras: Any, tmp_path: Path) -> None:
    def build(keras: Any, kind: Any) -> Any:
        layers = keras.layers
        image = keras.Input((6, 6, 3))
        x = layers.Dropout(0.3)(kind()(layers.Dense(8)(layers.Flatten()(image))))
        return keras.Model(image, layers.Dense(4, activation="softmax")(x))

    model = keras_2.made(lambda library: build(library, make_blocks(library)))
    path = save_folder(model, tmp_path / "saved")
    compare_folder(keras_2.without_last_activation(model), path, custom_objects={"Blocks": make_blocks(keras)})

    class Other(make_blocks(keras)):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.many: list[Any] = self.many[:2]
            self.more = keras.layers.Dense(8, name="more")

        def call(self, inputs: Any) -> Any:
            return self.more(super().call(inputs))

    message = refusal(path, custom_objects={"Blocks": Other})
    for start, name in (("that only the folder has", r"dense_\d+"), ("the installed version of Keras have", "more")):
        assert re.search(rf"{start}.* {{'blocks/{name}/kernel': \(8, 8\), 'blocks/{name}/bias': \(8,\)}}", message)


def test_code_in_a_folder_is_refused_before_it_can_run(tmp_path: Path) -> None:
    path = save_folder(family.with_lambda(family.import_keras_2()), tmp_path / "saved")
    assert "contains code that loading would run: lambda" in refusal(path)


def small(keras: Any, units: int = 8) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Flatten(),
            layers.Dense(units, activation="tanh"),
            layers.Dropout(0.3),
            layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_folder(small(family.import_keras_2()), tmp_path / "saved")


def test_weights_of_another_model_are_refused_with_both_lists(saved: Path, tmp_path: Path) -> None:
    foreign = save_folder(small(family.import_keras_2(), units=9), tmp_path / "other")
    shutil.copytree(foreign / "variables", saved / "variables", dirs_exist_ok=True)
    message = refusal(saved)
    assert "(108, 9)" in message.partition("only the layers")[0]
    assert "(108, 8)" in message.partition("only the layers")[2]


INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"


@pytest.mark.parametrize("name", ["saved_model.pb", "keras_metadata.pb", INDEX, DATA])
def test_a_pointer_of_git_lfs_in_a_folder_is_named(name: str, saved: Path) -> None:
    (saved / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    message = refusal(saved)
    assert f"{saved / name} is a pointer of Git LFS" in message
    assert f"cd '{(saved / name).parent}' && git lfs pull" in message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["saved_model.pb", "keras_metadata.pb", INDEX, DATA])
def test_a_truncated_file_in_a_folder_is_named(name: str, share: float, saved: Path) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    message = refusal(saved)
    assert "cannot be read" in message or "without the configuration" in message
    assert name.removesuffix(".index").removesuffix(".data-00000-of-00001") in message
    assert "copy" in message


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_missing_weights_are_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    assert f"without its weights; missing: {name}" in refusal(saved)


def test_assets_and_functions_are_not_needed(saved: Path) -> None:
    shutil.rmtree(saved / "assets")
    (saved / "fingerprint.pb").unlink()
    assert load_model(saved).classes == 4


def test_a_folder_around_a_model_or_within_one_is_refused_with_the_path_of_the_model(
    saved: Path, tmp_path: Path
) -> None:
    outer = tmp_path / "serving" / "digits"
    outer.mkdir(parents=True)
    inner = saved.rename(outer / "1")
    for folder in (outer, outer.parent, inner / "variables", inner / "assets"):
        message = refusal(folder)
        assert message.endswith(f"export {inner}")
    shutil.copytree(inner, outer / "2")
    assert f"contains the SavedModel folder {inner} and 1 more" in refusal(outer)


def test_a_folder_with_a_model_file_is_refused_with_the_path_of_the_file(keras: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    small(keras).save(folder / "best.keras")
    assert refusal(folder).endswith(f"export {folder / 'best.keras'}")


def test_the_unpacked_files_of_a_keras_file_are_named(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unpacked"
    small(keras).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extractall(folder)
    message = refusal(folder)
    assert "contains the unpacked files of a .keras file" in message
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(["/bin/sh", "-c", message.partition("pack them: ")[2].partition(";")[0]], check=True)
    assert load_model(folder / "model.keras").classes == 4


def test_a_checkpoint_without_layers_is_named_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = tmp_path / "training", keras_2.made(small)
    model.save_weights(folder / "cp.ckpt")
    message = refusal(folder)
    assert "contains only weights, in a checkpoint of TensorFlow (cp.ckpt)" in message
    follow(message, monkeypatch, tmp_path, model=small(family.import_keras_2()))
    compare_folder(keras_2.without_last_activation(model), tmp_path / "model.h5")


def test_folders_of_other_kinds_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    assert "is a folder without a file saved_model.pb" in refusal(folder)
    (folder / "model.json").write_text('{"format": "layers-model", "modelTopology": {}, "weightsManifest": []}')
    message = refusal(folder)
    assert "contains a model of TensorFlow.js" in message
    assert f"--output_format=keras '{folder / 'model.json'}' model.h5" in message


def test_a_graph_of_tensorflow_1_is_named_with_a_way_to_its_weights(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    v1, folder = tf.compat.v1, tmp_path / "saved"
    rng = np.random.default_rng(1)
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, [None, 6, 6, 3])
        kernel = v1.get_variable("last/kernel", initializer=rng.normal(size=(108, 4)).astype(np.float32))
        bias = v1.get_variable("last/bias", initializer=rng.normal(size=4).astype(np.float32))
        logits = tf.matmul(tf.nn.dropout(tf.reshape(image, [-1, 108]), rate=0.3), kernel) + bias
        session.run(v1.global_variables_initializer())
        expected = session.run(kernel)
        v1.saved_model.simple_save(session, str(folder), {"image": image}, {"logits": logits})
    message = refusal(folder)
    assert "is a SavedModel in the format of TensorFlow 1" in message
    layers = keras.layers
    last = layers.Dense(4, activation="softmax", name="last")
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Flatten(), layers.Dropout(0.3), last])
    follow(message, monkeypatch, tmp_path, model=model)
    source = load_model(tmp_path / "model.keras")
    assert isinstance(source.network, KerasNetwork)
    np.testing.assert_array_equal(source.network.model.layers[-1].kernel, expected)
