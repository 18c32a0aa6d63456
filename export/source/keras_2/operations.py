"""Layers for the TensorFlow operations in functional models of Keras 2, such as `x / 255.` and `tf.nn.relu(x)`.

In: the configuration of a layer. Out: the function that the layer calls, or the outputs of a Keras 3 layer with this
function. Keras 2.4 to 2.15 stores the name of a public function of TensorFlow (`TFOpLambda`); TensorFlow 2.0 to 2.3
stores a node of a graph (`TensorFlowOpLayer`). Only functions without side effects are called, because a name in a file
could denote any other function, such as `tf.io.write_file`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from export.errors import ModelRefused

_MODULES = re.compile(r"(?:compat\.v1\.)?(?:math|nn|image|linalg|__operators__)\.[a-z][a-z0-9_]*")
"""Pattern for functions of modules whose functions compute tensors from tensors and have no other effect."""

_FUNCTIONS = (
    "abs add add_n argmax argmin bitcast boolean_mask broadcast_to cast clip_by_norm clip_by_value concat constant "
    "convert_to_tensor cos cumsum divide einsum equal exp expand_dims eye fill floor gather gather_nd greater "
    "greater_equal identity less less_equal linspace logical_and logical_not logical_or matmul maximum meshgrid "
    "minimum multiply negative norm not_equal one_hot ones ones_like pad pow range rank realdiv reduce_all reduce_any "
    "reduce_max reduce_mean reduce_min reduce_prod reduce_sum repeat reshape reverse roll round shape sigmoid sign sin "
    "size slice sort space_to_batch split sqrt square squeeze stack stop_gradient strided_slice subtract tan tanh "
    "tensordot tile transpose truediv unstack where zeros zeros_like"
)
"""Functions of the module `tensorflow` itself that compute tensors from tensors and have no other effect."""

_NODES = (
    "Abs Add AddN AddV2 ArgMax AvgPool BatchMatMul BatchMatMulV2 BiasAdd BiasAddV1 BroadcastTo Cast Ceil ClipByValue "
    "Concat ConcatV2 Conv2D Cos Cumsum DepthToSpace DepthwiseConv2dNative Div DivNoNan Einsum Elu Equal Erf Exp "
    "ExpandDims Fill Floor FloorDiv FloorMod GatherV2 Greater GreaterEqual Identity LeakyRelu Less LessEqual Log "
    "LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg NotEqual "
    "OneHot OnesLike Pack Pad PadV2 Pow Prod Range Rank RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear "
    "ResizeNearestNeighbor ReverseV2 Round Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Sin Size Slice Softmax "
    "Softplus Softsign SpaceToDepth Split Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tanh "
    "Tile Transpose Unpack ZerosLike"
)
"""Types of graph nodes that compute tensors from tensors and have no other effect."""


def find_function(described: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The function that a layer in a file calls; None for a layer that is not a TensorFlow operation.

    Args:
        described: `class_name` and `config` of the layer.

    Raises:
        ModelRefused: the function is not one of the supported functions of TensorFlow.
    """
    kind, config = described["class_name"], described["config"]
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return _named_function(str(config.get("function")), str(config.get("name")))
    if kind == "TensorFlowOpLayer":
        return _node_function(config)
    return None


def call_in_layer(function: Callable[..., Any], first: Any, **keywords: Any) -> Any:
    """The symbolic outputs of a Keras layer that calls a function of TensorFlow on arguments with `KerasTensor`s."""
    import keras

    structure = (first, keywords)
    values = keras.tree.flatten(structure)
    symbolic = [isinstance(value, keras.KerasTensor) for value in values]

    def compute(tensors: list[Any]) -> Any:
        remaining = iter(tensors)
        filled = [next(remaining) if own else value for value, own in zip(values, symbolic, strict=True)]
        argument, others = keras.tree.pack_sequence_as(structure, filled)
        return function(argument, **others)

    return _layer_class()(compute)([value for value, own in zip(values, symbolic, strict=True) if own])


