"""Run a finished graph with several rates at its inserted sites, to choose among the rates.

In: a finished graph and images. Out: mean probabilities over passes, for each rate. The noise is drawn here, with a
fixed seed, and the part of the graph before the noise is computed once for all rates and passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ALPHA_KINDS, ALPHA_PRIME, GAUSSIAN_KINDS, INSERTED, Site
from export.contract.probabilities import to_probabilities
from export.graph.halves import divide, part_after
from export.graph.variants import factor_input, shift_input, with_noise_as_inputs
from export.proof.verify import Subject

_SEED = 0

Probabilities = NDArray[np.float64]


class RatePasses:
    """Mean probabilities over the passes of a graph, for several rates of its inserted sites.

    Args:
        subject: the finished graph.
        passes: number of passes for each rate.
    """

    def __init__(self, subject: Subject, passes: int) -> None:
        self._passes = passes
        self._subject = subject
        self._contract = subject.contract
        self._sites = subject.contract.sites
        self._noise = [name(site.name) for site in self._sites for name in (factor_input, shift_input)]
        self._model = with_noise_as_inputs(subject.model, self._sites)
        before, self._boundary = divide(self._model, self._noise)
        self._run_before = _open(subject, before, "before-noise.onnx", self._boundary)
        self._run_after: Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]] | None = None

    def means(self, images: NDArray[np.uint8], rates: Sequence[float], batch: int) -> dict[float, Probabilities]:
        """Mean probabilities `[B, C]` for each rate of the inserted sites.

        Args:
            images: `uint8 [B, H, W, C]`.
            rates: rates of the inserted sites.
            batch: index of the batch, which is part of the seed of the noise.
        """
        values = self._run_before({self._contract.input_name: images})
        boundary = dict(zip(self._boundary, values, strict=True))
        if self._run_after is None:
            after = part_after(self._model, self._noise, boundary)
            self._run_after = _open(self._subject, after, "after-noise.onnx", [self._contract.output_name])
        sums = {rate: np.zeros((len(images), self._contract.classes)) for rate in rates}
        for index in range(self._passes):
            for rate, total in sums.items():
                feeds = boundary | self._draw(len(images), rate, (batch, index))
                total += to_probabilities(self._run_after(feeds)[0], self._contract)
        return {rate: total / self._passes for rate, total in sums.items()}

    def _draw(self, rows: int, inserted: float, key: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
        """The noise of all sites for one pass, with the given rate at the inserted sites."""
        noise = {}
        for number, site in enumerate(self._sites):
            rate = inserted if site.origin == INSERTED else site.rate
            rng = np.random.default_rng([_SEED, *key, number])
            factor, shift = draw_noise(site, rate, rows, rng)
            shape = (rows, *site.shape)
            noise[factor_input(site.name)] = np.ascontiguousarray(np.broadcast_to(factor, shape), np.float32)
            noise[shift_input(site.name)] = np.ascontiguousarray(np.broadcast_to(shift, shape), np.float32)
        return noise


def draw_noise(
    site: Site, rate: float, rows: int, rng: np.random.Generator
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Factor and shift of a site in one pass, broadcastable to `[rows, *site.shape]`; see `export.graph.functions`."""
    shape = (rows, *site.noise_shape)
    if site.kind in GAUSSIAN_KINDS:
        return 1 + math.sqrt(rate / (1 - rate)) * rng.standard_normal(shape), np.zeros(1)
    keep = rng.random(shape) >= rate
    if site.kind in ALPHA_KINDS:
        gain = ((1 - rate) * (1 + rate * ALPHA_PRIME**2)) ** -0.5
        return gain * keep, gain * ALPHA_PRIME * (~keep - rate)
    return keep / (1 - rate), np.zeros(1)


def _open(
    subject: Subject, model: Any, name: str, outputs: Sequence[str]
) -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    """A function that runs a part of the graph in a session, from inputs by name to the outputs in their own types."""
    from export.runtime import onnxruntime

    session = onnxruntime.InferenceSession(str(subject.write(model, name)), providers=["CPUExecutionProvider"])

    def run(feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        values: list[NDArray[Any]] = session.run(list(outputs), dict(feeds))
        return values

    return run
