"""The console output in README and docs/: each block is the output of its command.

In: an empty folder. Out: the text of each block by its name. The commands run in one folder, one after the other, as a
reader would type them; `oodscreen demo` makes the model and the images.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS_SEED = 0
"""Seed of the made-up labels."""


@dataclass(frozen=True)
class Command:
    """A command whose output is shown.

    Attributes:
        line: the command as it is shown.
        exit_code: how it must end.
        first: the output is shown from the first line with this text.
        end: the output is shown up to the first line with this text; "" for all of it.
        is_cheap: whether the tests compare the block with a run of their own, numbers aside.
    """

    line: str
    exit_code: int = 0
    first: str = ""
    end: str = ""
    is_cheap: bool = True


COMMANDS = {
    "demo": Command("oodscreen demo", first="Flagged rows", end="Files in", is_cheap=False),
    "export": Command("oodscreen export model.keras model.onnx --scale 1/255"),
    "calibrate": Command(
        "oodscreen calibrate model.onnx held-out/ -o model.calibration --review-rate 0.02 --reference training/"
    ),
    "inspect": Command("oodscreen inspect model.onnx", first="  trunk"),
    "run": Command("oodscreen run model.onnx shards/ results/ --calibration model.calibration --keep label"),
    "rerun": Command("oodscreen run model.onnx shards/ results/ --calibration model.calibration --keep label"),
    "check": Command("oodscreen check results/ --input shards/"),
    "refused": Command("oodscreen run model.onnx shards/ results/ --passes 50", exit_code=2),
    "queue": Command("oodscreen queue results/ -o queue.parquet --include-random 1%"),
    "queue-again": Command("oodscreen queue results/ -o queue-2.parquet --include-random 1%"),
    "labels": Command("oodscreen labels export.json results/ -o labels.parquet", is_cheap=False),
}
"""In the order in which they run."""

_ERRORS = {"refused"}
_VOLATILE = (
    (re.compile(r"\d+\.\d s\b"), "… s"),
    (re.compile(r"\d+ rows/s"), "… rows/s"),
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{16}\b"), "0123456789abcdef"),
)
_BEFORE_LABELS = "oodscreen queue results/ -o tasks.json --include-random 1% --project paper --to label-studio-tasks"


def run_all(folder: Path) -> dict[str, str]:
    """Run every command in a folder and return the blocks, without their markers."""
    blocks = {"demo": run_command(folder, "demo")}
    place_files(folder)
    for name in COMMANDS:
        if name == "labels":
            _execute(folder, _BEFORE_LABELS, 0)
            label_tasks(folder / "tasks.json", folder / "export.json")
        if name != "demo":
            blocks[name] = run_command(folder, name)
    return blocks


def run_command(folder: Path, name: str) -> str:
    """Run one of the commands in a folder and return its block."""
    command = COMMANDS[name]
    done = _execute(folder, command.line, command.exit_code)
    text = done.stderr if name in _ERRORS else done.stdout
    return f"```console\n$ {command.line}\n{normalise(_cut(text, command), folder)}\n```"


def normalise(text: str, folder: Path) -> str:
    """The output without progress, and without times, digests and paths, which change from run to run."""
    lines = (line.rstrip() for line in text.splitlines())
    text = "\n".join(line for line in lines if not line.startswith("oodscreen: "))  # progress
    text = text.replace(f"{folder.resolve()}/", "")
    for pattern, instead in _VOLATILE:
        text = pattern.sub(instead, text)
    return text.strip("\n")


def mask_numbers(block: str) -> str:
    """A block without its numbers, its layout and its slowest stage, to compare runs of different networks."""
    text = re.sub(r"\d[\d,.]*(e-\d+)?", "N", re.sub(r"slowest: \w+", "slowest: STAGE", block))
    return " ".join(text.split())


def place_files(folder: Path) -> None:
    """Give what the demo made the names that the pages use."""
    made = folder / "demo-output"
    shutil.copy(made / "article.keras", folder / "model.keras")
    for source, target in (("known/valid", "held-out"), ("known/train", "training"), ("input/digits", "shards")):
        shutil.copytree(made / source, folder / target)


def label_tasks(tasks: Path, export: Path) -> None:
    """Label Studio's export of a file of tasks, with labels made up: the digit's own, and one in twenty each
    "unusable", "out of distribution" and a skipped task.
    """
    import numpy as np
    import pyarrow.parquet as pq

    rows = pq.read_table(tasks.parent / "results", columns=["id", "label"]).to_pylist()
    digits = {row["id"]: str(row["label"]) for row in rows}
    draws = np.random.default_rng(LABELS_SEED)
    labelled: list[dict[str, Any]] = json.loads(tasks.read_text())
    for number, task in enumerate(labelled, 1):
        draw = draws.random()
        choice = "unusable" if draw < 0.05 else "out of distribution" if draw < 0.1 else digits[task["data"]["id"]]
        result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}]
        annotation = {"id": number, "completed_by": 1, "was_cancelled": draw > 0.95, "result": result}
        task["annotations"] = [annotation]
    export.write_text(json.dumps(labelled))


def _cut(text: str, command: Command) -> str:
    lines = text.splitlines()
    if command.first not in text or command.end not in text:
        raise RuntimeError(f"{command.line} does not print {command.first!r} and {command.end!r}")
    start = next(index for index, line in enumerate(lines) if command.first in line)
    ends = [index for index, line in enumerate(lines) if command.end and command.end in line]
    return "\n".join(lines[start : ends[0] if ends else None])


def _execute(folder: Path, line: str, exit_code: int) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("oodscreen"))
    words = shlex.split(line)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "110"}
    done = subprocess.run(
        [program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != exit_code:
        raise RuntimeError(f"{line} ended with {done.returncode}: {done.stderr}")
    return done
