"""Real kills of `oodscreen queue` at random moments: no image is exported twice, and none is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from screen.config import RunConfig
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard
from tests.screen.review.conftest import read_queue

pytestmark = pytest.mark.integration

OODSCREEN = str(Path(sys.executable).with_name("oodscreen"))


@pytest.mark.parametrize("to", ["jsonl", "imagefolder"])
def test_killed_queues_export_every_image_once(to: str, article_onnx: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (400, 28, 28, 1), dtype=np.uint8)
    write_shard(tmp_path / "in" / "n.parquet", [encode(image) for image in noise])
    config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0")
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    moments = random.Random()  # noqa: S311
    words = [OODSCREEN, "queue", str(tmp_path / "out"), "--to", to]
    started = time.monotonic()
    subprocess.run([*words, "-o", str(tmp_path / "queue-first"), "--top", "20"], check=True, capture_output=True)
    whole = time.monotonic() - started
    for number in range(12):
        command = [*words, "-o", str(tmp_path / f"queue-{number:02d}"), "--top", "20"]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.5, 1.1) * whole)
        running.send_signal(signal.SIGKILL)
        running.wait()
    done = subprocess.run([*words, "-o", str(tmp_path / "queue-last")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keys = [row["key"] for path in tmp_path.glob("queue-*") for row in read_queue(path)]
    assert len(keys) == len(set(keys)) == 400
