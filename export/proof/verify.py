"""Verify an exported graph against the source model, in onnxruntime sessions with default options.

In: the finished graph and a `Reference` that computes passes of the source model. Out: the measured differences and
counts for the file's metadata, or `VerificationFailed`. Converters and onnxruntime remove or fold dropout without an
error in several ways (see tests/assumptions). Therefore no file is published without this verification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract.accuracy import Accuracy
from export.contract.labelled import LabelledBatch
from export.contract.metadata import ModelContract, Site
from export.errors import VerificationFailed
from export.graph.variants import (
    drawn_output,
    factor_input,
    only_sites,
    seeded_nodes,
    shift_input,
    site_values,
    value_before_activation,
    with_noise_as_inputs,
    with_outputs,
    with_rate,
)
from export.model_source import SourcePass
from export.proof.accuracy import measure_accuracy
from export.proof.changes import RATE, count_changing_sites
from export.proof.compare import ROUNDING_FACTOR, TOLERANCE, Found, OtherRoundings, compare, difference_by_row, scale_of
from export.proof.draws import (
    NEXT_STEP,
    PASSES,
    Count,
    check_counts,
    count_draws,
    count_kept_in_keras,
    drawn_shape,
    rows_for,
)
from export.proof.probe import make_probe

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]
Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[np.float32]]]
"""Function that runs a session once, from inputs by name to outputs by name."""

_HALF_PRECISION_TOLERANCE = 0.1
"""Maximum difference between values in half precision and in float32, relative to the scale of the values."""

_KERAS_PASSES = 4
"""Number of passes with noise that are compared with the source model; 2 for large models."""

_SMALL_FILE = 32 * 2**20
"""Maximum size of the weights of a small model, in bytes."""


class Reference(Protocol):
    """Passes of the source model on raw pixels `uint8 [B, H, W, C]`; see `export.model_source.Reference`."""

    def deterministic(self, images: Images) -> Outputs:
        """Outputs `[B, C]` without dropout."""

    def as_trained(self, images: Images) -> SourcePass | None:
        """A pass without dropout in the precision of the model; None if that precision is float32."""

    def without_noise(self, images: Images) -> SourcePass:
        """A pass without dropout."""

    def draw(self, images: Images, seed: int) -> SourcePass:
        """A pass with new noise for every row."""

    def other_roundings(self, images: Images, seed: int | None) -> Sequence[SourcePass]:
        """Repetitions of `draw`, or of `without_noise` if `seed` is None, with other rounding errors."""


@dataclass(frozen=True)
class Subject:
    """A finished graph to verify.

    Attributes:
        model: the graph.
        contract: its contract.
        layouts: by name of the site, the permutation from the source's axis order to the graph's, with the batch axis.
        write: function that writes a variant of the graph under a file name, in the folder of its external weights.
    """

    model: onnx.ModelProto
    contract: ModelContract
    layouts: Mapping[str, tuple[int, ...]]
    write: Callable[[onnx.ModelProto, str], Path]

    def open(self, model: onnx.ModelProto, name: str) -> Run:
        """A function that runs a variant of the graph in a new session."""
        return open_session(self.write(model, name))


@dataclass(frozen=True)
class Verification:
    """Measurements of the verification of a graph.

    Attributes:
        differences: largest relative differences from the source model, by name of the measurement.
        counts: counts of the draws of each site.
        changing_sites: number of sites whose noise changed between runs of the whole graph; see
            `count_changing_sites`.
    """

    differences: Mapping[str, float]
    counts: tuple[Count, ...]
    changing_sites: int

    def numbers(self) -> dict[str, float]:
        """The measurements by name, for the contract."""
        return {
            **self.differences,
            "counts": float(len(self.counts)),
            "trials": float(sum(count.trials for count in self.counts)),
            "smallest_p_value": min(count.p_value for count in self.counts),
            "changing_sites": float(self.changing_sites),
        }


def verify_model(subject: Subject, reference: Reference, *, seed: int = 0) -> Verification:
    """Verify that a graph is stochastic and that it computes what the source model computes.

    There are six conditions:

    1. With every rate at 0, the outputs of 7 rows are the same in one batch of 7 as in 7 batches of 1. This condition
       comes first, because an ONNX file that mixes rows also fails condition 2.
    2. With every rate at 0, the values before the last activation and the outputs equal those of the source model.
    3. If the source model computes in half precision, its outputs are close to the float32 outputs of the graph.
    4. With the noise of a pass of the source model in place of each site's function, the values before the last
       activation and the outputs equal those of this pass.
    5. Each site drops the share of elements that equals its rate, and its masks are independent between rows, passes
       and sites, and along each axis with independent values (`export.proof.draws`).
    6. In the whole graph, the noise of each site changes between runs, and no operation has a fixed seed.

    Args:
        subject: the graph.
        reference: passes of the source model.
        seed: seed of the test images, of the source model's noise and of the pairs that are compared.

    Raises:
        VerificationFailed: one of the conditions does not hold.
    """
    size = sum(len(tensor.raw_data) for tensor in subject.model.graph.initializer)
    small = size <= _SMALL_FILE and not any(tensor.external_data for tensor in subject.model.graph.initializer)
    images = make_probe(subject.contract.image_shape, small=small, seed=seed)
    without_dropout = _Compared(subject, with_rate(subject.model, 0.0), "without-dropout.onnx")
    _check_batches(without_dropout, subject.contract, reference, seed)
    keras = reference.without_noise(images)
    without_noise = without_dropout.compare(
        images, keras, lambda: reference.other_roundings(images, None), "Without dropout"
    )
    differences = {"deterministic_difference": without_noise}
    differences.update(_check_half_precision(without_dropout, images, reference))
    seeds = [seed * 1000 + index for index in range(_KERAS_PASSES if small else 2)]
    differences["masked_difference"], noise = _check_equal_noise(subject, images, reference, seeds)
    _check_unseeded(subject.model)
    counts = _count(subject, noise, seed)
    check_counts(counts)
    return Verification(differences, counts, _check_sites_change(subject, images))


def check_accuracy(subject: Subject, reference: Reference, batches: Iterable[LabelledBatch]) -> Accuracy:
    """The accuracy of an exported model and of its source model on the same labelled rows.

    Raises:
        InputRefused: no row has both an image and a usable label.
    """
    exported = _Compared(subject, with_rate(subject.model, 0.0), "without-dropout.onnx")
    stochastic = _Compared(subject, subject.model, "stochastic.onnx")
    return measure_accuracy(
        batches,
        subject.contract,
        keras=reference.deterministic,
        exported=exported.outputs,
        stochastic=stochastic.outputs,
    )


def check_loads(model: Path, contract: ModelContract) -> None:
    """Check that a session loads and runs the final file.

    Raises:
        VerificationFailed: the outputs do not have the shape in the contract.
    """
    images = np.zeros((2, *contract.image_shape), np.uint8)
    found = open_session(model)({contract.input_name: images})[contract.output_name].shape
    if found != (2, contract.classes):
        raise VerificationFailed(
            f"The final file has outputs of shape {list(found)} for 2 images.",
            wanted=f"shape {[2, contract.classes]}",
            next_step=NEXT_STEP,
        )


def open_session(model: Path) -> Run:
    """A function that runs a model in a new session with default options, on the CPU."""
    from export.runtime import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        values: list[Any] = session.run(None, dict(feeds))
        return {name: np.asarray(value, np.float32) for name, value in zip(names, values, strict=True)}

    return run


class _Compared:
    """A session whose outputs, and values before the last activation, are compared with passes of the source model.

    Args:
        subject: the graph.
        variant: the variant of the graph to run.
        name: file name for the variant.
    """

    def __init__(self, subject: Subject, variant: onnx.ModelProto, name: str) -> None:
        self._contract = subject.contract
        self._before = value_before_activation(variant)
        self._run = subject.open(with_outputs(variant, [self._before] if self._before else []), name)

    def outputs(self, images: Images) -> Outputs:
        """Outputs `[B, C]`."""
        return self.run(images).outputs

    def run(self, images: Images, feeds: Mapping[str, NDArray[Any]] | None = None) -> Found:
        """The outputs and the values before the last activation; `feeds` contains further inputs of the variant."""
        found = self._run({self._contract.input_name: images, **(feeds or {})})
        return Found(found[self._contract.output_name], found[self._before] if self._before else None)

    def compare(
        self,
        images: Images,
        keras: SourcePass,
        other_roundings: OtherRoundings,
        how: str,
        feeds: Mapping[str, NDArray[Any]] | None = None,
    ) -> float:
        """The largest relative difference from a pass of the source model; see `export.proof.compare.compare`."""
        return compare(self.run(images, feeds), keras, other_roundings, how)


def _check_half_precision(without_dropout: _Compared, images: Images, reference: Reference) -> dict[str, float]:
    """Relative difference between the exported and a half-precision source model, by name; empty for float32.

    The values before the last activation are compared, if they are known, because a saturated softmax turns small
    differences into a difference of 1. Rows with infinite or NaN values in half precision are left out if
    there are other rows.
    """
    trained = reference.as_trained(images)
    if trained is None:
        return {}
    found = without_dropout.run(images)
    what, ours, wanted, floor = "an output", found.outputs, trained.outputs, 1.0
    if found.before_activation is not None and trained.before_activation is not None:
        what, floor = "a value before the last activation", 0.0
        ours, wanted = found.before_activation, trained.before_activation
    finite = np.isfinite(wanted.reshape(len(wanted), -1)).all(axis=1)
    differences = difference_by_row(ours, wanted, scale_of(wanted[finite], floor))
    difference = float((differences[finite] if finite.any() else differences).max())
    if not difference <= _HALF_PRECISION_TOLERANCE:
        raise VerificationFailed(
            f"In float32, {what} differs by {difference:.2g} from the same value in the precision of the source model, "
            "relative to the largest value.",
            wanted=f"a relative difference of at most {_HALF_PRECISION_TOLERANCE:g}",
            next_step="measure the accuracy of the Keras model under the dtype policy float32; if it is as high as "
            "before, save the model under this policy and export the saved file",
        )
    return {"half_precision_difference": difference}


def _check_batches(without_dropout: _Compared, contract: ModelContract, reference: Reference, seed: int) -> None:
    """Check the shape of the outputs, and that the outputs of a row do not depend on the other rows of its batch."""
    rng = np.random.default_rng(seed + 7)
    seven = rng.integers(0, 256, (7, *contract.image_shape), dtype=np.uint8)
    together = without_dropout.outputs(seven)
    alone = np.concatenate([without_dropout.outputs(seven[index : index + 1]) for index in range(7)])
    finite = np.isfinite(alone).all(axis=1)
    difference = difference_by_row(together, alone, scale_of(alone[finite], 1.0))
    limit = np.full(len(alone), TOLERANCE)
    if together.shape == (7, contract.classes) and np.any(difference[finite] > limit[finite]):
        limit = np.maximum(limit, ROUNDING_FACTOR * _rounding_of_rows(reference, seven))
    largest = float(difference[finite].max(initial=0.0))
    if together.shape != (7, contract.classes) or np.any(difference[finite] > limit[finite]):
        raise VerificationFailed(
            f"7 rows have outputs of shape {list(together.shape)}, and an output changes by {largest:.2g}, "
            "relative to the largest output, with the other rows of its batch.",
            wanted=f"shape {[7, contract.classes]}, and a relative change of at most {TOLERANCE:g}, or "
            f"{ROUNDING_FACTOR:g} times the rounding error of the source model",
            next_step="remove operations across the batch axis, such as BatchNormalization called with training=True",
        )


def _rounding_of_rows(reference: Reference, images: Images) -> NDArray[np.float64]:
    """Rounding error of the source model's outputs for each single image, relative to the largest output, `[B]`."""
    rounding = []
    for image in images:
        one = reference.without_noise(image[None])
        others = reference.other_roundings(image[None], None)
        scale = scale_of(one.outputs, 1.0)
        rounding.append(max(float(difference_by_row(other.outputs, one.outputs, scale)[0]) for other in others))
    return np.array(rounding)


