"""`calibrate` and `run`: fit a flag threshold, and score shards.

In: an exported model and shards. Out: a calibration file and a `CalibrationReport`; result shards and a `RunSummary`.
"""

from __future__ import annotations

from pathlib import Path

from screen.api.function import public
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig, CalibrationRun
from screen.decide.request import CalibrationReport
from screen.execution import execute_run
from screen.run.calibration.calibrate import run_calibration
from screen.run.quiet import QuietListener
from screen.run.summary import RunSummary


@public
def calibrate(
    model: str | Path, source: str | Path, output: str | Path, wanted: CalibrationConfig, config: CalibrationRun
) -> CalibrationReport:
    """Fit the flag threshold on in-distribution rows, and write a calibration file.

    Args:
        model: file that an export wrote.
        source: shards of in-distribution rows that the model was not trained on.
        output: calibration file to write; an existing calibration is replaced.
        wanted: options of the calibration.
        config: options for reading rows and running passes.

    Raises:
        Refused: the model or the output cannot be used, there are too few rows, or an option is invalid.
        OodscreenError: the calibration failed; an existing calibration is unchanged.
    """
    return run_calibration(model, str(source), output, config, wanted, QuietListener())


@public
def run(
    model: str | Path, source: str | Path, output: str | Path, config: RunConfig, *, metrics: str | Path | None = None
) -> RunSummary:
    """Score every image of `source` with T dropout passes, and flag the images that a person should review.

    The exit code of the command is `exit_code` of the summary.

    Args:
        model: file that an export wrote.
        source: Parquet shard, folder of shards, or glob.
        output: folder of the result shards; created if missing.
        config: options of the run.
        metrics: `.prom` file for the textfile collector of Prometheus' node_exporter; None for no metrics.

    Raises:
        Refused: the model, the input, the output or an option cannot be used; nothing was written.
        OutputLocked: another run writes to the output; nothing was written.
        OodscreenError: the run failed; finished shards stay.
    """
    file = None if metrics is None else Path(metrics)
    return execute_run(model, str(source), str(output), config, QuietListener(), metrics=file)
