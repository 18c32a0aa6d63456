"""Compare networks trained with dropout, networks with injected dropout, and networks without dropout.

    python -m benchmarks.dropout [--data DIR] [--work DIR] [--seeds N] [--result FILE] [--only NAME]

The question is whether a user whose network has no dropout gets worse results: whether T passes detect more
out-of-distribution images, or give better probabilities, than one evaluation without dropout (`no dropout`, T = 1) that
is calibrated with the same rows.

In: DATA, from which `benchmarks.dropout_networks` trains two small networks for each data set and seed, one with
dropout and one without, and the sets of `benchmarks.sets` and `benchmarks.colour_sets`. Each network is calibrated and
scored in several ways: with the dropout of its training, with only the first of the masks, with dropout injected at two
locations and several rates, and without dropout. Out: benchmarks/results/dropout.json, the source of tables in
docs/. Weights and exported models stay in WORK, and a network is trained only once.

The rules of the comparison were written before any network was measured:

- Nothing is chosen on the sets that are reported. Locations, rates and T were fixed beforehand, and all are reported.
  The injection `chosen` has the smallest negative log-likelihood on the held-out rows, which are also used for the
  calibration; a user with labels would choose in the same way.
- Every way is compared with `no dropout` of the same network, on the same rows, seed by seed. A way is `better` in a
  measure if its value is better for every seed, and better by at least `LEAST` on average. It is `worse` if the
  opposite holds, and otherwise there is `no difference`.
- Measures: AUROC of `ood_score` and the share flagged at the calibrated target rate, as means over each kind of sets;
  accuracy, negative log-likelihood and expected calibration error of the mean on test rows.
- The passes cannot change the distances, which are computed from the network without dropout. To show a gain of the
  uncertainty itself, the AUROC of `entropy` and of `mutual_information` alone, and of the distances alone, are reported
  too; the verdict on screening is the verdict on `ood_score`.

After the first MNIST network was measured, and before any other network, the first rows of the test set were replaced
by random rows, because the first quarter of MNIST's test set is harder than the rest. To save time, T, the number of
rows and the rates for the blocks of CIFAR-10 networks were then reduced, before any of these networks was measured.
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
from numpy.typing import NDArray

from benchmarks.colour_sets import REPORTED, make_colour_sets
from benchmarks.dropout_measures import REVIEW_RATE, Rows, Way, measure_way
from benchmarks.dropout_networks import NONE, TASKS, Rates, Task, export, set_rate, train
from benchmarks.sets import make_sets
from screen.demo import write_shards

RESULT = Path(__file__).parent / "results" / "dropout.json"
PASSES = 20
REFERENCE_ROWS = 5000
KNOWN_ROWS = 2000
"""Number of rows for the calibration, and number of test rows."""

OTHER_ROWS = 400
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
"""Smallest mean difference from `no dropout` that is not `no difference`, by measure; nll in nats."""

LOW_IS_GOOD = frozenset(["nll", "ece"])


def choose(array: NDArray[Any], rows: int = KNOWN_ROWS) -> NDArray[Any]:
    """Rows at random positions; the positions depend only on the number of rows."""
    chosen: NDArray[Any] = array[np.random.default_rng(0).permutation(len(array))[:rows]]
    return chosen


def read_rows(name: str, data: Path, work: Path) -> Rows:
    """Read the sets of a data set, and write the shards for the calibration unless they exist."""
    read = TASKS[name].read
    if name == "MNIST":
        folders = {"held": data / "mnist" / "valid", "test": data / "mnist" / "test", **make_sets(data, work / name)}
    else:
        folders = make_colour_sets(data, work / name, OTHER_ROWS)
    known = {}
    for one in ("held", "test"):
        images, labels = read(folders[one])
        known[one] = choose(images), choose(labels)
    others = {one: choose(read(folders[one])[0], OTHER_ROWS) for names in KINDS[name].values() for one in names}
    written = {one: work / f"{name}-{one}" for one in ("held", "reference")}
    if not (written["reference"] / "done").exists():
        images, labels = read(data / TASKS[name].folder)
        write_shards(written["held"], *known["held"], "held")
        write_shards(written["reference"], choose(images, REFERENCE_ROWS), choose(labels, REFERENCE_ROWS), "reference")
        (written["reference"] / "done").touch()
    return Rows(written["held"], written["reference"], known, others)


def prepare_ways(task: Task, name: str, trained: bool, seed: int, data: Path, work: Path) -> list[Way]:
    """Train a network, export it with dropout, and list the ways to use it; the first is `no dropout`."""
    rates: Rates = task.trained if trained else NONE
    stem = f"{name}-{'with' if trained else 'without'}-{seed}"
    weights = work / f"{stem}.weights.h5"
    train(task, rates, data, seed, weights)
    ways: list[Way] = []
    for places in [rates] if trained else [{place: 0.5} for place in task.injected]:
        model = work / f"{stem}-{'-'.join(places)}.onnx"
        export(task, weights, rates, places, model)
        if not ways:
            ways.append(Way("no dropout", model, 1, "none"))
        if trained:
            ways += [Way("one mask", model, 1), Way("passes", model, PASSES)]
            continue
        (place,) = places
        for rate in task.injected[place]:
            injected = work / f"{model.stem}-{rate}.onnx"
            set_rate(model, rate, injected)
            ways.append(Way(f"{place} {rate}", injected, PASSES))
    return ways


def choose_rate(ways: Mapping[str, Mapping[str, Any]], injected: Mapping[str, Sequence[float]]) -> str:
    """The injection with the smallest negative log-likelihood on held-out rows."""
    names = (f"{place} {rate}" for place, rates in injected.items() for rate in rates)
    return min(names, key=lambda name: ways[name]["held"]["nll"])


def judge(way: Sequence[float], baseline: Sequence[float], measure: str) -> str:
    """`better`, `worse` or `no difference`, by the rule of the module's docstring.

    Args:
        way: values of the measure for one way, by seed.
        baseline: values of the measure for `no dropout`, by seed.
        measure: key of `LEAST`.
    """
    gains = (np.asarray(way) - baseline) * (-1 if measure in LOW_IS_GOOD else 1)
    if (gains > 0).all() and gains.mean() >= LEAST[measure]:
        return "better"
    return "worse" if (gains < 0).all() and gains.mean() <= -LEAST[measure] else "no difference"


def summarize(seeds: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
    """Measures of each way, with a value for each seed, and the verdict of each measure against `no dropout`."""
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


def measure_once(way: Way, rows: Rows, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Result of `measure_way`, read from a file next to the model if the way was measured before."""
    kept = way.model.with_name(f"{way.model.stem}-{way.passes}-{way.masks}.json")
    if not kept.exists():
        kept.write_text(json.dumps(measure_way(way, rows, kinds)))
    measured: dict[str, Any] = json.loads(kept.read_text())
    return measured


