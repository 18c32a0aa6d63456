"""Convert a Keras network to ONNX; tf2onnx is used only here and in `export.graph.transposes`.

In: a `KerasSource`. Out: a `Converted` with an ONNX graph in float32, which has one custom node for each dropout
call, with the sites, and with the weights that are too large for the graph. `export.graph.passes` adds the noise
functions of the custom nodes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.contract.metadata import DOMAIN
from export.errors import ModelRefused
from export.graph.arrival import match_sites
from export.graph.loops import check_no_loops, check_no_sites, loops_in, recurrent_layers_unrolled
from export.graph.opset import OPSET, raise_opset
from export.graph.transposes import move_transposes_before_sites, transposes_move_through_sites
from export.model_source import Converted
from export.source.describe import KerasSource
from export.source.stochastic import SiteMarker, read_mark

_TF2ONNX_OPSETS = range(17, 19)
"""Operator sets that tf2onnx writes; onnx' version converter converts the graph to newer operator sets."""

LARGE_MODEL = 2**30
"""Maximum total bytes of large weights, of at least `LARGE_WEIGHT` bytes each, in the traced graph. If the total is
larger, the large weights stay outside this graph, because TensorFlow cannot pass 2 GB of constants to tf2onnx."""

LARGE_WEIGHT = 2**20
"""Minimum bytes, in float32, of a weight that stays outside the traced graph of a large model."""

_RESIZES = ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic")
"""Operations of TensorFlow that resize images."""

_INPUT = "oodscreen_input"
_WEIGHT = "oodscreen_weight_"


def convert_to_onnx(source: KerasSource, opset: int = OPSET) -> Converted:
    """The ONNX graph of a network, traced in inference mode with its sites marked.

    Args:
        source: the network.
        opset: ONNX operator set, one of `OPSETS`.

    Raises:
        ModelRefused: tf2onnx cannot convert an operation of the model, a site is missing in the graph, or the graph has
            loops or branches, or another input than the image.
    """
    large = _weights_outside_graph(source)
    marker, traced, proto = _convert(source, opset, large)
    if loops := loops_in(proto):
        check_no_sites(loops, source.origin)
        with recurrent_layers_unrolled() as looped:
            marker, traced, proto = _convert(source, opset, large)
        check_no_loops(proto, looped, source.origin)
    _fill_captured_constants(proto, traced)
    weights = _externalize_weights(proto, large)
    _check_converted(proto, source)
    if opset > _TF2ONNX_OPSETS[-1]:
        proto = raise_opset(proto, opset)
    move_transposes_before_sites(proto)
    sites, layouts, notices = match_sites(proto, marker.sites, traced, source.origin)
    return Converted(proto, sites, layouts, weights, notices)


def _convert(source: KerasSource, opset: int, large: Sequence[Any]) -> tuple[SiteMarker, Any, onnx.ModelProto]:
    """The marker with the sites of a trace, the trace, and the ONNX graph that tf2onnx makes from it."""
    import tensorflow as tf
    import tf2onnx

    marker = SiteMarker()

    def forward(image: Any, *values: Any) -> Any:
        marker.sites.clear()
        with source.network.substitute(list(zip(large, values, strict=True))):
            return source.network.forward(image, marker)

    signature = [tf.TensorSpec([None, *source.image.input_shape], tf.float32, name=_INPUT)]
    signature += [tf.TensorSpec(one.shape, tf.float32, name=f"{_WEIGHT}{index}") for index, one in enumerate(large)]
    function = tf.function(forward)
    handlers = {"CheckNumerics": _mark_to_node, "Erfc": _write_erfc, **dict.fromkeys(_RESIZES, _write_resize)}
    with _quiet(), transposes_move_through_sites(), _without_xla():
        try:
            traced = function.get_concrete_function(*signature)
            proto, _ = tf2onnx.convert.from_function(
                function,
                input_signature=signature,
                opset=min(opset, _TF2ONNX_OPSETS[-1]),
                custom_op_handlers={kind: (convert, []) for kind, convert in handlers.items()},
                extra_opset=[helper.make_opsetid(DOMAIN, 1)],
            )
        except Exception as error:
            raise marker.refusal or ModelRefused(
                f"{source.origin} could not be converted to ONNX: {type(error).__name__}: {error}",
                wanted="a model whose operations tf2onnx can convert",
                next_step="replace the layer with this operation by standard Keras layers, then export again",
            ) from error
    if marker.refusal is not None:
        raise marker.refusal
    return marker, traced, proto


def _weights_outside_graph(source: KerasSource) -> list[Any]:
    """The weights that stay outside the traced graph; empty unless the model is large."""
    large = source.network.large_weights(LARGE_WEIGHT)
    return large if sum(4 * int(np.prod(one.shape)) for one in large) > LARGE_MODEL else []


def _mark_to_node(context: Any, node: Any, _name: str, _args: list[Any]) -> None:
    """Convert a CheckNumerics operation of the trace to a noise node, or to an Identity if it marks no site."""
    site = read_mark(node.get_attr_str("message"))
    for attribute in list(node.attr):  # message, T, and internal attributes of TensorFlow
        del node.attr[attribute]
    if site is None:
        node.type = "Identity"
        return
    node.type = site.kind
    node.domain = DOMAIN
    node.set_attr("rate", site.rate)
    node.set_attr("site", site.name)
    node.set_attr("layout", list(range(len(site.shape) + 1)))


