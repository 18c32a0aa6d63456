"""Find the Dropout nodes of an ONNX file, determine which are active, and select the nodes that the export keeps.

In: a prepared graph and a `SiteChoice`. Out: a `Dropout` for each node, and a `Kept` for each selected node. A Dropout
node draws a mask only if its input `training_mode` is true. A node can be silent for several reasons, and
`Dropout.silent` contains the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from export.errors import ModelRefused, OptionRefused
from export.onnx_source.graphs import Constants, attributes_of
from export.source.choice import WITHOUT_DROPOUT, SiteChoice, check_patterns, matches

OWN_AXES = "oodscreen_own_axes"
"""Attribute of the Dropout nodes that `export.onnx_source.drawn` writes: a list with 1 for each axis along which the
mask has independent values, else 0."""

SWITCHED_ON = "switched on by --keep-layer; in inference mode in the source file"
"""`Site.origin` of a silent dropout that `--keep-layer` switches on."""

_MOST_NAMES = 5
"""Maximum number of names in a message."""

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Key in the metadata of a node under which PyTorch's exporter stores the names of the modules."""


@dataclass(frozen=True)
class Dropout:
    """A Dropout node.

    Attributes:
        name: name of the module in PyTorch, else name of the node; unique in the graph.
        node: name of the node, which is unique too.
        rate: ratio; None if the ratio is an input of the graph and has no default value.
        silent: reason why the node never draws a mask; "" if the node is active.
        own_axes: 1 for each axis along which the mask has independent values, else 0; empty if the values are
            independent along all axes.
    """

    name: str
    node: str
    rate: float | None
    silent: str
    own_axes: tuple[int, ...] = ()

    def fits(self, pattern: str) -> bool:
        """Whether a pattern of the user matches the name of the node or of its module."""
        return matches(self.name, pattern) or matches(self.node, pattern)


@dataclass(frozen=True)
class Kept:
    """A Dropout node that the export keeps.

    Attributes:
        name: name of the site.
        node: name of the node.
        rate: rate in the export, in (0, 1).
        origin: value of `Site.origin`.
        own_axes: as in `Dropout`.
    """

    name: str
    node: str
    rate: float
    origin: str = ""
    own_axes: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """Name of the noise function."""
        return "MCBroadcastDropout" if 0 in self.own_axes else "MCDropout"


def find_dropouts(model: onnx.ModelProto, opset: int, origin: str) -> tuple[Dropout, ...]:
    """The Dropout nodes of the main graph, in the order of the graph.

    Args:
        model: prepared model, whose nodes have unique names.
        opset: operator set of the model.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: a ratio or a training mode is neither a constant nor an input of the graph, or a mask is
            read by other nodes or is an output of the graph.
    """
    constants = Constants(model)
    inputs = {value.name for value in model.graph.input}
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    names: set[str] = set()
    found = []
    for node in model.graph.node:
        if node.op_type != "Dropout" or node.domain:
            continue
        if len(node.output) > 1 and node.output[1] in read:
            raise ModelRefused(
                f"The mask of the dropout {node.name} of {origin} is read by other nodes or is an output of the graph.",
                wanted="Dropout nodes of which only the first output is read",
                next_step="compute the output from the first output of the dropout alone, and write the ONNX file "
                "again",
            )
        rate, silent = _state(node, opset, constants, inputs, origin)
        name = base = printable(module_of(node))
        number = 1
        while name in names:
            number += 1
            name = f"{base}#{number}"
        names.add(name)
        own = attributes_of(node).get(OWN_AXES, ())
        found.append(Dropout(name, node.name, rate, silent, tuple(own)))
    return tuple(found)


