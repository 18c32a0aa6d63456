"""Class names of a run: given by `--classes`, else those in the record of OUTPUT, else those of the model.

In: names, the contract of the model, and OUTPUT. Out: checked names for the record. No result depends on the names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.contract import validity
from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.output.record import RunRecord


def check_class_names(names: tuple[str, ...], contract: ModelContract) -> None:
    """Check the class names that were given for the model with this contract; an empty tuple is valid.

    Raises:
        OptionRefused: the number of names is wrong, two names are equal, or a name is not printable.
    """
    check_names(names, {"values": 0, "binary": 2}.get(contract.task, contract.classes))


def check_names(names: tuple[str, ...], count: int) -> None:
    """Check the given class names; an empty tuple is valid.

    Args:
        names: the names.
        count: number of classes of the model; 0 for a regression.

    Raises:
        OptionRefused: the number of names is not `count`, two names are equal, or a name is not printable.
    """
    if names and not count:
        raise OptionRefused(
            f"--classes has {len(names)} name(s), and the model is a regression.",
            wanted="no class names",
            next_step="leave out --classes",
        )
    if names and len(names) != count:
        raise OptionRefused(
            f"--classes has {len(names)} name(s), and the model has {count} classes.",
            wanted=f"{count} names, in the order of the model's outputs",
            next_step="give one name for each class",
        )
    try:
        validity.check_class_names(names, count)
    except ValueError as error:
        raise OptionRefused(
            f"--classes contains {error}.",
            wanted=f"{count} different names, one for each class, without control characters",
            next_step="change the names, for example give 'crane bird' and 'crane machine' in place of 'crane' twice",
        ) from error


def choose_class_names(
    names: tuple[str, ...], contract: ModelContract, output: Path, configuration: str
) -> tuple[str, ...]:
    """The class names to record: `names`, else the names in the record of this configuration, else the model's."""
    earlier = None if names else RunRecord.read(output, configuration)
    return names or (contract.class_names if earlier is None else earlier.class_names)


def rename_classes(output: Path, configuration: str, names: tuple[str, ...]) -> None:
    """Replace the class names in the record of OUTPUT, if there is a record; for a run that had no shards to score.

    Raises:
        WriteFailed: the operating system refused to write.
    """
    record = RunRecord.read(output, configuration)
    if names and record is not None and record.class_names != names:
        replace(record, class_names=names).write(output)
