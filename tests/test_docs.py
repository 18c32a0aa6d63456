"""README says what the code says."""

from __future__ import annotations

import re
from typing import Any

from screen import cli
from tests.generated import README, REPOSITORY, renew


def test_the_generated_parts_of_readme_are_fresh() -> None:
    text = README.read_text(encoding="utf-8")
    assert renew(text) == text, "run `make docs`"


def test_that_test_can_fail() -> None:
    text = README.read_text(encoding="utf-8")
    stale = re.sub(r"(<!-- generated: columns -->\n).*?\n", r"\1stale\n", text, count=1)
    assert renew(stale) != stale


def test_every_option_in_readme_exists() -> None:
    """In the command lines and sentences alike."""
    text = re.sub(r"^#SBATCH .*$", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    known = {"--help", "--version", "--debug"}
    for command in _commands().values():
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert used <= known, used - known


def _commands() -> dict[str, Any]:
    import typer

    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


def test_every_file_named_in_readme_and_contributing_exists() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:benchmarks|screen|export|tests)/[\w./]+)`", text):
            assert (REPOSITORY / path).exists(), path
