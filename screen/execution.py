"""Execute a run: choose the executor that scores the shards, and write the metrics file.

In: an exported model, INPUT, OUTPUT and a `RunConfig`. Out: result shards, a `RunSummary`, and the metrics of the run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from screen.config import RunConfig
from screen.run.runner import Listener, run_screening
from screen.run.scoring import OpenExecutor, open_here
from screen.run.stopping import StopRequest
from screen.run.summary import RunSummary


def execute_run(
    model: str | Path,
    source: str,
    output: str,
    config: RunConfig,
    listener: Listener,
    *,
    metrics: Path | None = None,
    stop: StopRequest | None = None,
) -> RunSummary:
    """Score every row of INPUT into OUTPUT, and write the metrics of the run.

    If the run fails, the metrics are written, too, unless OUTPUT is locked.

    Args:
        model: file written by `oodscreen export`.
        source: a shard, a folder of shards, or a glob.
        output: folder of results; created if missing.
        config: options of the run.
        listener: object that receives progress and notices.
        metrics: `.prom` file to write; None for no metrics.
        stop: request to stop, checked between batches.

    Raises:
        OodscreenError: the run failed (see `run_screening`), or the metrics cannot be written.
    """
    recording: AbstractContextManager[None] = nullcontext()
    if metrics is not None:
        from screen.run.metrics import record_failure, write_metrics

        recording = record_failure(metrics, output)
    with recording:
        summary = run_screening(model, source, output, config, listener, stop, _choose_executor(config))
    if metrics is not None:
        write_metrics(metrics, output, summary.exit_code, summary)
    return summary


def _choose_executor(config: RunConfig) -> OpenExecutor:
    if config.engine == "ray":
        from screen.cluster.connect import open_cluster

        return open_cluster
    return open_here
