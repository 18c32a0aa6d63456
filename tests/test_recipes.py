"""The recipes of docs/, as far as they can be tried without large dependencies."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from screen import cli
from screen.partition import ShardPartition
from tests.pages import DOCS, GUIDE, find_blocks

PAGES = [DOCS / "install.md", DOCS / "nightly.md", DOCS / "scaling.md"]


def recipe(name: str) -> str:
    """The text of a recipe."""
    (text,) = [block.text for page in PAGES for block in find_blocks(page) if block.name == name]
    return text


RECIPES = [
    "containerfile",
    "cron",
    "oodscreen.service",
    "oodscreen.timer",
    "airflow",
    "cronjob",
    "slurm",
    "indexed-job",
]


def test_every_recipe_is_tried_here_or_said_not_to_be() -> None:
    assert [block.name for page in PAGES for block in find_blocks(page) if block.origin == "recipe"] == RECIPES
    elsewhere = [page for page in GUIDE if page not in PAGES]
    assert not [block for page in elsewhere for block in find_blocks(page) if block.origin == "recipe"]


def test_every_option_and_argument_of_a_recipe_is_one_of_the_command() -> None:
    group: Any = typer.main.get_command(cli.app)
    known = {option for parameter in group.commands["run"].params for option in parameter.opts}
    text = "\n".join(
        recipe(name) for name in ("cron", "oodscreen.service", "airflow", "cronjob", "slurm", "indexed-job")
    )
    text = re.sub(r"^#SBATCH .*$", "", text, flags=re.MULTILINE)
    used = set(re.findall(r"--[a-z][a-z-]+", text))
    assert used
    assert used <= known


def test_the_line_of_cron_keeps_the_exit_code_and_the_errors(tmp_path: Path) -> None:
    """With a command that fails in place of `oodscreen`; a pipe would end with the code of its last command."""
    command = tmp_path / "oodscreen"
    command.write_text("#!/bin/sh\necho broken >&2\nexit 4\n")
    command.chmod(0o755)
    line = recipe("cron").splitlines()[-1].split(maxsplit=5)[5].replace("/opt/oodscreen/bin/oodscreen", str(command))
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (4, "broken\n")


def test_the_units_pass_systemd_analyze_verify(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = tmp_path / "oodscreen"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for name in ("oodscreen.service", "oodscreen.timer"):
        (tmp_path / name).write_text(recipe(name).replace("/opt/oodscreen/bin/oodscreen", str(command)))
    units = [tmp_path / "oodscreen.service", tmp_path / "oodscreen.timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "oodscreen" not in done.stderr, done.stderr
    units[0].write_text(units[0].read_text().replace("Type=oneshot", "Type=nightly"))
    broken = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert "nightly" in broken.stderr  # so this test can fail


def test_the_units_list_the_exit_codes_that_are_no_failure() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(recipe("oodscreen.service"))
    assert parser["Service"]["SuccessExitStatus"] == "75"


@pytest.mark.parametrize(("name", "field"), [("cronjob", "concurencyPolicy"), ("indexed-job", "completionMod")])
def test_the_jobs_fit_the_schema_of_kubernetes(name: str, field: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    job = yaml.safe_load(recipe(name))
    version = validate.latest_version()
    validate.validate(job, version, strict=True)
    job["spec"][field] = "Forbid"
    with pytest.raises(validate.ValidationError):  # so this test can fail
        validate.validate(job, version, strict=True)


@pytest.mark.parametrize("job", ["slurm", "indexed-job"])
def test_the_jobs_of_an_array_do_each_part_once(job: str, tmp_path: Path) -> None:
    """Their own scripts, in a shell, with a command that prints its last argument in place of `oodscreen`."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    if job == "slurm":
        script, name, first = recipe("slurm"), "SLURM_ARRAY_TASK_ID", 1
        count = int(re.findall(r"--array=1-(\d+)", script)[0])
    else:
        spec = yaml.safe_load(recipe("indexed-job"))["spec"]
        script, name, first = spec["template"]["spec"]["containers"][0]["args"][0], "JOB_COMPLETION_INDEX", 0
        count = spec["completions"]
    (tmp_path / "oodscreen").write_text('#!/bin/sh\nfor last; do :; done; echo "$last"\n')
    (tmp_path / "oodscreen").chmod(0o755)
    parts = [
        subprocess.run(
            ["/bin/sh", "-c", script],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", name: str(first + index)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for index in range(count)
    ]
    assert [ShardPartition.parse(text) for text in parts] == [
        ShardPartition(index + 1, count) for index in range(count)
    ]


def test_the_dag_is_python() -> None:
    names = {node.name for node in ast.walk(ast.parse(recipe("airflow"))) if isinstance(node, ast.FunctionDef)}
    assert names == {"screen_images", "screen"}
