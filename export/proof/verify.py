"""Verify the written file against the Keras model, in an onnxruntime session with default options.

In: the staged ONNX files, and a `Reference` that computes the outputs of the Keras model. Out: the measured differences
for the file's metadata, or `VerificationFailed`. Converters and onnxruntime remove or fold dropout without an error in
several ways (see tests/assumptions). Therefore no file is published without this verification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.labelled import LabelledBatch
from export.contract.metadata import Accuracy, ModelContract
from export.errors import VerificationFailed
from export.proof.accuracy import measure_accuracy

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

_DETERMINISTIC_TOLERANCE = 1e-4
"""Maximum difference of deterministic outputs, relative to the largest absolute output or to 1 if that is larger."""

_MEAN_STANDARD_ERRORS = 6.0
"""Maximum difference of the Monte Carlo means, in standard errors of the difference."""

_MEAN_SLACK = 1e-3
"""Additional difference of the means that is allowed, relative as in `_DETERMINISTIC_TOLERANCE`."""

_VARIANCE_FACTOR = 1.75
"""Maximum ratio of the mean variances, in either direction."""

_SMALL_IMAGE = 64 * 64
"""Maximum pixels of an image for the full number of test images."""

_LARGE_IMAGE = 512 * 512
"""Pixels of an image above which the number of test images is smallest."""

_SMALL_FOLDER = 32 * 2**20
"""Maximum bytes of the staged files for the full number of test images."""

_HALF_PRECISION_TOLERANCE = 0.1
"""Maximum difference between half precision and float32, relative as in `_DETERMINISTIC_TOLERANCE`."""

_REPORT = "report the model to the developers of oodscreen: its exported dropout has another distribution than in Keras"


class Reference(Protocol):
    """Outputs of the Keras model for raw pixels `uint8 [B, H, W, C]`."""

    def deterministic(self, images: Images) -> Outputs:
        """Outputs `[B, C]` without dropout."""

    def as_trained(self, images: Images) -> Outputs | None:
        """Outputs `[B, C]` without dropout, in the precision of the model; None if that precision is float32."""

    def stochastic(self, images: Images) -> Outputs:
        """Outputs `[B, C]` with new dropout noise for every row; all other layers are in inference mode."""


@dataclass(frozen=True)
class _Probe:
    """Test images for the exported file and for the Keras model.

    Attributes:
        images: `uint8 [B, H, W, C]`.
        passes_per_run: number of copies of each image in one batch; each copy is one stochastic pass.
        runs: number of batches.
    """

    images: Images
    passes_per_run: int
    runs: int

    @property
    def passes(self) -> int:
        """Number of stochastic passes for each image, T."""
        return self.passes_per_run * self.runs

    def passes_of(self, answer: Callable[[Images], Outputs]) -> NDArray[np.float64]:
        """Outputs `[T, B, C]` of a model that draws new noise for every row."""
        repeated = np.tile(self.images, (self.passes_per_run, 1, 1, 1))
        blocks = [answer(repeated) for _ in range(self.runs)]
        shape = (self.passes_per_run, len(self.images), -1)
        return np.concatenate([block.reshape(shape) for block in blocks]).astype(np.float64)


def verify_model(model: Path, without_dropout: Path, contract: ModelContract, reference: Reference) -> dict[str, float]:
    """Verify that an exported model is stochastic and that its outputs agree with the Keras model.

    There are five conditions, with constants of this module as tolerances:

    1. The outputs of two session runs on the same images differ.
    2. Over many passes, the mean and the variance of the outputs agree with Monte Carlo passes in Keras.
    3. With every rate at 0, the outputs equal the outputs of the Keras model without dropout.
    4. With every rate at 0, the outputs of 7 rows are the same in one batch of 7 as in 7 batches of 1.
    5. If the Keras model computes in half precision, its outputs are close to the float32 outputs of the exported
    model.

    Args:
        model: path of the ONNX file.
        without_dropout: path of a copy with every rate at 0 (`export.graph.passes.with_rate_zero`).
        contract: contract of the model, with the image shape and the number of outputs.
        reference: outputs of the Keras model.

    Returns:
        The measured differences, ratios and numbers by name.

    Raises:
        VerificationFailed: one of the five conditions does not hold.
    """
    probe = _make_probe(contract, model)
    stochastic = _open_session(model)
    deterministic = _open_session(without_dropout)
    measured = {"passes": float(probe.passes)}
    measured["changed_outputs"] = _check_runs_differ(stochastic, probe)
    measured["deterministic_difference"] = _check_deterministic(deterministic, probe, reference)
    measured.update(_check_half_precision(deterministic, probe, reference))
    _check_batches(deterministic, contract)
    measured.update(_check_distribution(stochastic, probe, reference))
    return measured


def check_accuracy(
    model: Path, without_dropout: Path, contract: ModelContract, reference: Reference, batches: Iterable[LabelledBatch]
) -> Accuracy:
    """The accuracy of an exported model and of its Keras model on the same labelled rows.

    Raises:
        InputRefused: no row has both an image and a usable label.
    """
    return measure_accuracy(
        batches,
        contract,
        keras=reference.deterministic,
        exported=_open_session(without_dropout),
        stochastic=_open_session(model),
    )


def check_still_stochastic(model: Path, contract: ModelContract) -> None:
    """Check the final file: a session with default options loads it, and the outputs of two session runs differ.

    Raises:
        VerificationFailed: the outputs of two session runs are equal.
    """
    _check_runs_differ(_open_session(model), _make_probe(contract, model))


def _make_probe(contract: ModelContract, model: Path) -> _Probe:
    """Test images that reveal a wrong rate, scale or axis order: one half is noise, the other half is smooth.

    Large images and large networks get fewer images and smaller batches, to bound time and memory.
    """
    rng = np.random.default_rng(20)
    height, width, channels = contract.image_shape
    size = sum(file.stat().st_size for file in model.parent.iterdir())
    small = height * width <= _SMALL_IMAGE and size <= _SMALL_FOLDER
    half, passes_per_run, runs = (4, 25, 8) if small else (2, 8, 8)
    if height * width > _LARGE_IMAGE:
        half, passes_per_run, runs = 1, 1, 64
    noise = rng.integers(0, 256, (half, height, width, channels), dtype=np.uint8)
    coarse = rng.integers(0, 256, (half, 4, 4, channels), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    smooth = coarse[:, rows][:, :, columns]
    return _Probe(np.concatenate([noise, smooth]), passes_per_run=passes_per_run, runs=runs)


def _open_session(model: Path) -> Callable[[Images], Outputs]:
    """Function that runs a model in a new session with default options, on the CPU."""
    from export.runtime import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Images) -> Outputs:
        outputs: list[Any] = session.run(None, {name: images})
        return np.asarray(outputs[0], np.float32)

    return run


def _check_runs_differ(run: Callable[[Images], Outputs], probe: _Probe) -> float:
    """Fraction of the test images whose outputs differ between two session runs; must be above 0."""
    changed = float(np.mean(np.any(run(probe.images) != run(probe.images), axis=1)))
    if changed == 0:
        raise VerificationFailed(
            "The outputs of two session runs of the exported model are equal: its dropout is inactive.",
            wanted="different outputs in each run of an onnxruntime session with default options",
            next_step="report the model and the version of onnxruntime to the developers of oodscreen",
        )
    return changed


def _check_deterministic(run: Callable[[Images], Outputs], probe: _Probe, reference: Reference) -> float:
    """Maximum relative difference from the Keras model without dropout; must be within the tolerance."""
    wanted = reference.deterministic(probe.images)
    scale = max(1.0, float(np.abs(wanted).max()))
    difference = float(np.abs(run(probe.images) - wanted).max()) / scale
    if not difference <= _DETERMINISTIC_TOLERANCE:
        raise VerificationFailed(
            f"Without dropout, an output differs from Keras by {difference:.2g}, relative to the largest output.",
            wanted=f"a relative difference of at most {_DETERMINISTIC_TOLERANCE:g}",
            next_step="export only the first layers of the model, then more of them, to find the layer whose output "
            "differs; replace this layer",
        )
    return difference


def _check_half_precision(run: Callable[[Images], Outputs], probe: _Probe, reference: Reference) -> dict[str, float]:
    """Relative difference between the exported model and a half-precision Keras model, by name; empty for float32."""
    wanted = reference.as_trained(probe.images)
    if wanted is None:
        return {}
    scale = max(1.0, float(np.abs(wanted).max()))
    difference = float(np.abs(run(probe.images) - wanted).max()) / scale
    if not difference <= _HALF_PRECISION_TOLERANCE:
        raise VerificationFailed(
            f"In float32, an output differs by {difference:.2g} from the output in the precision of the Keras model, "
            "relative to the largest output.",
            wanted=f"a relative difference of at most {_HALF_PRECISION_TOLERANCE:g}",
            next_step="measure the accuracy of the Keras model under the dtype policy float32; if it is as high as "
            "before, save the model under this policy and export the saved file",
        )
    return {"half_precision_difference": difference}


def _check_batches(run: Callable[[Images], Outputs], contract: ModelContract) -> None:
    """Check the shape of the outputs, and that the outputs of a row do not depend on the other rows of its batch."""
    rng = np.random.default_rng(7)
    seven = rng.integers(0, 256, (7, *contract.image_shape), dtype=np.uint8)
    together = run(seven)
    alone = np.concatenate([run(seven[index : index + 1]) for index in range(7)])
    scale = max(1.0, float(np.abs(together).max()))
    difference = float(np.abs(together - alone).max()) / scale
    if together.shape != (7, contract.classes) or not difference <= _DETERMINISTIC_TOLERANCE:
        raise VerificationFailed(
            f"7 rows have outputs of shape {list(together.shape)}, and an output changes by {difference:.2g} with "
            "the other rows of its batch, relative to the largest output.",
            wanted=f"shape {[7, contract.classes]}, and a relative change of at most {_DETERMINISTIC_TOLERANCE:g}",
            next_step="remove operations across the batch axis, such as BatchNormalization called with training=True",
        )


def _check_distribution(run: Callable[[Images], Outputs], probe: _Probe, reference: Reference) -> dict[str, float]:
    """Differences of mean and variance between Monte Carlo passes of the exported model and of Keras, by name."""
    ours = probe.passes_of(run)
    keras = probe.passes_of(reference.stochastic)
    variances = ours.var(axis=0, ddof=1), keras.var(axis=0, ddof=1)
    standard_error = np.sqrt((variances[0] + variances[1]) / probe.passes)
    difference = np.abs(ours.mean(axis=0) - keras.mean(axis=0))
    slack = _MEAN_SLACK * max(1.0, float(np.abs(keras).max()))
    if np.any(difference > _MEAN_STANDARD_ERRORS * standard_error + slack):
        raise VerificationFailed(
            f"Over {probe.passes} passes, the mean output differs from Keras by up to {difference.max():.2g}.",
            wanted=f"at most {_MEAN_STANDARD_ERRORS:g} standard errors plus {slack:.2g} for each output",
            next_step=_REPORT,
        )
    ratio = float(variances[0].mean() / variances[1].mean()) if variances[1].mean() > 0 else np.inf
    if not 1 / _VARIANCE_FACTOR <= ratio <= _VARIANCE_FACTOR:
        raise VerificationFailed(
            f"Over {probe.passes} passes, the mean variance of the outputs is {ratio:.2g} times the variance in Keras.",
            wanted=f"a ratio from {1 / _VARIANCE_FACTOR:.2g} to {_VARIANCE_FACTOR:g}",
            next_step=_REPORT,
        )
    errors = difference / np.maximum(standard_error, 1e-12)
    return {
        "mean_difference": float(difference.max()),
        "mean_standard_errors": float(errors[difference > slack].max(initial=0.0)),
        "variance_ratio": ratio,
    }
