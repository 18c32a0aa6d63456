"""Find the shards whose results OUTPUT cannot hold under their names.

In: OUTPUT, INPUT and the names of finished shards. Out: the usable shards, and an `UnreadableShard` with the reason for
each unusable shard. Unusable shards are quarantined.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from export.leftovers import staging_folder
from screen.files.listed import Listing
from screen.files.paths import is_local, name_place
from screen.input.shards import ShardRef, UnreadableShard

_SHORT_BYTES = 128
"""Length in bytes up to which a path is assumed to be short enough for every file system."""

_KEY_BYTES = 1024
"""Maximum length of a key in the object stores of Amazon, Google and Microsoft, in bytes."""


def split_usable(
    output: Path, listing: Listing, shards: Sequence[ShardRef], finished: Collection[str]
) -> tuple[list[ShardRef], list[UnreadableShard]]:
    """The usable shards, whose results OUTPUT can hold, and the unusable shards, each with its reason.

    Args:
        output: folder of results, which need not exist.
        listing: the files in INPUT.
        shards: shards of `listing`.
        finished: names of finished shards, whose results are in OUTPUT; of two shards that exclude each other, the
            finished one is usable.
    """
    reasons = find_unusable(output, (file.name for file in listing.files), finished)
    unusable = [
        UnreadableShard(name_place(shard.path), shard.name, reasons[shard.name])
        for shard in shards
        if shard.name in reasons
    ]
    return [shard for shard in shards if shard.name not in reasons], unusable


def find_unusable(output: Path, names: Iterable[str], finished: Collection[str]) -> dict[str, str]:
    """Reasons why OUTPUT cannot hold the results of shards, by name of the shard.

    Args:
        output: folder of results, which need not exist.
        names: names of all shards in INPUT.
        finished: names of finished shards, as for `split_usable`.
    """
    new = [name for name in names if name not in finished]
    folder = _existing(output)
    reasons = {name: why for name in new if (why := _why_too_long(output, folder, name))}
    reasons |= _find_files_with_folders(set(new), set(finished))
    reasons |= _find_twins(output, folder, [name for name in new if name not in reasons], finished)
    return reasons


def _existing(output: Path) -> Path:
    """OUTPUT, or the nearest folder above it that exists."""
    while is_local(output) and not output.is_dir() and output != output.parent:
        output = output.parent
    return output


def _why_too_long(output: Path, folder: Path, name: str) -> str:
    if not is_local(output):
        size = len(f"{output.path}/{name}".encode(errors="surrogateescape"))  # type: ignore[attr-defined]
        too_long = f"the key of the result would have {size} bytes, and a store holds keys of up to {_KEY_BYTES}"
        return too_long if size > _KEY_BYTES else ""
    if len(os.fsencode(name)) + len(os.fsencode(output)) <= _SHORT_BYTES:
        return ""
    try:
        for one in (output / name, *(folder / part for part in name.split("/"))):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(one)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"OUTPUT cannot hold a result of this name: {error.strerror}"
    return ""


def _find_files_with_folders(new: set[str], finished: set[str]) -> dict[str, str]:
    """Reasons against new shards: a shard has the name of a folder of other shards, and OUTPUT cannot hold both.

    If the shard with the name of the folder is finished, the new shards in the folder are unusable.
    """
    reasons = {}
    for name in new:
        for above in _folders(name):
            if above in finished:
                reasons[name] = f"OUTPUT has a file {above!r}, and cannot also hold a folder of this name"
            elif above in new:
                reasons[above] = "INPUT also has a folder of this name, and OUTPUT cannot hold both"
    for above in {above for name in finished for above in _folders(name)} & new:
        reasons[above] = "OUTPUT has a folder of this name, and cannot also hold a file of this name"
    return reasons


def _find_twins(output: Path, folder: Path, names: list[str], finished: Collection[str]) -> dict[str, str]:
    """Reasons against new shards whose names the file system of OUTPUT does not distinguish from other names.

    These names differ only in case or Unicode form.
    """
    if not is_local(output):
        return {}
    parts = {part for name in (*names, *finished) for part in (*_folders(name), name)}
    spellings: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        spellings[_folded(part)].append(part)
    twins = {part: sorted(same) for same in spellings.values() if len(same) > 1 for part in same}
    reasons = {}
    for name in names if twins else ():
        for part in (*_folders(name), name):
            other = next((one for one in twins.get(part, ()) if one != part), None)
            if other is not None and _are_one(folder, part, other):
                reasons[name] = f"OUTPUT does not distinguish {part!r} from {other!r}; rename one of them"
                break
    return reasons


def _folders(name: str) -> Iterator[str]:
    """The folders in a shard's name, the outermost first: `a` and `a/b` of `a/b/c.parquet`."""
    return (name[:end] for end, character in enumerate(name) if character == "/")


def _folded(name: str) -> str:
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _are_one(folder: Path, name: str, other: str) -> bool:
    """Whether the file system of a folder treats two names as one name."""
    with (
        suppress(OSError),  # if the folder is not writable, the run ends before it writes a result
        staging_folder(folder, ".oodscreen_names-") as empty,
    ):
        path = empty / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return (empty / other).exists()
    return False
