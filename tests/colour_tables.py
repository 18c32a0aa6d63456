"""The tables of docs/ with measurements of colour networks, of the variants of the distances, and of flag rates.

In: the results of `benchmarks/colour.py`, `benchmarks/detection.py` and `benchmarks/promises.py`. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.colour_sets import slug

Result = Mapping[str, Any]

OTHERS = {
    "sum": "sum",
    "maximum": "maximum (smallest p-value)",
    "Cauchy": "Cauchy combination of the p-values",
    "harmonic mean": "harmonic mean of the p-values",
    "Euclidean norm": "Euclidean norm: `ood_score`",
    "logistic regression": "logistic regression, fitted on synthetic outliers",
}
"""Combinations of surprisals, by their name in the results."""


def colour_networks_table(result: Result) -> str:
    """AUROC and flags of the main scores on the reported sets, and on the control."""
    kinds = [*result["reported"], "control"]
    sets = {**result["reported"], "control": [result["control"][1]]}
    rows = ["| network | score | " + " | ".join(kinds) + " |", "|---|---|" + "---|" * len(kinds)]
    for name, network in result["networks"].items():
        detectors = network["detectors"]
        distances = [score for score in detectors if score.endswith("_distance")]
        for score in ("entropy", *distances, f"entropy + {distances[0]}", "ood_score"):
            measured = network["scores"][score]
            cells = [_cell([measured["sets"][one] for one in sets[kind]]) for kind in kinds]
            rows.append(f"| {name} | {_code(score)} | " + " | ".join(cells) + " |")
    rate = result["review_rates"][0]
    accuracies = _join(result, lambda network: f"{network['accuracy']:.1%}")
    fresh = _join(result, lambda network: f"{network['scores']['ood_score']['review'][0]:.2%}")
    members = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in result["reported"].items())
    return (
        "\n".join(rows)
        + "\n\nThe first number of a cell is the AUROC in percent. The second number is the percentage of the rows "
        f"that are flagged at a target rate of {rate:.0%}. Both are means over the sets of a kind ({members}), with "
        f"{result['passes']} passes. The control is the near set, after Tiny ImageNet and the in-distribution rows "
        f"were blurred and compressed in the same way. The accuracies of the networks are: {accuracies}. The shares of "
        f"flagged in-distribution rows are: {fresh}."
    )


def review_rates_table(mnist: Result, colour: Result) -> str:
    """How often the number of flags of fresh rows is within its interval, in both orders."""
    networks = {"article": mnist, **colour["networks"]}
    orders = ("digest_order", "own_order")
    heads = [f"{what}, {order.replace('_', ' ')}" for what in ("within the interval", "flagged") for order in orders]
    rows = [f"| network | target rate | nominal level | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]
    for name, network in networks.items():
        for one in network["review_rates"]:
            inside = [f"{one[order]['inside'] / one['halvings']:.1%}" for order in orders]
            flagged = [f"{one[order]['mean']:.2%}" for order in orders]
            cells = [name, f"{one['promised']:.0%}", f"{one['level']:.0%}", *inside, *flagged]
            rows.append(f"| {' | '.join(cells)} |")
    counts = sorted({one["halvings"] for network in networks.values() for one in network["review_rates"]})
    return (
        "\n".join(rows)
        + f'\n\nThe columns "within the interval" contain the share of the {" or ".join(map(str, counts))} '
        'halvings in which the number of flagged fresh rows is within the interval. The columns "flagged" contain the '
        "mean flagged share of the fresh rows. The rows of the network `article` are "
        f"{mnist['rows']:,} test digits (`python -m benchmarks.promises`). The rows of the other networks are test "
        "rows of CIFAR-10 (`python -m benchmarks.colour`)."
    )


def colour_combinations_table(result: Result) -> str:
    """Ways to combine the surprisals, on the sets that choose defaults."""
    networks = result["networks"]
    rows = ["| combination | " + " | ".join(networks) + " |", "|---|" + "---|" * len(networks)]
    for way, text in OTHERS.items():
        found = [network["scores"][way]["choosing"] for network in networks.values()]
        cells = [f"{100 * one['auroc']:.1f} / {100 * one['flagged'][0]:.0f}" for one in found]
        rows.append(f"| {text} | " + " | ".join(cells) + " |")
    rate, choosing, synthetic = result["review_rates"][0], ", ".join(result["choosing"]), ", ".join(result["synthetic"])
    return (
        "\n".join(rows)
        + "\n\nThe first number of a cell is the AUROC in percent. The second number is the percentage of the rows "
        f"that are flagged at a target rate of {rate:.0%}. Both are means over the sets on which the settings of the "
        f"distances were compared: {choosing}. The kinds of "
        f"synthetic outliers are: {synthetic}."
    )


def choice_table(mnist: Result, colour: Result) -> str:
    """The variants of the distances, on the sets that choose defaults."""
    networks = {"article": mnist["choice"], **{name: one["choice"] for name, one in colour["networks"].items()}}
    rows = ["| distance | variant | " + " | ".join(networks) + " |", "|---|---|" + "---|" * len(networks)]
    found = {
        name: {
            (one["distance"], one["variant"]): f"{100 * one['auroc']:.1f} / {100 * one['fpr95']:.1f}" for one in choice
        }
        for name, choice in networks.items()
    }
    for distance, variant in dict.fromkeys(key for cells in found.values() for key in cells):
        cells = " | ".join(one.get((distance, variant), "-") for one in found.values())
        rows.append(f"| `{distance}` | {variant} | {cells} |")
    return (
        "\n".join(rows) + "\n\nA cell contains AUROC / FPR95 in percent, as means over the sets of the network: "
        f"{', '.join(mnist['choosing'])} (article); {', '.join(colour['choosing'])} (CIFAR-10 networks). Unless the "
        "variant states another number, the reference set has 5,000 rows."
    )


def colour_shift_table(result: Result) -> str:
    """Whether flags follow errors under covariate shift."""
    head = ("network", "shift", "accuracy", "flagged", "accuracy of flagged / of other rows")
    rows = [f"| {' | '.join(head)} | entropy | `ood_score` | errors last |", "|---|---|---|---|---|---|---|---|"]
    for name, network in result["networks"].items():
        for kind, measured in network["shift"].items():
            flags = measured["flags"]["ood_score"]
            accuracy, shares = _percents(measured["accuracy"]), _percents([one["share"] for one in flags])
            split = f"{_pooled(flags, 'flagged')} / {_pooled(flags, 'others')}"
            areas = [f"{100 * measured['areas'][score]:.1f}" for score in ("entropy", "ood_score", "errors last")]
            rows.append(f"| {name} | {kind} | {accuracy} | {shares} | {split} | " + " | ".join(areas) + " |")
    strengths = "; ".join(
        f"{kind}: {', '.join(f'{one:g}' for one in shift['strengths'])} ({shift['unit']})"
        for kind, shift in result["shifts"].items()
    )
    rate = result["review_rates"][0]
    return (
        "\n".join(rows)
        + "\n\nAll numbers are percentages. The columns of the accuracy and of the flagged rows have one number for "
        f"each of five strengths, from weak to strong ({strengths}); rows are flagged by `ood_score` at a target rate "
        f"of {rate:.0%}. The numbers of the other columns are measured on the rows of all strengths together. The last "
        "three columns are areas under the risk-coverage curve: the mean error rate of the accepted rows over "
        "all coverages, if rows are accepted in ascending order of the score (lower is better). `errors last` is the "
        "lowest possible area."
    )


def self_test_table(result: Result) -> str:
    """What the self-test says of the default detectors, and of the nearest relatives of an older default."""
    first = next(iter(result["networks"].values()))["self_test"]
    kinds = list(next(iter(first.values()))["flagged"])
    rows = ["| network | detectors | " + " | ".join(kinds) + " | warning |", "|---|---|" + "---|" * (len(kinds) + 1)]
    for name, network in result["networks"].items():
        for detectors, told in network["self_test"].items():
            shares = " | ".join(f"{100 * told['flagged'][kind]:.0f}" for kind in kinds)
            rows.append(f"| {name} | {detectors} | {shares} | {'yes' if told['blind'] else 'no'} |")
    return (
        "\n".join(rows)
        + "\n\nThe cells contain the percentage of the 200 made-up images of each kind that would be flagged at a "
        f"target rate of {result['review_rates'][0]:.0%}."
    )


def peers_table(colour: Result, peers: Result) -> str:
    """The detectors of a peer library beside `ood_score`, on the same networks and reported sets."""
    kinds = colour["reported"]
    names = [name for name in colour["networks"] if name in peers["networks"]]
    rows = ["| detector | " + " | ".join(f"{name}: {kind}" for name in names for kind in kinds) + " |"]
    rows.append("|---|" + "---|" * len(names) * len(kinds))
    detectors = {
        detector: None
        for name in names
        for detector, one in peers["networks"][name]["detectors"].items()
        if "sets" in one
    }
    found: dict[str, list[str]] = {"**`ood_score`**": [], **{detector: [] for detector in detectors}}
    for name in names:
        measured = colour["networks"][name]["scores"]["ood_score"]["sets"]
        own = {one: {**measured[one], "flagged": measured[one]["flagged"][0]} for one in measured}
        found["**`ood_score`**"] += [_mean([own[one] for one in members]) for members in kinds.values()]
        for detector in detectors:
            sets = peers["networks"][name]["detectors"].get(detector, {}).get("sets", {})
            found[detector] += [_mean([sets.get(slug(one)) for one in members]) for members in kinds.values()]
    rows += [f"| {detector} | " + " | ".join(cells) + " |" for detector, cells in found.items()]
    failed = sorted(
        {
            f"{detector} ({name})"
            for name in names
            for detector, one in peers["networks"][name]["detectors"].items()
            if "error" in one
        }
    )
    without = (
        f" These cells have no figures, because scores are not finite or the detector failed: {', '.join(failed)}."
    )
    return (
        "\n".join(rows)
        + "\n\nThe first number of a cell is the AUROC in percent. The second number is the percentage of the rows "
        f"that are flagged at a target rate of {peers['review_rate']:.0%}. The detectors are those of pytorch-ood "
        f"{peers['versions']['pytorch-ood']} with default parameters, on features and logits of the networks without "
        f"dropout; the row `ood_score` has the values of the first table of this section.{without if failed else ''}"
    )


def _mean(measured: Sequence[Mapping[str, float] | None]) -> str:
    """Mean AUROC and flagged share of several sets; a dash if a set has no figures."""
    known = [one for one in measured if one is not None]
    if len(known) < len(measured):
        return "-"
    return (
        f"{100 * np.mean([one['auroc'] for one in known]):.1f} / {100 * np.mean([one['flagged'] for one in known]):.0f}"
    )


def _cell(measured: Sequence[Mapping[str, Any]]) -> str:
    auroc = np.mean([one["auroc"] for one in measured])
    return f"{100 * auroc:.1f} / {100 * np.mean([one['flagged'][0] for one in measured]):.0f}"


def _code(score: str) -> str:
    return f"**`{score}`**" if score == "ood_score" else " + ".join(f"`{part}`" for part in score.split(" + "))


def _join(result: Result, show: Any) -> str:
    return ", ".join(f"{name} {show(network)}" for name, network in result["networks"].items())


def _percents(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.0f}" for share in shares)


def _pooled(flags: Sequence[Mapping[str, float]], side: str) -> str:
    """Accuracy of the flagged or of the other rows of all strengths together; a dash without rows."""
    weights = [one["share"] if side == "flagged" else 1 - one["share"] for one in flags]
    right = sum(weight * one[side] for weight, one in zip(weights, flags, strict=True) if weight)
    return f"{100 * right / sum(weights):.0f}" if sum(weights) else "-"
