"""Read the result rows that an evaluation needs.

In: a source: a folder, a file or a glob. Out: a table of all rows, the class names in the record of the run, and the
settings of the runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from export.errors import InputRefused, OptionRefused
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.files.failures import raise_if_refused
from screen.files.listing import list_shards
from screen.files.paths import as_path
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.writer import read_identity
from screen.review.extras import missing_library
from screen.review.results import open_results

_NEEDED = ("prediction", "mean", "flag", "status")


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source.

    Attributes:
        name: the source, as given by the user.
        table: all rows, with every score that the files contain.
        class_names: class names in the record of the run; empty if they are unknown.
        settings: settings of the runs that wrote the files, without repetition; files of other programs have none.
    """

    name: str
    table: pa.Table
    class_names: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]


def read_rows(source: str, label: str | None) -> SourceRows:
    """All rows of a source.

    Args:
        source: a folder of results, a file or a glob. In a folder with a manifest, only the shards in the manifest are
            read. Class names are empty if the source has no manifest or the record of the run has no class names.
        label: column of labels to read; None without labels.

    Raises:
        InputRefused: the source contains no results or unfinished results.
        OutputLocked: a run is writing the results.
        OptionRefused: the label column does not exist, or the types of a column in two shards have
            no common type.
    """
    paths, class_names = _shards_of(source)
    tables = [_read_shard(path, label) for path in paths]
    settings: list[dict[str, Any]] = []
    for path, table in zip(paths, tables, strict=True):
        found = _read_settings(path, table.schema)
        if found is not None and found not in settings:
            settings.append(found)
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
        return SourceRows(source, whole, class_names, tuple(settings))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise OptionRefused(
            f"A column of {source} has different types in different shards: {str(error).splitlines()[0]}.",
            wanted="the same type of each column in every shard, including the column given with --label-column",
            next_step="evaluate the results of a single run",
        ) from error


def read_values(table: pa.Table, score: str) -> NDArray[np.float64]:
    """The values of a score, `[n]`, NaN where the score is null."""
    return np.asarray(table[score], np.float64)


def import_metrics() -> Any:
    """The module `sklearn.metrics`.

    Raises:
        OptionRefused: scikit-learn is not installed.
    """
    try:
        from sklearn import metrics
    except ImportError as error:
        raise missing_library("scikit-learn", extra="evaluate") from error
    return metrics


def _read_shard(path: Path, label: str | None) -> pa.Table:
    needed = [*_NEEDED, *([label] if label else [])]
    try:
        names = pq.read_schema(path).names
        missing = [name for name in needed if name not in names]
        scores = [name for name in HIGH_IS_SUSPICIOUS if name in names]
        if not missing:
            return pq.read_table(path, columns=list(dict.fromkeys([*scores, *needed])))
    except (OSError, pa.ArrowException) as error:
        raise_if_refused(path, error)
        raise _no_results(path, str(error).splitlines()[0]) from error
    if missing == [label]:
        raise OptionRefused(
            f"{path} has no column {label!r}.",
            wanted="a column of labels that the run copied from its input",
            next_step=f"repeat the `oodscreen run` with --keep {label}, and with another OUTPUT or with --force",
        )
    raise _no_results(path, f"the file lacks the columns {', '.join(missing[:3])}")


def _read_settings(path: Path, schema: pa.Schema) -> dict[str, Any] | None:
    try:
        return read_identity(schema)
    except ValueError as error:
        raise _no_results(path, "its metadata entry `oodscreen` is not a JSON object") from error


def _shards_of(source: str) -> tuple[list[Path], tuple[str, ...]]:
    """Paths of the result shards in the manifest, and the recorded class names.

    Without a manifest, the paths are those of all Parquet files, and there are no class names.
    """
    if not (as_path(source) / MANIFEST_NAME).is_file():
        listing = list_shards(source)
        for one in listing.unlisted[:1]:
            raise _no_results(one.path, one.reason)
        return [file.path for file in listing.files], ()
    results = open_results(source)
    if not results.entries:
        raise InputRefused(
            f"{source} contains no result shard.",
            wanted="results of `oodscreen run`",
            next_step="run `oodscreen check` on these results",
        )
    return [results.folder / entry.shard for entry in results.entries], results.class_names


def _no_results(path: Path | str, why: str) -> InputRefused:
    return InputRefused(
        f"{path} is not a result shard: {why}.",
        wanted="results of `oodscreen run`",
        next_step="score these rows with `oodscreen run`, and give the OUTPUT folder of that run",
    )
