"""Trace the recurrent layers of Keras step by step, and refuse graphs with other loops.

In: a trace, and the graph that was converted from it. Out: a trace without the loops of recurrent layers, or
`ModelRefused`. tf2onnx converts an LSTM with default options to one node, and other recurrent layers to loops, which
the engine cannot divide into trunk and head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from export.contract.metadata import DOMAIN
from export.errors import ModelRefused

MAX_STEPS = 256
"""Maximum number of steps of a recurrent layer that the export unrolls.

The export of a GRU with 256 steps took about 3 minutes on 2 cores."""


@contextmanager
def recurrent_layers_unrolled() -> Iterator[dict[str, int | None]]:
    """Within the block, recurrent layers with `unroll` or at most `MAX_STEPS` steps are traced without a loop.

    Yields:
        Number of steps by name of each other recurrent layer that is called in the block; None for an unknown number.
    """
    import keras

    recurrent = keras.layers.RNN
    original = recurrent.call
    looped: dict[str, int | None] = {}

    def call(layer: Any, sequences: Any, *arguments: Any, **options: Any) -> Any:
        steps, before = sequences.shape[1], layer.unroll
        if not before and (steps is None or steps > MAX_STEPS):
            looped[layer.name] = steps
            return original(layer, sequences, *arguments, **options)
        layer.unroll = True
        try:
            return original(layer, sequences, *arguments, **options)
        finally:
            layer.unroll = before

    recurrent.call = call
    try:
        yield looped
    finally:
        recurrent.call = original


def loops_in(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of a graph that contain graphs, such as Loop, Scan and If."""
    return [
        node
        for node in proto.graph.node
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    ]


def check_no_sites(loops: Iterable[onnx.NodeProto], origin: str) -> None:
    """Refuse dropout within a loop, because the verification cannot read the masks of the loop's steps in Keras.

    Args:
        loops: the nodes that contain graphs.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: a loop contains a site.
    """
    sites = sorted({site for node in loops for site in _sites_within(node)})
    if sites:
        raise ModelRefused(
            f"{origin} calls dropout layers in a loop or branch, such as in the steps of a recurrent layer: "
            f"{', '.join(sites)}.",
            wanted="dropout layers outside of loops and branches, or recurrent layers with unroll=True",
            next_step="load the model in Python with export.load_keras, set unroll=True in the recurrent "
            "layer, as in model.get_layer('rnn').unroll = True, save the model, and export the new file",
        )


def _sites_within(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the dropout layers in the graphs of a node, at any depth."""
    for attribute in node.attribute:
        for inner in (*attribute.g.node, *(one for graph in attribute.graphs for one in graph.node)):
            if inner.domain == DOMAIN:
                yield helper.get_node_attr_value(inner, "site").decode().partition("#")[0]
            yield from _sites_within(inner)


def check_no_loops(proto: onnx.ModelProto, looped: dict[str, int | None], origin: str) -> None:
    """Refuse a graph with loops or branches, because the screening engine would refuse the exported file.

    Args:
        proto: the graph, converted from a trace in `recurrent_layers_unrolled`.
        looped: number of steps of each recurrent layer that was traced with a loop, by name; None if it is unknown.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the graph contains loops or branches.
    """
    loops = loops_in(proto)
    if not loops:
        return
    long = {name: steps for name, steps in looped.items() if steps is not None}
    if long:
        layers = ", ".join(f"{name} ({steps} steps)" for name, steps in long.items())
        raise ModelRefused(
            f"{origin} has recurrent layers that become loops in the ONNX graph: {layers}.",
            wanted=f"recurrent layers with at most {MAX_STEPS} steps, LSTM layers with the default activations and "
            "without a mask, or layers with unroll=True",
            next_step="export the model that this Python code writes; the export takes long (256 "
            "steps of a GRU took about 3 minutes on 2 cores): from export import load_keras; model = "
            f"load_keras('{origin}'); [setattr(layer, 'unroll', True) for layer in model._flatten_layers() if "
            f"hasattr(layer, 'unroll')]; model.save('{Path(origin).stem}-unrolled.keras')",
        )
    kinds = sorted({node.op_type for node in loops})
    raise ModelRefused(
        f"{origin} has loops or branches in its ONNX graph ({', '.join(kinds)}): "
        f"{', '.join(node.name for node in loops)}"
        + ("." if not looped else f"; the number of steps of {', '.join(looped)} is unknown."),
        wanted="a graph without loops and branches, because a run cannot divide them into a part for each image and a "
        "part for each pass",
        next_step="find the layers by the names of the nodes, which contain the names of the layers; in these layers, "
        "use operations on whole tensors in place of tf.while_loop, tf.map_fn, tf.cond and their counterparts in "
        "keras.ops"
        if not looped
        else f"give the inputs of {', '.join(looped)} a fixed number of steps, such as with keras.layers.Reshape",
    )
