"""README and docs/ agree with the code: links, generated parts, options, and every block of code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from screen.demo import read_images, write_shards
from tests import console, page_files
from tests.conftest import oodscreen
from tests.generated import PARTS, find_parts, make_parts, renew
from tests.pages import DOCS, GUIDE, PAGES, README, REPOSITORY, Block, find_anchors, find_blocks, find_links, read
from tests.reference import commands, known_options
from tests.test_recipes import RECIPES

NOT_RUN = {
    "make demo": "the tests are started by make; `console.py` runs the demo for README",
    "docker build": "needs a container engine; test_install.py runs the commands of the container file",
    "--address ray-head:6379": "needs a Ray cluster with this address; tests/integration/test_ray.py starts one",
    "http://localhost:8080": "needs Label Studio at this address; tests/integration/test_label_studio.py starts one",
}
"""Blocks that no test runs as they stand, by a text in them, with the reason."""

RUN_ELSEWHERE = {
    "pip install": "tests/integration/test_install.py",
    "oodscreen pack validation/": "tests/integration/test_install.py",
    "--check-data held-out/": "tests/integration/test_install.py",
    "oodscreen export plain.keras": "tests/integration/test_without_dropout.py",
    "s3://bucket/": "tests/integration/test_s3.py",
    "torch.onnx.export(": "tests/integration/test_torch.py",
    "--resize pil-bilinear:short=256": "tests/integration/test_torch.py",
}
"""Blocks that the slow tests run as they stand, by a text in them."""

FROM_SCRATCH = {
    README: ("shards", "model.onnx", "model.calibration", "results"),
    DOCS / "python.md": ("model.calibration", "results"),
    DOCS / "quickstart.md": ("model.calibration", "results"),
}
"""The files that a page makes itself."""

SHORT_LINES = 200
"""Lines of README at most."""


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def each(pages: tuple[Path, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=name_of)


@pytest.fixture(scope="module")
def parts() -> dict[str, str]:
    return make_parts()


@each(GUIDE)
def test_the_generated_parts_of_a_page_are_fresh(page: Path, parts: dict[str, str]) -> None:
    text = read(page)
    assert renew(text, parts) == text, "run `make docs`"


def test_a_stale_part_is_seen(parts: dict[str, str]) -> None:
    text = read(REPOSITORY / "docs" / "results.md")
    stale = re.sub(r"(<!-- generated: columns -->\n).*?\n", r"\1stale\n", text, count=1)
    assert renew(stale, parts) == text != stale


def test_every_part_stands_on_one_page() -> None:
    assert sorted(find_parts()) == sorted(PARTS)
    assert set(find_parts("console")) == set(console.COMMANDS)


def test_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= SHORT_LINES


def test_the_index_and_readme_name_every_page() -> None:
    pages = {page.name for page in GUIDE} - {"README.md", "index.md"}
    assert {Path(target).name for target in find_links(REPOSITORY / "docs" / "index.md")} == pages
    assert {Path(target).name for target in find_links(README) if target.startswith("docs/")} >= pages


@each(PAGES)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in find_links(page):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in find_anchors(path), target


def test_anchors_follow_the_rules_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `run`: What's new?\n\n## A - b\n\n## A - b\n\n```sh\n# no heading\n```\n")
    assert find_anchors(page) == {"run-whats-new", "a---b", "a---b-1"}


@each(PAGES)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for name, target in re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", read(page)):
        assert f"def {name}(" in (page.parent / target).read_text(encoding="utf-8"), name


@each(PAGES)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    for path in re.findall(r"`((?:benchmarks|docs|screen|export|tests)/[\w./]*)`", read(page)):
        assert (REPOSITORY / path).exists(), path


@each(GUIDE)
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"^(#SBATCH|pip|docker|RUN|COPY) .*$", "", read(page), flags=re.MULTILINE)
    text = re.sub(r"`ray start[^`]*`", "", text)
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert used <= known_options(), used - known_options()


def test_the_reference_has_every_command_and_option() -> None:
    text = read(REPOSITORY / "docs" / "reference.md")
    for name, command in commands().items():
        section = text.partition(f"\n## oodscreen {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert all(f"`{option}`" in section for option in parameter.opts), (name, parameter.name)


@each(GUIDE)
def test_code_stands_in_fenced_blocks(page: Path) -> None:
    """So that no block escapes the tests below."""
    fenced = False
    for number, line in enumerate(read(page).splitlines(), 1):
        fenced ^= line.startswith("```")
        assert fenced or not line.startswith("    "), f"line {number}"


@each(GUIDE)
def test_every_block_is_run_or_generated_or_listed(page: Path) -> None:
    for block in find_blocks(page):
        known = {
            "": block.language in ("python", "sh", "toml"),
            "recipe": block.name in RECIPES,
            "generated": True,
            "console": block.language == "console",
        }
        assert known[block.origin], f"{block}: {block.language or 'no language'}"


def test_every_reason_not_to_run_a_block_is_needed() -> None:
    texts = [block.text for page in GUIDE for block in find_blocks(page) if not block.origin]
    for text in (*NOT_RUN, *RUN_ELSEWHERE):
        assert any(text in one for one in texts), text


def is_run(block: Block) -> bool:
    return not block.origin and not any(text in block.text for text in (*NOT_RUN, *RUN_ELSEWHERE))


def test_a_block_that_is_run_elsewhere_is_taken_from_the_page_there() -> None:
    for path in set(RUN_ELSEWHERE.values()):
        text = read(REPOSITORY / path)
        assert "find_blocks" in text, path
        assert "pytest.mark.integration" in text, path


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, article_keras: Path, article_onnx: Path, digits: NDArray[np.uint8]
) -> Path:
    """A folder with the files that the pages start from."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(article_keras, folder / "model.keras")
    shutil.copy(article_onnx, folder / "model.onnx")
    for name, part, rows, prefix in (
        ("training", "train", 500, "train"),
        ("held-out", "valid", 600, "valid"),
        ("shards", "test", 250, "digit"),
    ):
        images, labels = read_images(part)
        write_shards(folder / name, images[:rows], labels[:rows], prefix)
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), dtype=np.uint8)
    write_shards(folder / "noise", noise, np.full(100, -1), "noise")
    (folder / "images").mkdir()
    page_files.save_pictures(folder, read_images("test")[0][:20])
    page_files.save_records(folder / "train.tfrecord", read_images("test")[0][:20])
    (folder / "my_layers.py").write_text("import keras\n\n\nclass MyLayer(keras.layers.Layer):\n    pass\n")
    page_files.save_models(folder)
    page_files.save_in_two_files(article_keras, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("calibrate", "run"):
            assert oodscreen(*shlex.split(console.COMMANDS[name].line)[1:], monkeypatch=patch) == 0
        shutil.copytree("results", "for-labels")
        tasks = "queue for-labels -o tasks.json --to label-studio-tasks"
        assert oodscreen(*tasks.split(), monkeypatch=patch) == 0
    console.label_tasks(folder / "tasks.json", folder / "export.json")
    return folder


@each(tuple(page for page in GUIDE if any(map(is_run, find_blocks(page)))))
def test_the_blocks_of_a_page_run(page: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, in a folder of its own; Python blocks share their names."""
    folder = tmp_path / "page"
    shutil.copytree(workplace, folder, ignore=shutil.ignore_patterns(*FROM_SCRATCH.get(page, ())))
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "page"}
    for block in filter(is_run, find_blocks(page)):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)  # noqa: S102  the page's own code
        elif block.language == "toml":
            Path(block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
        else:
            run_lines(block, monkeypatch)


def run_lines(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "oodscreen", f"{block}: {line}"
            assert oodscreen(*words[1:], monkeypatch=monkeypatch) == 0, f"{block}: {line}"


def shown_block(name: str) -> str:
    for page in GUIDE:
        found = re.search(rf"<!-- console: {name} -->\n(.*?)\n<!-- end -->", read(page), re.DOTALL)
        if found:
            return found[1]
    raise KeyError(name)


@pytest.mark.integration
def test_the_console_output_that_is_shown_is_printed(workplace: Path, tmp_path: Path) -> None:
    """By a network of one epoch and on fewer rows than the demo has: numbers and the layout of columns aside."""
    folder = tmp_path / "folder"
    ignored = shutil.ignore_patterns("results", "model.onnx", "model.calibration")
    shutil.copytree(workplace, folder, ignore=ignored)
    for name in [name for name, command in console.COMMANDS.items() if command.is_cheap]:
        printed = console.run_command(folder, name)
        assert console.mask_numbers(printed) == console.mask_numbers(shown_block(name)), f"{name}: run `make docs`"


@pytest.mark.integration
def test_the_whole_console_output_is_printed(tmp_path: Path) -> None:
    """Including the demo and the labels: every line that is not a row or a border of a table."""
    made = console.run_all(tmp_path)
    assert set(made) == set(console.COMMANDS)
    for name, block in made.items():
        expected, found = (
            [console.mask_numbers(line) for line in text.splitlines() if not line.startswith(tuple("│┏┡├└"))]
            for text in (shown_block(name), block)
        )
        assert found == expected, name


def test_the_labels_that_are_made_up_are_label_studios(workplace: Path) -> None:
    tasks = json.loads((workplace / "export.json").read_text())
    assert tasks
    assert all(task["annotations"][0]["result"][0]["value"]["choices"] for task in tasks)
