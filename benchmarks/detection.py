"""Detection of out-of-distribution images with MNIST: every score, alone and combined, on several sets, three seeds.

    python -m benchmarks.detection [--data DIR] [--work DIR] [--seeds N]

In: DATA/mnist/{train,valid,test} and the sets of `benchmarks.sets`. For each seed, the article's
network is trained on the training rows, calibrated (reference set: training rows; in-distribution rows: validation
rows, which are not used in training) and run over the test rows and every set, as a user would. Out:
benchmarks/results/detection.json, the source of the tables in docs/, and detection.svg. Models and
results stay in WORK, and a model is trained only once.

Defaults are chosen on separate sets (`CHOOSING` in `benchmarks.sets`), with the first seed.
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
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.choice import compare_distances
from benchmarks.sets import CHOOSING, REPORTED, make_sets, read_folder
from export.article import SCALE, train_article_network
from export.exporter import export_model
from export.source.describe import import_keras
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.decide.detectors import HIGH_IS_UNUSUAL, CombinedScore, Detector
from screen.decide.reference import REFERENCE_ROWS
from screen.decide.row_sets import threshold_rank
from screen.engine.distance import DISTANCES
from screen.review.evaluate.metrics import separate
from screen.run.calibration.calibrate import run_calibration
from screen.run.progress import LogLines
from screen.run.runner import run_screening

RESULT = Path(__file__).parent / "results" / "detection.json"
PASSES = 100
EPOCHS = 6
REVIEW_RATE = 0.02
_KNOWN_ROWS = 2000
"""In-distribution rows against which variants of the distances are compared."""

SCORES = tuple(name for name in HIGH_IS_UNUSUAL if name != "largest_label_entropy")

COMBINED = (
    ("entropy", "skewness"),
    ("entropy", "kurtosis"),
    ("entropy", "prediction_std"),
    ("entropy", "prediction_std", "skewness", "kurtosis"),
    ("entropy", "mutual_information"),
    ("entropy", "energy"),
    *(("entropy", distance) for distance in DISTANCES),
    DISTANCES,
    *((score, *DISTANCES) for score in ("confidence", "mutual_information", "energy", "skewness", "entropy")),
    ("entropy", "energy", *DISTANCES),
    ("entropy", "skewness", *DISTANCES),
    ("entropy", "kurtosis", *DISTANCES),
    ("entropy", "skewness", "kurtosis", *DISTANCES),
)
"""Scores of each combination, which is the Euclidean norm of their surprisals."""

Columns = Mapping[str, NDArray[Any]]


def train(data: Path, work: Path, seed: int) -> Path:
    """Path of the article's network, trained on the training rows and exported; an existing file is reused."""
    path = work / f"article-{EPOCHS}-{seed}.onnx"
    if not path.exists():
        import_keras()
        images, labels = read_folder(data / "mnist" / "train")
        export_model(train_article_network(images, labels, epochs=EPOCHS, seed=seed), path, scale=SCALE)
    return path


def screen(model: Path, source: Path, output: Path, calibration: Path) -> dict[str, NDArray[Any]]:
    """Score a set and read its columns; finished shards are not scored again."""
    config = RunConfig(calibration=str(calibration), device="cpu")
    run_screening(model, str(source), output, config, LogLines())
    table = pa.concat_tables([pq.read_table(path) for path in sorted(output.glob("*.parquet"))])
    return {name: np.asarray(table[name]) for name in (*SCORES, "ood_score", "flag", "p_value")}


def measure_seed(data: Path, work: Path, sets: dict[str, Path], seed: int) -> dict[str, Any]:
    """Measure one network: every score and combination against every set."""
    model = train(data, work, seed)
    calibration = work / f"article-{seed}.calibration"
    wanted = CalibrationConfig(REVIEW_RATE, reference=str(data / "mnist" / "train"))
    config = RunConfig(passes=PASSES, device="cpu")
    report = run_calibration(model, str(data / "mnist" / "valid"), calibration, config, wanted, LogLines())
    print(report.to_text(), flush=True)
    folders = {"valid": data / "mnist" / "valid", "test": data / "mnist" / "test", **sets}
    columns = {
        name: screen(model, source, work / f"results-{seed}" / name.replace(" ", "-"), calibration)
        for name, source in folders.items()
    }
    # One half of the validation rows is the fitting set, the other half the calibration set.
    order = np.random.default_rng(0).permutation(len(columns["valid"]["entropy"]))
    fitting, calibrating = np.array_split(order, 2)
    combined = {name: one["ood_score"] for name, one in columns.items()}
    measured = {"default": compare(columns, combined, calibrating, sets)}
    for names in (*((name,) for name in SCORES), *COMBINED):
        values = combine(names, columns, fitting)
        measured[name_combination(names)] = compare(columns, values, calibrating, sets)
    test = columns["test"]
    return {
        "seed": seed,
        "known_flagged": float(test["flag"].mean()),
        "flagged": {name: float(columns[name]["flag"].mean()) for name in sets},
        "scores": measured,
    }


