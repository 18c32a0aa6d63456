from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.proof import FAULTS, SATURATED, Exported, export_subject, planted, run
from export.errors import VerificationFailed
from export.graph.variants import with_rate
from export.model_source import Images, Noise, SourcePass
from export.proof.verify import Subject, verify_model
from tests.export import family

OTHERS: Mapping[str, Callable[[Any], Any]] = {
    "gaussian": family.gaussian,
    "alpha": family.self_normalizing,
    "shared": family.noise_shape,
}


@pytest.fixture(scope="module", params=["article", *OTHERS, *SATURATED])
def exported(
    keras: Any, article_keras: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    keras.utils.set_random_seed(3)
    folder = tmp_path_factory.mktemp("proof")
    if request.param == "article":
        return export_subject(keras.saving.load_model(article_keras), folder, scale=1 / 255)
    return export_subject({**OTHERS, **SATURATED}[request.param](keras), folder, scale=1 / 255)


@pytest.fixture(scope="module")
def article(keras: Any, article_keras: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_subject(keras.saving.load_model(article_keras), tmp_path_factory.mktemp("article"), scale=1 / 255)


def changed(exported: Exported, change: Callable[[onnx.ModelProto], None]) -> Subject:
    """The subject with another graph."""
    graph = onnx.ModelProto()
    graph.CopyFrom(exported.subject.model)
    change(graph)
    return replace(exported.subject, model=graph)


def test_correct_files_pass_with_any_seed_and_each_planted_fault_is_found(exported: Exported) -> None:
    for seed in range(5):
        assert run(exported.subject, exported.reference, seed) is not None
    for site in exported.subject.contract.sites[:2]:
        for what, fault in FAULTS.items():
            assert run(planted(exported, fault, site.name), exported.reference, 1) is None, (what, site)


def test_the_differences_from_keras_are_those_of_rounding(exported: Exported) -> None:
    found = verify_model(exported.subject, exported.reference)
    assert set(found.differences) == {"deterministic_difference", "masked_difference"}
    assert max(found.differences.values()) < 1e-5
    assert found.changing_sites == len(exported.subject.contract.sites)
    numbers = found.numbers()
    assert numbers["trials"] > 20_000 * found.changing_sites
    assert 1e-6 / len(found.counts) < numbers["smallest_p_value"] <= 1


@pytest.mark.parametrize("name", ["dense, kernel x 20, bias 20", "dense, kernel x 10, bias 200"])
def test_networks_whose_softmax_is_saturated_pass_with_every_seed(keras: Any, name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    exported = export_subject(SATURATED[name](keras), tmp_path, scale=1 / 255)
    outputs = exported.reference.draw(np.zeros((1, 28, 28, 1), np.uint8), 1).outputs
    assert np.max(outputs) > 1 - 1e-6
    for seed in range(50):
        assert run(exported.subject, exported.reference, seed) is not None


def test_dead_dropout_is_found(article: Exported) -> None:
    dead = replace(article.subject, model=with_rate(article.subject.model, 0.0))
    with pytest.raises(VerificationFailed, match=r"draws the values \[1\.0\]"):
        verify_model(dead, article.reference)


def test_dropout_that_is_dead_in_the_whole_graph_alone_is_found(article: Exported) -> None:
    """A fake of an optimiser that folds the noise of a whole graph, but not that of single nodes."""

    def write(graph: onnx.ModelProto, name: str) -> Path:
        return article.subject.write(with_rate(graph, 0.0) if "half" in name else graph, name)

    with pytest.raises(VerificationFailed, match="is equal in all session runs"):
        verify_model(replace(article.subject, write=write), article.reference)


def test_dropout_behind_another_site_that_is_dead_in_the_whole_graph_is_found(article: Exported) -> None:
    """The outputs of the second site change with those of the first, but its own noise does not."""

    def write(graph: onnx.ModelProto, name: str) -> Path:
        if "half" in name:
            graph = with_rate(graph, 0.5)
            second = [node for node in graph.graph.node if node.name == "dropout_1"]
            next(one for one in second[0].attribute if one.name == "rate").f = 0.0
        return article.subject.write(graph, name)

    with pytest.raises(VerificationFailed, match="noise of the dropout layers dropout_1 is equal"):
        verify_model(replace(article.subject, write=write), article.reference)


def test_random_operations_with_a_fixed_seed_are_found(article: Exported) -> None:
    def change(graph: onnx.ModelProto) -> None:
        random = next(node for node in graph.functions[0].node if node.op_type == "RandomUniformLike")
        random.attribute.append(onnx.helper.make_attribute("seed", 1.0))

    with pytest.raises(VerificationFailed, match="have a fixed seed"):
        verify_model(changed(article, change), article.reference)


def test_a_wrong_scale_is_found(article: Exported) -> None:
    def change(graph: onnx.ModelProto) -> None:
        scale = next(value for value in graph.graph.initializer if value.name == "oodscreen/mul_by")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.array(1 / 256, np.float32), scale.name))

    with pytest.raises(VerificationFailed, match=r"Without dropout, .* differs from the source model"):
        verify_model(changed(article, change), article.reference)


def test_a_wrong_last_activation_is_found(article: Exported) -> None:
    """Values before the last activation are equal, but not the outputs."""

    def change(graph: onnx.ModelProto) -> None:
        next(node for node in graph.graph.node if node.op_type == "Softmax").op_type = "LogSoftmax"

    with pytest.raises(VerificationFailed, match="an output differs from the source model"):
        verify_model(changed(article, change), article.reference)


def test_a_mask_in_another_axis_order_is_found(article: Exported) -> None:
    """The masks of the first site of the article's network are `[N, H, W, C]` in Keras, `[N, C, H, W]` in the graph."""
    name = article.subject.contract.sites[0].name
    assert article.subject.layouts[name] == (0, 3, 1, 2)
    with pytest.raises(VerificationFailed, match="has an input of shape"):
        verify_model(
            replace(article.subject, layouts={**article.subject.layouts, name: (0, 1, 2, 3)}), article.reference
        )
    with pytest.raises(VerificationFailed, match="With equal masks"):
        verify_model(
            replace(article.subject, layouts={**article.subject.layouts, name: (0, 3, 2, 1)}), article.reference
        )


def test_a_site_that_the_source_model_does_not_call_is_named(
    article: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, draw = article.subject.contract.sites[0].name, article.reference.draw

    def draw_without(images: Images, seed: int) -> SourcePass:
        one = draw(images, seed)
        return replace(one, noise={site: noise for site, noise in one.noise.items() if site != name})

    monkeypatch.setattr(article.reference, "draw", draw_without)
    with pytest.raises(VerificationFailed, match=f"The source model does not call the dropout layer {name}"):
        verify_model(article.subject, article.reference)


def test_keras_noise_with_another_distribution_is_found(article: Exported) -> None:
    """The comparison with equal masks alone would not find a layer that drops at another rate than the file."""

    class Rarer:
        def __getattr__(self, name: str) -> Any:
            return getattr(article.reference, name)

        def draw(self, images: Any, seed: int) -> SourcePass:
            drawn = article.reference.draw(images, seed)
            factor = np.ones_like(drawn.noise["dropout"].factor) / np.float32(0.75)
            noise = {**drawn.noise, "dropout": Noise(factor, np.zeros_like(factor))}
            return replace(drawn, noise=noise)

    with pytest.raises(VerificationFailed, match=r"With equal masks|in the source model"):
        verify_model(article.subject, Rarer())


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


def test_a_wrong_number_of_outputs_is_found(article: Exported) -> None:
    contract = replace(article.subject.contract, classes=9)
    with pytest.raises(VerificationFailed, match=r"shape \[7, 10\]"):
        verify_model(replace(article.subject, contract=contract), article.reference)


def test_a_network_whose_dropout_meets_zeros_alone_passes(keras: Any, tmp_path: Path) -> None:
    """The relu before the dropout is dead, so that the noise cannot change anything."""
    layers = keras.layers
    dead = layers.Dense(8, activation="relu", bias_initializer=keras.initializers.Constant(-1e4))
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), dead, layers.Dropout(0.5), layers.Dense(3, activation="softmax")]
    )
    exported = export_subject(model, tmp_path, scale=1 / 255)
    assert verify_model(exported.subject, exported.reference).changing_sites == 0


