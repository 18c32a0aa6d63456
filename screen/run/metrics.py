"""Metrics of the last run for the textfile collector of Prometheus' node_exporter.

In: a `RunSummary`, or the exit code of a failed run. Out: a `.prom` file. After a run with an exit
code other than 0, the time of the last success is copied from the existing file; after a failed run, also the drift
alarm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from export.errors import ExitCode, OodscreenError, OptionRefused
from screen.files.paths import name_place
from screen.files.storage import write_text
from screen.run.summary import RunSummary

_LAST_SUCCESS = "oodscreen_last_success_timestamp_seconds"
_ALARM = "oodscreen_run_drift_alarm"


@contextmanager
def record_failure(path: Path, output: str) -> Iterator[None]:
    """If a run fails within the block, write its exit code to the metrics file, and raise the error again.

    If OUTPUT is locked, nothing is written: the metrics belong to the run that holds the lock.

    Args:
        path: the `.prom` file.
        output: path of OUTPUT; a label of every metric, which distinguishes jobs.

    Raises:
        OptionRefused: the path is invalid; raised before the block runs.
    """
    if path.suffix != ".prom" or not path.parent.is_dir():
        raise OptionRefused(
            f"--metrics is {str(path)!r}.",
            wanted="a file name that ends in .prom, in an existing folder; the textfile collector reads no other files",
            next_step="give a .prom file in the folder of node_exporter's option --collector.textfile.directory",
        )
    try:
        yield
    except Exception as error:
        code = error.exit_code if isinstance(error, OodscreenError) else ExitCode.FAILED
        if code is not ExitCode.LOCKED:
            write_metrics(path, output, code, None)
        raise


def write_metrics(path: Path, output: str, code: ExitCode, summary: RunSummary | None) -> None:
    """Write the metrics of the last run.

    Args:
        path: the `.prom` file to write.
        output: path of OUTPUT, a label of every metric.
        code: exit code of the run.
        summary: summary of the run; None if the run failed.

    Raises:
        WriteFailed: the operating system refused the write; an existing file is unchanged.
    """
    output = name_place(output)
    registry = CollectorRegistry()

    def gauge(name: str, sentence: str, values: Mapping[str, float], label: str | None = None) -> None:
        metric = Gauge(f"oodscreen_{name}", sentence, ["output", label] if label else ["output"], registry=registry)
        for key, value in values.items():
            (metric.labels(output, key) if label else metric.labels(output)).set(value)

    now = time.time()
    success = now if code is ExitCode.DONE else _read_last(path, _LAST_SUCCESS, output)
    gauge("last_run_timestamp_seconds", "Unix time of the end of the last run.", {"": now})
    gauge("last_run_exit_code", "Exit code of the last run.", {"": int(code)})
    if success is not None:
        gauge("last_success_timestamp_seconds", "Unix time of the end of the last run with exit code 0.", {"": success})
    alarm = _read_last(path, _ALARM, output) if summary is None else None  # a failed run tests no rows
    if summary is not None:
        readable = summary.rows - summary.bad
        gauge("run_duration_seconds", "Wall time of the last run.", {"": summary.seconds})
        gauge("run_stage_seconds", "Busy time of each stage; stages overlap.", summary.stages, "stage")
        gauge("run_passes", "Monte Carlo dropout passes per row, T.", {"": summary.passes})
        gauge("run_rows", "Rows written by the last run.", {"": summary.rows})
        gauge(
            "run_flagged_rows",
            "Rows flagged by the last run, including rows that could not be scored.",
            {"": summary.flagged},
        )
        gauge("run_bad_rows", "Rows of the last run that could not be scored.", {"": summary.bad})
        gauge("run_rows_by_status", "Rows of the last run by status.", summary.statuses, "status")
        if readable:
            gauge("run_flag_rate", "Share of the last run's readable rows that are flagged.", {"": summary.flag_rate})
        if summary.drift is not None and summary.drift.band is not None:
            alarm = int(summary.drift.is_alarm)
            gauge(
                "run_drift_rows", "Readable rows of the last runs that are in the drift test.", {"": summary.drift.rows}
            )
        shards = {
            "scored": len(summary.shards),
            "skipped": len(summary.earlier),
            "unreadable": len(summary.unreadable),
            "vanished": len(summary.vanished),
        }
        gauge("run_shards", "Shards of the last run by state.", shards, "state")
    if alarm is not None:
        gauge("run_drift_alarm", "1 if the number of flags is outside the prediction interval, else 0.", {"": alarm})
    write_text(path, generate_latest(registry).decode(), unlocked=True)


def _read_last(path: Path, name: str, output: str) -> float | None:
    """The value of a metric of OUTPUT in the existing file; None if the file or the metric is missing or unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels.get("output") == output:
                    return float(sample.value)
    except (OSError, ValueError):  # there is no existing file, or it is unreadable
        pass
    return None
