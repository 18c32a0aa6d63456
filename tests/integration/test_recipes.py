"""Recipes that need a real scheduler: cron, and Airflow if it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import read_results
from tests.test_recipes import recipe

pytestmark = pytest.mark.integration

OODSCREEN = Path(sys.executable).with_name("oodscreen")


@pytest.fixture
def place(article_onnx: Path, digit_shards: Path, tmp_path: Path) -> Path:
    shutil.copy(article_onnx, tmp_path / "model.onnx")
    shutil.copytree(digit_shards, tmp_path / "shards")
    return tmp_path


def test_a_real_cron_runs_the_line_of_the_recipe(place: Path) -> None:
    """The line runs every minute instead of every night, from a separate table."""
    if shutil.which("cron") is None or os.geteuid() != 0:
        pytest.skip("no cron here, or no right to start it")
    line = recipe("cron")
    assert line.count("0 3 * * *") == 1
    for old, new in (
        ("0 3 * * *", "* * * * * root"),
        ("/opt/oodscreen/bin/oodscreen", str(OODSCREEN)),
        ("/srv/", f"{place}/"),
        ("/var/lib/node_exporter/", f"{place}/"),
        ("/var/log/", f"{place}/"),
    ):
        assert old in line
        line = line.replace(old, new)
    table = Path("/etc/cron.d/oodscreen-recipe-test")
    table.write_text(line)
    table.chmod(0o644)
    daemon = subprocess.Popen(["cron", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 150
        while not (place / "oodscreen.prom").exists() and time.monotonic() < deadline:
            assert daemon.poll() is None, "cron did not start; perhaps another one runs"
            time.sleep(0.5)
    finally:
        table.unlink()
        daemon.terminate()
        daemon.wait()
    assert "INFO 300 rows in 4 shard(s)" in (place / "oodscreen.log").read_text()
    assert len(read_results(place / "results")) == 300
    done = subprocess.run([OODSCREEN, "check", place / "results", "--input", place / "shards"], check=False)
    assert done.returncode == 0


def test_airflow_runs_the_dag_of_the_recipe(place: Path) -> None:
    """Runs `airflow dags test`; AIRFLOW names the command, which no extra installs because of its many dependencies."""
    airflow = os.environ.get("AIRFLOW") or shutil.which("airflow")
    if airflow is None:
        pytest.skip("airflow is not installed; name its command by AIRFLOW")
    home = place / "airflow"
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "screen.py").write_text(recipe("airflow").replace("/srv/", f"{place}/"))
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "PATH": f"{OODSCREEN.parent}:{os.environ['PATH']}",
    }
    for words in (["db", "migrate"], ["dags", "reserialize"], ["dags", "test", "screen_images", "2026-01-02"]):
        done = subprocess.run([airflow, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(read_results(place / "results")) == 300
    header = json.loads((place / "results" / "_manifest.jsonl").read_text().splitlines()[0])
    assert header["passes"] == 100
