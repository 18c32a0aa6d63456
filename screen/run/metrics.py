"""Metrics of the last run for Prometheus' textfile collector.

In: a `RunSummary`, or the exit code of a run that failed. Out: a `.prom` file, written aside and
renamed by Prometheus' own client library. The time of the last success outlives failures: it is read
back from the file that is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from export.errors import ExitCode, OodscreenError, OptionRefused
from screen.files.storage import write_failed
from screen.run.summary import RunSummary

_LAST_SUCCESS = "oodscreen_last_success_timestamp_seconds"


@contextmanager
def record_failure(path: Path, output: str) -> Iterator[None]:
    """Write the exit code of a run that fails within the block, and let the error go on.

    A run that finds OUTPUT locked writes nothing: the metrics belong to the one that holds it.

    Args:
        path: the textfile.
        output: OUTPUT, the label that tells one job from another.

    Raises:
        OptionRefused: the path cannot be meant; nothing was run.
    """
    if path.suffix != ".prom" or not path.parent.is_dir():
        raise OptionRefused(
            f"--metrics is {str(path)!r}.",
            wanted="a file in a folder that exists, with a name that ends in .prom: the collector reads no other",
            next_step="give the folder of node_exporter's --collector.textfile.directory and a name in it",
        )
    try:
        yield
    except Exception as error:
        code = error.exit_code if isinstance(error, OodscreenError) else ExitCode.FAILED
        if code is not ExitCode.LOCKED:
            write_metrics(path, output, code, None)
        raise


def write_metrics(path: Path, output: str, code: ExitCode, summary: RunSummary | None) -> None:
    """Write what the last run did.

    Args:
        path: the textfile.
        output: OUTPUT.
        code: how the run ended.
        summary: what it did; None if it failed.

    Raises:
        WriteFailed: the system refused; an earlier file is as it was.
    """
    registry = CollectorRegistry()

    def gauge(name: str, sentence: str, values: Mapping[str, float], label: str | None = None) -> None:
        metric = Gauge(f"oodscreen_{name}", sentence, ["output", label] if label else ["output"], registry=registry)
        for key, value in values.items():
            (metric.labels(output, key) if label else metric.labels(output)).set(value)

    now = time.time()
    success = now if code is ExitCode.DONE else _read_last_success(path, output)
    gauge("last_run_timestamp_seconds", "When the last run ended.", {"": now})
    gauge("last_run_exit_code", "Exit code of the last run.", {"": int(code)})
    if success is not None:
        gauge("last_success_timestamp_seconds", "When a run last ended with exit code 0.", {"": success})
    if summary is not None:
        readable = summary.rows - summary.bad
        gauge("run_duration_seconds", "Wall time of the last run.", {"": summary.seconds})
        gauge("run_stage_seconds", "Seconds each stage was busy; they overlap.", summary.stages, "stage")
        gauge("run_passes", "Monte Carlo dropout passes for each row.", {"": summary.passes})
        gauge("run_rows", "Rows written by the last run.", {"": summary.rows})
        gauge("run_flagged_rows", "Rows flagged by the last run, bad ones included.", {"": summary.flagged})
        gauge("run_bad_rows", "Rows of the last run that could not be scored.", {"": summary.bad})
        gauge("run_rows_by_status", "Rows of the last run by their status.", summary.statuses, "status")
        if readable:
            gauge("run_flag_rate", "Share of the last run's readable rows that are flagged.", {"": summary.flag_rate})
        if summary.drift is not None and summary.drift.band is not None:
            gauge("run_drift_alarm", "1 if the flags left the calibrated band.", {"": int(summary.drift.is_alarm)})
        shards = {
            "scored": len(summary.shards),
            "skipped": len(summary.earlier),
            "unreadable": len(summary.unreadable),
            "vanished": len(summary.vanished),
        }
        gauge("run_shards", "Shards of the last run.", shards, "state")
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise write_failed(path, error) from error


def _read_last_success(path: Path, output: str) -> float | None:
    try:
        text = path.read_text(encoding="utf-8")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == _LAST_SUCCESS and sample.labels.get("output") == output:
                    return float(sample.value)
    except (OSError, ValueError):  # there is no earlier file, or none that can be read
        pass
    return None