def dense(keras: Any, width: int = 16, rate: float = 0.5, shape: tuple[int, ...] = (8, 8, 1), **last: Any) -> Any:
    """A network of one hidden layer, with the settings of its last layer."""
    layers = keras.layers
    hidden = [layers.Flatten(), layers.Dense(width, activation="relu"), layers.Dropout(rate)]
    return keras.Sequential(
        [keras.Input(shape), *hidden, layers.Dense(**{"units": 3, "activation": "softmax", **last})]
    )


def steep(keras: Any) -> Any:
    """A deep network that amplifies differences in each layer."""
    body = [
        keras.layers.Dense(64, activation="tanh", kernel_initializer=keras.initializers.VarianceScaling(9.0))
        for _ in range(30)
    ]
    tail = [keras.layers.Dropout(0.5), keras.layers.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), *body, *tail])


def standardized(keras: Any) -> Any:
    """A network that divides by the contrast of each patch, which is 0 in the surfaces of some test images."""
    layers = keras.layers
    image = keras.Input((28, 28, 1))
    mean = layers.AveragePooling2D(4)(image)
    variance = layers.AveragePooling2D(4)(image * image) - mean * mean
    x = layers.Dropout(0.5)(layers.Dense(16, activation="relu")(layers.Flatten()(mean / keras.ops.sqrt(variance))))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def small_variance(keras: Any) -> Any:
    """A network whose normalization subtracts 1000 times more than what it divides by."""
    layers = keras.layers
    norm = layers.BatchNormalization(epsilon=1e-9)
    bias = keras.initializers.Constant(100.0)
    body = [layers.Conv2D(8, 3, bias_initializer=bias), norm, layers.ReLU(), layers.Flatten(), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *body, layers.Dense(3, activation="softmax")])
    norm.moving_mean.assign(norm.moving_mean + 100.0)
    norm.moving_variance.assign(norm.moving_variance * 1e-5)
    return model