def _write_erfc(context: Any, node: Any, name: str, _args: list[Any]) -> None:
    """Convert `erfc(x)`, which the exact GELU computes, to `1 - erf(x)`, because tf2onnx converts only Erf."""
    (x,), (output,) = node.input, node.output
    shape, kind = context.get_shape(output), context.get_dtype(output)
    one = context.make_const(f"{name}/one", np.array(1, helper.tensor_dtype_to_np_dtype(kind)))
    context.remove_node(node.name)
    erf = context.make_node("Erf", [x], shapes=[shape], dtypes=[kind], name=f"{name}/Erf")
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=[output], name=name, shapes=[shape], dtypes=[kind])


def _write_resize(context: Any, node: Any, name: str, _args: list[Any]) -> None:
    """Convert a resizing operation to a Resize with the size of its output.

    For a constant size, tf2onnx writes the ratio of the sizes in float32, from which onnxruntime can compute another
    size: from 12 pixels and the ratio of 10 to 12, it computes 9. A size that is not constant is written as it is.
    TensorFlow's nearest pixel is `floor((x + 0.5) * ratio)`, for which tf2onnx writes a mode that ONNX has removed.
    """
    from tf2onnx.onnx_opset.nn import Resize

    size = context.make_node("Identity", [node.input[1]], name=f"{name}/size")
    context.replace_input(node, node.input[1], size.output[0], 1)
    Resize.version_11(context, node)
    resize = context.get_node_by_name(name).inputs[0]  # before the transpose to channels last
    if resize.get_attr_str("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        resize.set_attr("coordinate_transformation_mode", "half_pixel")
        resize.set_attr("nearest_mode", "round_prefer_ceil")


def _fill_captured_constants(proto: onnx.ModelProto, traced: Any) -> None:
    """Turn the graph inputs for captured tensors of the trace into initializers with the values of these tensors.

    The trace captures the mean and variance of a Normalization layer, and constants that a custom layer created in
    `build`. tf2onnx converts captured tensors to graph inputs without a value.
    """
    values = {inner.name: outer for outer, inner in traced.graph.captures if hasattr(outer, "numpy")}
    read = {name for node in proto.graph.node for name in node.input}
    kept = []
    for value in proto.graph.input:
        if value.name in values and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            if value.name in read:
                array = np.asarray(values[value.name].numpy(), np.float32)
                proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            kept.append(value)
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _externalize_weights(proto: onnx.ModelProto, large: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
    """Replace the graph inputs for large weights by initializers with external values, and return these values."""
    names = {f"{_WEIGHT}{index}": weight for index, weight in enumerate(large)}
    weights = {}
    kept = []
    for value in proto.graph.input:
        name = value.name.removesuffix(":0")
        if name not in names:
            kept.append(value)
            continue
        weights[value.name] = np.asarray(names[name], np.float32)
        proto.graph.initializer.append(
            TensorProto(
                name=value.name,
                data_type=TensorProto.FLOAT,
                dims=weights[value.name].shape,
                data_location=TensorProto.EXTERNAL,
            )
        )
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return weights


def _check_converted(proto: onnx.ModelProto, source: KerasSource) -> None:
    """Refuse a graph with operations that tf2onnx only logged as not convertible, or without exactly one input."""
    known = {"", "ai.onnx", "ai.onnx.ml", DOMAIN}
    foreign = sorted({node.op_type for node in proto.graph.node if node.domain not in known})
    foreign += sorted(
        {
            node.op_type
            for node in proto.graph.node
            if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type)
        }
    )
    if foreign:
        raise ModelRefused(
            f"{source.origin} uses operations that cannot be converted to ONNX: {', '.join(foreign)}.",
            wanted="a model whose operations tf2onnx can convert",
            next_step="replace the layers that use these operations, then export again",
        )
    if len(proto.graph.input) != 1:
        names = ", ".join(value.name for value in proto.graph.input)
        raise ModelRefused(
            f"The converted graph of {source.origin} has {len(proto.graph.input)} inputs instead of one: {names}.",
            wanted="a graph whose only input is the image",
            next_step="replace the layers whose names appear in these input names with standard Keras layers, then "
            "export again",
        )


@contextmanager
def _without_xla() -> Iterator[None]:
    """Within the block, `tf.function` ignores `jit_compile`, because tf2onnx cannot convert XLA-compiled functions.

    Keras compiles grouped convolutions, which ConvNeXt uses, with XLA.
    """
    import tensorflow as tf

    original = tf.function

    def function(body: Any = None, **options: Any) -> Any:
        return original(body, **{**options, "jit_compile": None})

    tf.function = function
    try:
        yield
    finally:
        tf.function = original


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, tf2onnx and TensorFlow print no log lines or warnings; exceptions still propagate."""
    names = ("tf2onnx", "tensorflow", "tf2onnx.tfonnx", "tf2onnx.optimizer")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
