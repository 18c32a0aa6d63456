"""The proof on the written file, in a plain onnxruntime session with default options.

In: the files that will be the exported model, and a reference that answers as Keras does. Out: what
was measured, for the file's metadata; or `VerificationFailed`. Dropout dies silently in several
ways between Keras and a running session (see tests/assumptions), so no export ends without this.
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
_MEAN_STANDARD_ERRORS = 6.0
_MEAN_SLACK = 1e-3
_VARIANCE_FACTOR = 1.75
_SMALL_IMAGE = 64 * 64
_LARGE_IMAGE = 512 * 512
_SMALL_FOLDER = 32 * 2**20
_HALF_PRECISION_TOLERANCE = 0.1


class Reference(Protocol):
    """How the Keras model itself answers."""

    def deterministic(self, images: Images) -> Outputs:
        """`[B, C]` with no dropout at all."""

    def as_trained(self, images: Images) -> Outputs | None:
        """`[B, C]` with no dropout, in half precision where the model has it; else None."""

    def stochastic(self, images: Images) -> Outputs:
        """`[B, C]` with fresh dropout noise for every row, all else in inference mode."""


@dataclass(frozen=True)
class _Probe:
    """The images that both sides see: B images, each repeated so that a run makes many passes."""

    images: Images
    passes_per_run: int
    runs: int

    @property
    def passes(self) -> int:
        return self.passes_per_run * self.runs

    def passes_of(self, answer: Callable[[Images], Outputs]) -> NDArray[np.float64]:
        """`[T, B, C]` from a model that draws anew for every row."""
        repeated = np.tile(self.images, (self.passes_per_run, 1, 1, 1))
        blocks = [answer(repeated) for _ in range(self.runs)]
        shape = (self.passes_per_run, len(self.images), -1)
        return np.concatenate([block.reshape(shape) for block in blocks]).astype(np.float64)


def verify_model(model: Path, without_dropout: Path, contract: ModelContract, reference: Reference) -> dict[str, float]:
    """Prove that an exported model is stochastic, and says what the Keras model says.

    1. Two runs on the same images differ.
    2. Over many passes, mean and variance agree with Keras' own Monte Carlo passes.
    3. With every rate at zero the output is Keras' deterministic one, to 1e-4 of the largest value.
    4. Batches of 1 and 7 work, and a row's deterministic answer does not depend on its batch.
    5. Where the model computes in half precision, its own output is near the exported one.

    Args:
        model: the file.
        without_dropout: the same with every rate at zero (`export.graph.passes.with_rate_zero`).
        contract: what it promises.
        reference: the Keras side.

    Returns:
        What was measured, by name.

    Raises:
        VerificationFailed: one of the five does not hold.
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
    """The accuracy of an exported model on labelled rows, beside Keras' own.

    Raises:
        InputRefused: not one row has both an image and a label.
    """
    return measure_accuracy(
        batches,
        contract,
        keras=reference.deterministic,
        exported=_open_session(without_dropout),
        stochastic=_open_session(model),
    )


def check_still_stochastic(model: Path, contract: ModelContract) -> None:
    """A last look at the final file: a default session opens it, and two runs differ."""
    _check_runs_differ(_open_session(model), _make_probe(contract, model))


