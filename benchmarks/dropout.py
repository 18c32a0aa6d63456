"""What dropout is worth: trained with it, injected into a network that was trained without it, or no passes at all.

    python -m benchmarks.dropout [--data DIR] [--work DIR] [--seeds N] [--result FILE]

The question: does a user whose network has no dropout lose anything? Do T passes detect more out-of-distribution
images than one evaluation without dropout (`no dropout`, T = 1) that is calibrated with the same rows, or give better
probabilities?

In: DATA, from which `benchmarks.dropout_networks` trains two small networks for each data set and seed, one with
dropout and one without, and the sets of `benchmarks.sets` and `benchmarks.colour_sets`. Each network is calibrated and
scored in several ways: with the dropout of its training, or with dropout injected at two places and three rates; with
the first of these masks alone; and without dropout. Out: benchmarks/results/dropout.json, the source of tables in
docs/. Weights and exported models stay in WORK, and a network is trained only once.

How it is judged; this was written before any network was measured:

- Nothing is chosen on the sets that are reported. Places, rates and T were fixed beforehand, and all are reported. The
  rate `chosen` is that of the smallest negative log-likelihood on the held-out rows that also calibrate, as a user with
  labels would choose it.
- Every way is compared with `no dropout` of the same network, on the same rows, seed by seed. It is `better` in a
  measure if it is better for every seed and better by at least `LEAST` on average, `worse` if the opposite holds, and
  otherwise there is `no difference`.
- Measures: AUROC of `ood_score` and the share flagged at the calibrated review rate, as means over each kind of sets;
  accuracy, negative log-likelihood and expected calibration error of the mean on test rows.
- The passes cannot change the distances, which are read from the network without dropout. So that a gain of the
  uncertainty itself can be seen, the AUROC of `entropy` and of `mutual_information` alone, and of the distances alone,
  are reported too; the verdict on screening is that of `ood_score`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.colour_sets import REPORTED, make_colour_sets
from benchmarks.dropout_measures import REVIEW_RATE, Rows, Way, measure_way
from benchmarks.dropout_networks import NONE, TASKS, Rates, Task, export, set_rate, train
from benchmarks.sets import make_sets
from screen.demo import write_shards

RESULT = Path(__file__).parent / "results" / "dropout.json"
PASSES = 30
PLACES = ("blocks", "classifier")
RATES = (0.1, 0.3, 0.5)
REFERENCE_ROWS = 5000
KNOWN_ROWS = 2500
"""Number of rows that calibrate, and of test rows."""

OTHER_ROWS = 500
"""Number of rows of each out-of-distribution set."""

KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "MNIST": {
        "near": ("rotated",),
        "far": ("inverted", "notMNIST", "Fashion-MNIST", "CIFAR-10 grey"),
        "noise": ("noise",),
    },
    "CIFAR-10": REPORTED,
}
"""Names of the out-of-distribution sets of each data set, by their kind."""

LEAST = {"auroc": 0.005, "flagged": 0.02, "accuracy": 0.005, "nll": 0.01, "ece": 0.005}
"""Smallest mean difference from `no dropout` that counts, by measure; nll in nats."""

LOW_IS_GOOD = frozenset(["nll", "ece"])


def read_rows(name: str, data: Path, work: Path) -> Rows:
    """Read the sets of a data set, and write the shards of a calibration once."""
    read = TASKS[name].read
    if name == "MNIST":
        folders = {"held": data / "mnist" / "valid", "test": data / "mnist" / "test", **make_sets(data, work / name)}
    else:
        folders = make_colour_sets(data, work / name, OTHER_ROWS)
    known = {}
    for one in ("held", "test"):
        images, labels = read(folders[one])
        known[one] = images[:KNOWN_ROWS], labels[:KNOWN_ROWS]
    others = {one: read(folders[one])[0][:OTHER_ROWS] for names in KINDS[name].values() for one in names}
    written = {one: work / f"{name}-{one}" for one in ("held", "reference")}
    if not (written["reference"] / "done").exists():
        images, labels = read(data / TASKS[name].folder)
        order = np.random.default_rng(0).permutation(len(images))[:REFERENCE_ROWS]
        write_shards(written["held"], *known["held"], "held")
        write_shards(written["reference"], images[order], labels[order], "reference")
        (written["reference"] / "done").touch()
    return Rows(written["held"], written["reference"], known, others)


def prepare_ways(task: Task, name: str, trained: bool, seed: int, data: Path, work: Path) -> list[Way]:
    """Train a network, export it with dropout, and list the ways to use it; the first is `no dropout`."""
    rates: Rates = task.trained if trained else NONE
    stem = f"{name}-{'with' if trained else 'without'}-{seed}"
    weights = work / f"{stem}.weights.h5"
    train(task, rates, data, seed, weights)
    ways: list[Way] = []
    for places in [rates] if trained else [{place: 0.5} for place in PLACES]:
        model = work / f"{stem}-{'-'.join(places)}.onnx"
        export(task, weights, rates, places, model)
        if not ways:
            silent = work / f"{stem}-none.onnx"
            set_rate(model, 0, silent)
            ways.append(Way("no dropout", silent, 1))
        if trained:
            ways += [Way("one mask", model, 1), Way("passes", model, PASSES)]
            continue
        for rate in RATES:
            injected = work / f"{model.stem}-{rate}.onnx"
            set_rate(model, rate, injected)
            ways.append(Way(f"{'-'.join(places)} {rate}", injected, PASSES))
    return ways


def choose_rate(ways: Mapping[str, Mapping[str, Any]], place: str) -> str:
    """The injection at a place with the smallest negative log-likelihood on held-out rows."""
    return min((f"{place} {rate}" for rate in RATES), key=lambda name: ways[name]["held"]["nll"])


def judge(way: Sequence[float], baseline: Sequence[float], measure: str) -> str:
    """`better`, `worse` or `no difference`, by the rule of the module's docstring.

    Args:
        way: a measure of one way, for each seed.
        baseline: the same of `no dropout`.
        measure: key of `LEAST`.
    """
    gains = (np.asarray(way) - baseline) * (-1 if measure in LOW_IS_GOOD else 1)
    if (gains > 0).all() and gains.mean() >= LEAST[measure]:
        return "better"
    return "worse" if (gains < 0).all() and gains.mean() <= -LEAST[measure] else "no difference"


def summarize(seeds: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
    """Measures of each way, with a value for each seed, and the verdict of each against `no dropout`."""
    ways = {}
    for name in seeds[0]:
        measured: dict[str, Any] = {
            measure: [one[name]["test"][measure] for one in seeds] for measure in ("accuracy", "nll", "ece")
        }
        measured["known_flagged"] = [one[name]["known_flagged"] for one in seeds]
        for score in seeds[0][name]["scores"]:
            for kind in kinds:
                for measure in ("auroc", "flagged"):
                    measured[f"{score} {kind} {measure}"] = [
                        one[name]["scores"][score]["sets"][f"kind {kind}"][measure] for one in seeds
                    ]
        ways[name] = {"passes": seeds[0][name]["passes"], "measured": measured}
    baseline = ways["no dropout"]["measured"]
    for way in ways.values():
        way["verdicts"] = {
            key: judge(values, baseline[key], key.split()[-1])
            for key, values in way["measured"].items()
            if key.split()[-1] in LEAST
        }
    return ways


def measure_task(name: str, seeds: int, data: Path, work: Path) -> dict[str, Any]:
    """Measure both networks of a data set with every seed; measurements of a seed in WORK are not repeated."""
    rows, kinds = read_rows(name, data, work), KINDS[name]
    result: dict[str, Any] = {"kinds": {kind: list(names) for kind, names in kinds.items()}}
    for network in ("trained with dropout", "trained without dropout"):
        found = []
        for seed in range(1, seeds + 1):
            kept = work / f"{name}-{network.replace(' ', '-')}-{seed}.json"
            if not kept.exists():
                ways = prepare_ways(TASKS[name], name, network == "trained with dropout", seed, data, work)
                measured = {way.name: measure_way(way, rows, kinds) for way in ways}
                kept.write_text(json.dumps(measured))
            found.append(json.loads(kept.read_text()))
            print(f"{name}, {network}, seed {seed}: measured", flush=True)
        if network == "trained without dropout":
            for place in PLACES:
                for one in found:
                    one[f"{place} chosen"] = one[choose_rate(one, place)]
            result["chosen"] = {place: [choose_rate(one, place) for one in found] for place in PLACES}
        result[network] = summarize(found, list(kinds))
        result[f"{network}, sets"] = [
            {way: {score: some["sets"] for score, some in one[way]["scores"].items()} for way in one} for one in found
        ]
    return result


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/dropout"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    result = {
        "tasks": {name: measure_task(name, options.seeds, options.data, options.work) for name in TASKS},
        "trained_rates": {name: dict(task.trained) for name, task in TASKS.items()},
        "places": list(PLACES),
        "rates": list(RATES),
        "least": LEAST,
        "seeds": options.seeds,
        "passes": PASSES,
        "review_rate": REVIEW_RATE,
        "rows": {"reference": REFERENCE_ROWS, "known": KNOWN_ROWS, "others": OTHER_ROWS},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("oodscreen", "onnxruntime-gpu", "tensorflow", "scikit-learn")},
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 5))
    options.result.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
