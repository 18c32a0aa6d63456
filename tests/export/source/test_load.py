"""Load models from one file or two: the weights that belong to a configuration, and the order of refusals."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from export.errors import ModelRefused, OptionRefused
from export.source.describe import describe_model
from export.source.load import load_model
from export.source.network import KerasNetwork
from export.source.stochastic import keep_identity
from tests.agreement import assert_close_to_scale
from tests.export import family, keras_2
from tests.export.folders import save_folder


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "whole.h5", "whole.keras", "w"])
def test_a_configuration_of_keras_2_takes_its_weights_from_a_second_file(keras: Any, name: str, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.shared_models)
    (tmp_path / "model.json").write_text(model.to_json())
    weights = tmp_path / name
    if name.startswith("whole"):
        keras_2.save(model, weights)
    else:
        model.save_weights(weights if "." in name else tmp_path / "w.h5")
    if name == "w":
        (tmp_path / "w.h5").rename(weights)
    keras_2.check(model, tmp_path / "model.json", weights=weights)


@pytest.mark.parametrize("build", [family.nested, keras_2.tiles])
@pytest.mark.parametrize("name", ["w.weights.h5", "whole.h5", "whole.keras", "w"])
def test_a_configuration_of_keras_3_takes_its_weights_from_a_second_file(
    keras: Any, build: Callable[[Any], Any], name: str, tmp_path: Path
) -> None:
    keras.backend.clear_session()
    model = build(keras)
    (tmp_path / "model.json").write_text(model.to_json())
    weights = tmp_path / name
    if name.startswith("whole"):
        model.save(weights)
    else:
        model.save_weights(tmp_path / "w.weights.h5")
    if name == "w":
        (tmp_path / "w.weights.h5").rename(weights)
    source = load_model(tmp_path / "model.json", weights=weights)
    rows = np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)
    assert_close_to_scale(np.asarray(source.network.forward(rows, keep_identity)), np.asarray(model(rows)), 1e-6)


def test_the_digest_covers_both_files(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    (tmp_path / "model.json").write_text(model.to_json())
    digests = set()
    for name in ("one.h5", "two.h5"):
        model.save_weights(tmp_path / name)
        digests.add(load_model(tmp_path / "model.json", weights=tmp_path / name).digest)
        model.layers[-1].bias.assign_add(np.ones(4, np.float32))
    assert len(digests) == 2


def test_missing_and_superfluous_weights_are_refused(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    (tmp_path / "model.json").write_text(model.to_json())
    whole = keras_2.save(model, tmp_path / "whole.h5")
    with pytest.raises(OptionRefused, match="contains the layers of the model, but no weights"):
        load_model(tmp_path / "model.json")
    with pytest.raises(OptionRefused, match="contains weights of its own"):
        load_model(whole, weights=whole)
    with pytest.raises(ModelRefused, match="The file of weights"):
        load_model(tmp_path / "model.json", weights=tmp_path / "none.h5")
    pointer = tmp_path / "pointer.h5"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelRefused, match="is a Git LFS pointer"):
        load_model(tmp_path / "model.json", weights=pointer)


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "folder", "model.json"])
def test_the_advice_for_a_model_that_keras_cannot_load_ends_in_the_same_model(
    keras: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path, weights = keras_2.made(keras_2.shared_models), tmp_path / name, None
    if name == "folder":
        save_folder(model, path)
    elif name == "model.json":
        path.write_text(model.to_json())
        weights = tmp_path / "w.h5"
        model.save_weights(weights)
    else:
        keras_2.save(model, path)
    with monkeypatch.context() as patched:
        patched.setattr("export.source.keras_2.build.make_layer", lambda *_arguments, **_options: 1 / 0)
        with pytest.raises(ModelRefused, match="Keras could not load") as refused:
            load_model(path, weights=weights)
    built = {"model": keras_2.shared_models(keras), "old": keras_2.shared_models(family.import_keras_2())}
    keras_2.follow(str(refused.value), tmp_path, monkeypatch, **built)
    (rebuilt,) = tmp_path.glob("*-rebuilt.keras")
    keras_2.check(model, rebuilt)


def test_superfluous_weights_are_refused_with_code_that_writes_the_layers(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = keras_2.made(keras_2.classifier)
    whole = keras_2.save(model, tmp_path / "whole.h5")
    with pytest.raises(OptionRefused) as refused:
        load_model(whole, weights=whole)
    monkeypatch.chdir(tmp_path)
    exec(refused.value.next_step.partition("JSON file: ")[2].partition("; then")[0], {})  # noqa: S102
    keras_2.check(model, tmp_path / "model.json", weights=whole)


def test_weights_of_another_model_are_refused_with_both_lists(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    (tmp_path / "model.json").write_text(model.to_json())
    other = keras_2.made(keras_2.shared_models)
    other.save_weights(tmp_path / "other.h5")
    with pytest.raises(ModelRefused) as caught:
        load_model(tmp_path / "model.json", weights=tmp_path / "other.h5")
    in_file, _, in_model = str(caught.value).partition("Weights of the model that were not matched:")
    assert "head/dense" in in_file
    assert "batch_normalization/gamma (6,)" in in_model


@pytest.mark.parametrize("change", ["shape", "name", "missing", "extra"])
def test_one_weight_that_does_not_fit_is_named(keras: Any, change: str, tmp_path: Path) -> None:
    path = keras_2.save(keras_2.made(keras_2.teachable_machine), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        groups = [one for one in file["model_weights"].values() if any("depth" in n for n in one.attrs["weight_names"])]
        names = [*groups[0].attrs["weight_names"]]
        name = next(one for one in names if "depthwise_kernel" in one)
        if change == "shape":
            value = groups[0][name][()]
            del groups[0][name]
            groups[0][name] = value[:2]
        elif change == "name":
            groups[0][name.replace("depthwise_kernel", "weight")] = groups[0][name][()]
            names[names.index(name)] = name.replace("depthwise_kernel", "weight")
        elif change == "missing":
            names.remove(name)
        else:
            groups[0]["more/depthwise_kernel:0"] = groups[0][name][()]
            names.append("more/depthwise_kernel:0")
        groups[0].attrs["weight_names"] = names
    with pytest.raises(ModelRefused, match="do not fit the layers of the model") as caught:
        load_model(path)
    assert {"shape": "(2, 3, 8, 1)", "name": "/weight:0", "missing": "depthwise_kernel", "extra": "more/"}[
        change
    ] in str(caught.value)


def test_a_model_without_dropout_is_refused_for_that_before_its_weights_are_read(keras: Any, tmp_path: Path) -> None:
    library = family.import_keras_2()
    head = library.Sequential([library.layers.Flatten(), library.layers.Dense(3)])
    path = keras_2.save(library.Sequential([library.Input((8, 8, 3)), head]), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        del file["model_weights"]
    with pytest.raises(ModelRefused, match="has no active dropout"):
        load_model(path)


def test_the_stand_in_for_a_dropout_class_of_keras_2_is_active(keras: Any, tmp_path: Path) -> None:
    library = family.import_keras_2()

    class FixedDropout(library.layers.Dropout):  # type: ignore[misc, name-defined]
        """The dropout layer of the package `efficientnet`."""

    class MCSpatialDropout2D(library.layers.SpatialDropout2D):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return super().call(inputs, training=True)

    layers = library.layers
    image = library.Input((8, 8, 3))
    x = MCSpatialDropout2D(0.2)(layers.Conv2D(4, 3)(image))
    x = FixedDropout(0.3, noise_shape=(None, 1))(layers.Flatten()(x))
    path = keras_2.save(library.Model(image, layers.Dense(3, activation="softmax")(x)), tmp_path / "model.h5")
    source = load_model(path)
    assert isinstance(source.network, KerasNetwork)
    assert [(one.path, one.rate) for one in source.network.kept] == [
        ("mc_spatial_dropout2d", 0.2),
        ("fixed_dropout", 0.3),
    ]
    assert len(source.notices) == 2


def own_objects(keras: Any) -> dict[str, Any]:
    """A loss, a metric, an optimizer, a regularizer and an initializer that are not part of Keras."""

    class OwnLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, labels: Any, outputs: Any) -> Any:
            return keras.ops.mean((labels - outputs) ** 2)

    class OwnMetric(keras.metrics.Mean):  # type: ignore[misc]
        """A metric of another name."""

    class OwnOptimizer(keras.optimizers.SGD):  # type: ignore[misc]
        """An optimizer of another name."""

    class OwnRegularizer(keras.regularizers.Regularizer):  # type: ignore[misc]
        def __call__(self, weight: Any) -> Any:
            return keras.ops.sum(weight) * 0.1

        def get_config(self) -> dict[str, Any]:
            return {}

    class OwnInitializer(keras.initializers.Ones):  # type: ignore[misc]
        """An initializer of another name."""

    return {
        "compile": {"loss": OwnLoss(), "metrics": [OwnMetric()], "optimizer": OwnOptimizer()},
        "functions": {"loss": lambda labels, outputs: keras.ops.mean(outputs), "metrics": [lambda a, b: a]},
        "layer": {"kernel_regularizer": OwnRegularizer(), "bias_initializer": OwnInitializer()},
    }


@pytest.mark.parametrize("name", ["model.keras", "model.json"])
@pytest.mark.parametrize("compiled", ["compile", "functions"])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`:UserWarning")
def test_a_model_loads_without_the_code_that_only_its_training_needs(
    keras: Any, name: str, compiled: str, tmp_path: Path
) -> None:
    layers, own = keras.layers, own_objects(keras)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6, **own["layer"])])
    model.add(layers.Dropout(0.2))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(**own[compiled])
    path, weights = tmp_path / name, None
    if name == "model.json":
        weights = tmp_path / "model.weights.h5"
        path.write_text(model.to_json())
        model.save_weights(weights)
    else:
        model.save(path)
    rows = np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)
    outputs = load_model(path, weights=weights).network.forward(rows, keep_identity)
    assert_close_to_scale(np.asarray(outputs), np.asarray(model(rows)), 1e-6)


def test_a_function_that_is_not_part_of_keras_is_named(keras: Any, tmp_path: Path) -> None:
    def doubled(x: Any) -> Any:
        return 2 * x

    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6, activation=doubled)])
    model.add(layers.Dropout(0.2))
    model.add(layers.Dense(3, activation="softmax"))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelRefused, match="not part of Keras: doubled") as refused:
        load_model(tmp_path / "model.keras")
    assert "--custom-objects 'MODULE:doubled'" in refused.value.next_step
    assert load_model(tmp_path / "model.keras", custom_objects={"doubled": doubled}).classes == 3


@pytest.mark.parametrize(
    "config",
    [
        "null",
        "[" * 5000 + "]" * 5000,
        '{"class_name": 3, "config": {}}',
        '{"class_name": "Sequential", "config": {"layers": 3}}',
        '{"class_name": "Sequential", "config": {"layers": [null]}}',
        '{"class_name": "Sequential", "config": {"layers": [{"config": {}}]}}',
        '{"class_name": "Sequential", "config": {"layers": [{"class_name": 2.5, "config": {}}]}}',
        '{"module": 1, "class_name": "Sequential", "config": {"layers": []}}',
    ],
)
@pytest.mark.parametrize("version", ["[]", '{"keras_version": "2.15.0"}', '{"keras_version": ["3"]}'])
def test_a_damaged_configuration_is_refused(keras: Any, config: str, version: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", version)
    with pytest.raises(ModelRefused):
        load_model(tmp_path / "model.keras")


def test_weights_that_are_not_finite_are_refused_by_name(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    model.layers[-1].bias.assign([0, np.nan, 0, 0])
    name = model.layers[-1].name
    with pytest.raises(ModelRefused, match=f"{name}/bias .* contains NaN"):
        load_model(keras_2.save(model, tmp_path / "model.h5"))


def test_a_layer_that_fails_in_a_trace_is_refused_with_its_error(keras: Any) -> None:
    class Failing(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            if training:
                raise ValueError("this layer fails in training")
            return inputs

    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), Failing(), layers.Dropout(0.2)])
    model.add(layers.Dense(3, activation="softmax"))
    with pytest.raises(ModelRefused, match="training=True: this layer fails in training"):
        describe_model(model)
