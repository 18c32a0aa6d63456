"""A folder of 10,000 JPEG files, from pack to queue: each command is killed and restarted; the files stay equal."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from screen.demo import read_images
from screen.files.storage import STAGING_PREFIX
from screen.output.history import HISTORY_FOLDER
from screen.output.locks.hold import LOCK_NAME
from screen.output.record import RECORD_NAME
from screen.review.queue.ledger import LEDGER_NAME
from tests.conftest import encode
from tests.screen.pack.packs import pack, shard_files, write_files

pytestmark = pytest.mark.integration

OODSCREEN = str(Path(sys.executable).with_name("oodscreen"))
FILES = 10_000

GROUP_BYTES = 100_000
"""Size of a staging file that has a row group of 1,000 images, in bytes."""


def write_photos(folder: Path, count: int) -> Path:
    """JPEG files in the class folders 0 to 9, made from digits with noise; one is empty, one is text."""
    images, labels = read_images("test")
    random_numbers = np.random.default_rng(5)
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
    for number in range(count):
        index = number % len(images)
        noise = random_numbers.integers(0, 32, images[index].shape, dtype=np.uint8)
        data = encode(np.maximum(images[index], noise), "JPEG")
        (folder / str(labels[index]) / f"{number:05d}.jpg").write_bytes(data)
    (folder / "3" / "empty.jpg").write_bytes(b"")
    (folder / "4" / "text.jpg").write_bytes(b"no image")
    return folder


def all_files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks, and the record, the history and the ledger, which hold times."""
    with_times = {RECORD_NAME, HISTORY_FOLDER, LEDGER_NAME}
    return {name: data for name, data in shard_files(folder).items() if not with_times & set(Path(name).parts)}


class Stage:
    """One command; it writes into a folder, of which each trial has one.

    Args:
        folder: folder of the trials.
        words: the words of the command, given the folder of a trial.
        prepare: makes the new folder of a trial.
    """

    def __init__(
        self, folder: Path, words: Callable[[Path], list[str]], prepare: Callable[[Path], object] = Path.mkdir
    ) -> None:
        self.whole, self.killed, self._words, self._prepare = folder / "whole", folder / "killed", words, prepare
        folder.mkdir()

    def kill_and_compare(self, moments: random.Random, kills: int) -> int:
        """Run the command; then kill it, run it again and compare; returns how many of the kills met the process."""
        self._prepare(self.whole)
        started = _seconds_of_children()
        self.run(self.whole)
        seconds = _seconds_of_children() - started
        self._prepare(self.killed)
        met = sum(self.kill(partial(_has_used, moments.uniform(0.3, 0.9) * seconds)) for _ in range(kills))
        self.complete()
        return met

    def complete(self) -> None:
        """Run the killed command to its end, and compare the files with those of the run that was not killed."""
        self.run(self.killed)
        expected, found = all_files(self.whole), all_files(self.killed)
        assert found.keys() == expected.keys()
        for name, data in expected.items():
            assert found[name] == data, f"{name} differs"

    def run(self, folder: Path) -> None:
        words = [OODSCREEN, *self._words(folder)]
        done = subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self, is_time: Callable[[int], bool]) -> bool:
        """Start the command, and kill it once a function of its process id returns True.

        Returns:
            Whether the command was still running.
        """
        words = [OODSCREEN, *self._words(self.killed)]
        running = subprocess.Popen(words, cwd=self.killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None and not is_time(running.pid):
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        return running.wait() == -signal.SIGKILL


def _seconds_of_children() -> float:
    """Processor time of all ended child processes; unlike wall time, it hardly depends on other load."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _has_used(seconds: float, process: int) -> bool:
    """Whether a process has used this processor time."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") >= seconds


def kill_in_each_shard(packing: Stage) -> None:
    """Kill a pack within each shard and after each shard, by what SHARDS contains, and compare the end."""
    packing.run(packing.whole)
    last = len(list((packing.whole / "shards").glob("*.parquet"))) - 1
    packing.killed.mkdir()
    shards = packing.killed / "shards"
    within: set[int] = set()

    def finished() -> int:
        return len(list(shards.glob("*.parquet")))

    def begun() -> int:
        """Bytes of the shard that is being written."""
        sizes = [0]
        for path in shards.glob(f"{STAGING_PREFIX}*"):
            with suppress(FileNotFoundError):  # it was renamed meanwhile
                sizes.append(path.stat().st_size)
        return max(sizes)

    def has(shards: int, size: int, _: int) -> bool:
        return finished() >= shards and begun() >= size

    for number in range(last):
        for shards_of_kill, size in ((number, GROUP_BYTES), (number + 1, 0)):
            assert packing.kill(partial(has, shards_of_kill, size))
            if begun() >= GROUP_BYTES:
                within.add(finished())
    assert len(within) >= 2, "kills within several shards"
    packing.complete()
    assert not list(shards.glob(f"{STAGING_PREFIX}*"))


