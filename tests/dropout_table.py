"""Tables of docs/detection.md with the effect of dropout.

In: the results of `benchmarks/dropout.py`. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Result = Mapping[str, Any]

NETWORKS = ("trained with dropout", "trained without dropout")
_SIGNS = {"better": " +", "worse": " -", "no difference": ""}


def dropout_tables(result: Result) -> str:
    """Detection and probabilities of every way to use each network, and detection by uncertainty alone."""
    parts = []
    for name, task in result["tasks"].items():
        parts += [f"### {name}", _detection_table(result, task), _uncertainty_table(task), _legend(result, name)]
    return "\n\n".join(parts)


def _detection_table(result: Result, task: Result) -> str:
    kinds = list(task["kinds"])
    rows = [f"| network | way | accuracy | NLL | ECE | {' | '.join(kinds)} |", "|---" * (5 + len(kinds)) + "|"]
    for network in NETWORKS:
        for name, way in task[network].items():
            if name == "chosen":
                continue
            cells = [_cell(way, "accuracy", 100, ".1f"), _cell(way, "nll", 1, ".3f"), _cell(way, "ece", 100, ".1f")]
            cells += [_flags(way, "ood_score", kind) for kind in kinds]
            rows.append(f"| {network.split()[1]} | {_describe(name, way)} | {' | '.join(cells)} |")
            if name == "no dropout":
                cells = [_flags(way, "distances", kind, signs=False) for kind in kinds]
                rows.append(f"| {network.split()[1]} | distances alone, no passes | | | | {' | '.join(cells)} |")
    return "\n".join(rows)


def _uncertainty_table(task: Result) -> str:
    kinds = list(task["kinds"])
    rows = [f"| network | way | {' | '.join(kinds)} |", "|---" * (2 + len(kinds)) + "|"]
    for network in NETWORKS:
        for name, way in task[network].items():
            if name == "chosen":
                continue
            cells = []
            for kind in kinds:
                entropy = _cell(way, f"entropy {kind} auroc", 100, ".1f")
                several = way["passes"] > 1
                information = np.mean(way["measured"][f"mutual_information {kind} auroc"])
                cells.append(f"{entropy} / {100 * information:.1f}" if several else entropy)
            rows.append(f"| {network.split()[1]} | {_describe(name, way)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _describe(name: str, way: Result) -> str:
    """A way in words: `no dropout`, `injected: classifier 0.1, T = 20`."""
    words = {"no dropout": "no dropout, T = 1", "one mask": "one mask, T = 1", "passes": f"T = {way['passes']}"}
    return words.get(name, f"injected: {name}, T = {way['passes']}")


def _cell(way: Result, measure: str, factor: float, form: str) -> str:
    """Mean over the seeds of a measure, with the sign of the verdict."""
    value = factor * float(np.mean(way["measured"][measure]))
    return f"{value:{form}}{_SIGNS[way['verdicts'][measure]]}"


def _flags(way: Result, score: str, kind: str, *, signs: bool = True) -> str:
    measures = [f"{score} {kind} {one}" for one in ("auroc", "flagged")]
    if signs:
        return f"{_cell(way, measures[0], 100, '.1f')} / {_cell(way, measures[1], 100, '.0f')}"
    auroc, flagged = (100 * float(np.mean(way["measured"][one])) for one in measures)
    return f"{auroc:.1f} / {flagged:.0f}"


def _legend(result: Result, name: str) -> str:
    task, least, rows = result["tasks"][name], result["least"], result["rows"]
    sets = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in task["kinds"].items())
    rates = " and ".join(f"{rate:g} at the place `{place}`" for place, rate in result["trained_rates"][name].items())
    flagged = [
        100 * value for one in NETWORKS for way in task[one].values() for value in way["measured"]["known_flagged"]
    ]
    seeds = len(task[NETWORKS[0]]["no dropout"]["measured"]["accuracy"])
    return (
        "The first table contains, for the predictive mean, the accuracy in percent, the negative log-likelihood "
        f"(NLL) in nats and the expected calibration error (ECE) in percent. The columns of the sets ({sets}) contain "
        "the AUROC of `ood_score` in percent / the percentage of the rows that are flagged at a target rate of "
        f"{result['review_rate']:.0%}. The second table contains the AUROC of `entropy` alone / of "
        f"`mutual_information` alone. All values are means over {seeds} networks with different seeds. In the networks "
        f"that were trained with dropout, the rate is {rates}. Of the injected dropouts, these have the smallest "
        f"negative log-likelihood on held-out rows (one for each seed): {', '.join(task['chosen'])}. The sign `+` "
        "marks values that are better, and `-` values that are worse, than those of `no dropout` for every seed, and "
        f"on average by at least {100 * least['auroc']:.1f} points of AUROC, {100 * least['flagged']:.0f} points of "
        f"flagged rows, {100 * least['accuracy']:.1f} points of accuracy or calibration error, or {least['nll']:g} "
        f"nats. Between {min(flagged):.1f} and {max(flagged):.1f} % of the test rows are flagged. The measurements use "
        f"{rows['known']:,} test rows, up to {rows['others']:,} rows of each set, {rows['known']:,} held-out rows for "
        f"the calibration, and {rows['reference']:,} reference rows (`python -m benchmarks.dropout`)."
    )
