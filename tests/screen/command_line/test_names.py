from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import oodscreen
from tests.reference import commands

VARIANTS = {
    "--image-root": "the base folder of paths of image files, in a column of the shards or of a list",
    "--output": "the file or folder that the command writes; the metavar names its kind",
    "--label-column": "the column of the labels, in the file that the command reads them from",
    "--input": "the location of the input shards, which `check` compares and the others read images from",
    "--top": "the maximum number of rows, the most suspicious first",
    "--order-by": "the score that orders flagged rows",
    "--adaptive": "early exit of the passes, of which `calibrate` measures the effect",
    "--project": "the labelling project",
    "--images": "whether image bytes are written",
    "--ledger": "the directory of the deduplication ledger of a queue",
    "--dry-run": "nothing is changed; the help states what would be",
}
"""Options with one meaning, whose help or metavar differs between commands because it states more."""

FORMER = [
    ("export", "--keep", "--keep-layer"),
    ("export", "--output", "--output-layer"),
    ("evaluate", "--label", "--label-column"),
    ("evaluate", "--json", "--output"),
    ("queue", "--seed", "--audit-seed"),
]


def options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name != "argument" and not one.hidden]


def test_an_option_has_one_meaning_in_all_commands() -> None:
    meanings: dict[str, dict[tuple[str, str | None, bool], str]] = {}
    for name, command in commands().items():
        for one in options(command):
            meaning = (" ".join(one.help.split()), one.metavar, bool(one.is_flag))
            meanings.setdefault(one.opts[0], {}).setdefault(meaning, name)
    differ = {flag: found for flag, found in meanings.items() if len(found) > 1 and flag not in VARIANTS}
    assert not differ
    kinds = {flag: {is_flag for _, _, is_flag in found} for flag, found in meanings.items()}
    assert not {flag for flag, found in kinds.items() if len(found) > 1}


def test_a_short_name_belongs_to_one_option() -> None:
    long: dict[str, set[str]] = {}
    for command in commands().values():
        for one in options(command):
            for short in one.opts[1:]:
                long.setdefault(short, set()).add(one.opts[0])
    assert all(len(names) == 1 for names in long.values()), long


def test_the_key_of_an_option_is_its_name() -> None:
    for command in commands().values():
        for one in options(command):
            assert f"--{one.name.replace('_', '-')}" == one.opts[0]


@pytest.mark.parametrize(("command", "former", "present"), FORMER)
@pytest.mark.parametrize("sign", [" ", "="])
def test_a_former_name_still_works_and_is_not_shown(
    command: str,
    former: str,
    present: str,
    sign: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for name in (former, present):
        assert oodscreen(command, *f"{name}{sign}7".split(), "--print-config", monkeypatch=monkeypatch) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "7" in shown[0]
    assert oodscreen(command, former, "7", present, "8", "--print-config", monkeypatch=monkeypatch) == 2
    assert f"{former}, the former name of {present}" in capsys.readouterr().err
    assert former not in {name for one in options(commands()[command]) for name in one.opts}