def _state(
    node: onnx.NodeProto, opset: int, constants: Constants, inputs: set[str], origin: str
) -> tuple[float | None, str]:
    """The ratio of a Dropout node, and the reason why the node is silent; "" if it is active."""
    if opset < 12:
        rate = float(str(np.float32(attributes_of(node).get("ratio", 0.5))))
        return rate, f"operator set {opset} has no training_mode, so that it is unknown whether the dropout was active"
    values = [*node.input, "", ""]
    ratio = 0.5 if not values[1] else _number(values[1], node, constants, inputs, origin, "ratio")
    if not values[2]:
        return ratio, "training_mode is left out, as in the files that PyTorch writes for attention layers"
    mode = _number(values[2], node, constants, inputs, origin, "training_mode")
    if mode is not None and not mode:
        return ratio, "training_mode is false"
    return ratio, "ratio is 0" if ratio == 0 else ""


def _number(
    name: str, node: onnx.NodeProto, constants: Constants, inputs: set[str], origin: str, what: str
) -> float | None:
    """The constant value of an input of a Dropout node; None if the value is an input of the graph."""
    value = constants.value(name)
    if value is not None and value.size == 1:
        number = value.reshape(())
        return float(str(number) if number.dtype == np.float32 else number)  # 0.3, not the nearest float32 to it
    if constants.root(name) in inputs:
        return None
    raise ModelRefused(
        f"The {what} of the dropout {node.name} of {origin} is not a constant.",
        wanted=f"a {what} that is a constant or an input of the graph",
        next_step="replace the value by a constant, and write the ONNX file again",
    )


