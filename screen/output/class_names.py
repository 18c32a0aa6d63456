"""Class names of a run: given by `--classes`, else those in the record of OUTPUT, else those of the model.

In: names, the contract of the model, and OUTPUT. Out: checked names for the record. No result depends on them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.output.record import RunRecord


def check_class_names(names: tuple[str, ...], contract: ModelContract) -> None:
    """Check the number of the names that were given.

    Raises:
        OptionRefused: the model has another number of classes, or none.
    """
    count = {"values": 0, "binary": 2}.get(contract.task, contract.classes)
    if names and len(names) != count:
        raise wrong_number(len(names), count)


def wrong_number(given: int, count: int) -> OptionRefused:
    """The error for a wrong number of class names.

    Args:
        given: number of the names.
        count: number of the classes of the model; 0 for a regression.
    """
    if not count:
        return OptionRefused(
            f"--classes has {given} name(s), and the model is a regression.",
            wanted="no class names",
            next_step="leave out --classes",
        )
    return OptionRefused(
        f"--classes has {given} name(s), and the model has {count} classes.",
        wanted=f"{count} names, in the order of the model's outputs",
        next_step="give one name for each class",
    )


def choose_class_names(
    names: tuple[str, ...], contract: ModelContract, output: Path, configuration: str
) -> tuple[str, ...]:
    """The names to record: the given ones, else those of the earlier record of this configuration, else the model's."""
    earlier = None if names else RunRecord.read(output, configuration)
    return names or (contract.class_names if earlier is None else earlier.class_names)


def rename_classes(output: Path, configuration: str, names: tuple[str, ...]) -> None:
    """Replace the names in the record of OUTPUT, after a run with nothing to score; no effect without a record.

    Raises:
        WriteFailed: the operating system refused to write.
    """
    record = RunRecord.read(output, configuration)
    if names and record is not None and record.class_names != names:
        replace(record, class_names=names).write(output)
