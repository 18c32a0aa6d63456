"""A queue in a real Label Studio: import, order, second import, kills, labels."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from numpy.typing import NDArray

from screen.config import RunConfig
from screen.review.queue.labelstudio import KEY
from screen.review.queue.labelstudio_api import VIEW_TITLE
from screen.review.queue.labelstudio_client import TOKEN_VARIABLE
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard
from tests.integration.label_studio import Server, serve

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]  # warnings of third-party libraries

sdk = pytest.importorskip("label_studio_sdk", reason="label-studio-sdk is not installed")
httpx = pytest.importorskip("httpx", reason="httpx, with which label-studio-sdk speaks, is not installed")

OODSCREEN = str(Path(sys.executable).with_name("oodscreen"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with httpx.Client(timeout=60) as connections:
        yield sdk.LabelStudio(base_url=server.url, api_key=server.token, httpx_client=connections)


@pytest.fixture
def results(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Results of 150 digits, about a third flagged, with a missing and a duplicate image."""
    images = [encode(image) for image in digits[:150]]
    write_shard(tmp_path / "in" / "a.parquet", images[:80])
    write_shard(tmp_path / "in" / "b.parquet", [*images[80:], images[0], None])
    config = RunConfig(passes=5, device="cpu", flag_if="entropy > 0.5", max_bad_rows="5%")
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    return tmp_path / "out"


def queue(server: Server, results: Path, project: str, *more: str) -> subprocess.CompletedProcess[str]:
    return call(server, "queue", str(results), "--to", "label-studio", "--project", project, *more)


def call(server: Server, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "LABEL_STUDIO_URL": server.url, TOKEN_VARIABLE: server.token, **environment}
    return subprocess.run([OODSCREEN, *words], env=variables, capture_output=True, text=True, check=False)


def project_of(client: Any, title: str) -> Any:
    (project,) = [one for one in client.projects.list(title=title) if one.title == title]
    return project


def tasks_of(client: Any, title: str) -> list[Any]:
    return list(client.tasks.list(project=project_of(client, title).id, fields="all"))


