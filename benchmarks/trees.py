"""Screen random folders with links and with folders that cannot be listed, and count the shards that must be scored.

    python -m benchmarks.trees model.onnx WORK [--trees 100] [--seed 0]

A separate search, which does not use the screener's listing, counts the shards that a run must score and the folders
and links that cannot be listed. `benchmarks/fuzz.py` runs this module in a process that cannot override permissions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shard_mutations import good_shard
from screen.config import RunConfig
from screen.output.check import check_results
from screen.run.runner import run_screening
from tests.conftest import Recorder


def without_override() -> list[str]:
    """Start of a command line that removes the right of root to override permissions; empty for other users."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@dataclass(frozen=True)
class Found:
    """Counts of shards and of unlisted folders below a folder.

    Attributes:
        shards: number of shards that are scored, each once.
        unlisted: number of folders that cannot be listed, of links into them, and of broken links that have the name of
            a shard.
    """

    shards: int
    unlisted: int


def make_tree(root: Path, outside: Path, moments: random.Random) -> Counter[str]:
    """Make folders with shards, links and folders that cannot be listed; returns their numbers by kind.

    Args:
        root: the folder of INPUT, which does not exist.
        outside: a folder beside it, which does not exist, to which some links lead.
        moments: random generator.
    """
    made: Counter[str] = Counter()
    shard, inside = good_shard(), [root]
    for folder in (root, outside):
        folder.mkdir(parents=True)
        (folder / "first.parquet").write_bytes(shard)
    for number in range(moments.randint(1, 6)):
        inside.append(moments.choice(inside) / f"{moments.choice(['', '', '', '_', '.'])}folder{number}")
        inside[-1].mkdir()
        if moments.random() < 0.7:
            (inside[-1] / "a.parquet").write_bytes(shard)
    for number in range(moments.randint(0, 5)):
        target = moments.choice([*inside, outside])
        (moments.choice(inside) / f"link{number}").symlink_to(target, target_is_directory=True)
        made["links"] += 1
    for number in range(moments.randint(0, 2)):
        (moments.choice(inside) / f"other{number}{moments.choice(['.pq', '.parquet.gzip', ''])}").write_bytes(shard)
    if moments.random() < 0.2:
        (moments.choice(inside) / "gone.parquet").symlink_to("nothing")
        made["broken_links"] += 1
    if moments.random() < 0.4 and (below := [folder for folder in inside if folder != root]):
        moments.choice(below).chmod(0)
        made["closed_folders"] += 1
    return made


def search(root: Path) -> Found:
    """Search a folder, all folders below it, and the folders to which links lead; each folder is searched once."""
    waiting, seen, shards, unlisted = [root], set(), 0, 0
    while waiting:
        folder = waiting.pop().resolve()
        if folder in seen:
            continue
        seen.add(folder)
        try:
            names = os.listdir(folder)
        except PermissionError:
            unlisted += 1
            continue
        for name in names:
            path = folder / name
            if name[0] in "._":
                continue
            try:
                is_folder, is_file = path.is_dir(), path.is_file()
            except PermissionError:  # a link into a folder that cannot be listed
                unlisted += 1
                continue
            if is_folder:
                waiting.append(path)
            elif name.endswith(".parquet"):
                shards += is_file
                unlisted += not is_file
    return Found(shards, unlisted)


def screen_tree(model: Path, root: Path, output: Path) -> Found:
    """Screen a folder, and return the counts of a separate search.

    Raises:
        AssertionError: the run did not score each shard once, or did not report the folders that cannot be listed.
    """
    found = search(root)
    summary = run_screening(model, str(root), output, RunConfig(passes=1, device="cpu", threads=1), Recorder())
    assert len(summary.shards) == found.shards, f"{len(summary.shards)} of {found.shards} shards"
    assert len(summary.unreadable) == found.unlisted, f"{summary.unreadable}, wanted {found.unlisted}"
    problems = check_results(output, str(root)).problems
    assert not problems, problems
    return found


def main() -> None:
    """Screen the folders, and print their numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path, help="a folder that does not exist")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    total: Counter[str] = Counter(trees=chosen.trees)
    for number in range(chosen.trees):
        moments = random.Random(chosen.seed * 1_000_003 + number)  # noqa: S311  folders, not secrets
        root = chosen.work / str(number) / "in"
        total += make_tree(root, root.with_name("outside"), moments)
        found = screen_tree(chosen.model, root, root.with_name("out"))
        total.update(shards=found.shards, unlisted=found.unlisted)
        for folder, inner, _ in os.walk(root):
            for name in inner:
                Path(folder, name).chmod(0o700)  # so that the folder can be removed
        shutil.rmtree(root.parent)
    print(json.dumps(total))


if __name__ == "__main__":
    main()
