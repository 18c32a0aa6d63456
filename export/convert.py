"""Keras to ONNX; the only file that knows tf2onnx.

In: a `KerasSource`. Out: an ONNX graph in float32 with one custom node for each dropout call, and
the sites. What makes those nodes draw noise comes later, in `export.graph`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
from onnx import helper

from export.contract import DOMAIN, Site
from export.errors import ModelRefused
from export.source import KerasSource
from export.stochastic import SiteMarker, dropouts_behave, read_mark

OPSET = 18
"""Operator set of exported files: new enough for every reduction to take its axes as an input."""

_INPUT = "oodscreen_input"


def convert_to_onnx(source: KerasSource) -> tuple[onnx.ModelProto, tuple[Site, ...]]:
    """Trace the model in inference mode with its dropouts marked, and convert the trace.

    Returns:
        The graph, with a node `oodscreen::MCDropout` or `oodscreen::MCBroadcastDropout` named
        after each site, and the sites in the order of the trace.

    Raises:
        ModelRefused: tf2onnx has no ONNX operator for something in the model, or a site got lost.
    """
    import tensorflow as tf
    import tf2onnx

    marker = SiteMarker(source.paths)

    def forward(image: Any) -> Any:
        marker.sites.clear()
        return source.model(image, training=False)

    signature = [tf.TensorSpec([None, *source.input_shape], tf.float32, name=_INPUT)]
    with _quiet(), dropouts_behave(source.dropouts, marker):
        try:
            proto, _ = tf2onnx.convert.from_function(
                tf.function(forward),
                input_signature=signature,
                opset=OPSET,
                custom_op_handlers={"CheckNumerics": (_mark_to_node, [])},
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
    _check_converted(proto, marker.sites, source)
    return proto, tuple(marker.sites)


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
    if site.kind == "MCBroadcastDropout":
        own_noise = [int(own == size) for own, size in zip(site.noise_shape, site.shape, strict=True)]
        node.set_attr("noise_axes", [1, *own_noise])


def _check_converted(proto: onnx.ModelProto, sites: list[Site], source: KerasSource) -> None:
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
    arrived = sum(1 for node in proto.graph.node if node.domain == DOMAIN)
    if arrived != len(sites) or not sites:
        raise ModelRefused(
            f"{len(sites)} dropout calls were traced in {source.origin}, but {arrived} reached the ONNX graph.",
            wanted="every traced dropout call in the graph, and at least one",
            next_step="check that the dropout layers lie on the way to the output",
        )


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