def half_saturated(keras: Any) -> Any:
    """A network in half precision whose logits are so large that their rounding decides between the classes."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = dense(keras, units=2)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    kernel = model.layers[-1].kernel
    same = np.repeat(np.asarray(kernel)[:, :1], 2, axis=1)
    kernel.assign(3000 * same + 5 * np.asarray(kernel))
    return model


CORRECT: Mapping[str, Callable[[Any], Any]] = {
    "a high rate": lambda keras: dense(keras, rate=0.99),
    "a low rate": lambda keras: dense(keras, rate=1e-7),
    "one unit": lambda keras: dense(keras, width=1),
    "amplified rounding": steep,
    "no contrast": standardized,
    "a small learned variance": small_variance,
    "weights below the smallest float32": lambda keras: dense(
        keras, kernel_initializer=keras.initializers.Constant(1e-42)
    ),
    "half precision, saturated": half_saturated,
    "a large bias": lambda keras: dense(keras, bias_initializer=keras.initializers.Constant(1e6)),
}


@pytest.mark.parametrize("name", CORRECT)
def test_correct_networks_with_large_rounding_errors_pass(keras: Any, name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    exported = export_subject(CORRECT[name](keras), tmp_path, scale=1 / 255)
    for seed in range(3):
        verify_model(exported.subject, exported.reference, seed=seed)


@pytest.mark.parametrize(
    "last",
    [
        {"bias_initializer": 2000.0},  # 1 % of the kernel is 1e-6 of the outputs
        {"kernel_initializer": 1e-9},
    ],
    ids=["large bias", "small outputs"],
)
def test_a_wrong_kernel_is_found_at_every_scale_of_a_regression(keras: Any, last: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    chosen = {name: keras.initializers.Constant(value) for name, value in last.items()}
    exported = export_subject(
        dense(keras, activation="linear", **chosen), tmp_path, scale=1 / 255, output_kind="regression"
    )
    verify_model(exported.subject, exported.reference)

    def change(graph: onnx.ModelProto) -> None:
        (kernel,) = (one for one in graph.graph.initializer if list(one.dims) == [16, 3])
        kernel.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel) * 1.01, kernel.name))

    with pytest.raises(VerificationFailed, match="an output differs from the source model"):
        verify_model(changed(exported, change), exported.reference)


def test_a_saturated_softmax_with_a_reshape_behind_it_hides_no_differences(keras: Any, tmp_path: Path) -> None:
    """Masks of two sites are swapped; the softmax is 0 or 1 with either mask."""
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    flat = layers.Flatten()(image)
    hidden = [layers.Dropout(0.5, name=name)(layers.Dense(16, activation="relu")(flat)) for name in ("one", "other")]
    bias = layers.Dense(2, bias_initializer=lambda shape, dtype: keras.ops.array([200.0, -200.0], dtype))
    x = layers.Softmax()(layers.Reshape((1, 2))(bias(layers.Concatenate()(hidden))))
    exported = export_subject(keras.Model(image, layers.Flatten()(x)), tmp_path, scale=1 / 255, output_kind="softmax")
    verify_model(exported.subject, exported.reference)

    def change(graph: onnx.ModelProto) -> None:
        one, other = (next(node for node in graph.graph.node if node.name == name) for name in ("one", "other"))
        one.name, other.name = other.name, one.name

    with pytest.raises(VerificationFailed, match="before the last activation differs"):
        verify_model(changed(exported, change), exported.reference)
