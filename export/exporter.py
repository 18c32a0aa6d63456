"""One export from end to end: source -> graph -> passes -> proof -> file.

In: a Keras model and how its pixels are scaled. Out: an ONNX file that is stochastic in any
onnxruntime session, describes itself, and was compared with Keras before it got its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.contract.inputs import Preprocessing, choose_preprocessing, choose_resize, fit_preprocessing
from export.contract.labelled import Labelled
from export.contract.metadata import OUTPUT_KINDS, ModelContract
from export.errors import ModelRefused, OptionRefused
from export.graph.files import check_output, model_files
from export.proof.accuracy import check_labels_are_classes, find_alarms
from export.source.choice import SiteChoice
from export.source.describe import KerasSource, describe_model
from export.source.load import load_model

_MADE_WITH = ("oodscreen", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime-gpu", "onnxruntime")


class ExportNotice(UserWarning):
    """Something about an export that a person should know; the command line prints it."""


def export_file(
    model: str | Path,
    output: str | Path,
    *,
    preprocess: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    resize: str = "none",
    output_kind: str | None = None,
    class_names: Sequence[str] = (),
    keep: Sequence[str] = (),
    rate: float | Mapping[str, float] | None = None,
    output_layer: str | None = None,
    opset: int | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
    labelled: Labelled | None = None,
) -> ModelContract:
    """Export a model file or folder; see `export_model` and `export.source.load.load_model`."""
    check_output(Path(output))
    preprocessing = choose_preprocessing(preprocess, scale, mean, std)
    source = load_model(
        model, custom_objects=custom_objects, unsafe=unsafe, choice=_choice(keep, rate), output=output_layer
    )
    return _export(source, Path(output), preprocessing, resize, output_kind, tuple(class_names), opset, labelled)


def export_model(
    model: Any,
    output: str | Path,
    *,
    preprocess: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    resize: str = "none",
    output_kind: str | None = None,
    class_names: Sequence[str] = (),
    keep: Sequence[str] = (),
    rate: float | Mapping[str, float] | None = None,
    output_layer: str | None = None,
    opset: int | None = None,
    labelled: Labelled | None = None,
) -> ModelContract:
    """Export a Keras model in memory to an ONNX file in which dropout stays stochastic.

    The file takes `uint8 [N, H, W, C]`; pixels become `(pixel * scale - mean) / std` in the graph.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass.
        output: where the ONNX file goes; it appears there only when it has been verified.
        preprocess: scale, mean and std by a name: `unit` (1/255), or a mode of
            `keras.applications.imagenet_utils.preprocess_input`: `tf`, `torch`, `caffe`.
        scale: what a 0..255 pixel is multiplied by. May be left out only if the model has its own
            Rescaling or Normalization layer; 1 says "raw 0..255" on purpose.
        mean: subtracted after scaling, one value or one for each channel.
        std: divided by after that.
        resize: how images of another size become the model's, as `export.contract.inputs.Resize` says it. It is part of
            what the file promises, and done by the screener when it decodes.
        output_kind: `softmax`, `logits`, `sigmoid` or `regression`; needed where the last layer does not tell.
        class_names: one for each output, or none.
        keep: shell patterns of the dropout layers to keep; none keeps all.
        rate: another rate for the kept layers: one for all, or by pattern.
        output_layer: name of the output, for a model with several.
        opset: ONNX operator set, 17 or newer.
        labelled: gives labelled rows, on which the accuracy is measured beside Keras'.

    Returns:
        The contract that was written into the file, with what the verification measured.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file did not behave like the Keras model; nothing was written.
    """
    check_output(Path(output))
    preprocessing = choose_preprocessing(preprocess, scale, mean, std)
    source = describe_model(model, choice=_choice(keep, rate), output=output_layer)
    return _export(source, Path(output), preprocessing, resize, output_kind, tuple(class_names), opset, labelled)


def _choice(keep: Sequence[str], rate: float | Mapping[str, float] | None) -> SiteChoice:
    rates = rate if isinstance(rate, Mapping) else {} if rate is None else {"*": rate}
    return SiteChoice(tuple(keep), dict(rates))


def _export(
    source: KerasSource,
    output: Path,
    preprocessing: Preprocessing,
    resize: str,
    output_kind: str | None,
    class_names: tuple[str, ...],
    opset: int | None,
    labelled: Labelled | None,
) -> ModelContract:
    from export.graph.convert import OPSET, check_opset, convert_to_onnx
    from export.graph.passes import (
        INPUT_NAME,
        OUTPUT_NAME,
        check_written_graph,
        find_feeds,
        finish_graph,
        output_kind_of,
        stamp_metadata,
        with_rate_zero,
    )
    from export.proof.verify import check_accuracy, check_still_stochastic, verify_model
    from export.source.network import KerasReference

    opset = OPSET if opset is None else opset
    check_opset(opset)
    preprocessing = _check_preprocessing(source, preprocessing)
    _check_output_kind(source, output_kind)
    if class_names and len(class_names) != source.classes:
        raise OptionRefused(
            f"{len(class_names)} class names were given for {source.classes} outputs.",
            wanted="one name for each output",
            next_step="give them in the order of the model's outputs",
        )
    height, width, channels = source.image_shape
    contract = ModelContract(
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
        height=height,
        width=width,
        channels=channels,
        classes=source.classes,
        output_kind=output_kind or source.output_kind,
        sites=(),
        preprocessing=preprocessing,
        resize=choose_resize(resize, height=height, width=width),
        class_names=class_names,
        source_digest=source.digest,
        versions=_versions(),
    )
    batches = None
    if labelled is not None:
        check_labels_are_classes(contract)
        batches = labelled(contract)  # refuses what cannot be read before the long work
    converted = convert_to_onnx(source, opset)
    model = converted.proto
    for notice in (*source.notices, *converted.notices):
        warnings.warn(notice, ExportNotice, stacklevel=3)
    kind = _choose_output_kind(source, output_kind, output_kind_of(model))
    finish_graph(model, converted.sites, preprocessing)
    contract = replace(contract, output_kind=kind, sites=find_feeds(model, converted.sites))
    stamp_metadata(model, contract)
    with model_files(output) as files:
        files.write_weights(model, converted.weights)
        del converted  # and with it a copy of the weights
        written = files.write_graph(model)
        check_written_graph(written)
        without_dropout = files.write_graph(with_rate_zero(model), "without-dropout.onnx")
        reference = KerasReference(source.network, preprocessing)
        contract = replace(contract, verified=verify_model(written, without_dropout, contract, reference))
        if batches is not None:
            accuracy = check_accuracy(written, without_dropout, contract, reference, batches)
            contract = replace(contract, accuracy=accuracy)
            for alarm in find_alarms(accuracy, contract):
                warnings.warn(alarm, ExportNotice, stacklevel=3)
        stamp_metadata(model, contract)
        check_still_stochastic(files.write_graph(model), contract)
        files.publish()
    return contract


def _check_preprocessing(source: KerasSource, preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing as it fits the model; what cannot be meant is refused, what is doubtful is said."""
    if preprocessing.scale is None and not source.scales_itself:
        raise ModelRefused(
            f"{source.origin} has no Rescaling or Normalization layer, and no scale was given.",
            wanted="to know what 0..255 pixels must become; a wrong guess would make every answer wrong",
            next_step="add --scale 1/255 if the model was trained on 0..1, --scale 1 if on raw 0..255 pixels, or "
            "--preprocess tf, torch or caffe if it was trained behind that preprocess_input of keras.applications",
        )
    if preprocessing.scale is None and (preprocessing.mean or preprocessing.std):
        raise OptionRefused(
            "--mean or --std was given without --scale.",
            wanted="(pixel * scale - mean) / std with a stated scale",
            next_step="add --scale 1/255, or --scale 1 if mean and std are in 0..255",
        )
    if preprocessing.changes_pixels and source.takes_integers:
        raise OptionRefused(
            f"{source.origin} takes whole numbers, to which preprocessed pixels would be cut.",
            wanted="raw 0..255 pixels for such an input",
            next_step="leave out --preprocess, --scale, --mean and --std, or give --scale 1",
        )
    if preprocessing.changes_pixels and source.scales_itself:
        option = f"--preprocess {preprocessing.name}" if preprocessing.name else "--scale"
        warnings.warn(
            f"{source.origin} has its own Rescaling or Normalization layer, and {option} was given too: "
            "pixels are scaled twice",
            ExportNotice,
            stacklevel=4,
        )
    return fit_preprocessing(preprocessing, channels=source.image_shape[2], channels_first=source.channels_first)