def _check_equal_noise(
    subject: Subject, images: Images, reference: Reference, seeds: Sequence[int]
) -> tuple[float, dict[str, NDArray[np.float32]]]:
    """The largest relative difference from the source model with the same noise, and parts of this noise.

    Returns:
        The difference, and for each site its outputs in the source model for inputs of ones,
        `[passes, rows, *drawn_shape(site)]`, in the graph's axis order.
    """
    sites = subject.contract.sites
    compared = _Compared(subject, with_noise_as_inputs(subject.model, sites), "noise-as-inputs.onnx")
    largest = 0.0
    parts: dict[str, list[NDArray[np.float32]]] = {site.name: [] for site in sites}
    for seed in seeds:
        keras = reference.draw(images, seed)
        feeds = {}
        for site in sites:
            factor, shift = _in_graph_order(keras, site, subject.layouts)
            feeds[factor_input(site.name)], feeds[shift_input(site.name)] = factor, shift
            part = (slice(None), *(slice(size) for size in drawn_shape(site)))
            parts[site.name].append(factor[part] + shift[part])
        other_roundings = partial(reference.other_roundings, images, seed)
        largest = max(largest, compared.compare(images, keras, other_roundings, "With equal masks", feeds))
    return largest, {name: np.stack(values) for name, values in parts.items()}