def test_ten_thousand_files_survive_kills_in_every_command(article_onnx: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", FILES)
    model, moments, met = str(article_onnx), random.Random(7), []  # noqa: S311

    packing = Stage(tmp_path / "pack", lambda _: ["pack", str(photos), "shards", "--shard-rows", "2500"])
    packing.whole.mkdir()
    kill_in_each_shard(packing)
    shards = packing.whole / "shards"
    assert sum(pq.read_metadata(path).num_rows for path in shards.glob("*.parquet")) == FILES + 2

    calibrating = Stage(
        tmp_path / "calibrate", lambda _: ["calibrate", model, str(shards), "-o", "c", "-T", "2", "--device", "cpu"]
    )
    met.append(calibrating.kill_and_compare(moments, 2))

    words = ["--calibration", str(calibrating.whole / "c"), "--keep", "label", "--device", "cpu"]
    running = Stage(tmp_path / "run", lambda _: ["run", model, str(shards), "out", *words])
    met.append(running.kill_and_compare(moments, 3))
    results = running.whole / "out"
    table = pq.read_table(results, columns=["id", "label", "status"])
    assert sorted(table["id"].to_pylist()) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    assert all(row["id"].startswith(f"{row['label']}/") for row in table.to_pylist())
    failed = {row["id"]: row["status"] for row in table.to_pylist() if row["status"] != "ok"}
    assert failed == {"3/empty.jpg": "decode_failed", "4/text.jpg": "decode_failed"}
    evaluated = subprocess.run(
        [OODSCREEN, "evaluate", results, "--label", "label"], check=True, capture_output=True, text=True
    )
    assert "ood_score" in evaluated.stdout

    reporting = Stage(tmp_path / "report", lambda _: ["report", str(results), "-o", "page.html"])
    met.append(reporting.kill_and_compare(moments, 2))
    queueing = Stage(
        tmp_path / "queue",
        lambda _: ["queue", "out", "-o", "queue.jsonl", "--to", "jsonl", "--top", "100"],
        lambda folder: shutil.copytree(results, folder / "out"),
    )
    met.append(queueing.kill_and_compare(moments, 2))
    compare_what_is_left(queueing)
    assert all(met), met
    assert not list(tmp_path.rglob(f"{LOCK_NAME}.holder"))


def compare_what_is_left(queueing: Stage) -> None:
    """The ledgers hold the same images: the next queue has the other flagged images in both folders."""
    queues = []
    for folder in (queueing.whole, queueing.whole.with_name("killed")):
        subprocess.run([OODSCREEN, "queue", "out", "-o", "rest.jsonl"], cwd=folder, check=True, capture_output=True)
        queues.append((folder / "rest.jsonl").read_bytes())
        lines = (folder / "queue.jsonl").read_text().splitlines() + (folder / "rest.jsonl").read_text().splitlines()
        keys = [json.loads(line)["key"] for line in lines]
        assert len(keys) == len(set(keys)) > 100
    assert queues[0] == queues[1]


@pytest.mark.filterwarnings("ignore")  # warnings of third-party libraries
def test_shards_open_in_hugging_face_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    photos = write_photos(tmp_path / "photos", 40)
    for name in ("3/empty.jpg", "4/text.jpg"):
        (photos / name).unlink()
    write_files(photos, {"9/notes.txt": b"no image"})
    (photos / "9" / "lost.jpg").symlink_to("nowhere")
    pack(photos, tmp_path / "shards", shard_rows=25)
    for options in ({"path": "parquet", "data_dir": "shards"}, {"path": "shards"}):
        options = {key: value if value == "parquet" else str(tmp_path / value) for key, value in options.items()}
        loaded = datasets.load_dataset(**options, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == 41
        assert isinstance(loaded.features["image"], datasets.Image)
        assert loaded[0]["image"].size == (28, 28)
        assert loaded[0]["label"] == "0"
        assert loaded[40]["id"] == "9/lost.jpg"
        assert loaded[40]["image"] is None
