"""Reproduce the experiment of the article on which this project is based, with `screen.Screener`.

    python -m benchmarks.article [--data DIR] [--work DIR]

In: DATA/mnist/{train,test}; the network of `benchmarks.detection`, seed 1. Out:
benchmarks/results/article.json and article.svg: the accuracy of single passes and of their mean, the statistics of row
247, the ten most uncertain of rows 0 to 499 by probability and by standard deviation (the rows that the article
ranked), the prediction for a random image, and the time of 10,000 x 500 passes.

Single passes use per-row masks, as in the article's loop. With shared masks, which make a run fast, one pass is one
thinned network, and the accuracy of a pass over a set varies more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import train
from benchmarks.sets import read_folder
from screen import Screener
from screen.demo import ARTICLE_ROW
from screen.settings.passes import MaskMode

RESULT = Path(__file__).parent / "results" / "article.json"
PASSES = 500
HISTOGRAM_PASSES = 40
RANKED_ROWS = 500


def single_accuracies(
    model: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], masks: MaskMode
) -> list[float]:
    """The accuracy of each single pass, `[T]`."""
    screener = Screener(model, passes=HISTOGRAM_PASSES, masks=masks, device="cpu")
    right = np.zeros(HISTOGRAM_PASSES)
    for start in range(0, len(images), 1000):
        first = 0
        for block in screener.raw_passes(images[start : start + 1000]):
            right[first : first + len(block)] += (block.argmax(axis=2) == labels[start : start + 1000]).sum(axis=1)
            first += len(block)
    return [float(one) for one in right / len(images)]


def rank(values: NDArray[Any], *, highest: bool) -> list[int]:
    """The ten of the first `RANKED_ROWS` rows with the highest (or lowest) values, the most extreme row first."""
    order = np.argsort(-values[:RANKED_ROWS] if highest else values[:RANKED_ROWS], kind="stable")
    return [int(row) for row in order[:10]]


def measure(data: Path, work: Path) -> dict[str, Any]:
    """Measure all results that the article shows."""
    model = train(data, work, seed=1)
    images, labels = read_folder(data / "mnist" / "test")
    screener = Screener(model, passes=PASSES, device="cpu")
    started = time.perf_counter()
    summary = screener.score(images).summary
    seconds = time.perf_counter() - started
    assert summary.prediction is not None
    assert summary.confidence is not None
    assert summary.prediction_std is not None
    random_image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
    passes = np.concatenate(list(screener.raw_passes(random_image)))[:, 0]
    noise = screener.score(random_image).summary
    assert noise.entropy is not None
    return {
        "passes": PASSES,
        "seconds": round(seconds, 1),
        "ensemble_accuracy": float(np.mean(summary.prediction == labels)),
        "single_accuracies": single_accuracies(model, images, labels, "per-row"),
        "single_accuracies_shared": single_accuracies(model, images, labels, "shared"),
        "row_247": {
            "label": int(labels[ARTICLE_ROW]),
            "mean": [round(float(one), 4) for one in summary.mean[ARTICLE_ROW]],
            "std": [round(float(one), 4) for one in summary.std[ARTICLE_ROW]],
        },
        "most_uncertain_by_probability": rank(summary.confidence, highest=False),
        "most_uncertain_by_std": rank(summary.prediction_std, highest=True),
        "random_image": {
            "prediction": int(noise.mean[0].argmax()),
            "mean": [round(float(one), 4) for one in noise.mean[0]],
            "std": [round(float(one), 4) for one in noise.std[0]],
            "entropy": float(noise.entropy[0]),
            "votes": np.bincount(passes.argmax(axis=1), minlength=10).tolist(),
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def plot(result: dict[str, Any], images: NDArray[np.uint8], target: Path) -> None:
    """Draw the three plots of the article: accuracies, row 247, and the random image."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "oodscreen"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4))
    axes[0].hist([100 * one for one in result["single_accuracies"]], bins=12)
    axes[0].axvline(100 * result["ensemble_accuracy"], color="black", linestyle="--")
    axes[0].set(title="single passes, and their mean (dashed)", xlabel="accuracy, %")
    for axis, name, title in ((axes[1], "row_247", "row 247, a 4"), (axes[2], "random_image", "a random image")):
        axis.bar(np.arange(10), result[name]["mean"], yerr=result[name]["std"], capsize=3)
        axis.set(title=title, xlabel="class", xticks=np.arange(10), ylim=(0, 1))
    axes[1].inset_axes((0.72, 0.6, 0.26, 0.38)).imshow(images[ARTICLE_ROW, ..., 0], cmap="gray_r")
    for inset in axes[1].child_axes:
        inset.set_axis_off()
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/detection"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    result = measure(options.data, options.work)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    plot(result, read_folder(options.data / "mnist" / "test")[0], RESULT.with_suffix(".svg"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
