"""The parts of `screen/cluster` that do not need Ray; the other parts are tested in tests/integration/test_ray.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import InputRefused, OodscreenError, OptionRefused, OutputRefused
from screen.cluster.connect import _choose_workers, open_cluster
from screen.cluster.executor import WorkerSize
from screen.cluster.tasks import Task
from screen.cluster.worker import Opened, RemoteJob, Worker, installed_versions
from screen.config import RunConfig
from screen.decide.policy import choose_policy
from screen.engine.device import choice
from screen.engine.device.cuda_driver import CudaCards
from screen.input.shards import find_shards
from screen.run.scoring import Job
from screen.run.stopping import StopRequest
from tests.conftest import encode, write_shard
from tests.screen.run.test_scoring import open_job


@pytest.fixture
def job(article_onnx: Path, digit_shards: Path, tmp_path: Path) -> Job:
    return open_job(article_onnx, digit_shards, tmp_path)


def open_worker(job: Job, **changes: object) -> Opened | OodscreenError:
    remote = {"job": job, "model": job.model.path, "digest": job.model.digest, "versions": installed_versions()}
    return Worker().open(RemoteJob(**{**remote, **changes}))  # type: ignore[arg-type]


def test_a_worker_opens_what_it_sees(job: Job) -> None:
    opened = open_worker(job)
    assert isinstance(opened, Opened)
    assert opened.device == "cpu"


def test_a_worker_says_what_it_does_not_see(job: Job, tmp_path: Path, article_onnx: Path) -> None:
    answer = open_worker(job, model=tmp_path / "m.onnx")
    assert isinstance(answer, InputRefused)
    assert "cannot find the model" in str(answer)
    answer = open_worker(job, digest="0" * 64)
    assert isinstance(answer, InputRefused)
    assert "found a different model at" in str(answer)
    answer = open_worker(replace(job, output=tmp_path / "none"))
    assert isinstance(answer, OutputRefused)
    assert "cannot find OUTPUT" in str(answer)


def test_a_worker_without_a_gpu_refuses_tf32(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that starts the run may have no GPU, so each worker chooses its own device."""
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards(problem="there is no driver"))
    config = replace(job.config, device="auto", precision="tf32")
    answer = open_worker(replace(job, config=config, policy=choose_policy(job.model, config)))
    assert isinstance(answer, OptionRefused)
    assert "The precision is tf32" in answer.found
    assert "no GPU can be used (there is no driver)" in answer.found


def test_a_worker_with_other_versions_is_refused(job: Job) -> None:
    answer = open_worker(job, versions={**installed_versions(), "numpy": "1.0"})
    assert isinstance(answer, OptionRefused)
    assert f"has numpy {version('numpy')}, but this process has numpy 1.0" in str(answer)


def test_ray_that_is_missing_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(OptionRefused, match="needs Ray, which is not installed") as refused,
        open_cluster(job, print, StopRequest()),
    ):
        raise AssertionError("not reached")
    assert "pip install 'oodscreen[ray]'" in refused.value.next_step


class ListedNodes:
    """Replaces Ray where only its list of nodes is needed."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._nodes = [{"Alive": True, "Resources": one} for one in resources]

    def nodes(self) -> list[dict[str, Any]]:
        return [*self._nodes, {"Alive": False, "Resources": {"CPU": 1.0}}]


def test_a_cluster_whose_nodes_have_no_cpus_is_refused() -> None:
    lists: list[list[dict[str, float]]] = [[], [{}], [{"CPU": 0.0, "GPU": 1.0}]]
    for nodes in lists:
        with pytest.raises(OptionRefused, match="No node of the Ray cluster has CPUs") as refused:
            _choose_workers(ListedNodes(*nodes), RunConfig())
        assert "start nodes with CPUs" in refused.value.next_step


def test_workers_without_threads_fit_the_smallest_node_that_has_cpus() -> None:
    nodes = ListedNodes({"CPU": 16.0}, {"CPU": 4.0}, {"GPU": 0.0}, {"CPU": 8.0})
    assert _choose_workers(nodes, RunConfig(device="cpu")) == (WorkerSize(4, 0), 7)
    assert _choose_workers(nodes, RunConfig(device="cpu", threads=16)) == (WorkerSize(16, 0), 1)


def test_an_address_without_the_engine_and_an_unknown_engine_are_refused() -> None:
    with pytest.raises(OptionRefused, match="--address is head:6379, and --engine is local"):
        RunConfig(address="head:6379")
    with pytest.raises(OptionRefused, match="--engine is 'spark'"):
        RunConfig(engine="spark")  # type: ignore[arg-type]


def test_a_worker_tells_which_shards_it_finished_and_which_it_could_not_read(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The third shard changed since it was found."""
    for name, rows in {"a": 10, "b": 100, "c": 1}.items():
        write_shard(tmp_path / "in" / f"{name}.parquet", [encode(image) for image in digits[:rows]])
    (tmp_path / "out").mkdir()
    job = open_job(article_onnx, tmp_path / "in", tmp_path / "out")
    shards, _ = find_shards(str(tmp_path / "in"))
    write_shard(tmp_path / "in" / "c.parquet", [encode(digits[5]), None])
    worker = Worker()
    worker.open(RemoteJob(job, job.model.path, job.model.digest, installed_versions()))
    done = worker.score(Task(tuple(shards)))
    assert done.error is None
    assert [lost.name for lost in done.lost] == ["c.parquet"]
    assert [written.shard for written in done.finished] == shards[:2]
    assert sorted(path.name for path in job.output.iterdir()) == ["a.parquet", "b.parquet"]
    shards[1].path.unlink()
    answer = worker.score(Task(tuple(shards[1:]))).error
    assert isinstance(answer, InputRefused)
    assert "cannot find the shard" in str(answer)
