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
    ExitCode.LOCKED: "another run holds OUTPUT; try again later",
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
        f"{result['rank_of_row_247_by_prediction_std']} by `prediction_std` (`python -m benchmarks.mnist`)."
    )


def throughput_table() -> str:
    """What `benchmarks/throughput.py` measured."""
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "throughput.json").read_text())
    rows = [
        "| network | T | Keras loop (a) | onnxruntime loop (b) | oodscreen (c) | floor (d) | a / c | b / c "
        "| image-passes/s | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in result["networks"].items():
        for run in one["oodscreen"]:
            passes, seconds = run["passes"], run["seconds"]
            keras, loop = one["keras_seconds_a_pass"] * passes, one["onnxruntime_seconds_a_pass"] * passes
            floor = one["trunk_seconds"] + one["head_floor_seconds_a_pass"] * passes
            rows.append(
                f"| {name} | {passes} | {keras:.1f} s | {loop:.1f} s | {seconds:.1f} s | {floor:.1f} s | "
                f"{keras / seconds:.1f} | {loop / seconds:.1f} | {one['rows'] * passes / seconds:,.0f} | "
                f"{run['peak_mib']} |"
            )
    legend = "; ".join(f"{name}: {one['network']}, {one['rows']:,} images" for name, one in result["networks"].items())
    machine = result["machine"]
    where = f"{machine['cores']} cores ({machine['processor']}), no GPU" if result["device"] == "cpu" else "a GPU"
    memory = ", ".join(f"{one['rows']:,} rows {one['peak_mib']} MiB" for one in result["sizes"]["by_rows"])
    shards = ", ".join(
        f"{one['rows_a_shard']:,} rows {one['seconds']:.1f} s" for one in result["sizes"]["by_shard_size"]
    )
    heads = ", ".join(
        f"{name} {one['head_seconds_a_pass'] / one['head_floor_seconds_a_pass']:.2f}"
        for name, one in result["networks"].items()
        if name != "mobilenet"  # its head is a thousandth of the trunk
    )
    hundred = ", ".join(
        f"{name} {one['hundred_passes_over_deterministic']:.2f}" for name, one in result["networks"].items()
    )
    return (
        "\n".join(rows)
        + f"\n\nOn {where}. {legend}. Peak memory of the article's network at T = 2: {memory}. "
        + f"10,000 images at T = 10 in shards of: {shards}. In one process, without start-up: a pass of the head, "
        + f"relative to its bare products: {heads}; 100 passes, relative to one deterministic pass: {hundred}."
    )


PARTS: dict[str, Callable[[], str]] = {
    "columns": columns_table,
    "statuses": statuses_table,
    "exit-codes": exit_codes_table,
    "mnist": mnist_sentence,
    "throughput": throughput_table,
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