@cache
def _layer_class() -> Any:
    import keras

    class TensorFlowOperation(keras.layers.Layer):  # type: ignore[misc]
        """Layer that calls a function of TensorFlow on a list of tensors."""

        def __init__(self, compute: Callable[[list[Any]], Any]) -> None:
            super().__init__(autocast=False)
            self.compute = compute

        def call(self, inputs: Any) -> Any:
            return self.compute(inputs)

    return TensorFlowOperation


def _named_function(name: str, layer: str) -> Callable[..., Any]:
    import tensorflow as tf

    if name == "__operators__.getitem":
        return lambda tensor, slice_spec: tensor[_index(slice_spec)]
    function: Any = tf if _MODULES.fullmatch(name) or name.removeprefix("compat.v1.") in _FUNCTIONS.split() else None
    for part in name.split("."):
        function = getattr(function, part, None)
    if not inspect.isfunction(function):
        raise _refuse(f"tf.{name}", layer)
    return function


def _index(parts: Any) -> Any:
    """The index of `tensor[...]`, from plain data."""
    if isinstance(parts, list):
        return tuple(_index(one) for one in parts)
    if isinstance(parts, Mapping):
        ellipsis = parts.get("class_name") == "__ellipsis__"
        return ... if ellipsis else slice(*(parts.get(bound) for bound in ("start", "stop", "step")))
    return parts


def _node_function(config: Mapping[str, Any]) -> Callable[..., Any]:
    import tensorflow as tf
    from google.protobuf import json_format

    stored: Any = config.get("node_def")
    kind = str(stored.get("op")) if isinstance(stored, dict) else "of unknown type"
    if kind not in _NODES.split():
        raise _refuse(kind, str(config.get("name")))
    node = json_format.ParseDict(stored, tf.compat.v1.NodeDef(), ignore_unknown_fields=True)
    operation = getattr(tf.raw_ops, kind)
    parameters = inspect.signature(operation).parameters
    settings = {_RENAMED_ATTRIBUTES.get(key, key): _attribute(value) for key, value in node.attr.items()}
    # Attributes to leave out: types, which TensorFlow infers; numbers of tensors in a list; notes of the optimiser.
    derived = {key for key, value in node.attr.items() if value.HasField("type") or key == "N" or key.startswith("_")}
    settings = {key: value for key, value in settings.items() if key in parameters or key not in derived}
    if not settings.keys() <= parameters.keys():
        raise _refuse(f"{kind} with {', '.join(settings.keys() - parameters.keys())}", str(config.get("name")))
    inputs = [key for key in parameters if key not in settings and key != "name"]
    constants = sorted((int(index), value) for index, value in (config.get("constants") or {}).items())

    def call(tensors: Any) -> Any:
        values = list(tensors) if isinstance(tensors, list) else [tensors]
        for index, value in constants:
            values.insert(index, value)
        if "N" in node.attr:  # a list of N tensors is one of the arguments
            first = 1 if kind == "Concat" else 0
            values[first : first + node.attr["N"].i] = [values[first : first + node.attr["N"].i]]
        return operation(**dict(zip(inputs, values, strict=False)), **settings)

    return call


_RENAMED_ATTRIBUTES = {"squeeze_dims": "axis"}


def _attribute(value: Any) -> Any:
    """An attribute of a graph node as a value of Python."""
    kind = value.WhichOneof("value")
    if kind == "s":
        return value.s.decode()
    if kind == "list":
        return [*value.list.i, *value.list.f, *value.list.b]
    return getattr(value, kind)  # a type is a number, which TensorFlow accepts


def _refuse(function: str, layer: str) -> ModelRefused:
    return ModelRefused(
        f"The layer {layer} calls the TensorFlow operation {function}, which the export does not support.",
        wanted="a model whose TensorFlow operations compute tensors from tensors, such as tf.nn.relu",
        next_step="build the model without this operation with tf_keras (pip install tf_keras), and export the file "
        "that this Python code writes, where FILE is an .h5 file with the weights: "
        "model.load_weights(FILE, by_name=True); model.save('rebuilt.h5')",
    )
