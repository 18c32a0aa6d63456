"""Networks of a real PyTorch: the files of both exporters, and the commands and code of docs/from-pytorch.md.

PyTorch is not installed together with TensorFlow: the variable `OODSCREEN_TORCH` names a Python with `torch` and
`onnxscript`; `make integration` makes this environment in `.venv-torch`. Without the variable, the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import helper, numpy_helper
from scipy.special import softmax

from export.contract.reader import read_model
from tests.conftest import encode, write_shard
from tests.export.layouts.family import EXPORTED, REFUSED, Layout
from tests.pages import DOCS, REPOSITORY, find_blocks

pytestmark = pytest.mark.integration

NETWORKS = Path(__file__).with_name("torch_networks.py")
PAGE = DOCS / "from-pytorch.md"
NOISE = ("Dropout", "BatchNormalization", "RandomUniformLike", "Bernoulli", "If")
CLASSES = ("oak", "birch", "pine")


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """A Python with PyTorch."""
    stated = os.environ.get("OODSCREEN_TORCH")
    path = Path(stated) if stated else REPOSITORY / ".venv-torch" / "bin" / "python"
    if not path.exists():
        pytest.skip(f"no PyTorch at {path}: run make torch, or set OODSCREEN_TORCH to a Python with torch, onnxscript")
    return path


def call(words: list[str | Path], folder: Path, text: str = "") -> str:
    """Run a command in a folder; `import torch_networks` works in a Python with PyTorch, `oodscreen` in a shell."""
    folders = REPOSITORY if words[0] == "bash" else NETWORKS.parent
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folders),
    }
    done = subprocess.run(words, input=text, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def files(torch_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that PyTorch writes of the layouts."""
    folder = tmp_path_factory.mktemp("torch")
    call([torch_python, NETWORKS, folder], folder)
    return folder


@pytest.mark.parametrize("layout", [one for one in (*EXPORTED, *REFUSED) if one.torch], ids=lambda one: one.name)
def test_a_layout_of_the_family_is_what_torch_writes(layout: Layout, files: Path) -> None:
    written = onnx.load(files / f"{layout.torch}.onnx")
    ours = layout.build()
    assert [(one.domain, one.version) for one in ours.opset_import] == [
        (one.domain, one.version) for one in written.opset_import
    ]
    assert ours.ir_version == written.ir_version
    assert describe_input(ours) == describe_input(written)
    assert list(describe_noise(ours)) == list(describe_noise(written)), layout.name


def describe_input(model: onnx.ModelProto) -> list[tuple[str, list[int | str]]]:
    shapes = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in model.graph.input]
    return list(zip([one.name for one in model.graph.input], shapes, strict=True))


def describe_noise(model: onnx.ModelProto) -> Iterator[tuple[object, ...]]:
    """Name, operator, sources of the inputs after the first, number of outputs, and attributes of each noise node."""
    weights = {one.name: f"initializer {describe(one)}" for one in model.graph.initializer}
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _describe_nodes(nodes, weights)


def _describe_nodes(nodes: Iterable[onnx.NodeProto], weights: dict[str, str]) -> Iterator[tuple[object, ...]]:
    known = dict(weights)
    for node in nodes:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant":
            known[node.output[0]] = f"node {describe(attributes['value'])}" if "value" in attributes else "node"
        if node.op_type in NOISE:
            sources = [known.get(name, "computed") for name in node.input[1:]]
            yield node.name, node.domain, node.op_type, sources, len(node.output), sorted(attributes)
        for one in node.attribute:
            yield from _describe_nodes(one.g.node, known)


def describe(tensor: onnx.TensorProto) -> str:
    """Type, number of axes, and value of a setting."""
    array = numpy_helper.to_array(tensor)
    return f"{array.dtype} {array.ndim} {array if array.ndim == 0 else ''}"


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """The files that the page starts from: shards of known and of new images, and the names of the classes."""
    rng = np.random.default_rng(0)
    for folder, rows in (("held-out", 400), ("shards", 60)):
        images = rng.normal(0, 30, (rows, 40, 48, 3)) + rng.choice([60, 120, 180], rows)[:, None, None, None]
        write_shard(tmp_path / folder / "a.parquet", [encode(one) for one in np.clip(images, 0, 255).astype(np.uint8)])
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("exporter", ["newer", "torchscript"])
@pytest.mark.parametrize(("network", "sites"), [("vgg", 2), ("vit", 7)])
def test_the_lines_of_the_page_screen_images_with_a_network_of_torch(
    network: str, sites: int, exporter: str, torch_python: Path, workplace: Path
) -> None:
    """As typed, except that the images have 32 x 32 pixels."""
    newer, torchscript = [block.text for block in find_blocks(PAGE) if "torch.onnx.export(" in block.text]
    (commands,) = [block.text for block in find_blocks(PAGE) if "oodscreen export" in block.text]
    (workplace / "network.py").write_text(
        f"import torch_networks\n\ndef load_network():\n    return torch_networks.make_network('{network}')\n",
        encoding="utf-8",
    )
    lines = newer if exporter == "newer" else newer.partition("torch.onnx.export(")[0] + torchscript
    (workplace / "write.py").write_text(lines.replace("224", "32") + COMPUTE_IN_TORCH, encoding="utf-8")
    call([torch_python, "write.py"], workplace)
    call(["bash", "-e"], workplace, commands)

    contract = read_model(workplace / "model.onnx").contract
    assert len(contract.sites) == sites
    assert contract.class_names == CLASSES
    assert contract.image_shape == (32, 32, 3)
    results = pq.read_table(workplace / "results" / "a.parquet")
    assert results["status"].to_pylist() == ["ok"] * 60
    assert results["largest_std"].to_numpy().min() > 0
    assert (workplace / "report.html").stat().st_size > 0
    assert_same_means(workplace)


COMPUTE_IN_TORCH = """
import numpy as np
pixels = torch.tensor(np.random.default_rng(1).integers(0, 256, (8, 3, 32, 32)), dtype=torch.float32)
mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
with torch.no_grad():
    scaled = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    passes = model(scaled.repeat(500, 1, 1, 1)).softmax(1).reshape(500, 8, 3)
np.savez("torch.npz", pixels=pixels.numpy(), mean=passes.mean(0).numpy(), std=passes.std(0).numpy())
"""
"""Lines after those of the page: the mean and the standard deviation of 500 passes of PyTorch itself."""


def assert_same_means(folder: Path) -> None:
    """The exported file draws as PyTorch does: means and standard deviations of passes agree."""
    from export.runtime import onnxruntime

    with np.load(folder / "torch.npz") as file:
        expected = dict(file)
    images = expected["pixels"].transpose(0, 2, 3, 1).astype(np.uint8)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": np.tile(images, (500, 1, 1, 1))})[0].reshape(500, 8, 3)
    passes = softmax(logits, axis=-1)
    assert expected["std"].max() > 0.05
    np.testing.assert_allclose(passes.mean(0), expected["mean"], atol=0.12)  # 4 standard errors of a difference
    np.testing.assert_allclose(passes.std(0), expected["std"], atol=0.12)
