"""Check that the noise of each site changes between runs of the whole graph.

In: the inputs and outputs of the sites in several runs. Out: the number of sites whose noise changed, or
`VerificationFailed`. The inputs of a site may change too, because of sites before it; therefore the noise itself is
computed from the inputs and outputs of a site, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ALPHA_KINDS, GAUSSIAN_KINDS, Site
from export.errors import VerificationFailed
from export.proof.draws import NEXT_STEP, possible_values

Values = NDArray[np.float32]

RATE = 0.5
"""Rate of every site in the runs that are compared."""

_SURE = 40
"""Number of elements, each dropped with probability 0.5, that must not all be equal in two runs: with independent
noise, the probability that all are equal is `2 ** -40`."""

_MOST_RUNS = 64
"""Maximum number of runs that are compared with the first run."""

_SAME_FACTOR = 1e-3
"""Maximum relative difference at which the factors of two runs count as equal."""

_SAME_VALUE = 1e-5
"""Maximum distance from the value of a dropped element at which an output of alpha dropout counts as dropped."""


def count_changing_sites(
    run: Callable[[], Mapping[str, Values]], sites: Sequence[Site], values: Mapping[str, tuple[str, str]]
) -> int:
    """Number of sites whose noise changes between runs.

    A site whose noise is unknown, for example because all its inputs are 0, is not counted.

    Args:
        run: function that runs the whole graph with rate `RATE` at every site and returns values by name.
        sites: the sites.
        values: names of the input and of the output of each site, by name of the site.

    Raises:
        VerificationFailed: the noise of a site does not change although its inputs are not 0.
    """
    waiting = {site.name: 0 for site in sites}
    first = run()
    for _ in range(_MOST_RUNS):
        again = run()
        for site in sites:
            if site.name not in waiting:
                continue
            before, after = values[site.name]
            known, changed = _compare_noise(site, first[before], first[after], again[before], again[after])
            if changed:
                del waiting[site.name]
            else:
                waiting[site.name] += _independent_elements(site, known)
        stuck = [name for name, elements in waiting.items() if elements >= _SURE]
        if stuck:
            raise VerificationFailed(
                f"The noise of the dropout layers {', '.join(stuck)} is equal in all session runs.",
                wanted="different noise in each run of an onnxruntime session with default options",
                next_step=NEXT_STEP,
            )
        if not waiting:
            break
    return len(sites) - len(waiting)


def _compare_noise(
    site: Site, before: Values, after: Values, before_again: Values, after_again: Values
) -> tuple[NDArray[np.bool_], bool]:
    """Which elements have known noise in both runs, and whether the noise of at least one of these elements changed."""
    if site.kind in ALPHA_KINDS:
        dropped, _ = possible_values(replace(site, rate=RATE))
        changed = (np.abs(after - dropped) <= _SAME_VALUE) != (np.abs(after_again - dropped) <= _SAME_VALUE)
        known = np.isfinite(after) & np.isfinite(after_again)
        return known, bool(np.any(changed & known))
    known = _is_active(before) & _is_active(before_again)
    if site.kind not in GAUSSIAN_KINDS:
        return known, bool(np.any(known & ((after != 0) != (after_again != 0))))
    with np.errstate(all="ignore"):
        factor, factor_again = after / before, after_again / before_again
        changed = np.abs(factor - factor_again) > _SAME_FACTOR * (1 + np.abs(factor))
    return known, bool(np.any(known & changed))


def _is_active(values: Values) -> NDArray[Any]:
    """Which values are finite and far enough from 0 that their product with a factor is not 0."""
    return np.isfinite(values) & (np.abs(values) > 1e-30)


def _independent_elements(site: Site, known: NDArray[np.bool_]) -> int:
    """Number of elements of a site's mask that act on at least one known element."""
    shared = [axis for axis, draw in enumerate(site.noise_shape, start=1) if draw != site.shape[axis - 1]]
    return int(np.count_nonzero(np.any(known, axis=tuple(shared))))
