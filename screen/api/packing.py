"""`pack`: pack image files into shards.

In: a folder of images, a list of paths, or tars. Out: Parquet shards, and a `PackSummary`.
"""

from __future__ import annotations

from pathlib import Path

from screen.api.function import public
from screen.pack.config import PackConfig
from screen.pack.packing import pack_images
from screen.pack.summary import PackSummary
from screen.run.quiet import QuietListener


@public
def pack(source: str | Path, shards: str | Path, config: PackConfig) -> PackSummary:
    """Pack image files into Parquet shards, one row for each file; the bytes of the files are not changed.

    The exit code of the command is `exit_code` of the summary.

    Args:
        source: folder of image files, list of paths (CSV, TSV, JSONL or Parquet), WebDataset tar, or folder of tars.
        shards: folder of the shards; created if missing.
        config: options of the pack.

    Raises:
        Refused: the source, the folder of the shards or an option cannot be used.
        InputChanged: a file changed while it was packed.
        OutputLocked: another pack writes to the folder.
        OodscreenError: the pack failed; finished shards stay.
    """
    return pack_images(str(source), str(shards), config, QuietListener())
