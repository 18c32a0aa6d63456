"""Format the results of `benchmarks.gpu` as a Markdown table, for standard output and for docs/performance.md.

In: the results as JSON values. Out: text.
"""

from __future__ import annotations

from typing import Any

NOT_MEASURED = (
    "No GPU was measured yet. On a machine with a GPU, `python -m benchmarks.gpu` compares the results of the GPU with "
    "those of the CPU, and measures the speed of the GPU; CONTRIBUTING.md describes the steps."
)


def gpu_table(result: dict[str, Any]) -> str:
    """Images per second of each network and T, then the checks that failed."""
    found = {(one["network"], one["name"]): one["values"] for one in result["records"] if not one["error"]}
    rows = [
        "| network | T | oodscreen | exported file, looped | PyTorch, eager | PyTorch, compiled "
        "| faster than the loops | GPU busy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in result["networks"]:
        loops = [
            found.get((name, "loop"), {}).get("per_second"),
            _fastest(found, name, "torch eager"),
            _fastest(found, name, "torch compiled"),
        ]
        for passes in (1, 10, 100, 500):
            own = found.get((name, f"T = {passes}"))
            if own is None:
                continue
            others = [None if speed is None else speed / passes for speed in loops]
            ratios = [f"{own['per_second'] / speed:,.1f}" for speed in others if speed]
            busy = "" if own["gpu_busy"] is None else f"{own['gpu_busy']:.0%}"
            cells = [f"{own['per_second']:,.0f}", *("" if one is None else f"{one:,.1f}" for one in others)]
            rows.append(f"| {name} | {passes} | {' | '.join(cells)} | {' / '.join(ratios)} | {busy} |")
    checks = [one for one in result["records"] if one["passed"] is not None]
    failed = [one for one in checks if not one["passed"]]
    lines = [
        f"Images per second with T passes each, on {result['where']}. "
        f"{len(checks) - len(failed)} of {len(checks)} checks passed."
    ]
    for name in result["networks"]:
        run, decoding = found.get((name, "oodscreen run")), found.get((name, "decoding"))
        if run and decoding:
            lines.append(
                f"`oodscreen run` of {name} at T = {run['passes']}: {run['per_second']:,.0f} images/s with start-up, "
                f"decoding alone {decoding['per_second']:,.0f}; the longest stage is `{run['bound_by']}`."
            )
    lines += [f"Failed: {one['part']}, {one['network']}: {one['name']}. {one['error']}".rstrip() for one in failed]
    return "\n".join(rows) + "\n\n" + "\n".join(lines)


def _fastest(found: dict[tuple[str, str], Any], network: str, way: str) -> float | None:
    """Row-passes per second of the faster layout of the axes, in float32."""
    speeds = [
        values["per_second"]
        for (name, record), values in found.items()
        if name == network and record.startswith(way) and not record.endswith("tf32")
    ]
    return max(speeds, default=None)