def _make_probe(contract: ModelContract, model: Path) -> _Probe:
    """A few images, half noise and half smooth: enough to see a wrong rate, scale or layout.

    Fewer and in smaller batches where they or the network are large, to bound time and memory.
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
    """A session as anyone would open it: default options, on the CPU."""
    from export.runtime import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Images) -> Outputs:
        outputs: list[Any] = session.run(None, {name: images})
        return np.asarray(outputs[0], np.float32)

    return run


def _check_runs_differ(run: Callable[[Images], Outputs], probe: _Probe) -> float:
    changed = float(np.mean(np.any(run(probe.images) != run(probe.images), axis=1)))
    if changed == 0:
        raise VerificationFailed(
            "Two runs of the exported model gave the same answers: its dropout is dead.",
            wanted="different answers from a default onnxruntime session",
            next_step="report this model: no dropout is better than one that only looks alive",
        )
    return changed


def _check_deterministic(run: Callable[[Images], Outputs], probe: _Probe, reference: Reference) -> float:
    wanted = reference.deterministic(probe.images)
    scale = max(1.0, float(np.abs(wanted).max()))
    difference = float(np.abs(run(probe.images) - wanted).max()) / scale
    if not difference <= _DETERMINISTIC_TOLERANCE:
        raise VerificationFailed(
            f"Without dropout the exported model differs from Keras by {difference:.2g}.",
            wanted=f"at most {_DETERMINISTIC_TOLERANCE:g} of the largest output",
            next_step="look for a layer that behaves differently in ONNX; export parts of the model to find it",
        )
    return difference


def _check_half_precision(run: Callable[[Images], Outputs], probe: _Probe, reference: Reference) -> dict[str, float]:
    """The export computes in float32; a model trained in less says nearly the same."""
    wanted = reference.as_trained(probe.images)
    if wanted is None:
        return {}
    scale = max(1.0, float(np.abs(wanted).max()))
    difference = float(np.abs(run(probe.images) - wanted).max()) / scale
    if not difference <= _HALF_PRECISION_TOLERANCE:
        raise VerificationFailed(
            f"In float32 the model differs by {difference:.2g} from what it says in its own precision.",
            wanted=f"at most {_HALF_PRECISION_TOLERANCE:g} of the largest output",
            next_step="evaluate the Keras model under the policy float32; if that is as good, save it so",
        )
    return {"half_precision_difference": difference}


def _check_batches(run: Callable[[Images], Outputs], contract: ModelContract) -> None:
    rng = np.random.default_rng(7)
    seven = rng.integers(0, 256, (7, *contract.image_shape), dtype=np.uint8)
    together = run(seven)
    alone = np.concatenate([run(seven[index : index + 1]) for index in range(7)])
    scale = max(1.0, float(np.abs(together).max()))
    difference = float(np.abs(together - alone).max()) / scale
    if together.shape != (7, contract.classes) or not difference <= _DETERMINISTIC_TOLERANCE:
        raise VerificationFailed(
            f"A row's answer changes by {difference:.2g} with the other rows of its batch.",
            wanted="rows that do not depend on each other",
            next_step="look for BatchNormalization called with training=True, or an operation across the batch axis",
        )


def _check_distribution(run: Callable[[Images], Outputs], probe: _Probe, reference: Reference) -> dict[str, float]:
    ours = probe.passes_of(run)
    keras = probe.passes_of(reference.stochastic)
    variances = ours.var(axis=0, ddof=1), keras.var(axis=0, ddof=1)
    standard_error = np.sqrt((variances[0] + variances[1]) / probe.passes)
    difference = np.abs(ours.mean(axis=0) - keras.mean(axis=0))
    slack = _MEAN_SLACK * max(1.0, float(np.abs(keras).max()))
    if np.any(difference > _MEAN_STANDARD_ERRORS * standard_error + slack):
        raise VerificationFailed(
            f"Over {probe.passes} passes the mean differs from Keras' by up to {difference.max():.2g}.",
            wanted=f"at most {_MEAN_STANDARD_ERRORS:g} standard errors",
            next_step="report this model: its dropout draws from another distribution than Keras'",
        )
    ratio = float(variances[0].mean() / variances[1].mean()) if variances[1].mean() > 0 else np.inf
    if not 1 / _VARIANCE_FACTOR <= ratio <= _VARIANCE_FACTOR:
        raise VerificationFailed(
            f"Over {probe.passes} passes the variance is {ratio:.2g} times Keras'.",
            wanted=f"between {1 / _VARIANCE_FACTOR:.2g} and {_VARIANCE_FACTOR:g}",
            next_step="report this model: its dropout draws from another distribution than Keras'",
        )
    errors = difference / np.maximum(standard_error, 1e-12)
    return {
        "mean_difference": float(difference.max()),
        "mean_standard_errors": float(errors[difference > slack].max(initial=0.0)),
        "variance_ratio": ratio,
    }