def module_of(node: onnx.NodeProto, operators: Sequence[str] = ("Dropout", "Mul")) -> str:
    """Name of the PyTorch module of a node, if the exporter wrote this name; else the name of the node.

    The newer exporter writes the names of all enclosing modules into the metadata; the TorchScript exporter names the
    nodes `/MODULE/.../Dropout`, with the name of the operator, one of `operators`, at the end.
    """
    scopes = scopes_of(node)
    if len(scopes) > 1 and scopes[-2]:
        return scopes[-2]
    if node.name.startswith("/"):
        module, _, operator = node.name.strip("/").rpartition("/")
        if module and operator.split("_")[0] in operators:
            return module
    return node.name.strip("/") or node.output[0]


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """Names of the enclosing modules and of the operation, if PyTorch's newer exporter wrote them; else empty."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                return [str(one) for one in ast.literal_eval(entry.value)]
            except (ValueError, SyntaxError, TypeError):
                break
    return []


def printable(name: str) -> str:
    """A name in which `_` replaces the characters that a contract cannot contain, such as line breaks."""
    return "".join(one if one.isprintable() else "_" for one in name)


def choose_dropouts(
    dropouts: Sequence[Dropout], choice: SiteChoice, model: onnx.ModelProto, origin: str
) -> tuple[tuple[Kept, ...], tuple[str, ...]]:
    """The dropouts that the export keeps, and notices about the silent dropouts.

    If `choice.keep` is empty, all active dropouts are kept. A pattern in `choice.keep` also selects silent dropouts,
    which the export then activates.

    Args:
        dropouts: all dropouts of the model.
        choice: the user's selection.
        model: prepared model, for messages.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: no dropout is active, selected or to be inserted, or the ratio of a kept dropout is not between 0
            and 1.
        OptionRefused: a pattern matches no dropout, or the user's rate for a kept dropout is not between 0 and 1, or is
            missing although the file has no ratio.
    """
    selectable = [one for one in dropouts if choice.keep or not one.silent]
    if not selectable and not choice.insertions:
        raise _no_active_dropout(dropouts, model, origin)
    check_patterns(choice, [one.name for one in selectable], origin, also={one.name: one.node for one in selectable})
    kept, notices = [], []
    for one in dropouts:
        selected = any(one.fits(pattern) for pattern in choice.keep) if choice.keep else not one.silent
        if selected:
            rate = _rate_of(one, choice, origin)
            kept.append(Kept(one.name, one.node, rate, SWITCHED_ON if one.silent else "", one.own_axes))
            if one.silent:
                notices.append(
                    f"{one.name} is silent in {origin} ({one.silent}); --keep-layer switches it on, although the file "
                    "does not state that it was active in training"
                )
        elif one.silent:
            notices.append(f"{one.name} is not a site: {one.silent}; {_how_to_add(one, dropouts, choice)}")
    return tuple(kept), tuple(notices)


def _how_to_add(one: Dropout, dropouts: Sequence[Dropout], choice: SiteChoice) -> str:
    """How to activate a silent dropout in addition to the sites; a first --keep-layer alone would replace the sites."""
    option = f"--keep-layer '{one.name}'" + (f" --rate '{one.name}=0.5'" if one.rate == 0 else "")
    active = [other.name for other in dropouts if not other.silent]
    if choice.keep or not active:
        return f"to switch this dropout on, add {option}"
    others = " ".join(f"--keep-layer '{name}'" for name in active[:_MOST_NAMES])
    others += f" and --keep-layer for {len(active) - _MOST_NAMES} more" if len(active) > _MOST_NAMES else ""
    effect = f"{option} would switch this dropout on and all other dropout off"
    return f"{effect}; to keep the sites too, add {others}"


def _rate_of(one: Dropout, choice: SiteChoice, origin: str) -> float:
    """The rate of the last matching pattern; if no pattern matches, the ratio in the file."""
    stated = [rate for pattern, rate in choice.rates.items() if one.fits(pattern)]
    rate = float(stated[-1]) if stated else one.rate
    if rate is None:
        raise OptionRefused(
            f"The ratio of the dropout {one.name} of {origin} is an input of the graph without a value.",
            wanted="a rate above 0 and below 1",
            next_step=f"add the rate that was used in training, such as --rate '{one.name}=0.5'",
        )
    if not 0 < rate < 1:
        error = OptionRefused if stated else ModelRefused
        raise error(
            f"The dropout {one.name} of {origin} would have rate {rate:g}.",
            wanted="a rate above 0 and below 1",
            next_step="give another rate with --rate 'PATTERN=RATE', or select only other dropouts with --keep-layer",
        )
    return rate


def _no_active_dropout(dropouts: Sequence[Dropout], model: onnx.ModelProto, origin: str) -> ModelRefused:
    if dropouts:
        examined = ", ".join(f"{one.name} ({one.silent})" for one in dropouts[:_MOST_NAMES])
        examined += f" and {len(dropouts) - _MOST_NAMES} more" if len(dropouts) > _MOST_NAMES else ""
        instead = f"; or switch a silent dropout on: --keep-layer '{dropouts[0].name}'"
    else:
        kinds = sorted({node.op_type for node in model.graph.node if node.op_type != "Constant"})
        examined = f"no Dropout among {len(model.graph.node)} nodes ({', '.join(kinds)})"
        clones = [node.name for node in model.graph.node if _was_dropout(node)]
        if clones:
            examined += f", but Identity nodes in place of removed dropout: {', '.join(clones[:_MOST_NAMES])}"
        instead = ""
    return ModelRefused(
        f"{origin} has no active dropout. Examined: {examined}.",
        wanted="at least one Dropout node with a ratio above 0 and training_mode true",
        next_step=f"{how_to_keep_dropout()}{instead}; for a model that was trained without dropout, add "
        f"--insert-dropout 'classifier=0.2' (see {WITHOUT_DROPOUT})",
    )


def how_to_keep_dropout() -> str:
    """The next step for a file whose dropout the exporter of PyTorch removed or set to inference mode."""
    return (
        "export the PyTorch model again with its dropout active: model.eval(); [m.train() for m in model.modules() if "
        "isinstance(m, torch.nn.Dropout)]; torch.onnx.export(model, (image,), 'MODEL.onnx', opset_version=18); with "
        "dynamo=False, add training=torch.onnx.TrainingMode.PRESERVE"
    )


def _was_dropout(node: onnx.NodeProto) -> bool:
    """Whether an Identity node replaces a dropout: the exporter names this node after the dropout, or `node_clone`."""
    text = node.name + "".join(entry.value for entry in node.metadata_props if entry.key == _SCOPES)
    return node.op_type == "Identity" and ("dropout" in text.lower() or node.name.startswith("node_clone"))