def measure_task(name: str, seeds: int, data: Path, work: Path) -> dict[str, Any]:
    """Measure both networks of a data set with every seed; measurements that exist in WORK are not repeated."""
    task, rows, kinds = TASKS[name], read_rows(name, data, work), KINDS[name]
    result: dict[str, Any] = {"kinds": {kind: list(names) for kind, names in kinds.items()}}
    for network in ("trained with dropout", "trained without dropout"):
        found = []
        for seed in range(1, seeds + 1):
            ways = prepare_ways(task, name, network == "trained with dropout", seed, data, work)
            found.append({way.name: measure_once(way, rows, kinds) for way in ways})
            print(f"{name}, {network}, seed {seed}: measured", flush=True)
        if network == "trained without dropout":
            result["chosen"] = [choose_rate(one, task.injected) for one in found]
            found = [{**one, "chosen": one[name]} for one, name in zip(found, result["chosen"], strict=True)]
        result[network] = summarize(found, list(kinds))
        result[f"{network}, sets"] = [
            {way: measured["scores"]["ood_score"]["sets"] for way, measured in one.items()} for one in found
        ]
    return result


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/dropout"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--only", choices=list(TASKS), help="measure one data set, and keep the other in FILE")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    names = list(TASKS) if options.only is None else [options.only]
    tasks = {name: measure_task(name, options.seeds, options.data, options.work) for name in names}
    if options.only is not None and options.result.exists():
        tasks = json.loads(options.result.read_text())["tasks"] | tasks
    result = {
        "tasks": {name: tasks[name] for name in TASKS if name in tasks},
        "trained_rates": {name: dict(task.trained) for name, task in TASKS.items()},
        "injected_rates": {name: dict(task.injected) for name, task in TASKS.items()},
        "least": LEAST,
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
