"""One export from end to end: source -> graph -> passes -> proof -> file.

In: a Keras model or an ONNX file, and an `ExportConfig`. Out: an ONNX file that is stochastic in any onnxruntime
session and contains its contract. The outputs of the file are compared with those of the source model before the file
gets its final name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.config.exporting import ExportConfig, FileExportConfig
from export.contract.inputs import Preprocessing, choose_preprocessing, choose_resize, fit_preprocessing
from export.contract.insertion import RateChoice, check_insertions
from export.contract.labelled import LabelledBatch
from export.contract.metadata import ModelContract
from export.contract.validity import check_given_names
from export.errors import ModelRefused, OptionRefused
from export.graph.files import check_output, model_files
from export.graph.keras_source import as_source
from export.graph.opset import check_opset
from export.keywords import with_keywords
from export.model_files import read_source, refuse_to_replace
from export.model_source import Converted, Reference, Source
from export.proof.accuracy import check_labels_are_classes, find_alarms
from export.proof.output_values import check_output_values, describe_logits
from export.source.choice import SiteChoice
from export.source.describe import describe_model

_MADE_WITH = ("onnx", "onnxruntime-gpu", "onnxruntime")


class ExportNotice(UserWarning):
    """Warning that does not stop an export; after the export, the command line prints the warning on standard error."""


def export_model_file(model: str | Path, output: str | Path, config: FileExportConfig) -> ModelContract:
    """Export a Keras model or an ONNX file to an ONNX file in which dropout stays stochastic.

    Args:
        model: `.keras` or `.h5` file, SavedModel folder of Keras 2, JSON file of `model.to_json()`, or ONNX file with
            active Dropout nodes.
        output: ONNX file to write; it appears only after it has been verified.
        config: options of the export.

    Returns:
        The contract that was written into the file, with the measurements of the verification.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file does not behave like the source model; nothing was written.
    """
    check_output(Path(output))
    check_opset(config.opset)
    preprocessing = _preprocessing(config)
    refuse_to_replace(Path(model), Path(output))
    return _export(lambda choice: read_source(Path(model), choice, config), Path(output), preprocessing, config)


def export_keras_model(model: Any, output: str | Path, config: ExportConfig) -> ModelContract:
    """Export a Keras model in memory to an ONNX file in which dropout stays stochastic.

    The input of the file is `uint8 [N, H, W, C]`. The graph of the file computes the preprocessing in `config`, such as
    `(pixel * scale - mean) / std`, before the model.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass.
        output: ONNX file to write; it appears only after it has been verified.
        config: options of the export.

    Returns:
        The contract that was written into the file, with the measurements of the verification.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file does not behave like the Keras model; nothing was written.
    """
    check_output(Path(output))
    check_opset(config.opset)
    preprocessing = _preprocessing(config)

    def describe(choice: SiteChoice) -> Source:
        keras = describe_model(model, choice=choice, output=config.output_layer, image_shape=config.image_shape)
        return as_source(keras)

    return _export(describe, Path(output), preprocessing, config)


export_file = with_keywords(export_model_file, FileExportConfig)
"""`export_model_file` with the fields of `FileExportConfig` as keywords."""

export_model = with_keywords(export_keras_model, ExportConfig)
"""`export_keras_model` with the fields of `ExportConfig` as keywords."""


def _preprocessing(config: ExportConfig) -> Preprocessing:
    return choose_preprocessing(config.preprocess, config.scale, config.mean, config.std)


def _export(
    describe: Callable[[SiteChoice], Source], output: Path, preprocessing: Preprocessing, config: ExportConfig
) -> ModelContract:
    """Export the model for which `describe` returns a `Source`, given a choice of sites and rates."""
    from export.graph.passes import check_written_graph, stamp_metadata
    from export.proof.scale import find_scale_alarm
    from export.proof.verify import Subject, check_accuracy, check_loads, verify_model

    check_insertions(config.insertions, labelled=config.labelled is not None)
    choice = SiteChoice(tuple(config.keep), config.rates, config.insertions)
    rate_choice = None
    if any(insertion.rate is None for insertion in choice.insertions):
        rate_choice = _choose_rate(describe(choice), output, preprocessing, config)
        choice = choice.at_rate(rate_choice.rate)
    source = describe(choice)
    converted, contract, reference, batches = _convert(source, preprocessing, config)
    contract = replace(contract, rate_choice=rate_choice)
    model = converted.proto
    stamp_metadata(model, contract)
    with model_files(output) as files:
        files.write_weights(model, converted.weights)
        subject = Subject(model, contract, converted.layouts, files.write_graph)
        del converted  # frees a copy of the weights
        check_written_graph(files.write_graph(model))
        contract = replace(contract, verified=verify_model(subject, reference).numbers())
        if batches is not None:
            accuracy = check_accuracy(subject, reference, batches)
            contract = replace(contract, accuracy=accuracy)
            for alarm in find_alarms(accuracy, contract):
                warnings.warn(alarm, ExportNotice, stacklevel=4)
        elif not source.scales_itself and (scale_alarm := find_scale_alarm(reference, contract)):
            warnings.warn(scale_alarm, ExportNotice, stacklevel=4)
        stamp_metadata(model, contract)
        check_loads(files.write_graph(model), contract)
        files.publish()
    return contract


def _choose_rate(source: Source, output: Path, preprocessing: Preprocessing, config: ExportConfig) -> RateChoice:
    """The choice of the rate of the inserted dropout, made on labelled rows with a graph of a provisional rate."""
    from export.proof.rates import choose_rate
    from export.proof.verify import Subject

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)  # the export at the chosen rate repeats the notices
        converted, contract, _, batches = _convert(source, preprocessing, config)
    with model_files(output) as files:
        files.write_weights(converted.proto, converted.weights)
        return choose_rate(Subject(converted.proto, contract, converted.layouts, files.write_graph), batches or ())


def _convert(
    source: Source, preprocessing: Preprocessing, config: ExportConfig
) -> tuple[Converted, ModelContract, Reference, Iterable[LabelledBatch] | None]:
    """The finished graph of a source, its contract without measurements, its reference, and the labelled rows."""
    from export.graph.inserted import check_inserted
    from export.graph.passes import INPUT_NAME, OUTPUT_NAME, find_feeds, finish_graph, output_kind_of

    class_names = tuple(config.class_names)
    preprocessing = _check_preprocessing(source, preprocessing)
    _check_output_kind(source, config.output_kind)
    height, width, channels = source.image.image_shape
    contract = ModelContract(
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
        height=height,
        width=width,
        channels=channels,
        classes=source.classes,
        output_kind=config.output_kind or source.output_kind,
        sites=(),
        preprocessing=preprocessing,
        resize=choose_resize(config.resize, height=height, width=width),
        class_names=class_names,
        source_digest=source.digest,
        versions=_versions(source),
    )
    check_given_names(class_names, contract.class_count)
    batches = None
    if config.labelled is not None:
        check_labels_are_classes(contract)
        batches = config.labelled(contract)  # a missing shard or column is an error before the long conversion
    converted = source.convert(config.opset)
    model = converted.proto
    for notice in (*source.notices, *converted.notices):
        warnings.warn(notice, ExportNotice, stacklevel=5)
    kind = _choose_output_kind(source, config.output_kind, output_kind_of(model))
    contract = replace(contract, output_kind=kind)
    reference = source.reference(preprocessing)
    if constant_alarm := check_output_values(reference, contract, source.origin):
        warnings.warn(constant_alarm, ExportNotice, stacklevel=5)
    finish_graph(model, converted.sites, preprocessing, contract.image_shape)
    contract = replace(contract, sites=find_feeds(model, converted.sites))
    check_inserted(contract.sites, source.origin)
    return converted, contract, reference, batches


def _check_preprocessing(source: Source, preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing fitted to the model's channels; a warning is issued if pixels are scaled twice.

    Raises:
        ModelRefused: the model does not scale pixels, and no scale was given.
        OptionRefused: the options contradict each other or the model.
    """
    if preprocessing.scale is None and not source.scales_itself:
        raise ModelRefused(
            f"{source.origin} has no {source.own_scale}, and no scale was given.",
            wanted="the scaling of 0..255 pixels in training, because a wrong scaling makes every score wrong",
            next_step="add --scale 1/255 if the model was trained on 0..1, --scale 1 if it was trained on raw 0..255 "
            "pixels, or --preprocess tf, torch or caffe if it was trained with that mode of keras.applications' "
            "preprocess_input; torch is also the preprocessing of torchvision's models",
        )
    if preprocessing.scale is None and (preprocessing.mean or preprocessing.std):
        raise OptionRefused(
            "--mean or --std was given without --scale.",
            wanted="a scale, because the preprocessing is (pixel * scale - mean) / std",
            next_step="add --scale 1/255 if mean and std refer to pixels of 0..1, or --scale 1 if mean and std refer "
            "to pixels of 0..255",
        )
    if preprocessing.changes_pixels and source.takes_integers:
        raise OptionRefused(
            f"The input of {source.origin} has an integer type, so preprocessed pixels would be truncated.",
            wanted="raw 0..255 pixels for an input of integer type",
            next_step="leave out --preprocess, --scale, --mean and --std, or give --scale 1",
        )
    if preprocessing.changes_pixels and source.scales_itself:
        option = f"--preprocess {preprocessing.name}" if preprocessing.name else "--scale"
        warnings.warn(
            f"{source.origin} has its own {source.own_scale}, and {option} was given too: pixels are scaled twice",
            ExportNotice,
            stacklevel=6,
        )
    image = source.image
    return fit_preprocessing(
        preprocessing,
        channels=image.image_shape[2],
        channels_first=image.channels_first,
        reshape=image.reshape,
    )


