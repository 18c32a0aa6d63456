"""The next step of an error about INPUT leads to shards that a run scores."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.errors import InputRefused
from screen.config import RunConfig
from screen.input.shards import find_shards
from screen.run.runner import run_screening
from tests.conftest import Recorder

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("has_splits", [False, True])
def test_a_hugging_face_dataset_on_disk_is_converted_by_the_command_of_the_error(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, has_splits: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.fromarray(image[..., 0]) for image in digits[:20]]}
    one = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    saved = datasets.DatasetDict({"test": one}) if has_splits else one
    saved.save_to_disk(str(tmp_path / "it's saved"))
    with pytest.raises(InputRefused) as refused:
        find_shards(str(tmp_path / "it's saved"))
    command = shlex.split(refused.value.next_step.split("`")[1])
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path, env=environment)
    config = RunConfig(passes=4, device="cpu")
    summary = run_screening(article_onnx, str(tmp_path / "SHARDS"), tmp_path / "out", config, Recorder())
    assert summary.statuses == {"ok": 20}
