"""Checks of `benchmarks.gpu`: the results of a device agree with those of the CPU, and are bitwise reproducible.

In: a `Setup`. Out: records. With the device `cpu`, all checks run on the CPU, so that they can be tested without a GPU.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_networks import DESCRIPTIONS, RESNET, make_images
from benchmarks.gpu_records import Recorder, Setup
from export.contract.reader import ExportedModel, read_model
from screen.engine.device.choice import choose_device
from screen.engine.device.placement import misplaced_nodes
from screen.engine.device.provider import Device
from screen.engine.distance import DEFAULT_METRICS, fit_distance
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from screen.engine.statistics import PassSummary
from screen.run.screener import Screener

TOLERANCE = 1e-5
"""Maximum difference from the CPU: absolute for probabilities and entropies, else relative to the largest value."""

_COMPARED = ("mean", "std", "entropy")
_PASSES = 20
_ROWS = 17


def _images(model: ExportedModel, rows: int = _ROWS) -> NDArray[np.uint8]:
    return make_images(model.contract.image_shape, rows)


def _summarize(screener: Screener, images: NDArray[np.uint8]) -> PassSummary:
    (summary,) = screener.summarize_each([images])
    assert summary is not None
    return summary


def _differences(found: PassSummary, wanted: PassSummary) -> dict[str, float]:
    """Largest absolute difference of each statistic, and the same difference relative to the largest value."""
    values: dict[str, float] = {}
    for name in _COMPARED:
        one, other = getattr(found, name), getattr(wanted, name)
        values[name] = float(np.max(np.abs(one - other)))
        values[f"{name}_relative"] = values[name] / max(float(np.max(np.abs(other))), 1e-30)
    return values


def _flags(found: PassSummary, wanted: PassSummary) -> dict[str, int]:
    """Number of rows whose flag differs, in total and away from the threshold (the median entropy on the CPU)."""
    assert found.entropy is not None
    assert wanted.entropy is not None
    limit = float(np.median(wanted.entropy))
    differs = (found.entropy > limit) != (wanted.entropy > limit)
    away = np.abs(wanted.entropy - limit) > TOLERANCE
    return {"flags_differ": int(differs.sum()), "flags_differ_away": int((differs & away).sum())}


def agreement(setup: Setup, recorder: Recorder) -> None:
    """Compare means, standard deviations, entropies, flags and distances with those of the CPU, also for tf32."""
    for name in DESCRIPTIONS:
        model = read_model(setup.models[name])
        images = _images(model)
        for masks in ("shared", "per-row"):
            if masks == "per-row" and name == RESNET:
                continue
            with recorder.attempt(name, f"{masks} masks"):
                recorder.require_time()
                options: dict[str, Any] = {"passes": _PASSES, "masks": masks}
                wanted = _summarize(Screener(model, device="cpu", **options), images)
                found = _summarize(Screener(model, device=setup.device, **options), images)
                values, flags = _differences(found, wanted), _flags(found, wanted)
                passed = max(values[one] for one in _COMPARED) <= TOLERANCE and not flags["flags_differ_away"]
                recorder.add(name, f"{masks} masks", passed, **values, **flags)
        with recorder.attempt(name, "distances"):
            recorder.require_time()
            difference = _distance_difference(model, images, choose_device(setup.device, 0))
            recorder.add(name, "distances", max(difference.values()) <= TOLERANCE, **difference)
        if setup.device != "cpu":
            with recorder.attempt(name, "tf32"):
                recorder.require_time()
                wanted = _summarize(Screener(model, device="cpu", passes=_PASSES), images)
                coarse: dict[str, Any] = {"device": setup.device, "passes": _PASSES, "precision": "tf32"}
                found = _summarize(Screener(model, **coarse), images)
                recorder.add(name, "tf32", None, **_differences(found, wanted), **_flags(found, wanted))


def _distance_difference(model: ExportedModel, images: NDArray[np.uint8], device: Device) -> dict[str, float]:
    """Largest difference of each distance from its value on the CPU, relative to the largest distance."""
    plan, cpu = plan_engine(model, features=True), choose_device("cpu", 0)
    options: dict[str, Any] = {"passes": 2, "seed": 0}
    reference = PassEngine(plan, device=cpu, **options).features(_images(model, 24)[::-1])
    distances = tuple(
        fit_distance(f"{group}_distance", reference, columns, cpu, DEFAULT_METRICS[f"{group}_distance"], 3)
        for group, columns in plan.features.groups.items()
    )
    # Rows of the reference set have distances near 0, where the root amplifies rounding errors.
    rows = 255 - images
    found, wanted = (
        PassEngine(plan, device=one, distances=distances, **options).summarize(rows) for one in (device, cpu)
    )
    differences = {}
    for distance in distances:
        one, other = getattr(found, distance.name), getattr(wanted, distance.name)
        differences[distance.name] = float(np.max(np.abs(one - other)) / np.max(np.abs(other)))
    return differences or {"none": 0.0}


def digest(summary: PassSummary) -> str:
    """SHA-256 of the bytes of all statistics."""
    found = hashlib.sha256()
    for field in fields(summary):
        value = getattr(summary, field.name)
        if value is not None:
            found.update(field.name.encode() + np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def bits(setup: Setup, recorder: Recorder) -> None:
    """Check that the bits are the same in each run, session and batch size; the parent compares two processes."""
    for name in DESCRIPTIONS:
        model = read_model(setup.models[name])
        images = _images(model)
        with recorder.attempt(name, "same bits in each run"):
            recorder.require_time()
            screener = Screener(model, passes=_PASSES, device=setup.device)
            whole = _summarize(screener, images)
            first = digest(whole)
            again, fresh = (
                digest(_summarize(one, images))
                for one in (screener, Screener(model, passes=_PASSES, device=setup.device))
            )
            recorder.add(name, "same bits in each run", first == again)
            recorder.add(name, "same bits in each session", first == fresh)
            recorder.add(name, "digest", None, digest=first)
        for size in (1, 2, 7, 16):  # with 17 rows, the last batch has another size
            with recorder.attempt(name, f"same bits in batches of {size}"):
                recorder.require_time()
                starts = range(0, len(images), size)
                parts = [_summarize(screener, images[start : start + size]) for start in starts]
                equal, largest = True, 0.0
                for statistic in _COMPARED:
                    joined = np.concatenate([getattr(part, statistic) for part in parts])
                    equal &= bool(np.array_equal(joined, getattr(whole, statistic)))
                    largest = max(largest, float(np.max(np.abs(joined - getattr(whole, statistic)))))
                recorder.add(name, f"same bits in batches of {size}", equal, largest_difference=largest)


def bits_again(setup: Setup, recorder: Recorder) -> None:
    """Record the digest of the same rows in another process."""
    for name in DESCRIPTIONS:
        with recorder.attempt(name, "digest"):
            recorder.require_time()
            model = read_model(setup.models[name])
            summary = _summarize(Screener(model, passes=_PASSES, device=setup.device), _images(model))
            recorder.add(name, "digest", None, digest=digest(summary))


def placement(setup: Setup, recorder: Recorder) -> None:
    """Check that no node except shape arithmetic is on another device."""
    for name in DESCRIPTIONS:
        with recorder.attempt(name, "placement"):
            recorder.require_time()
            model = read_model(setup.models[name])
            screener = Screener(model, passes=_PASSES, device=setup.device)
            engine, wanted = screener._engine, screener.device.provider
            for part, session, graph in (
                ("trunk", engine._trunk._session._session, engine.plan.trunk),
                ("head", engine._head._session, engine.plan.head),
            ):
                nodes = {
                    group.ep_name: [node.name for node in group.get_nodes()]
                    for group in session.get_provider_graph_assignment_info()
                }
                elsewhere = [node for provider, some in nodes.items() if provider != wanted for node in some]
                misplaced = misplaced_nodes(graph, elsewhere)
                counts = {provider: len(some) for provider, some in nodes.items()}
                passed = not misplaced and wanted in counts
                recorder.add(name, f"placement of the {part}", passed, nodes=counts, misplaced=misplaced[:5])


def memory(setup: Setup, recorder: Recorder) -> None:
    """Check that session runs have fewer rows if memory runs out, with bitwise identical results.

    On a GPU, the arena of the session is small; on the CPU, the address space of this process is limited permanently.
    """
    name, rows = "article", 4000
    with recorder.attempt(name, "out of memory halves the rows"):
        recorder.require_time()
        model = read_model(setup.models[name])
        images = np.resize(_images(model, 64), (rows, *model.contract.image_shape))
        wanted = _summarize(Screener(model, passes=5, device=setup.device), images)
        notes: list[str] = []
        small = Screener(model, passes=5, device=setup.device, memory=128, threads=1, notify=notes.append)
        engine = small._engine
        _summarize(small, images[:50])
        engine._trunk.sizes = replace(engine._trunk.sizes, rows=rows, head_rows=rows)
        if setup.device == "cpu" and sys.platform == "linux":
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20,) * 2)
        found = _summarize(small, images)
        ran_out = any("memory ran out" in note for note in notes)
        equal = digest(found) == digest(wanted)
        close = bool(np.abs(found.mean - wanted.mean).max() <= 1e-5)  # fewer rows can use other kernels on a GPU
        figures = {"notes": notes, "rows_per_run": engine.rows_per_run, "same_bits": equal, "close": close}
        same = equal if setup.device == "cpu" else close
        recorder.add(name, "out of memory halves the rows", ran_out and same, **figures)


def adaptive(setup: Setup, recorder: Recorder) -> None:
    """Check that early exit has the flags and passes of the CPU and is reproducible, and measure its time."""
    for name in ("article", "blocks"):
        with recorder.attempt(name, "adaptive"):
            recorder.require_time()
            model = read_model(setup.models[name])
            images = _images(model, 256 if name == "article" else 8)
            limit = float(np.median(_entropy(_summarize(Screener(model, passes=_PASSES, device="cpu"), images))))
            options: dict[str, Any] = {"passes": 100, "adaptive": True, "flag_if": f"entropy > {limit:.6f}"}
            early = Screener(model, device=setup.device, **options)
            wanted = _summarize(Screener(model, device="cpu", **options), images)
            found = _summarize(early, images)
            full = Screener(model, device=setup.device, passes=100)
            _summarize(full, images)
            flags = (_entropy(found) > limit) != (_entropy(wanted) > limit)
            away = np.abs(_entropy(wanted) - limit) > TOLERANCE
            same = digest(found) == digest(_summarize(early, images))
            figures = {
                "flags_differ_away": int((flags & away).sum()),
                "passes_differ": int((found.passes != wanted.passes).sum()),
                "mean_passes": float(found.passes.mean()),
                "same_bits": same,
                "seconds": _seconds(partial(_summarize, early, images)),
                "seconds_of_all_passes": _seconds(partial(_summarize, full, images)),
            }
            recorder.add(name, "adaptive", same and not figures["flags_differ_away"], **figures)


def _entropy(summary: PassSummary) -> NDArray[np.float64]:
    assert summary.entropy is not None
    return summary.entropy


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