def name_combination(names: Sequence[str]) -> str:
    """Name of a combination: its scores with commas; `distances` stands for all distances."""
    joined = ", ".join(names)
    return joined.replace(", ".join(DISTANCES), "distances")


def combine(
    names: Sequence[str], columns: Mapping[str, Columns], fitting: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Values of one score, or of several scores combined as in a calibration; high values are unusual."""
    if len(names) == 1:
        sign = 1 if HIGH_IS_UNUSUAL[names[0]] else -1
        return {name: sign * one[names[0]] for name, one in columns.items()}
    combined_score = CombinedScore(tuple(Detector.fit(name, columns["valid"][name][fitting]) for name in names))
    return {name: combined_score.score(one) for name, one in columns.items()}


def compare(
    columns: Mapping[str, Columns],
    values: Mapping[str, NDArray[Any]],
    calibrating: NDArray[np.int64],
    sets: Mapping[str, Any],
) -> dict[str, dict[str, float]]:
    """AUROC, FPR95 and the share flagged at the target rate, against each set."""
    scores = np.sort(values["valid"][calibrating])
    threshold = scores[-threshold_rank(len(scores), REVIEW_RATE)]
    found = {}
    for name in sets:
        one = separate(values["test"], values[name], name, high_is_unusual=True)
        found[name] = {"auroc": one.auroc, "fpr95": one.fpr95, "flagged": float(np.mean(values[name] > threshold))}
    return found


def choose(data: Path, work: Path, sets: dict[str, Path], seed: int) -> list[dict[str, Any]]:
    """AUROC and FPR95 of variants of the distances, on the sets `CHOOSING`."""
    reference = read_folder(data / "mnist" / "train")[0]
    order = np.random.default_rng(1).permutation(len(reference))
    images = {name: read_folder(sets[name])[0] for name in CHOOSING}
    known = read_folder(data / "mnist" / "valid")[0][:_KNOWN_ROWS]
    return compare_distances(train(data, work, seed), reference[order[:REFERENCE_ROWS]], known, images)


def summarize_seeds(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (ddof 0) of each measure over the seeds."""
    scores: dict[str, Any] = {}
    for score, by_set in seeds[0]["scores"].items():
        scores[score] = {}
        for name in by_set:
            values = {key: [one["scores"][score][name][key] for one in seeds] for key in ("auroc", "fpr95", "flagged")}
            scores[score][name] = {key: [float(np.mean(some)), float(np.std(some))] for key, some in values.items()}
    flagged = {name: [one["flagged"][name] for one in seeds] for name in seeds[0]["flagged"]}
    return {
        "scores": scores,
        "flagged": {name: [float(np.mean(some)), float(np.min(some))] for name, some in flagged.items()},
        "known_flagged": [one["known_flagged"] for one in seeds],
    }


def plot(result: dict[str, Any], target: Path) -> None:
    """Plot FPR95 of the article's moments, of entropy, and of the default, for each reported set."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "oodscreen"
    from matplotlib import pyplot

    shown = {
        "prediction_std": "std",
        "skewness": "skewness",
        "kurtosis": "kurtosis",
        "entropy": "entropy",
        "entropy, prediction_std, skewness, kurtosis": "entropy and all moments",
        "layout_distance": "layout_distance",
        "contrast_distance": "contrast_distance",
        "penultimate_distance": "penultimate_distance",
        "default": "ood_score: entropy and distances",
    }
    figure, axis = pyplot.subplots(figsize=(9, 3.8))
    width = 0.8 / len(shown)
    for index, (score, label) in enumerate(shown.items()):
        means, spreads = zip(*(result["scores"][score][name]["fpr95"] for name in REPORTED), strict=True)
        positions = np.arange(len(REPORTED)) + (index - len(shown) / 2 + 0.5) * width
        axis.bar(positions, 100 * np.array(means), width, yerr=100 * np.array(spreads), label=label)
    axis.set_xticks(np.arange(len(REPORTED)), REPORTED)
    axis.set_ylabel("% that pass when 95 % of digits pass")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/detection"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sets = make_sets(options.data, options.work)
    seeds = [measure_seed(options.data, options.work, sets, seed) for seed in range(1, options.seeds + 1)]
    result = {
        **summarize_seeds(seeds),
        "choice": choose(options.data, options.work, sets, seed=1),
        "reported": list(REPORTED),
        "choosing": list(CHOOSING),
        "seeds": options.seeds,
        "epochs": EPOCHS,
        "passes": PASSES,
        "review_rate": REVIEW_RATE,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("oodscreen", "onnxruntime-gpu", "tensorflow", "scikit-learn")},
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 5))
    RESULT.write_text(json.dumps(rounded, indent=1) + "\n")
    plot(result, RESULT.with_suffix(".svg"))


if __name__ == "__main__":
    main()
