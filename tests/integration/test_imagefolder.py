"""A queue written as a folder opens in Hugging Face datasets, with images and metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from screen.config import RunConfig
from screen.review.queue.config import QueueConfig
from screen.review.queue.file_targets import make_file_destination
from screen.review.queue.fill import fill_queue
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]  # warnings of third-party libraries

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


def test_a_folder_of_images_loads_in_datasets(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    write_shard(
        tmp_path / "in" / "a.parquet", [encode(image) for image in digits[:60]], ids=[f"../{n}" for n in range(60)]
    )
    config = RunConfig(passes=3, device="cpu", flag_if="entropy > 0.4")
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())

    def fill(name: str, to: str, **options: Any) -> Path:
        fill_queue(
            str(tmp_path / "out"),
            QueueConfig(**options),
            lambda _, classes, dry_run: make_file_destination(
                str(tmp_path / name), to, name, classes, images=True, url=None
            ),
        )
        return tmp_path / name

    folder = fill("folder", "imagefolder", include_random="30%")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == len(list(folder.glob("*.png"))) > 10
    for row in loaded:
        assert (np.asarray(row["image"]) == digits[row["row"]][..., 0]).all()
        assert row["id"] == f"../{row['row']}"
        assert row["source"] in ("flagged", "audit")
        assert len(row["mean"]) == 10
    assert sorted(row["rank"] for row in loaded) == list(range(1, len(loaded) + 1))

    parquet = fill("q.parquet", "parquet")
    read = datasets.load_dataset("parquet", data_files=str(parquet), split="train", cache_dir=str(tmp_path / "cache"))
    images = read.cast_column("image", datasets.Image())
    assert (np.asarray(images[0]["image"]) == digits[images[0]["row"]][..., 0]).all()
    assert len(read) == pq.read_metadata(parquet).num_rows
