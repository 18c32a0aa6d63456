"""Detection of out-of-distribution images with CIFAR-10 networks: every score and combination, and covariate shift.

    python -m benchmarks.colour [--data DIR] [--models DIR] [--work DIR] [--rows N] [--result FILE]
                                [--only-review-rates]

In: DATA/cifar10_jpeg, DATA/cifar10_train_jpeg and the sets of `benchmarks.colour_sets`; the networks of
`benchmarks.colour_networks`. Each network is calibrated (reference set: training rows; in-distribution rows: the
first half of the test set) and run over the second half and every set, as a user would. Out:
benchmarks/results/colour.json, the source of tables in docs/. Models, sets and results stay in WORK, and a finished set
is not scored again. WORK/peers contains the features and logits of every network, for detectors of other packages.

Defaults are chosen on separate sets (`CHOOSING` in `benchmarks.colour_sets`), which are compared with the calibration
set, so that the choice does not depend on the reported rows.

--only-review-rates counts review rates again, from the results in WORK, and keeps all other parts of FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.choice import compare_distances
from benchmarks.colour_networks import NETWORKS, LastLayer, find_network
from benchmarks.colour_sets import (
    CHOOSING_NAMES,
    CONTROL,
    REPORTED,
    SHIFTS,
    SYNTHETIC,
    make_colour_sets,
    read_rgb,
    shift_name,
    slug,
)
from benchmarks.combinations import COMBINATIONS, Floats, add, fit_logistic, take_norm
from benchmarks.review_rates import DETECTORS, count_review_rates
from screen.config import RunConfig
from screen.decide.calibration import Calibration
from screen.decide.config import CalibrationConfig
from screen.decide.detectors import HIGH_IS_UNUSUAL, CombinedScore, orient
from screen.decide.row_sets import FITTING_SHARE, split_rows, threshold_rank
from screen.engine.masks import identify_rows
from screen.review.evaluate.metrics import separate
from screen.review.evaluate.risk import risk_coverage_area
from screen.run.calibration.calibrate import run_calibration
from screen.run.calibration.self_test import find_blind
from screen.run.progress import LogLines
from screen.run.runner import run_screening

RESULT = Path(__file__).parent / "results" / "colour.json"
PASSES = 30
RATES = (0.02, 0.05)
"""Review rates; the calibrations are fitted for the first rate."""

OLD_DEFAULT = ("entropy", "layout_distance")
"""Present scores that are closest to the default detectors of version 0.1.0, which added their surprisals."""

Columns = Mapping[str, NDArray[Any]]
Scores = Mapping[str, Floats]
Indices = NDArray[np.int64]


def calibrate(
    model: Path, held: Path, reference: Path, output: Path, detectors: tuple[str, ...] = ()
) -> tuple[Calibration, dict[str, Any]]:
    """A calibration with the default detectors or with other detectors, and the result of its self-test."""
    wanted = CalibrationConfig(RATES[0], reference=str(reference), detectors=detectors)
    config = RunConfig(passes=PASSES, device="cpu")
    report = run_calibration(model, str(held), output, config, wanted, LogLines())
    print(report.to_text(), flush=True)
    shares = dict(report.calibration.self_test)
    return report.calibration, {"flagged": shares, "blind": find_blind(shares)}


def screen(model: Path, sets: Mapping[str, Path], output: Path, calibration: Path) -> dict[str, Columns]:
    """Score all sets in one run, and read the columns of each; finished shards are not scored again."""
    folder = sets["test"].parent
    source = str(folder / "*" / "*.parquet")
    config = RunConfig(calibration=str(calibration), keep=["label"], device="cpu")
    run_screening(model, source, output, config, LogLines())
    return {name: read_columns(output / one.relative_to(folder)) for name, one in sets.items()}


def read_columns(results: Path) -> Columns:
    """The scores, predictions and flags of a set; scores that are null are left out."""
    table = pa.concat_tables([pq.read_table(shard) for shard in sorted(results.glob("*.parquet"))])
    scores = [name for name in HIGH_IS_UNUSUAL if not table[name].null_count]
    return {name: np.asarray(table[name]) for name in (*scores, "ood_score", "flag", "prediction", "label")}


def score_rows(columns: Mapping[str, Columns], combined: CombinedScore, fitting: Indices) -> dict[str, Scores]:
    """Values of every score and combination for every set, `[B]`; high values are unusual.

    The name of a Euclidean norm of surprisals lists the scores with commas; the name of a sum lists them with plus
    signs.
    The logistic regression is fitted on the fitting rows and on synthetic outliers.
    """
    surprisals = {name: combined.surprisals(one) for name, one in columns.items()}
    outliers = np.concatenate([surprisals[name] for name in SYNTHETIC])
    ways = {**COMBINATIONS, "logistic regression": fit_logistic(surprisals["held"][fitting], outliers)}
    scores: dict[str, Scores] = {}
    for score in HIGH_IS_UNUSUAL:
        if score in columns["test"]:
            scores[score] = {name: orient(score, one[score]) for name, one in columns.items()}
    scores["ood_score"] = {name: np.asarray(one["ood_score"], np.float64) for name, one in columns.items()}
    for size in range(2, len(combined.names)):
        for parts in combinations(range(len(combined.names)), size):
            names = ", ".join(combined.names[part] for part in parts)
            scores[names] = {name: take_norm(one[:, parts]) for name, one in surprisals.items()}
    old = [combined.names.index(name) for name in OLD_DEFAULT]
    scores[" + ".join(OLD_DEFAULT)] = {name: add(one[:, old]) for name, one in surprisals.items()}
    for way, combine in ways.items():
        scores[way] = {name: combine(one) for name, one in surprisals.items()}
    return scores


def compare(values: Scores, pairs: Mapping[str, Floats], thresholds: Sequence[float]) -> dict[str, Any]:
    """AUROC, FPR95 and the share flagged at each of `RATES`, by set.

    Args:
        values: scores of each set.
        pairs: for each set, the scores of the in-distribution rows to compare with.
        thresholds: threshold of the scores at each of `RATES`.
    """
    found = {}
    for name, known in pairs.items():
        one = separate(known, values[name], name, high_is_unusual=True)
        flagged = [float(np.mean(values[name] > threshold)) for threshold in thresholds]
        found[name] = {"auroc": one.auroc, "fpr95": one.fpr95, "flagged": flagged}
    return found


def measure_score(values: Scores, calibrating: Indices) -> dict[str, Any]:
    """Measure a score on reported, control and choosing sets; `review` is the flagged share of fresh rows."""
    ranked = np.sort(values["held"][calibrating])
    thresholds = [float(ranked[-threshold_rank(len(ranked), rate)]) for rate in RATES]
    known = {name: values["test"] for names in REPORTED.values() for name in names}
    known |= {CONTROL[0]: values["test"], CONTROL[1]: values[CONTROL[0]]}
    choosing = compare(values, dict.fromkeys(CHOOSING_NAMES, ranked), thresholds)
    return {
        "review": [float(np.mean(values["test"] > threshold)) for threshold in thresholds],
        "sets": compare(values, known, thresholds),
        "choosing": {
            "auroc": float(np.mean([one["auroc"] for one in choosing.values()])),
            "flagged": np.mean([one["flagged"] for one in choosing.values()], axis=0).tolist(),
            "by_set": {name: [one["auroc"], one["flagged"][0]] for name, one in choosing.items()},
        },
    }


def measure_shift(
    columns: Mapping[str, Columns], scores: Mapping[str, Scores], calibrating: Indices
) -> dict[str, dict[str, Any]]:
    """Accuracy of flagged and of unflagged rows at each strength, and risk-coverage areas over all strengths.

    Rows are flagged by the entropy and by `ood_score`, at the first of `RATES`. `none` stands for the unchanged rows.
    """
    right = {name: one["prediction"] == one["label"] for name, one in columns.items()}
    limits = {}
    for score in ("entropy", "ood_score"):
        ranked = np.sort(scores[score]["held"][calibrating])
        limits[score] = ranked[-threshold_rank(len(ranked), RATES[0])]
    groups = {"none": ["test"], **{kind: [shift_name(kind, strength) for strength in range(1, 6)] for kind in SHIFTS}}
    measured = {}
    for kind, names in groups.items():
        all_right = np.concatenate([right[name] for name in names])
        areas = {"errors last": risk_coverage_area(~all_right, all_right)}
        for score, values in scores.items():
            areas[score] = risk_coverage_area(np.concatenate([values[name] for name in names]), all_right)
        measured[kind] = {
            "accuracy": [float(right[name].mean()) for name in names],
            "flags": {
                score: [split_accuracy(scores[score][name] > limit, right[name]) for name in names]
                for score, limit in limits.items()
            },
            "areas": areas,
        }
    return measured


def split_accuracy(flag: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, float | None]:
    """Share of flagged rows, and accuracy of the flagged and of the unflagged rows; None where there are no rows."""
    return {
        "share": float(flag.mean()),
        "flagged": float(right[flag].mean()) if flag.any() else None,
        "others": float(right[~flag].mean()) if not flag.all() else None,
    }


def measure_network(name: str, sets: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Calibrate one network, score all sets, and measure every score."""
    started = time.monotonic()
    keras_file, model = find_network(name, options.models, options.data, options.work)
    folder = sets["test"].parent.parent / name
    folder.mkdir(exist_ok=True)
    reference = options.data / "cifar10_train_jpeg"
    calibration, self_test = calibrate(model, sets["held"], reference, folder / "calibration")
    few = sets["held"] / "held-000.parquet"
    _, old_self_test = calibrate(model, few, reference, folder / "old-default.calibration", OLD_DEFAULT)
    columns = screen(model, sets, folder / "results", folder / "calibration")
    # The rows that `calibrate` used for the detectors, and those that it used for the threshold.
    digests = np.array(identify_rows(read_rgb(sets["held"])[0]), np.uint64)
    fitting, calibrating = split_rows(digests, (FITTING_SHARE, 1 - FITTING_SHARE))
    assert np.allclose(np.sort(columns["held"]["ood_score"][calibrating]), calibration.calibration_scores)
    scores = score_rows(columns, calibration.combined_score, fitting)
    write_peer_inputs(LastLayer.read(keras_file, NETWORKS[name]), sets, reference, options.work / "peers" / name)
    test = columns["test"]
    result = {
        "accuracy": float(np.mean(test["prediction"] == test["label"])),
        "detectors": list(calibration.combined_score.names),
        "flagged": {one: float(columns[one]["flag"].mean()) for names in REPORTED.values() for one in ("test", *names)},
        "scores": {score: measure_score(values, calibrating) for score, values in scores.items()},
        "shift": measure_shift(columns, scores, calibrating),
        "review_rates": measure_review_rates(columns, sets),
        "self_test": {"default": self_test, ", ".join(OLD_DEFAULT): old_self_test},
        "choice": choose(model, sets, reference),
    }
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return result


