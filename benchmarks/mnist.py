"""Measure the article's network on full MNIST, end to end: train, export, screen the 10,000 test images.

    python -m benchmarks.mnist [--data DIR] [--work DIR] [--epochs N]

In: DATA/mnist/{train,test} (default $OODSCREEN_DATA or ../shared/data). Out: a model and results
in WORK, and benchmarks/results/mnist.json: accuracy of the predictive mean, and the rank of the
article's image, row 247, among rows 0 to 499.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from export.article import SCALE, train_article_network
from export.exporter import export_model
from export.source.describe import import_keras
from screen.config import RunConfig
from screen.demo import ARTICLE_ROW, decode_images
from screen.run.progress import LogLines
from screen.run.runner import run_screening

RESULT = Path(__file__).parent / "results" / "mnist.json"


def measure(data: Path, work: Path, *, epochs: int, passes: int = 100, seed: int = 1) -> dict[str, Any]:
    """Train on the full training set, screen the test set, and measure accuracy and ranks."""
    work.mkdir(parents=True, exist_ok=True)
    import_keras()
    parts = [decode_images(pq.read_table(file)) for file in sorted((data / "mnist" / "train").glob("*.parquet"))]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    started = time.monotonic()
    model = train_article_network(images, labels, epochs=epochs, seed=seed)
    trained = time.monotonic() - started
    model.save(work / "mnist.keras")
    export_model(model, work / "mnist.onnx", scale=SCALE)
    config = RunConfig(passes=passes, keep=["label"], force="all")
    summary = run_screening(work / "mnist.onnx", str(data / "mnist" / "test"), work / "results", config, LogLines())
    table = pa.concat_tables([pq.read_table(file) for file in sorted((work / "results").glob("*.parquet"))])
    given = pa.concat_tables([pq.read_table(file) for file in sorted((data / "mnist" / "test").glob("*.parquet"))])
    return {
        "rows": len(table),
        "ids_in_input_order": table["id"].to_pylist() == given["id"].to_pylist(),
        "accuracy": pc.mean(pc.equal(table["prediction"], table["label"]).cast(pa.float64())).as_py(),
        "flagged": summary.flagged / summary.rows,
        "rank_of_row_247_by_entropy": rank_in_article(table, "entropy"),
        "rank_of_row_247_by_prediction_std": rank_in_article(table, "prediction_std"),
        "passes": passes,
        "epochs": epochs,
        "training_seconds": round(trained, 1),
        "screening_seconds": round(summary.seconds, 2),
    }


def rank_in_article(table: pa.Table, score: str) -> int:
    """Rank of row 247 among rows 0 to 499, the rows that the article ranked; 1 is the most uncertain."""
    values = np.asarray(table[score].slice(0, 500))
    return int((values > values[ARTICLE_ROW]).sum()) + 1


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path("build/mnist"))
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    result = measure(options.data, options.work, epochs=options.epochs)
    result["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    result["versions"] = {name: version(name) for name in ("oodscreen", "onnxruntime-gpu", "tensorflow", "numpy")}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
