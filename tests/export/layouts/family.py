"""Layouts of dropout in ONNX files, as PyTorch's exporters write them; the tests check each export or refusal.

`tests/integration/test_torch.py` compares the layouts with the files that PyTorch 2.13.0 writes: those of
`torch.onnx.export(dynamo=False)`, the TorchScript exporter, and of `dynamo=True`, the newer exporter. The
attribute `torch` of a layout names the network in that test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from tests.export.layouts import dynamo, torchscript

LOGITS = ("--scale", "1/255", "--output-kind", "logits")


@dataclass(frozen=True)
class Layout:
    """One way in which a file contains dropout, or has lost it.

    Attributes:
        name: name of the test.
        build: function that returns the file.
        rates: rates of the sites that the export keeps, in order; () if the export refuses the file.
        message: expected part of the notices of the export, or of the error message of a refused file.
        torch: network and exporter in `tests/integration/torch_networks.py` that write this layout; "" if the layout
            was not compared with PyTorch.
        options: options of `oodscreen export`.
        quick: whether `make test` includes an exported layout; it includes all refused ones.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    rates: tuple[float, ...] = ()
    message: str = ""
    torch: str = ""
    options: tuple[str, ...] = LOGITS
    quick: bool = False


EXPORTED = (
    Layout("constants", lambda: torchscript.constants(17), (0.25, 0.5), torch="constants"),
    Layout("constants_opset_12", lambda: torchscript.constants(12), (0.25, 0.5), torch="constants_12"),
    Layout("constants_opset_18", lambda: torchscript.constants(18), (0.25, 0.5), torch="constants_18"),
    Layout("fixed_batch", lambda: torchscript.constants(17, "input.1", 2), (0.25, 0.5), torch="fixed_batch"),
    Layout("softmax_opset_13", torchscript.softmax, (0.3,), torch="softmax_13", options=("--scale", "1/255")),
    Layout("norm_opset_12", lambda: torchscript.norm(12, training=False), (0.25, 0.5), torch="norm_12"),
    Layout(
        "norm_in_training",
        lambda: torchscript.norm(17, training=True),
        (0.25, 0.5),
        "inference mode, with the running statistics",
        torch="norm_in_training",
        quick=True,
    ),
    Layout("functions", torchscript.functions, (0.3, 0.3), torch="functions", quick=True),
    Layout("shared_rate", lambda: dynamo.shared_rate(20), (0.3, 0.3), torch="shared_rate", quick=True),
    Layout("shared_rate_opset_18", lambda: dynamo.shared_rate(18), (0.3, 0.3), torch="shared_rate_18"),
    Layout("unoptimized", dynamo.unoptimized, (0.5,), torch="unoptimized", quick=True),
    Layout("channels", dynamo.channels, (0.25, 0.5), torch="channels", quick=True),
    Layout("in_place", dynamo.in_place, (0.25,), torch="in_place"),
    Layout("branches", dynamo.branches, (0.2,), torch="branches"),
    Layout("fixed_reshape", dynamo.fixed_reshape, (0.5,), torch="fixed_reshape"),
    Layout("attention_weights", lambda: torchscript.attention(kept=True), (0.1,), torch="attention_weights"),
    Layout("silent_attention", torchscript.attention_and_tokens, (0.25,), "training_mode is left out", quick=True),
    Layout("one_live", torchscript.one_live, (0.5,), "training_mode is false"),
    Layout("rate_from_input", torchscript.from_inputs, (0.4,)),
)
"""Files that the export converts, with the proof."""

REFUSED = (
    Layout("without_dropout", torchscript.without_dropout, message="no Dropout among", torch="without_dropout"),
    Layout("mode_false", lambda: torchscript.with_dropout(0.3, mode=False), message="(training_mode is false)"),
    Layout(
        "rate_zero",
        lambda: torchscript.with_dropout(0.0, mode=True),
        message="(ratio is 0)",
        torch="rate_zero",
    ),
    Layout(
        "folded",
        lambda: dynamo.unoptimized(alive=False),
        message="Identity nodes in place of removed dropout",
    ),
    Layout("opset_11", torchscript.old_opset, message="operator set 11 has no training_mode", torch="opset_11"),
    Layout(
        "attention_alone",
        lambda: torchscript.attention(kept=False),
        message="a (training_mode is left out",
        torch="attention_alone",
    ),
    Layout("handmade_mask", torchscript.handmade, message="/Bernoulli (Bernoulli)", torch="handmade_mask"),
    Layout(
        "stochastic_depth",
        dynamo.floored,
        message="node_rand (RandomUniformLike)",
        torch="stochastic_depth",
    ),
    Layout("alpha", dynamo.alpha, message="n1 (RandomUniformLike)", torch="alpha"),
    Layout("branch", dynamo.branch, message="node_cond__0", torch="branch"),
    Layout("computed_rate", torchscript.computed_rate, message="is not a constant"),
)
"""Files that the export refuses, each with its own message."""
