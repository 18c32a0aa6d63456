from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from export.contract.metadata import DOMAIN
from export.graph.convert import convert_to_onnx
from export.source.describe import describe_model
from export.source.stochastic import keep_identity
from tests.export import family


def transposes(proto: onnx.ModelProto) -> int:
    return sum(1 for node in proto.graph.node if node.op_type == "Transpose")


@pytest.mark.parametrize(
    "build",
    [family.residual, family.batch_normalized, family.noise_shape, family.vision_transformer, family.spatial_3d],
)
def test_sites_leave_no_transposes_that_the_model_without_them_would_not_have(keras: Any, build: Any) -> None:
    import tensorflow as tf
    import tf2onnx

    source = describe_model(build(keras))
    converted = convert_to_onnx(source)
    plain, _ = tf2onnx.convert.from_function(
        tf.function(lambda image: source.network.forward(image, keep_identity)),
        [tf.TensorSpec([None, *source.image.input_shape], tf.float32)],
        opset=18,
        custom_op_handlers=handlers(),
    )
    assert transposes(converted.proto) <= transposes(plain)
    assert sum(node.domain == DOMAIN for node in converted.proto.graph.node) == len(converted.sites)


def handlers() -> dict[str, Any]:
    from export.graph.convert import _write_erfc

    return {"Erfc": (_write_erfc, [])}


def test_a_site_has_the_order_of_axes_of_the_graph(keras: Any) -> None:
    """The convolution after the site takes channels first, so the site and its mask do too."""
    site, _ = convert_to_onnx(describe_model(family.batch_normalized(keras))).sites
    assert (site.shape, site.noise_shape) == ((8, 12, 12), (8, 1, 1))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(10, 7), (17, 31), (24, 36)])
def test_images_are_resized_to_any_size(keras: Any, interpolation: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The export compares the values with Keras; onnxruntime would compute 9 from 12 pixels and the ratio 10 / 12."""
    from export.contract.reader import read_model
    from export.exporter import export_model
    from screen.engine.graph.plan import plan_engine

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Dropout(0.2)(layers.Resizing(*size, interpolation=interpolation)(layers.Conv2D(4, 1)(image)))
    x = layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling2D()(x))
    contract = export_model(keras.Model(image, x), tmp_path / "m.onnx", scale=1 / 255)
    assert sorted(contract.sites[0].shape) == sorted((4, *size))
    plan_engine(read_model(tmp_path / "m.onnx"))


def test_an_exported_file_opens_with_one_named_node_for_each_site(keras: Any, tmp_path: Path) -> None:
    from export.contract.reader import read_model
    from export.exporter import export_model

    export_model(family.residual(keras), tmp_path / "m.onnx", scale=1 / 255, opset=21)
    model = read_model(tmp_path / "m.onnx")
    names = [node.name for node in model.proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert {site.name for site in model.contract.sites} <= set(names)
    assert all(site.feeds for site in model.contract.sites)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


def test_a_check_of_the_users_own_is_no_site(keras: Any) -> None:
    """Sites are marked by CheckNumerics; a CheckNumerics of the user must not count as a mark."""
    import tensorflow as tf

    class Checked(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return tf.debugging.check_numerics(x, "the user's own")

    layers = keras.layers
    image = keras.Input((4, 4, 3))
    x = layers.Dropout(0.5)(Checked()(layers.Flatten()(image)))
    converted = convert_to_onnx(describe_model(keras.Model(image, layers.Dense(2)(x))))
    assert len(converted.sites) == 1
    assert "CheckNumerics" not in {node.op_type for node in converted.proto.graph.node}


def test_a_site_between_recurrent_layers_keeps_the_batch_axis_first(keras: Any) -> None:
    """The LSTM of ONNX has the time axis first, so tf2onnx adds transposes of the batch axis around the site."""
    layers = keras.layers
    rows = [keras.Input((12, 8)), layers.LSTM(6, return_sequences=True), layers.Dropout(0.2), layers.LSTM(4)]
    model = keras.Sequential([*rows, layers.Dropout(0.3), layers.Dense(3, activation="softmax")])
    between, last = convert_to_onnx(describe_model(model)).sites
    assert (between.shape, last.shape) == ((12, 6), (4,))
