"""Write the MNIST subset of `oodscreen demo`, from full MNIST shards.

    python benchmarks/make_demo_data.py [DATA]

In: DATA/mnist/{train,valid,test}, default $OODSCREEN_DATA or ../shared/data. Out:
screen/demo_data/*.parquet: the first rows of each subset, in the Hugging Face `Image` layout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TARGET = Path(__file__).parent.parent / "screen" / "demo_data"
ROWS = {"train": 10_000, "valid": 2_000, "test": 2_000}


def main() -> None:
    """Write one file for each subset."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OODSCREEN_DATA", "../shared/data"))
    for subset, rows in ROWS.items():
        files = sorted((data / "mnist" / subset).glob("*.parquet"))
        table = pa.concat_tables([pq.read_table(file) for file in files]).slice(0, rows)
        table = table.replace_schema_metadata(None)
        pq.write_table(
            table, TARGET / f"mnist-{subset}.parquet", compression="zstd", compression_level=19, row_group_size=500
        )
        print(f"{subset}: {len(table)} rows, {(TARGET / f'mnist-{subset}.parquet').stat().st_size} bytes")


if __name__ == "__main__":
    main()
