"""Fixtures that tests share: a trained and exported network, shards to damage, and data outside the repository."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from export.contract.reader import ExportedModel, read_model
from screen import cli
from screen.demo import read_images
from screen.output.history import HISTORY_FOLDER
from screen.output.locks.hold import LOCK_NAME
from screen.output.record import RECORD_NAME

REPOSITORY = Path(__file__).parent.parent
# An example takes longer than Hypothesis' limits where other processes use the processor too.
settings.register_profile("oodscreen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("oodscreen")

WORKERS_MAX = 8
"""Maximum number of processes for `pytest -n auto`; each collects all tests first (10 s), so more gain little."""
WORKER_BYTES = 2 * 2**30
"""Memory of one process with TensorFlow and onnxruntime, and of the commands that its tests start."""

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", default=None, help="folder of image shards (default: $OODSCREEN_DATA, ../shared/data)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Number of processes for `pytest -n auto`: one for each processor core, as far as memory allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // WORKER_BYTES, WORKERS_MAX))


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Collect tests without collections of garbage, which take a third of the time and find hardly any."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Turn collections of garbage on again; later ones skip the modules and tests."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _log_of_each_test() -> Iterator[None]:
    """End the log of the commands that a test runs in its process."""
    yield
    logging.getLogger("oodscreen").handlers.clear()


@pytest.fixture(autouse=True)
def _no_error_without_explanation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a command that a test runs in its process ends with an error that the program did not raise on purpose.

    A test that needs such an error is marked `unexpected`.
    """
    if request.node.get_closest_marker("unexpected"):
        return

    def fail(error: Exception) -> NoReturn:
        raise AssertionError("no error of oodscreen explains this exception") from error

    monkeypatch.setattr(cli, "explain_unexpected", fail)


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """Image shards that are not in the repository."""
    given = request.config.getoption("--data") or os.environ.get("OODSCREEN_DATA") or REPOSITORY / "../shared/data"
    folder = Path(given)
    if not folder.is_dir():
        pytest.skip(f"no image shards at {folder}; name their folder by --data or OODSCREEN_DATA")
    return folder


def make_once(name: str, make: Callable[[Path], object], factory: pytest.TempPathFactory) -> Path:
    """Folder that `make` filled, once for all pytest-xdist workers of a session; the others wait for it.

    No test may change what is in it: it is shared by processes.
    """
    base = factory.getbasetemp()
    # A worker's base folder is one of several in that of the session.
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / f"shared-{name}", root / f"shared-{name}.done"
    with FileLock(root / f"shared-{name}.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras, imported without noise."""
    from export.source.describe import import_keras

    return import_keras()


@pytest.fixture(scope="session")
def article_keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The article's network after one epoch on the bundled digits."""

    def train(folder: Path) -> None:
        from export.article import train_article_network
        from export.source.describe import import_keras

        import_keras().utils.clear_session()  # counts the names of layers from the start, as a new process does
        images, labels = read_images("train")
        train_article_network(images, labels, epochs=1, seed=3).save(folder / "article.keras")

    return make_once("article", train, tmp_path_factory) / "article.keras"


@pytest.fixture(scope="session")
def article_onnx(article_keras: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported."""

    def export(folder: Path) -> None:
        from export.exporter import export_file

        export_file(article_keras, folder / "article.onnx", scale=1 / 255)

    return make_once("article-onnx", export, tmp_path_factory) / "article.onnx"


@pytest.fixture(scope="session")
def article(article_onnx: Path) -> ExportedModel:
    """The same, read."""
    return read_model(article_onnx)


@pytest.fixture(scope="session")
def digits() -> NDArray[np.uint8]:
    """The bundled test digits, `[2000, 28, 28, 1]`."""
    return read_images("test")[0]


def oodscreen(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command in this process; gives its exit code."""
    from screen import cli

    monkeypatch.setattr(sys, "argv", ["oodscreen", *(str(argument) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def encode(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """One image as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, kind)
    return buffer.getvalue()


def write_shard(
    path: Path, sources: Sequence[bytes | None], *, row_group_size: int = 500, ids: Sequence[str] | None = None
) -> Path:
    """Rows in the Hugging Face `Image` layout; a None has null bytes and a null path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": pa.array([{"bytes": source, "path": None} for source in sources], IMAGE_TYPE),
        "label": pa.array(range(len(sources)), pa.int64()),
        "id": pa.array(ids if ids is not None else [f"{path.stem}-{row}" for row in range(len(sources))]),
    }
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def read_results(folder: Path) -> pa.Table:
    """All result shards of a folder, in the order of their names; the quarantine ends otherwise."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])


@pytest.fixture(scope="session")
def digit_shards(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    """300 digits in three shards of uneven size, one of them in a subfolder, and one empty shard."""
    folder = tmp_path_factory.mktemp("shards")
    encoded = [encode(image) for image in digits[:300]]
    write_shard(folder / "a.parquet", encoded[:120], row_group_size=50)
    write_shard(folder / "b.parquet", [])
    write_shard(folder / "c.parquet", encoded[120:121])
    write_shard(folder / "sub" / "d.parquet", encoded[121:], row_group_size=64)
    return folder


class Recorder:
    """A listener that remembers."""

    def __init__(self, at_finished: Callable[[int], None] | None = None) -> None:
        self.rows = self.shards = self.skipped = 0
        self.notes: list[str] = []
        self._at_finished = at_finished

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        self.skipped = skipped

    def noted(self, text: str) -> None:
        self.notes.append(text)

    warned = noted

    def advanced(self, rows: int, flagged: int | None = None) -> None:
        self.rows += rows

    def finished(self, shard: Any) -> None:
        self.shards += 1
        if self._at_finished:
            self._at_finished(self.shards)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an OUTPUT but locks, which are empty and stay, and the record and the history, which hold times."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(LOCK_NAME))
    with_times = {RECORD_NAME, HISTORY_FOLDER}
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if name.split("/")[0] not in with_times}