def measure_review_rates(columns: Mapping[str, Columns], sets: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Flag rates of fresh rows over random halvings of all in-distribution rows (see `benchmarks.review_rates`)."""
    both = ("held", "test")
    scores = {score: np.concatenate([columns[name][score] for name in both]) for score in DETECTORS}
    digests = [np.array(identify_rows(read_rgb(sets[name])[0]), np.uint64) for name in both]
    return count_review_rates(scores, np.concatenate(digests))


def renew_review_rates(result: dict[str, Any], sets: Mapping[str, Path], work: Path) -> None:
    """Count the review rates of every network again, from the results of an earlier run.

    Args:
        result: result of the earlier run, which is changed in place.
        sets: folders of the sets, by name.
        work: folder of the results of the networks.

    Raises:
        SystemExit: the flag rates of the results differ from those in `result`.
    """
    for name, network in result["networks"].items():
        folder = work / name / "results"
        columns = {one: read_columns(folder / slug(one)) for one in ("held", "test")}
        found, recorded = float(columns["test"]["flag"].mean()), network["flagged"]["test"]
        if not np.isclose(found, recorded, atol=1e-5):
            raise SystemExit(
                f"{folder} has {found:.2%} flags, the recorded result has {recorded:.2%}: measure everything, without "
                "--only-review-rates"
            )
        network["review_rates"] = measure_review_rates(columns, sets)


def choose(model: Path, sets: Mapping[str, Path], reference: Path) -> list[dict[str, Any]]:
    """Measure variants of the distances on the sets for choosing defaults, against held-out rows used in no set."""
    images = read_rgb(reference)[0]
    order = np.random.default_rng(0).permutation(len(images))
    others = {name: read_rgb(sets[name])[0] for name in CHOOSING_NAMES}
    held = read_rgb(sets["held"])[0]
    return compare_distances(model, images[order], held[-2 * len(others["mosaic"]) :], others)


def write_peer_inputs(layer: LastLayer, sets: Mapping[str, Path], reference: Path, folder: Path) -> None:
    """Write the last layer, and features and logits without dropout, for detectors of other packages.

    `weights.npz` has `weight` `[C, F]` and `bias` `[C]`; `reference.npz`, and a file for `held`, `test` and each
    reported set, have `features` `[N, F]` and `logits` `[N, C]`; `reference.npz` also has `labels` `[N]`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", weight=layer.weight, bias=layer.bias)
    wanted = {name: sets[name] for name in ("held", "test", *(one for names in REPORTED.values() for one in names))}
    for name, source in {**wanted, "reference": reference}.items():
        images, labels = read_rgb(source)
        features = layer.features(images)
        arrays: dict[str, NDArray[Any]] = {"features": features, "logits": layer.logits(features)}
        if name == "reference":
            arrays["labels"] = labels
        np.savez(folder / f"{slug(name)}.npz", **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for an array


def measure(sets: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Measure every network; the result includes the settings of the measurement."""
    networks = {name: measure_network(name, sets, options) for name in NETWORKS}
    return {
        "networks": networks,
        "reported": {kind: list(names) for kind, names in REPORTED.items()},
        "control": list(CONTROL),
        "choosing": list(CHOOSING_NAMES),
        "synthetic": list(SYNTHETIC),
        "shifts": {kind: {"unit": shift.unit, "strengths": shift.strengths} for kind, shift in SHIFTS.items()},
        "rows": options.rows,
        "passes": PASSES,
        "review_rates": list(RATES),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("oodscreen", "onnxruntime-gpu", "tensorflow", "scikit-learn")},
    }


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--models", type=Path, default=Path(os.environ.get("OODSCREEN_MODELS", "../shared/models")))
    parser.add_argument("--work", type=Path, default=Path("build/colour"))
    parser.add_argument("--rows", type=int, default=1000, help="maximum rows of a set (see colour_sets)")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--only-review-rates", action="store_true", help="count only the review rates of FILE again")
    options = parser.parse_args()
    work = options.work / f"{options.rows}-rows"
    sets = make_colour_sets(options.data, work / "sets", options.rows)
    if options.only_review_rates:
        result = json.loads(options.result.read_text())
        renew_review_rates(result, sets, work)
    else:
        result = measure(sets, options)
    rounded = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 5))
    options.result.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
