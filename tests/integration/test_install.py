"""The quick start and the ways to install, copied from the docs, in new environments made from the checkout.

One environment has all extras, for the quick start; the other tests share a small environment. Packages come from the
index or from pip's cache; without a network, the tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import encode
from tests.pages import DOCS, GUIDE, README, REPOSITORY, Block, find_blocks
from tests.test_recipes import recipe

pytestmark = pytest.mark.integration

QUICK_START = DOCS / "quickstart.md"
CLASSES = ("oak leaf", "birch leaf", "pine needle")
FOR_CPU = "sed -i.gpu"
"""Text by which the block is found that installs the CPU's onnxruntime."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a new shell, in which `python3` is the Python of the tests, outside their environment."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    removed = ("PYTHONPATH", "VIRTUAL_ENV", "OODSCREEN_DATA")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    fast = {"PIP_NO_COMPILE": "0", "CUDA_VISIBLE_DEVICES": ""}  # "0" sets --no-compile: most modules are not imported
    environment = {**kept, **fast, "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin"}
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest", str(folder)]
    if subprocess.run([*pip, "filelock"], capture_output=True, check=False).returncode:
        pytest.skip("pip reaches no package index")
    return environment


def call(text: str, folder: Path, environment: dict[str, str]) -> str:
    """Run the lines of a block in a shell that ends at the first failure."""
    done = subprocess.run(["bash", "-e"], input=text, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def activate(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "PATH": f"{folder / 'bin'}:{environment['PATH']}"}


def clone(folder: Path) -> Path:
    """The files of the checkout that git tracks or would track."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def install_blocks() -> list[Block]:
    """The blocks of all pages that call pip."""
    return [block for page in GUIDE for block in typed_blocks(page) if "pip install" in block.text]


def typed_blocks(page: Path) -> list[Block]:
    return [block for block in find_blocks(page) if block.language == "sh" and not block.origin]


def draw(kind: int, draws: np.random.Generator) -> NDArray[np.uint8]:
    """An image of one of the classes, `[48, 40, 3]`: a colour with stripes of its own width."""
    stripes = 25 * np.sin(np.arange(40) / (kind + 1))[None, :, None]
    colour = np.array([(150, 90, 60), (70, 150, 80), (80, 90, 160)][kind])
    image: NDArray[np.float64] = colour + stripes + draws.normal(0, 18, (48, 40, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Files:
    """The files that the quick start begins with: where they are, and the number of images to screen."""

    folder: Path
    images: int


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, keras: Any) -> Files:
    folder, draws = tmp_path_factory.mktemp("my files"), np.random.default_rng(0)
    kinds = np.arange(600) % 3
    images = np.stack([np.asarray(Image.fromarray(draw(int(kind), draws)).resize((32, 32))) for kind in kinds])
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images / 255, kinds, epochs=4, verbose=0)
    model.save(folder / "model.keras")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for number in range(450):
        _save(folder / "validation" / CLASSES[number % 3] / f"{number}.jpg", encode(draw(number % 3, draws), "JPEG"))
    for number in range(40):
        _save(folder / "images" / f"night {number % 2}" / f"{number}.jpg", encode(draw(number % 3, draws), "JPEG"))
    for number in range(10):
        noise = draws.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        _save(folder / "images" / "ночь" / f"{number} %.jpeg", encode(noise, "JPEG"))
    return Files(folder, 50)


def _save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Path]:
    """A clone in which the first block of the quick start was typed."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    call(typed_blocks(QUICK_START)[0].text, folder, environment)
    yield folder
    shutil.rmtree(folder)  # several GB


def test_the_quick_start_works_as_typed(installed: Path, files: Files, environment: dict[str, str]) -> None:
    _, *blocks = typed_blocks(QUICK_START)
    shell = activate(installed / ".venv", environment)
    printed = "".join(call(block.text, files.folder, shell) for block in blocks)
    assert "accuracy" in printed
    assert f"{files.images} rows in 1 shard(s)" in printed
    rows = [
        row for path in sorted((files.folder / "results").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    noise = [row["flag"] for row in rows if row["id"].startswith("ночь")]
    assert len(rows) == files.images
    assert noise == [True] * 10
    queued = pq.read_table(files.folder / "queue.parquet").to_pylist()
    assert {row["predicted"] for row in queued} <= set(CLASSES)
    assert {row["id"] for row in queued} >= {row["id"] for row in rows if row["id"].startswith("ночь")}
    assert CLASSES[0] in (files.folder / "report.html").read_text()


def test_a_wheel_is_built_and_installed_as_typed(installed: Path, environment: dict[str, str]) -> None:
    (block,) = [block for block in install_blocks() if "pip wheel" in block.text]
    shell = activate(installed / ".venv", environment)
    call("pip uninstall --yes oodscreen", installed, shell)
    call(block.text, installed, shell)
    assert check(installed.parent, shell) == "onnxruntime-gpu"


@dataclass(frozen=True)
class Small:
    """A new environment with the CPU's onnxruntime: the clone it was made from, and the variables of its shell."""

    clone: Path
    shell: dict[str, str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Small]:
    (block,) = [block for block in install_blocks() if FOR_CPU in block.text]
    folder = clone(tmp_path_factory.mktemp("small"))
    call("python3 -m venv .venv", folder, environment)
    shell = activate(folder / ".venv", environment)
    call(block.text, folder, shell)
    yield Small(folder, shell)
    shutil.rmtree(folder)


def test_the_cpus_onnxruntime_takes_the_place_of_that_for_gpus(
    tmp_path: Path, article_onnx: Path, digit_shards: Path, environment: dict[str, str], small: Small
) -> None:
    assert check(tmp_path, small.shell) == "onnxruntime"
    call(f"oodscreen run {article_onnx} {digit_shards} results -T 3", tmp_path, small.shell)
    assert json.loads(call("oodscreen doctor --json", tmp_path, small.shell))
    here = Path(sys.executable).with_name("oodscreen")
    call(f"{here} run {article_onnx} {digit_shards} gpu -T 3", tmp_path, environment)
    for name in ("a.parquet", "sub/d.parquet"):
        assert (tmp_path / "results" / name).read_bytes() == (tmp_path / "gpu" / name).read_bytes()


def test_type_checkers_find_the_types_of_the_installed_module(
    tmp_path: Path, environment: dict[str, str], small: Small
) -> None:
    lines = (
        "import oodscreen",
        'print(oodscreen.run("m", "s", "r", passes=3).rows + 1)',
        'oodscreen.run("m", "s", "r", pases=3)',
    )
    (tmp_path / "script.py").write_text("\n".join(lines))
    words = [sys.executable, "-m", "mypy", "--strict", "--python-executable", f"{small.clone}/.venv/bin/python"]
    done = subprocess.run(
        [*words, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert re.findall(r"script.py:(\d+): error: .* \[(.*)\]", done.stdout) == [("3", "call-arg")], done.stdout


def test_an_extra_is_added_later_as_typed(tmp_path: Path, small: Small) -> None:
    (block,) = [block for block in install_blocks() if "'oodscreen[s3]'" in block.text]
    call(block.text, tmp_path, small.shell)
    call("python -c 'import s3fs, upath'", tmp_path, small.shell)


def test_the_commands_of_the_container_file_work(
    tmp_path: Path, article_onnx: Path, digit_shards: Path, small: Small
) -> None:
    """Without a container engine: each stage is a folder, and its commands run in the small environment."""
    call("pip uninstall --yes oodscreen", tmp_path, small.shell)
    call("mkdir bin && printf '#!/bin/sh\n' > bin/useradd && chmod +x bin/*", tmp_path, small.shell)
    shell = activate(tmp_path, small.shell)
    entry = build(recipe("containerfile"), clone(tmp_path / "clone"), tmp_path / "stages", shell)
    assert entry == ["oodscreen"]
    assert check(tmp_path, shell) == "onnxruntime"
    call(f"{entry[0]} run {article_onnx} {digit_shards} results -T 3", tmp_path, shell)
    call(f"{entry[0]} report results -o report.html", tmp_path, shell)


def test_every_line_of_pip_is_in_a_test_above() -> None:
    quick_start, blocks = typed_blocks(QUICK_START)[0].text, install_blocks()
    same = {block.page for block in blocks if block.text == quick_start}
    others = [block.text for block in blocks if block.text not in quick_start]
    assert same == {README, QUICK_START, DOCS / "install.md"}, "these pages have the same block"
    assert [[word in text for text in others].count(True) for word in ("pip wheel", FOR_CPU, "[s3]")] == [1, 1, 1]
    assert len(others) == 3


def check(folder: Path, shell: dict[str, str]) -> str:
    """The installed onnxruntime, after a check of the environment, the command and the module."""
    call("pip check && oodscreen --version && oodscreen --help", folder, shell)
    call("python -c 'import oodscreen; print(oodscreen.run, oodscreen.__version__)'", folder, shell)
    found = re.findall(r"^(onnxruntime\S*)", call("pip list --format freeze", folder, shell), re.MULTILINE)
    assert len(found) == 1
    return str(found[0]).partition("==")[0]


def build(text: str, context: Path, stages: Path, shell: dict[str, str]) -> list[str]:
    """Follow the instructions of a container file; returns the entry point."""
    root, work, names, entry = stages, Path("/"), {"": context}, []

    def within(path: str) -> Path:
        return root / (work / path).relative_to("/")

    def start(words: str) -> None:
        nonlocal root, work
        root, work = stages / str(len(names)), Path("/")
        root.mkdir(parents=True)
        image, *name = words.split(" AS ")
        assert image == "python:3.12-slim"
        names[name[0] if name else "last"] = root

    def change(words: str) -> None:
        nonlocal work
        work = work / words
        within(".").mkdir(parents=True, exist_ok=True)

    def copy(words: str) -> None:
        origin, rest = re.fullmatch(r"(?:--from=(\S+) )?(.*)", words).groups()  # type: ignore[union-attr]
        *sources, target = rest.split()
        for source in sources:
            path = names[origin or ""] / source.removeprefix("/")
            if path.is_dir():
                shutil.copytree(path, within(target), dirs_exist_ok=True)
            else:
                shutil.copy(path, within(target))

    def execute(words: str) -> None:
        call(re.sub(r"(?<![\w./])/(?=dist)", f"{root}/", words), within("."), shell)

    steps: dict[str, Callable[[str], None]] = {
        "FROM": start,
        "WORKDIR": change,
        "COPY": copy,
        "RUN": execute,
        "USER": lambda _: None,
        "ENTRYPOINT": lambda words: entry.extend(json.loads(words)),
    }
    for line in text.replace("\\\n", " ").splitlines():
        if line:
            name, _, words = line.partition(" ")
            steps[name](words)
    return entry