def _in_graph_order(
    keras: SourcePass, site: Site, layouts: Mapping[str, tuple[int, ...]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factor and shift of a site, `[B, *site.shape]`, in the graph's axis order.

    Raises:
        VerificationFailed: the source model does not call the site, or calls it with inputs of another shape.
    """
    noise = keras.noise.get(site.name)
    if noise is None:
        raise VerificationFailed(
            f"The source model does not call the dropout layer {site.name}.",
            wanted="a call of each dropout layer that is a site of the exported file",
            next_step=NEXT_STEP,
        )
    factor, shift = noise.factor, noise.shift
    layout = layouts[site.name]
    if factor.ndim == len(layout):
        factor, shift = np.ascontiguousarray(factor.transpose(layout)), np.ascontiguousarray(shift.transpose(layout))
    if factor.shape[1:] != site.shape:
        raise VerificationFailed(
            f"In the source model, the dropout layer {site.name} has an input of shape {list(factor.shape[1:])}.",
            wanted=f"shape {list(site.shape)}, as in the exported file",
            next_step=NEXT_STEP,
        )
    return factor, shift


def _check_unseeded(model: onnx.ModelProto) -> None:
    """Check that no operation has a fixed seed, with which all processes would draw the same masks."""
    seeded = seeded_nodes(model)
    if seeded:
        raise VerificationFailed(
            f"The random operations {', '.join(seeded)} of the exported file have a fixed seed.",
            wanted="random operations without a seed, so that every session draws different masks",
            next_step=NEXT_STEP,
        )


def _count(subject: Subject, keras_noise: Mapping[str, NDArray[np.float32]], seed: int) -> tuple[Count, ...]:
    """The counts of the draws of the exported file and of the source model."""
    sites = subject.contract.sites
    run = subject.open(only_sites(subject.model, sites), "sites.onnx")
    ones = {site.name: np.ones((rows_for(site), *drawn_shape(site)), np.float32) for site in sites}
    drawn = [np.empty((PASSES, *ones[site.name].shape), np.float32) for site in sites]
    for index in range(PASSES):
        outputs = run(ones)
        for site, values in zip(sites, drawn, strict=True):
            values[index] = outputs[drawn_output(site.name)]
    counts = list(count_draws(sites, drawn, np.random.default_rng(seed)))
    for site in sites:
        counts += count_kept_in_keras(site, keras_noise[site.name])
    return tuple(counts)


def _check_sites_change(subject: Subject, images: Images) -> int:
    """Number of sites whose noise changes between runs of the whole graph; see `count_changing_sites`."""
    values = site_values(subject.model)
    names = [name for pair in values.values() for name in pair]
    run = subject.open(with_outputs(with_rate(subject.model, RATE), names), "rate-of-a-half.onnx")
    return count_changing_sites(lambda: run({subject.contract.input_name: images}), subject.contract.sites, values)
