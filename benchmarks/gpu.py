"""Check and measure a GPU in one session: agreement with the CPU, bitwise reproducibility, placement, memory, speed.

    python -m benchmarks.gpu --prepare [--work DIR]         exports the small networks; needs TensorFlow, no GPU
    python -m benchmarks.gpu [--work DIR] [--device cuda|cpu] [--seconds N] [--only PART] [--experiments]

Neither TensorFlow nor a network is needed after `--prepare`. Each part runs in a separate process with a share of
`--seconds`, so that a crash or a hang ends only one part. All results are recorded, and a failed check does not end the
other checks. Out: benchmarks/results/gpu.json (with a GPU) or gpu-cpu-rehearsal.json in `--work` (with
`--device cpu`), a table on standard output, and exit code 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import gpu_checks, gpu_experiments, gpu_throughput, gpu_torch
from benchmarks.gpu_networks import DESCRIPTIONS, find_models, prepare
from benchmarks.gpu_records import Record, Recorder, Setup, read_records
from benchmarks.gpu_table import gpu_table
from benchmarks.gpu_usage import find_card

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, tuple[Callable[[Setup, Recorder], None], float]] = {
    "agreement": (gpu_checks.agreement, 4),
    "bits": (gpu_checks.bits, 4),
    "bits again": (gpu_checks.bits_again, 1),
    "placement": (gpu_checks.placement, 1),
    "memory": (gpu_checks.memory, 1),
    "adaptive": (gpu_checks.adaptive, 3),
    "costs": (gpu_throughput.costs, 2),
    "throughput": (gpu_throughput.throughput, 8),
    "runs": (gpu_throughput.runs, 3),
    "torch": (gpu_torch.torch_loops, 6),
    "experiments": (gpu_experiments.experiments, 2),
}
"""Function and share of the time of each part; the most important part is first."""

_VERSIONS = ("oodscreen", "onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "pillow", "torch")


def run_part(name: str, setup: Setup, records: Path, seconds: float) -> None:
    """Run one part in this process."""
    recorder = Recorder(name, records, seconds)
    PARTS[name][0](setup, recorder)


def run_parts(names: list[str], setup: Setup, work: Path, seconds: float) -> list[Record]:
    """Run the parts in separate processes, and collect their records."""
    end = time.monotonic() + seconds
    found: list[Record] = []
    for position, name in enumerate(names):
        weights = [PARTS[one][1] for one in names[position:]]
        share = max(5.0, (end - time.monotonic()) * weights[0] / sum(weights))
        limit = max(10.0, min(2 * share + 10, end - time.monotonic()))
        file = setup.scratch / f"{name.replace(' ', '-')}.jsonl"
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--records", str(file)]
        command += ["--work", str(work), "--scratch", str(setup.scratch)]
        command += ["--device", setup.device, "--seconds", str(share)]
        started = time.monotonic()
        error = ""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            if done.returncode != 0:
                error = f"the process ended with {done.returncode}: {done.stderr[-800:]}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {limit:.0f} s; the rest of this part was not measured"
        taken = time.monotonic() - started
        found += [*read_records(file), Record(name, "", "part", False if error else None, {"seconds": taken}, error)]
        failed = sum(one.passed is False for one in found if one.part == name)
        print(f"{name}: {taken:.0f} s, {failed} failed", flush=True)
    return found


def compare_processes(records: list[Record]) -> list[Record]:
    """Whether two processes computed the same bits."""
    digests = {(one.part, one.network): one.values["digest"] for one in records if one.name == "digest"}
    return [
        Record("bits", network, "same bits in each process", digest == digests["bits again", network])
        for (part, network), digest in digests.items()
        if part == "bits" and ("bits again", network) in digests
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Prepare, or run all parts, or run one part in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="export the small networks into --work")
    parser.add_argument("--work", type=Path, default=Path(".gpu/work"), help="folder of the exported networks")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=380.0, help="time of all parts together")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="run this part; may be repeated")
    parser.add_argument("--experiments", action="store_true", help="also try CUDA graphs and pinned memory")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.work)
        return
    if options.part:
        models = {name: options.work / f"{name}.onnx" for name in DESCRIPTIONS}
        built = {name: options.scratch / path.name for name, path in models.items() if not path.exists()}
        setup = Setup({**models, **built}, options.scratch, options.device)
        run_part(options.part, setup, options.records, options.seconds)
        return
    names = options.only or [name for name in PARTS if name != "experiments" or options.experiments]
    card = find_card() if options.device == "cuda" else None
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        setup = Setup(find_models(options.work, Path(folder)), Path(folder), options.device)
        records = run_parts(names, setup, options.work, options.seconds)
    records += compare_processes(records)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_cpu = f"{cores} cores, without a GPU: a rehearsal"
    result: dict[str, Any] = {
        "where": on_cpu if options.device == "cpu" else (card.name if card else "an unknown GPU"),
        "device": options.device,
        "card": asdict(card) if card else None,
        "cores": cores,
        "versions": _versions(),
        "seconds": round(time.monotonic() - started),
        "networks": DESCRIPTIONS,
        "records": [asdict(one) for one in records],
    }
    target = RESULTS / "gpu.json" if options.device == "cuda" else options.work / "gpu-cpu-rehearsal.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{gpu_table(result)}\n\n{result['seconds']} s; all figures are in {target}")
    sys.exit(1 if any(one.passed is False for one in records) else 0)


if __name__ == "__main__":
    main()
