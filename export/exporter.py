"""One export from end to end: source -> graph -> passes -> proof -> file.

In: a Keras model and how its pixels are scaled. Out: an ONNX file that is stochastic in any
onnxruntime session, describes itself, and was compared with Keras before it got its name.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.contract import OUTPUT_KINDS, ModelContract, Preprocessing
from export.errors import ModelRefused, OptionRefused, OutputRefused, WriteFailed
from export.source import KerasSource, describe_model, load_keras_file

_MADE_WITH = ("oodscreen", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime-gpu", "onnxruntime")


class ExportNotice(UserWarning):
    """Something about an export that a person should know; the command line prints it."""


def export_file(
    model: str | Path,
    output: str | Path,
    *,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    output_kind: str | None = None,
    class_names: Sequence[str] = (),
) -> ModelContract:
    """Export a `.keras` file; see `export_model`."""
    _check_output(Path(output))
    preprocessing = Preprocessing(scale, tuple(mean), tuple(std))
    return _export(load_keras_file(model), Path(output), preprocessing, output_kind, tuple(class_names))


def export_model(
    model: Any,
    output: str | Path,
    *,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    output_kind: str | None = None,
    class_names: Sequence[str] = (),
) -> ModelContract:
    """Export a Keras model in memory to an ONNX file in which dropout stays stochastic.

    The file takes `uint8 [N, H, W, C]`; pixels become `(pixel * scale - mean) / std` in the graph.

    Args:
        model: a built functional or sequential `keras.Model`.
        output: where the ONNX file goes; it appears there only when it has been verified.
        scale: what a 0..255 pixel is multiplied by. May be left out only if the model has its own
            Rescaling or Normalization layer; 1 says "raw 0..255" on purpose.
        mean: subtracted after scaling, one value or one for each channel.
        std: divided by after that.
        output_kind: `softmax`, `logits`, `sigmoid` or `regression`; needed where the last layer does not tell.
        class_names: one for each output, or none.

    Returns:
        The contract that was written into the file, with what the verification measured.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file did not behave like the Keras model; nothing was written.
    """
    _check_output(Path(output))
    preprocessing = Preprocessing(scale, tuple(mean), tuple(std))
    return _export(describe_model(model), Path(output), preprocessing, output_kind, tuple(class_names))


def _export(
    source: KerasSource,
    output: Path,
    preprocessing: Preprocessing,
    output_kind: str | None,
    class_names: tuple[str, ...],
) -> ModelContract:
    from export.convert import convert_to_onnx
    from export.graph import INPUT_NAME, OUTPUT_NAME, finish_graph, stamp_metadata
    from export.stochastic import KerasReference
    from export.verify import check_still_stochastic, verify_model

    _check_preprocessing(source, preprocessing)
    kind = _choose_output_kind(source, output_kind)
    if class_names and len(class_names) != source.classes:
        raise OptionRefused(
            f"{len(class_names)} class names were given for {source.classes} outputs.",
            wanted="one name for each output",
            next_step="give them in the order of the model's outputs",
        )
    for notice in source.notices:
        warnings.warn(notice, ExportNotice, stacklevel=3)
    model, sites = convert_to_onnx(source)
    finish_graph(model, sites, preprocessing)
    height, width, channels = source.image_shape
    contract = ModelContract(
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
        height=height,
        width=width,
        channels=channels,
        classes=source.classes,
        output_kind=kind,
        sites=sites,
        preprocessing=preprocessing,
        class_names=class_names,
        source_digest=source.digest,
        versions=_versions(),
    )
    stamp_metadata(model, contract)
    reference = KerasReference(source.model, source.dropouts, preprocessing)
    contract = replace(contract, verified=verify_model(model.SerializeToString(), contract, reference))
    stamp_metadata(model, contract)
    data = model.SerializeToString()
    check_still_stochastic(data, contract)
    _write(output, data)
    return contract


def _check_output(output: Path) -> None:
    if output.is_dir() or not os.access(output.resolve().parent, os.W_OK):
        raise OutputRefused(
            f"The ONNX file cannot be written to {output}.",
            wanted="a file name in a folder that exists and may be written to",
            next_step=f"create {output.resolve().parent} or choose another place",
        )
    if output.suffix != ".onnx":
        raise OutputRefused(
            f"The ONNX file would be called {output.name}.",
            wanted="a name that ends in .onnx, so that no other file is replaced by mistake",
            next_step=f"call it {output.with_suffix('.onnx').name}",
        )


def _check_preprocessing(source: KerasSource, preprocessing: Preprocessing) -> None:
    if preprocessing.scale is None and not source.scales_itself:
        raise ModelRefused(
            f"{source.origin} has no Rescaling or Normalization layer, and no scale was given.",
            wanted="to know what 0..255 pixels must become; a wrong guess would make every answer wrong",
            next_step="add --scale 1/255 if the model was trained on 0..1, or --scale 1 if on raw 0..255 pixels",
        )
    if preprocessing.scale not in (None, 1) and source.scales_itself:
        warnings.warn(
            f"{source.origin} has its own Rescaling or Normalization layer, and --scale was given too: "
            "pixels are scaled twice",
            ExportNotice,
            stacklevel=4,
        )
    if preprocessing.scale is None and (preprocessing.mean or preprocessing.std):
        raise OptionRefused(
            "--mean or --std was given without --scale.",
            wanted="(pixel * scale - mean) / std with a stated scale",
            next_step="add --scale 1/255, or --scale 1 if mean and std are in 0..255",
        )
    channels = source.image_shape[2]
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (0, 1, channels):
            raise OptionRefused(
                f"--{name} has {len(values)} values for {channels} channel(s).",
                wanted=f"one value, or {channels}",
                next_step="separate the values by commas, in the order of the channels",
            )
    if preprocessing.scale == 0 or 0 in preprocessing.std:
        raise OptionRefused(
            "--scale or --std is zero, which makes every image the same.",
            wanted="values other than zero",
            next_step="give the values that the model was trained with",
        )


def _choose_output_kind(source: KerasSource, stated: str | None) -> str:
    if stated is not None and stated not in OUTPUT_KINDS:
        raise OptionRefused(
            f"There is no output kind {stated!r}.",
            wanted=" or ".join(OUTPUT_KINDS),
            next_step="say what the model's last layer gives",
        )
    if stated and source.output_kind and stated != source.output_kind:
        raise OptionRefused(
            f"--output-kind {stated} was given, but the last layer of {source.origin} is a {source.output_kind}.",
            wanted=source.output_kind,
            next_step="leave the option out",
        )
    kind = stated or source.output_kind
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


def _write(output: Path, data: bytes) -> None:
    """Written aside, synced and renamed: a reader sees the whole file or none."""
    handle, aside = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.resolve().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, output)
    except OSError as error:
        Path(aside).unlink(missing_ok=True)
        raise WriteFailed(
            f"{output} could not be written: {error.strerror or error}.",
            wanted="a place with room that may be written to",
            next_step="make room or choose another place",
        ) from error
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
