"""Class names of a run: given by `--classes`, else those in the record of OUTPUT, else those of the model.

In: checked names, the contract of the model, and OUTPUT. Out: names for the record. No result depends on the names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.contract.metadata import ModelContract
from screen.output.record import RunRecord


def choose_class_names(
    names: tuple[str, ...], contract: ModelContract, output: Path, configuration: str
) -> tuple[str, ...]:
    """The class names to record: `names`, else the names in the record of this configuration, else the model's."""
    earlier = None if names else RunRecord.read(output, configuration)
    own = contract.class_names if len(contract.class_names) == contract.class_count else ()
    return names or (own if earlier is None else earlier.class_names)


def rename_classes(output: Path, configuration: str, names: tuple[str, ...]) -> None:
    """Replace the class names in the record of OUTPUT, if there is a record; for a run that had no shards to score.

    Raises:
        WriteFailed: the operating system refused to write.
    """
    record = RunRecord.read(output, configuration)
    if names and record is not None and record.class_names != names:
        replace(record, class_names=names).write(output)