def _check_output_kind(source: KerasSource, stated: str | None) -> None:
    """Refuse a statement that contradicts the last layer, before any work is done."""
    if stated is not None and stated not in OUTPUT_KINDS:
        raise OptionRefused(
            f"There is no output kind {stated!r}.",
            wanted=" or ".join(OUTPUT_KINDS),
            next_step="say what the model's last layer gives",
        )
    allowed = {source.output_kind, "regression"} if source.output_kind == "sigmoid" else {source.output_kind}
    if stated and source.output_kind and stated not in allowed:
        raise OptionRefused(
            f"--output-kind {stated} was given, but the last layer of {source.origin} is a {source.output_kind}.",
            wanted=source.output_kind,
            next_step="leave the option out",
        )


def _choose_output_kind(source: KerasSource, stated: str | None, derived: str) -> str:
    """What was stated, else what the last layer says, else what the last node of the graph says."""
    kind = stated or source.output_kind or derived
    if not kind:
        raise ModelRefused(
            f"The last layer of {source.origin} does not tell what its {source.classes} output(s) are: "
            "probabilities, logits or a regression.",
            wanted="a softmax or sigmoid at the end, or a stated kind",
            next_step=f"add --output-kind with one of: {', '.join(OUTPUT_KINDS)}",
        )
    if kind in ("softmax", "logits") and source.classes == 1:
        raise ModelRefused(
            f"{source.origin} has one output, which as {kind} would always be certain.",
            wanted="a sigmoid behind a single logit, or two classes",
            next_step="add keras.layers.Activation('sigmoid') to the model, then export again",
        )
    return kind


def _versions() -> dict[str, str]:
    found = {}
    for name in _MADE_WITH:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
