"""The noise functions of an exported file: model-local functions in standard ONNX operators.

In: a kind of noise and an operator set. Out: a `FunctionProto`. onnxruntime removes an ONNX `Dropout`, even in training
mode, but it inlines functions and keeps random operators (see tests/assumptions). With functions, the graph has one
named node for each site.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from export.contract.metadata import ALPHA_KINDS, ALPHA_PRIME, DOMAIN, GAUSSIAN_KINDS, ZEROING_KINDS

NOISE_KINDS = (*ZEROING_KINDS, *GAUSSIAN_KINDS, *ALPHA_KINDS)
"""Names of all noise functions."""

_Nodes = list[onnx.NodeProto]


def noise_function(kind: str, opset: int) -> onnx.FunctionProto:
    """The function for a kind of noise; its attribute `rate` is the rate of the site.

    `MCDropout`: `y = x * (u >= rate) / (1 - rate)` with u uniform in [0, 1) (inverted dropout).
    `MCGaussianDropout`: `y = x * n` with n normal of mean 1 and variance `rate / (1 - rate)`
    (Srivastava et al. 2014, section 10). `MCAlphaDropout`: with `k = u >= rate` and `alpha'` = `ALPHA_PRIME`,
    `y = a * (x * k + alpha' * (1 - k)) + b` (Klambauer et al. 2017, section "alpha dropout"); see `_alpha` for a and b.

    The `Broadcast` kinds draw one value for each position along the axes that have a 1 in `noise_axes`, and share this
    value along the other axes, for `noise_shape` and SpatialDropout. The other kinds draw one value for every element.
    """
    broadcast = kind.startswith("MCBroadcast")
    nodes = [_attribute("rate", onnx.AttributeProto.FLOAT, "rate"), _number("one", 1.0)]
    nodes += [_node("Sub", ["one", "rate"], "keep_rate")]
    like = "draw" if broadcast else "x"
    if broadcast:
        nodes += _shape_of_draw(like)
    if kind == "MCGaussianDropout":
        nodes += _gaussian(like)
    elif kind.endswith("AlphaDropout"):
        nodes += [*_kept(like), *_alpha()]
    else:
        nodes += [*_kept(like), _node("Div", ["kept", "keep_rate"], "mask"), _node("Mul", ["x", "mask"], "y")]
    attributes = ["rate", "noise_axes"] if broadcast else ["rate"]
    return helper.make_function(DOMAIN, kind, ["x"], ["y"], nodes, [helper.make_opsetid("", opset)], attributes)


def _shape_of_draw(output: str) -> _Nodes:
    """Nodes for a tensor with the shape of the mask: size 1 along the shared axes."""
    return [
        _attribute("noise_axes", onnx.AttributeProto.INTS, "own"),
        helper.make_node("Constant", [], ["one_int"], value_int=1),
        _node("Shape", ["x"], "shape"),
        _node("Sub", ["shape", "one_int"], "excess"),
        _node("Mul", ["excess", "own"], "own_excess"),
        _node("Add", ["own_excess", "one_int"], "noise_shape"),
        _node("ConstantOfShape", ["noise_shape"], output),
    ]


def _kept(like: str) -> _Nodes:
    """Nodes for `kept`, whose elements are 1 with probability `1 - rate`, else 0."""
    return [
        _node("RandomUniformLike", [like], "u"),
        _node("GreaterOrEqual", ["u", "rate"], "keep"),
        helper.make_node("Cast", ["keep"], ["kept"], to=TensorProto.FLOAT),
    ]


def _gaussian(like: str) -> _Nodes:
    return [
        _node("RandomNormalLike", [like], "z"),
        _node("Div", ["rate", "keep_rate"], "variance"),
        _node("Sqrt", ["variance"], "deviation"),
        _node("Mul", ["z", "deviation"], "spread"),
        _node("Add", ["spread", "one"], "factor"),
        _node("Mul", ["x", "factor"], "y"),
    ]


def _alpha() -> _Nodes:
    """Nodes for alpha dropout.

    With `a = ((1 - rate) (1 + rate alpha'^2))^(-1/2)` and `b = -a alpha' rate`, the output for an input with mean 0
    and variance 1 also has mean 0 and variance 1.
    """
    return [
        _number("alpha", ALPHA_PRIME),
        _number("alpha_squared", ALPHA_PRIME**2),
        _node("Mul", ["rate", "alpha_squared"], "rate_alpha"),
        _node("Add", ["rate_alpha", "one"], "grown"),
        _node("Mul", ["grown", "keep_rate"], "gain_squared"),
        _node("Sqrt", ["gain_squared"], "gain"),
        _node("Sub", ["one", "kept"], "dropped"),
        _node("Mul", ["dropped", "alpha"], "saturated"),
        _node("Mul", ["x", "kept"], "passed"),
        _node("Add", ["passed", "saturated"], "mixed"),
        _node("Mul", ["rate", "alpha"], "mean"),
        _node("Sub", ["mixed", "mean"], "centred"),
        _node("Div", ["centred", "gain"], "y"),
    ]


def _node(op_type: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output])


def _number(output: str, value: float) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], value_float=value)


def _attribute(attribute: str, kind: onnx.AttributeProto.AttributeType, output: str) -> onnx.NodeProto:
    """A Constant whose value is an attribute of the node that calls the function."""
    constant = helper.make_node("Constant", [], [output])
    field = "value_float" if kind == onnx.AttributeProto.FLOAT else "value_ints"
    constant.attribute.append(onnx.AttributeProto(name=field, ref_attr_name=attribute, type=kind))
    return constant
