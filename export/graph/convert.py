"""Keras to ONNX; the only file that knows tf2onnx, with `export.graph.transposes`, which has it move them.

In: a `KerasSource`. Out: `Converted`: an ONNX graph in float32 with one custom node for each
dropout call, the sites, and the weights that are too large for a graph. What makes the nodes draw
noise comes later, in `export.graph.passes`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.contract.metadata import DOMAIN, Site
from export.errors import ModelRefused, OptionRefused
from export.graph.arrival import match_sites
from export.graph.transposes import pull_transposes_before_sites, sites_let_transposes_through
from export.source.describe import KerasSource
from export.source.stochastic import SiteMarker, read_mark

OPSET = 18
"""Operator set of exported files unless said otherwise."""

OPSETS = range(17, 25)
"""Operator sets that can be asked for: from the oldest with LayerNormalization on."""

_TF2ONNX_OPSETS = range(17, 19)
"""What tf2onnx writes itself; newer ones are reached by onnx' own version converter."""

LARGE_MODEL = 2**30
"""Models with more bytes of weights than this have them kept out of the traced graph: a graph with
2 GB of constants cannot be handed from TensorFlow to tf2onnx."""

LARGE_WEIGHT = 2**20
"""Which weights are kept out of the graph of a large model, in bytes."""

_INPUT = "oodscreen_input"
_WEIGHT = "oodscreen_weight_"


@dataclass(frozen=True)
class Converted:
    """A converted network.

    Attributes:
        proto: the graph; a node named after each site.
        sites: in the order of the trace, with shapes as the graph has them.
        weights: initializers of the graph that hold no values themselves, by name.
        notices: what a person should know.
    """

    proto: onnx.ModelProto
    sites: tuple[Site, ...]
    weights: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def check_opset(opset: int) -> None:
    """Refuse an operator set that cannot be written.

    Raises:
        OptionRefused: it is not one of `OPSETS`.
    """
    if opset not in OPSETS:
        raise OptionRefused(
            f"The operator set {opset} was asked for.",
            wanted=f"one from {OPSETS[0]} to {OPSETS[-1]}",
            next_step=f"leave --opset out (it is {OPSET}), or take what your onnxruntime reads",
        )


def convert_to_onnx(source: KerasSource, opset: int = OPSET) -> Converted:
    """Trace the network in inference mode with its sites marked, and convert the trace.

    Args:
        source: the network.
        opset: one of `OPSETS`.

    Raises:
        ModelRefused: tf2onnx has no ONNX operator for something in the model, or a site got lost.
    """
    import tensorflow as tf
    import tf2onnx

    marker = SiteMarker()
    large = _weights_to_hold(source)

    def forward(image: Any, *values: Any) -> Any:
        marker.sites.clear()
        with source.network.holding(list(zip(large, values, strict=True))):
            return source.network.answer(image, marker)

    signature = [tf.TensorSpec([None, *source.input_shape], tf.float32, name=_INPUT)]
    signature += [tf.TensorSpec(one.shape, tf.float32, name=f"{_WEIGHT}{index}") for index, one in enumerate(large)]
    function = tf.function(forward)
    with _quiet(), sites_let_transposes_through(), _without_xla():
        try:
            traced = function.get_concrete_function(*signature)
            proto, _ = tf2onnx.convert.from_function(
                function,
                input_signature=signature,
                opset=min(opset, _TF2ONNX_OPSETS[-1]),
                custom_op_handlers={"CheckNumerics": (_mark_to_node, []), "Erfc": (_write_erfc, [])},
                extra_opset=[helper.make_opsetid(DOMAIN, 1)],
            )
        except Exception as error:
            raise marker.refusal or ModelRefused(
                f"{source.origin} could not be converted to ONNX: {type(error).__name__}: {error}",
                wanted="a model made of operations that tf2onnx knows",
                next_step="replace the layer that the message names, then export again",
            ) from error
    if marker.refusal is not None:
        raise marker.refusal
    _fill_captured_constants(proto, traced)
    weights = _take_out_weights(proto, large)
    _check_converted(proto, source)
    if opset > _TF2ONNX_OPSETS[-1]:
        proto = _raise_opset(proto, opset)
    pull_transposes_before_sites(proto)
    sites, notices = match_sites(proto, marker.sites, traced, source.origin)
    return Converted(proto, sites, weights, notices)


def _weights_to_hold(source: KerasSource) -> list[Any]:
    held = source.network.large_weights(LARGE_WEIGHT)
    return held if sum(4 * int(np.prod(one.shape)) for one in held) > LARGE_MODEL else []


def _mark_to_node(context: Any, node: Any, _name: str, _args: list[Any]) -> None:
    """Turn one CheckNumerics of the trace into a noise node, or into nothing if the user wrote it."""
    site = read_mark(node.get_attr_str("message"))
    for attribute in list(node.attr):  # message, T, and what TensorFlow notes for itself
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
    """`erfc(x) = 1 - erf(x)`, for the exact gelu: tf2onnx knows only Erf."""
    (x,), (output,) = node.input, node.output
    shape, kind = context.get_shape(output), context.get_dtype(output)
    one = context.make_const(f"{name}/one", np.array(1, helper.tensor_dtype_to_np_dtype(kind)))
    context.remove_node(node.name)
    erf = context.make_node("Erf", [x], shapes=[shape], dtypes=[kind], name=f"{name}/Erf")
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=[output], name=name, shapes=[shape], dtypes=[kind])


def _fill_captured_constants(proto: onnx.ModelProto, traced: Any) -> None:
    """Give values to inputs that stand for tensors from outside the trace.

    The mean and variance of a Normalization layer, and constants that a custom layer made when it
    was built, are captured by the trace; the converter leaves them as inputs without a source.
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


def _take_out_weights(proto: onnx.ModelProto, large: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
    """Turn the inputs of a large model's weights into initializers whose values are elsewhere."""
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


def _raise_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph in a newer operator set; nodes that onnx' converter puts in get a name too."""
    proto = onnx.version_converter.convert_version(proto, opset)
    taken = {node.name for node in proto.graph.node}
    for index, node in enumerate(proto.graph.node):
        name = node.name or node.output[0]
        node.name = name if node.name or name not in taken else f"{name}__{index}"
        taken.add(node.name)
    return proto


def _check_converted(proto: onnx.ModelProto, source: KerasSource) -> None:
    """The converter logs what it does not know and goes on; this does not."""
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
            f"{source.origin} uses operations that have no ONNX form: {', '.join(foreign)}.",
            wanted="a model made of operations that tf2onnx knows",
            next_step="replace the layers behind these operations, then export again",
        )
    if len(proto.graph.input) != 1:
        names = ", ".join(value.name for value in proto.graph.input)
        raise ModelRefused(
            f"The conversion of {source.origin} left values without a source: {names}.",
            wanted="a graph whose only input is the image",
            next_step="rebuild the layer that the names point at from plain Keras layers",
        )


@contextmanager
def _without_xla() -> Iterator[None]:
    """Trace functions as such, and not as programs of XLA: tf2onnx looks into the former alone.

    Keras computes grouped convolutions, as ConvNeXt has them, through XLA.
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
    """tf2onnx and TensorFlow report on every optimiser round; errors still come as exceptions."""
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
