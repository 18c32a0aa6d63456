"""Make a `Source` from an ONNX file: read the file, and find its dropout, its images and its output.

In: a path and the options of the export. Out: a `Source`, or `ModelRefused` or `OptionRefused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.contract.metadata import Site
from export.errors import ModelRefused, OodscreenError
from export.graph.opset import OPSET, OPSETS, raise_opset
from export.model_source import Converted, Source
from export.onnx_source.batch import make_batch_variable
from export.onnx_source.drawn import rewrite_drawn, silence_drawn
from export.onnx_source.dropouts import Kept, choose_dropouts, find_dropouts
from export.onnx_source.graphs import keep_needed, opset_of, producers_of, rename_values
from export.onnx_source.images import FoundInput, find_input
from export.onnx_source.insertion import find_places, insert_dropouts
from export.onnx_source.marks import mark_sites, without_marks
from export.onnx_source.norms import check_norms, norms_to_inference, silence_dropout
from export.onnx_source.placement import Placement, find_placements, move_rows_to_front
from export.onnx_source.prepare import check_noise, choose_output, prepare
from export.onnx_source.read import OnnxFile, read_file
from export.onnx_source.reference import OnnxNetwork, OnnxReference
from export.source.choice import SiteChoice
from export.source.insertion.places import Place

_PIXELS = "oodscreen/source_pixels"
"""Name of the value that the nodes of the source graph read as the image input."""


def read_onnx(
    path: Path,
    *,
    choice: SiteChoice,
    output: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> Source:
    """The source of the export for an ONNX file.

    Args:
        path: the file.
        choice: selection of dropouts and rates.
        output: name of the output, for a file with several outputs.
        image_shape: `(height, width, channels)` of the images; None if the input of the file determines them.

    Raises:
        ModelRefused: the file is no float32 network for images with active dropout, or cannot be exported faithfully.
        OptionRefused: a pattern or an output name matches nothing in the file, or the shape of the images does not fit.
    """
    file = read_file(path)
    with _errors_of(file):
        return _read(file, choice, output, image_shape)


def _read(file: OnnxFile, choice: SiteChoice, output: str | None, image_shape: tuple[int, int, int] | None) -> Source:
    """The source for the model of a file."""
    origin = file.origin
    prepared = prepare(file.proto, output, origin)
    _check_output_type(prepared, origin)
    found = find_input(prepared, _settings(prepared), image_shape, origin)
    drawn = rewrite_drawn(prepared, found, origin)
    check_noise(prepared, origin)
    dropouts = find_dropouts(prepared, opset_of(prepared), origin)
    kept, notices = choose_dropouts(dropouts, choice, prepared, origin)
    kept += insert_dropouts(prepared, choice.insertions, origin)
    notices += check_norms(prepared, origin)
    norms_to_inference(prepared)
    marked = mark_sites(prepared, kept)
    keep_needed(marked.graph)
    notices += (found.image.notice,) if found.image.notice else ()
    lost = _lost(marked, kept, origin)
    notices += tuple(f"{name} is not a site: the output does not depend on it" for name in lost)
    kept = tuple(one for one in kept if one.name not in lost)
    value = marked.graph.output[0].name
    batched = onnx.ModelProto()
    batched.CopyFrom(marked)
    make_batch_variable(batched, found.name, found.batch)
    placements, classes = find_placements(batched, found, value, origin)
    move_rows_to_front(batched, placements)
    sites = tuple(_site(one, placements[one.name], origin) for one in kept)
    last = _last_operator(marked)
    plain = without_marks(marked) if drawn and file.proto.functions else _plain(file, value, drawn)
    network = OnnxNetwork(plain, marked, found, value, placements, sites, last == "LogSoftmax")
    network.check()
    if last == "LogSoftmax":
        notices += ("the LogSoftmax at the end is exported as a Softmax, whose outputs are probabilities",)
    return Source(
        origin=origin,
        digest=file.digest,
        image=found.image,
        classes=classes,
        output_kind={"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}.get(last, ""),
        scales_itself=found.scales_itself,
        own_scale="operation that scales pixels of 0..255",
        made_with=(),
        convert=lambda wanted: _convert(batched, wanted, found, sites, classes, origin),
        reference=lambda preprocessing: OnnxReference(network, preprocessing),
        notices=notices,
        takes_integers=found.dtype.kind in "iu",
        writer=file.writer,
    )


def read_places(path: Path, output: str | None = None) -> tuple[Place, ...]:
    """The nodes of an ONNX file as places for dropout.

    Args:
        path: the file.
        output: name of the output, for a file with several outputs.

    Raises:
        ModelRefused: the file cannot be exported faithfully.
        OptionRefused: the file has no output with this name, or it has several outputs and no name is given.
    """
    file = read_file(path)
    with _errors_of(file):
        return find_places(prepare(file.proto, output, file.origin))


@contextmanager
def _errors_of(file: OnnxFile) -> Iterator[None]:
    """Within the block, errors of onnx and onnxruntime become `ModelRefused`."""
    try:
        yield
    except OodscreenError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelRefused(
            f"{file.origin} cannot be read as a network: {lines[0][:300].rstrip('.')}.",
            wanted="a complete and valid ONNX model that onnxruntime can run",
            next_step="copy or export the file again; this command prints the ONNX rules that the file breaks: python "
            f"-c \"import onnx; onnx.checker.check_model('{file.path}', full_check=True)\"",
        ) from error


def _check_output_type(model: onnx.ModelProto, origin: str) -> None:
    """Refuse an output that does not have the type float32, such as the index of the largest logit."""
    output = model.graph.output[0]
    kind = output.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
        raise ModelRefused(
            f"The output {output.name} of {origin} has the type {TensorProto.DataType.Name(kind).lower()}.",
            wanted="logits, probabilities or values in float32, from which the uncertainty is computed",
            next_step="export the model without the operations that choose a class, such as argmax",
        )


def _lost(marked: onnx.ModelProto, kept: tuple[Kept, ...], origin: str) -> list[str]:
    """Names of the kept dropouts on which the output does not depend."""
    nodes = {node.name for node in marked.graph.node}
    lost = [one.name for one in kept if one.node not in nodes]
    if len(lost) == len(kept):
        raise ModelRefused(
            f"The output {marked.graph.output[0].name} of {origin} depends on no active dropout.",
            wanted="an output that depends on a Dropout node",
            next_step="choose another output with --output-layer, if the file has several",
        )
    return lost


def _settings(model: onnx.ModelProto) -> set[str]:
    """Names of the inputs that only set a ratio or the training mode of dropout."""
    copy = without_marks(model, weights=False)
    silence_dropout(copy)
    keep_needed(copy.graph)
    return {value.name for value in model.graph.input} - {value.name for value in copy.graph.input}


def _site(one: Kept, place: Placement, origin: str) -> Site:
    """The site of a kept dropout.

    Raises:
        ModelRefused: the mask is shared along axes, and the first axis of the input does not contain the rows alone.
    """
    if one.kind == "MCDropout":
        return Site(one.name, one.kind, one.rate, place.shape, place.shape, origin=one.origin)
    if place.axis or place.parts > 1:
        raise ModelRefused(
            f"The dropout {one.name} of {origin} shares its mask along axes, and the first axis of "
            "its input does not contain the images alone.",
            wanted="an input whose first axis contains the images alone",
            next_step="leave this dropout out with --keep-layer and the names of the other dropouts",
        )
    noise_shape = tuple(size if own else 1 for own, size in zip(one.own_axes[1:], place.shape, strict=True))
    return Site(one.name, one.kind, one.rate, place.shape, noise_shape, origin=one.origin)


def _last_operator(model: onnx.ModelProto) -> str:
    """Operator that computes the output; nodes that only cast or copy are skipped."""
    producers = producers_of(model.graph)
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = producers.get(node.input[0])
    return node.op_type if node is not None else ""


def _plain(file: OnnxFile, output: str, drawn: tuple[str, ...]) -> onnx.ModelProto:
    """The model of the file, put into inference mode, with one output and without unread inputs.

    Args:
        file: the file.
        output: name of the output.
        drawn: names of values that are products with a random mask; each becomes a copy of the masked value.
    """
    plain = file.proto  # changed in place, because copies of large weights are expensive
    choose_output(plain, output, file.origin)
    silence_dropout(plain)
    norms_to_inference(plain)
    silence_drawn(plain, drawn)
    keep_needed(plain.graph)
    return plain


def _convert(
    batched: onnx.ModelProto,
    wanted: int | None,
    found: FoundInput,
    sites: tuple[Site, ...],
    classes: int,
    origin: str,
) -> Converted:
    """The graph with marked sites, changed to the wanted operator set, with a float32 input."""
    proto = batched
    own = opset_of(proto)
    target = wanted or (own if own in OPSETS else OPSET if own < OPSET else OPSETS[-1])
    if target != own:
        try:
            proto = raise_opset(proto, target)
        except Exception as error:
            raise ModelRefused(
                f"{origin} could not be converted from operator set {own} to {target}: {error}.",
                wanted=f"a graph in an operator set from {OPSETS[0]} to {OPSETS[-1]}",
                next_step="export the model again with operator set 18, such as torch.onnx.export(..., "
                "opset_version=18)",
            ) from error
    proto.ir_version = max(proto.ir_version, 8)  # the first version with functions in models
    _end_with_softmax(proto)
    _take_floats(proto, found)
    proto.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(proto.graph.output[0].name, TensorProto.FLOAT, ["N", classes])
    )
    layouts = {site.name: tuple(range(len(site.shape) + 1)) for site in sites}
    return Converted(proto, sites, layouts)


def _end_with_softmax(model: onnx.ModelProto) -> None:
    """Replace a LogSoftmax that computes the output by a Softmax."""
    producers = producers_of(model.graph)
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = producers.get(node.input[0])
    if node is not None and node.op_type == "LogSoftmax":
        node.op_type = "Softmax"


def _take_floats(model: onnx.ModelProto, found: FoundInput) -> None:
    """Replace the input by a float32 input of the image's shape, with a Cast if the graph takes integers."""
    graph = model.graph
    # The finished graph has the names of `export.graph.passes` for its input and output.
    names = {found.name: _PIXELS} | {name: f"{name}#source" for name in ("image", "output") if name != found.name}
    if graph.output[0].name in ("image", "output"):
        names[graph.output[0].name] = "oodscreen/result"
    rename_values(graph, names)
    del graph.input[:]
    name = _PIXELS
    kind = helper.np_dtype_to_tensor_dtype(found.dtype)
    if kind != TensorProto.FLOAT:
        name = "oodscreen/float_pixels"
        cast = helper.make_node("Cast", [name], [_PIXELS], name="oodscreen/to_integers", to=kind)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend([cast, *nodes])
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *found.image.input_shape]))
