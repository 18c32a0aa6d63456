"""A screener in a fork of the process that created it: the screener scores, or fails immediately."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.graph.passes import stamp_metadata
from screen import Screener
from screen.config import RunConfig
from screen.engine.device.provider import Device
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard
from tests.screen.engine.graphs import SHAPE, dense_chain

IMAGES = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), dtype=np.uint8)
TIME_LIMIT = 60
"""Seconds after which a child process counts as hung."""

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def run_in_fork(work: Callable[[], object]) -> str:
    """The text of the result of `work` in a fork of this process, or of its error; fails if the fork hangs."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            text = str(work())
        except BaseException as error:  # noqa: BLE001  reported to the parent
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    end = time.monotonic() + TIME_LIMIT
    while not os.waitpid(process, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            pytest.fail(f"the fork did not end within {TIME_LIMIT} seconds")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read().decode()


def score(screener: Screener) -> str:
    return np.asarray(screener.score(IMAGES).summary.mean).tobytes().hex()


@pytest.mark.hostile(
    "A `Screener` is used in a fork of the process that created the screener",
    "on a CPU, the forked process loads the model again, and computes the same scores as the first process; on a GPU, "
    "the first call raises an error",
)
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_screener_scores_in_a_fork(adaptive: bool, threads: int) -> None:
    screener = Screener(dense_chain(), passes=20, device="cpu", threads=threads, adaptive=adaptive)
    expected = score(screener)
    raw = np.concatenate(list(screener.raw_passes(IMAGES)))
    assert run_in_fork(lambda: score(screener)) == expected
    assert run_in_fork(lambda: run_in_fork(lambda: score(screener))) == expected
    in_fork = run_in_fork(lambda: np.concatenate(list(screener.raw_passes(IMAGES))).tobytes().hex())
    assert in_fork == raw.tobytes().hex()
    assert score(screener) == expected


def test_a_screener_scores_in_a_fork_while_another_thread_of_the_parent_scores() -> None:
    screener = Screener(dense_chain(), passes=50, device="cpu", threads=2)
    expected = score(screener)
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            screener.score(IMAGES)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for _ in range(5):
            assert run_in_fork(lambda: score(screener)) == expected
    finally:
        stop.set()
        thread.join()


def test_a_screener_scores_in_forked_workers_of_multiprocessing() -> None:
    screener = Screener(dense_chain(), passes=20, device="cpu", threads=2)
    expected = score(screener)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=lambda: queue.put(score(screener)), daemon=True) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for worker in workers:
            worker.start()
    for worker in workers:
        worker.join(TIME_LIMIT)
        assert worker.exitcode == 0
    assert [queue.get() for _ in workers] == [expected] * 2


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_iteration_that_the_parent_began_fails_at_once_in_a_fork(adaptive: bool) -> None:
    screener = Screener(dense_chain(), passes=20, device="cpu", threads=2, adaptive=adaptive, flag_if="entropy > 9")
    summaries = screener.summarize_each([IMAGES] * 30)
    next(summaries)
    assert "EngineFailed" in run_in_fork(lambda: list(summaries))


def test_a_screener_on_a_gpu_fails_at_once_in_a_fork() -> None:
    screener = Screener(dense_chain(), passes=20, device="cpu", threads=2)
    screener.device = Device("cuda", 2)  # there is no GPU here; the check comes before the first use of one
    text = run_in_fork(lambda: score(screener))
    assert text.startswith("EngineFailed: The screener was created in process")


def test_a_run_in_a_fork_of_a_process_that_ran_before_writes_the_same_files(tmp_path: Path) -> None:
    """The threads that read, decode and score belong to one run."""
    model = dense_chain()
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, tmp_path / "model.onnx")
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in IMAGES])

    def run_into(folder: str) -> int:
        config = RunConfig(passes=5, device="cpu", threads=2)
        return run_screening(tmp_path / "model.onnx", str(tmp_path / "in"), tmp_path / folder, config, Recorder()).rows

    assert run_into("parent") == len(IMAGES)
    assert run_in_fork(lambda: run_into("fork")) == str(len(IMAGES))
    assert (tmp_path / "fork" / "a.parquet").read_bytes() == (tmp_path / "parent" / "a.parquet").read_bytes()
