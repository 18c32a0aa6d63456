"""PyTorch's loop over T stochastic passes, with the networks of `benchmarks.gpu` and random weights.

In: a `Setup`. Out: records with row-passes per second: eager, with the axes in channels-last order, and compiled. The
batch stays on the device, and dropout is on. If PyTorch is not installed, one record contains this fact.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_networks import DESCRIPTIONS, make_images
from benchmarks.gpu_records import Recorder, Setup
from benchmarks.gpu_throughput import measure_speed
from export.contract.reader import read_model
from screen.config import RunConfig
from screen.input.images import batch_rows


def torch_loops(setup: Setup, recorder: Recorder) -> None:
    """Measure row-passes per second of each network: eager, channels last, and compiled."""
    if importlib.util.find_spec("torch") is None:
        recorder.add("", "PyTorch", None, note="PyTorch is not installed: its loops were not measured")
        return
    import torch

    torch.manual_seed(0)
    recorder.add("", "PyTorch", None, version=torch.__version__)
    share = recorder.seconds_left / (5 * len(DESCRIPTIONS)) / 3
    for compiled in (False, True):  # the compiled network is last, because compiling takes longest
        for name in DESCRIPTIONS:
            contract = read_model(setup.models[name]).contract
            size = batch_rows(RunConfig(), contract)
            images = np.resize(make_images(contract.image_shape, 32), (size, *contract.image_shape))
            for layout in ("contiguous", "channels_last"):
                for tf32 in (False, True) if setup.device != "cpu" and layout == "channels_last" else (False,):
                    way = f"torch {'compiled' if compiled else 'eager'}, {layout}{', tf32' if tf32 else ''}"
                    if compiled and layout == "contiguous":
                        continue
                    with recorder.attempt(name, way):
                        recorder.require_time()
                        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
                        network = build_torch(name).to(setup.device)
                        if layout == "channels_last":
                            network = network.to(memory_format=torch.channels_last)
                        function = torch.compile(network) if compiled else network
                        batch = images[:16] if compiled and setup.device == "cpu" else images
                        run = _loop(function, torch.from_numpy(batch).to(setup.device), layout, compiled)
                        recorder.add(
                            name, way, None, **measure_speed(run, share, len(batch), len(batch) if compiled else 4)
                        )


def _loop(network: Any, images: Any, layout: str, whole: bool) -> Callable[[int], None]:
    """A function that runs a given number of row-passes over the batch.

    With `whole`, each pass has the whole batch, because PyTorch would compile each number of rows separately.
    """
    import torch

    def one_pass(rows: int) -> Any:
        pixels = images[:rows].permute(0, 3, 1, 2).to(torch.float32).mul(1 / 255)
        # The images have their channels last in memory, so `permute` gives channels_last already.
        return network(pixels if layout == "channels_last" else pixels.contiguous())

    def run(rows: int) -> None:
        with torch.no_grad():
            for _ in range(max(1, round(rows / len(images)))):
                one_pass(min(rows, len(images)))
        if images.is_cuda:
            torch.cuda.synchronize()

    with torch.no_grad():
        rows = len(images) if whole else 4
        first, second = one_pass(rows), one_pass(rows)
    assert not torch.equal(first, second), "dropout must be on"
    return run


def build_torch(name: str) -> Any:
    """The network in PyTorch, with BatchNormalization in inference mode and dropout on.

    Raises:
        KeyError: the network has no counterpart.
    """
    import torch

    network = {
        "article": _article,
        "mobilenet": _mobilenet,
        "blocks": _blocks,
        "blocks-spatial": lambda nn: _blocks(nn, nn.Dropout2d(0.5)),
        "resnet50": _resnet50,
    }[name](torch.nn)
    network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.train()
    return network


def _article(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.Softmax(-1),
    )  # fmt: skip


def _residual(nn: Any, branch: Any, shortcut: Any = None, last: Any = None) -> Any:
    """A module that computes `last(shortcut(x) + branch(x))`."""

    class Residual(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.shortcut = branch, shortcut or nn.Identity()
            self.last = last or nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.last(self.shortcut(x) + self.branch(x))

    return Residual()


def _blocks(nn: Any, dropout: Any = None) -> Any:
    dropout = dropout or nn.Dropout(0.1)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(6):
        branch = [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), dropout, nn.Conv2d(32, 32, 3, padding=1)]
        layers.append(_residual(nn, nn.Sequential(*branch), last=nn.ReLU()))
    return nn.Sequential(*layers, *_classifier(nn, 32, 10, None))


def _classifier(nn: Any, inner: int, classes: int, dropout: Any) -> list[Any]:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return [*pooled, *([dropout] if dropout else []), nn.Linear(inner, classes), nn.Softmax(-1)]


def _convolution(nn: Any, inner: int, outer: int, size: int, stride: int = 1, groups: int = 1) -> list[Any]:
    convolution = nn.Conv2d(inner, outer, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outer)]


def _mobilenet(nn: Any) -> Any:
    """MobileNetV2 (Sandler et al. 2018): expansion, channels, blocks and stride of each stage."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers, inner = [*_convolution(nn, 3, 32, 3, 2), nn.ReLU6()], 32
    for expansion, outer, blocks, first in stages:
        for block in range(blocks):
            stride, middle = (first if block == 0 else 1), inner * expansion
            branch = [] if expansion == 1 else [*_convolution(nn, inner, middle, 1), nn.ReLU6()]
            branch += [*_convolution(nn, middle, middle, 3, stride, middle), nn.ReLU6()]
            whole = nn.Sequential(*branch, *_convolution(nn, middle, outer, 1))
            layers.append(_residual(nn, whole) if stride == 1 and inner == outer else whole)
            inner = outer
    layers += [*_convolution(nn, inner, 1280, 1), nn.ReLU6()]
    return nn.Sequential(*layers, *_classifier(nn, 1280, 100, nn.Dropout(0.2)))


def _resnet50(nn: Any) -> Any:
    layers, inner = [*_convolution(nn, 3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, (blocks, middle) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            branch = [*_convolution(nn, inner, middle, 1), nn.ReLU(), *_convolution(nn, middle, middle, 3, stride)]
            branch += [nn.ReLU(), *_convolution(nn, middle, 4 * middle, 1)]
            shortcut = None if inner == 4 * middle else nn.Sequential(*_convolution(nn, inner, 4 * middle, 1, stride))
            layers.append(_residual(nn, nn.Sequential(*branch), shortcut, nn.ReLU()))
            inner = 4 * middle
    return nn.Sequential(*layers, *_classifier(nn, inner, 1000, nn.Dropout(0.2)))