def test_a_project_is_created_filled_and_ordered_by_suspicion(server: Server, client: Any, results: Path) -> None:
    planned = queue(server, results, "order", "--include-random", "20%", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "would be exported to the new Label Studio project 'order'" in planned.stdout
    assert not list(client.projects.list(title="order"))
    assert not (results / "_queue.ledger").exists()
    done = queue(server, results, "order", "--include-random", "20%")
    assert done.returncode == 0, done.stderr
    tasks = tasks_of(client, "order")
    flagged = [task for task in tasks if task.data["source"] == "flagged"]
    assert (
        f"{len(flagged)} flagged row(s) in the order of entropy and {len(tasks) - len(flagged)} random unflagged row(s)"
        in done.stdout
    )
    assert len(tasks) > len(flagged) > 10
    (view,) = [
        view for view in client.views.list(project=project_of(client, "order").id) if view.data["title"] == VIEW_TITLE
    ]
    assert "tasks:data.model_version" in view.data["hiddenColumns"]["explore"]
    suspicions = [task.data["suspicion"] for task in client.tasks.list(view=view.id)]
    assert suspicions == sorted(suspicions, reverse=True)
    assert len(set(suspicions)) > 10
    for score in ("entropy", "mutual_information", "confidence"):
        query = json.dumps({"ordering": [f"-tasks:data.{score}"]})
        ordered = [task.data[score] for task in client.tasks.list(project=project_of(client, "order").id, query=query)]
        assert ordered == sorted(ordered, reverse=True), score
    for task in flagged:
        (prediction,) = task.predictions
        assert prediction.score == pytest.approx(task.data["confidence"])
        assert prediction.model_version == task.data["model_version"]
        assert prediction.result[0]["value"]["choices"] == [task.data["predicted"]]
        assert task.data["image"].startswith("data:image/png;base64,")
        assert "entropy" in task.data["reason"]


def test_a_second_import_adds_nothing_with_and_without_the_ledger(
    server: Server, client: Any, results: Path, tmp_path: Path
) -> None:
    assert queue(server, results, "twice").returncode == 0
    before = [task.data[KEY] for task in tasks_of(client, "twice")]
    for more in ([], ["--ledger", str(tmp_path / "another-ledger")]):
        again = queue(server, results, "twice", *more)
        assert again.returncode == 0, again.stderr
        assert "no new rows for Label Studio project 'twice'" in again.stdout
    assert [task.data[KEY] for task in tasks_of(client, "twice")] == before
    assert len(set(before)) == len(before)


def test_a_removed_task_does_not_come_back(server: Server, client: Any, results: Path) -> None:
    assert queue(server, results, "removed", "--top", "5").returncode == 0
    first, *_ = tasks_of(client, "removed")
    client.tasks.delete(id=str(first.id))
    assert queue(server, results, "removed", "--top", "5").returncode == 0
    keys = [task.data[KEY] for task in tasks_of(client, "removed")]
    assert len(keys) == len(set(keys)) == 9
    assert first.data[KEY] not in keys


def test_a_kill_between_import_and_ledger_imports_nothing_twice(server: Server, client: Any, results: Path) -> None:
    """The process is killed after the server's response, before it writes the ledger."""
    code = (
        "import os, signal, sys\n"
        "from screen.review.queue.ledger import Ledger\n"
        "Ledger.add = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from screen.cli import main\n"
        "main()\n"
    )
    words = ["queue", str(results), "--to", "label-studio", "--project", "killed", "--top", "7"]
    variables = {**os.environ, "LABEL_STUDIO_URL": server.url, TOKEN_VARIABLE: server.token}
    killed = subprocess.run([sys.executable, "-c", code, *words], env=variables, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(tasks_of(client, "killed")) == 7
    assert list((results / "_queue.ledger").glob("*.pq")) == []
    assert queue(server, results, "killed").returncode == 0
    keys = [task.data[KEY] for task in tasks_of(client, "killed")]
    assert len(keys) == len(set(keys)) > 14
    assert queue(server, results, "whole").returncode == 0
    assert {task.data[KEY] for task in tasks_of(client, "whole")} == set(keys)


def test_kills_at_any_moment_neither_duplicate_nor_lose_images(
    server: Server, client: Any, article_onnx: Path, tmp_path: Path
) -> None:
    """Noise images, all flagged, in several imports."""
    noise = np.random.default_rng(5).integers(0, 256, (700, 28, 28, 1), dtype=np.uint8)
    write_shard(tmp_path / "in" / "n.parquet", [encode(image) for image in noise])
    config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0")
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    words = [OODSCREEN, "queue", str(tmp_path / "out"), "--to", "label-studio", "--project", "kills"]
    variables = {**os.environ, "LABEL_STUDIO_URL": server.url, TOKEN_VARIABLE: server.token}
    for wait in (1.2, 1.8, 2.6):
        running = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert queue(server, tmp_path / "out", "kills").returncode == 0
    keys = [task.data[KEY] for task in tasks_of(client, "kills")]
    assert len(keys) == len(set(keys)) == 700


def test_labels_are_read_back_and_evaluated(server: Server, client: Any, results: Path, tmp_path: Path) -> None:
    assert queue(server, results, "labels", "--include-random", "25%").returncode == 0
    tasks = tasks_of(client, "labels")
    project = project_of(client, "labels").id
    said = {}
    for index, task in enumerate(tasks[:-1]):
        label = "out of distribution" if index % 4 == 0 else task.data["predicted"]
        said[task.data["shard"], task.data["row"]] = label
        answer(client, task.id, label)
    answer(client, tasks[-1].id, None)
    export = tmp_path / "export.json"
    export.write_bytes(b"".join(client.projects.exports.download_sync(project, export_type="JSON")))
    found = []
    for words in (["label-studio", "--project", "labels"], [str(export)]):
        output = tmp_path / "labels.parquet"
        done = call(server, "labels", words[0], str(results), "-o", str(output), *words[1:], "--images", "--json")
        assert done.returncode == 0, done.stderr
        rows = pq.read_table(output).to_pylist()
        assert {(row["shard"], row["row"]): row["label"] for row in rows} == said
        found.append((rows, {**json.loads(done.stdout), "read": 0}))
        assert server.token not in done.stdout + done.stderr
    assert found[0] == found[1]
    rows, report = found[0]
    assert report["skipped"] == report["unlabelled"] == 1
    assert report["worth"]["flagged"]["labelled"] + report["worth"]["audit"]["labelled"] == len(said)
    corrections = report["worth"]["flagged"]["out_of_distribution"] + report["worth"]["audit"]["out_of_distribution"]
    assert corrections == sum(label == "out of distribution" for label in said.values())
    assert all(row["image"]["bytes"].startswith(b"\x89PNG") for row in rows)


def answer(client: Any, task: int, label: str | None) -> None:
    value = {"choices": [label]}
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": value}] if label else []
    client.annotations.create(id=task, result=result, was_cancelled=label is None)


def test_label_studio_imports_the_tasks_file(server: Server, client: Any, results: Path, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    done = call(server, "queue", str(results), "-o", str(path), "--to", "label-studio-tasks")
    assert done.returncode == 0, done.stderr
    project = client.projects.create(title="by hand", label_config=path.with_suffix(".xml").read_text())
    response = client.projects.import_tasks(id=project.id, request=json.loads(path.read_text()))
    assert response.task_count == len(tasks_of(client, "by hand")) > 10


def test_names_of_classes_are_text_to_the_server(server: Server, client: Any) -> None:
    from screen.review.classes import ClassNames, _make_distinct
    from screen.review.queue.labelstudio import label_config, parse_form

    classes = ClassNames(
        _make_distinct(('<Choice value="x"/>', "a & b", "'", "ü 語", "unusable", " ", "$image")), False
    )
    made = client.projects.create(title="hostile", label_config=label_config(classes))
    form = parse_form(client.projects.get(id=made.id).parsed_label_config, classes.choices)
    assert not isinstance(form, str)
    assert form.choices == classes.choices


def test_wrong_tokens_addresses_and_projects_have_distinct_errors(server: Server, client: Any, results: Path) -> None:
    client.projects.create(title="theirs", label_config="<View><Text name='t' value='$t'/></View>")
    words = ["queue", str(results), "--to", "label-studio", "--project"]
    expired = re.sub(r"\.[^.]+\.", ".eyJleHAiOjF9.", server.token)
    cases: tuple[tuple[list[str], dict[str, str], int, str], ...] = (
        ([*words, "any project"], {TOKEN_VARIABLE: "0" * 40}, 2, "refused the token"),
        ([*words, "any project"], {TOKEN_VARIABLE: expired}, 2, "refused the token"),
        ([*words, "any project"], {TOKEN_VARIABLE: ""}, 2, f"{TOKEN_VARIABLE} is not set"),
        ([*words, "any project"], {"LABEL_STUDIO_URL": f"{server.url}/nowhere"}, 2, "There is no Label Studio"),
        ([*words, "any project"], {"LABEL_STUDIO_URL": "http://127.0.0.1:9"}, 1, "did not return a valid response"),
        ([*words, "ab"], {}, 2, "is not a valid title for a new project"),
        ([*words, "424242"], {}, 2, "has no project '424242'"),
        ([*words, "theirs"], {}, 2, "has no Choices tag for an Image tag"),
    )
    for arguments, environment, code, message in cases:
        done = call(server, *arguments, **environment)
        assert done.returncode == code, (arguments, done.stderr)
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert server.token not in done.stderr
    assert not (results / "_queue.ledger").exists()
    assert requests.get(f"{server.url}/health", timeout=10).ok


def test_the_token_is_in_no_file(server: Server, results: Path, tmp_path: Path) -> None:
    assert queue(server, results, "secrets").returncode == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert server.token.encode() not in path.read_bytes()
            assert server.token.rsplit(".", 1)[1].encode() not in path.read_bytes()