def _check_output_kind(source: Source, stated: str | None) -> None:
    """Refuse a stated output kind that contradicts the last layer, before the model is converted."""
    allowed = {source.output_kind, "regression"} if source.output_kind == "sigmoid" else {source.output_kind}
    if stated and source.output_kind and stated not in allowed:
        raise OptionRefused(
            f"--output-kind {stated} was given, but the last layer of {source.origin} is a {source.output_kind}.",
            wanted=" or ".join(sorted(allowed, reverse=True)),
            next_step="leave out --output-kind",
        )


def _choose_output_kind(source: Source, stated: str | None, derived: str) -> str:
    """The stated output kind, else the kind of the last layer, else that of the last node of the graph."""
    kind = stated or source.output_kind or derived
    if not kind:
        raise ModelRefused(
            f"The last layer of {source.origin} does not determine whether the {source.classes} output(s) are "
            "probabilities, logits or regression values.",
            wanted="a model that ends in a softmax or sigmoid, or the option --output-kind",
            next_step=f"add --output-kind logits if {describe_logits(source.classes)}, --output-kind regression if the "
            "outputs are real values, or --output-kind softmax or sigmoid if the outputs are probabilities",
        )
    if kind == "softmax" and source.classes == 1:
        computes_softmax = "softmax" in (source.output_kind, derived)
        raise ModelRefused(
            f"{source.origin} has one output of kind softmax, whose probability is always 1.",
            wanted="a sigmoid for a single output, or a softmax over two classes",
            next_step="replace the softmax by a sigmoid, and train the model again, because the softmax is 1 for every "
            "image"
            if computes_softmax
            else "export with --output-kind logits, which applies a sigmoid to the single output, or with "
            "--output-kind sigmoid if the output is a probability",
        )
    return kind


def _versions(source: Source) -> dict[str, str]:
    found = dict(source.writer)
    for name in ("oodscreen", *source.made_with, *_MADE_WITH):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
