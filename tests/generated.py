"""The parts of README that are made from the code: `make docs` writes them, a test holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from export.errors import ExitCode
from screen.columns import COLUMNS, STATUSES

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"

_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed; finished shards stay, and a rerun goes on behind them",
    ExitCode.REFUSED: "refused: a wrong option, model or input; nothing was written; do not retry",
    ExitCode.UNREADABLE_INPUT: "done, but a whole shard could not be read",
    ExitCode.SIGINT: "interrupted by Ctrl-C; finished shards stay",
}


def columns_table() -> str:
    """The result columns."""
    rows = ["| column | type | unit | range | what it says |", "|---|---|---|---|---|"]
    for column in COLUMNS:
        kind = str(column.type).replace("list<item: float>", "list of float").replace("double", "float64")
        rows.append(f"| `{column.name}` | {kind} | {column.unit} | {column.range} | {column.sentence} |")
    return "\n".join(rows)


def statuses_table() -> str:
    """The values of the column `status`."""
    rows = ["| status | meaning |", "|---|---|"]
    rows += [f"| `{status}` | {meaning} |" for status, meaning in STATUSES.items()]
    return "\n".join(rows)


def exit_codes_table() -> str:
    """The exit codes that there are so far."""
    rows = ["| exit code | meaning |", "|---|---|"]
    rows += [f"| {int(code)} | {meaning} |" for code, meaning in _MEANINGS.items()]
    return "\n".join(rows)


def mnist_sentence() -> str:
    """What `benchmarks/mnist.py` measured."""
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "mnist.json").read_text())
    return (
        f"Trained on all of MNIST ({result['epochs']} epochs), the network's predictive mean over {result['passes']} "
        f"passes is right on {result['accuracy']:.2%} of the 10,000 test images, and the article's image, row 247, "
        f"is number {result['rank_of_row_247_by_entropy']} of rows 0 to 499 by `entropy` and number "
        f"{result['rank_of_row_247_by_prediction_std']} by `prediction_std` (`python benchmarks/mnist.py`)."
    )


PARTS: dict[str, Callable[[], str]] = {
    "columns": columns_table,
    "statuses": statuses_table,
    "exit-codes": exit_codes_table,
    "mnist": mnist_sentence,
}


def renew(text: str) -> str:
    """The text with every generated part as it must be."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        part = make()
        text, count = pattern.subn(lambda match, part=part: match.group(1) + part + "\n" + match.group(2), text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"README has {count} places for {name!r}")
    return text


if __name__ == "__main__":
    README.write_text(renew(README.read_text(encoding="utf-8")), encoding="utf-8")
