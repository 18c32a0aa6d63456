"""PyTorch networks, and the ONNX files that PyTorch writes for them; run with a Python that has PyTorch.

In: a folder, `python torch_networks.py FOLDER`. Out: one file for each layout in `tests/export/layouts/family.py` with
a network, and the versions of the exporters in `versions.txt`. Scripts of `tests/integration/test_torch.py` also import
the networks. No other module of the tests is imported, because PyTorch has a separate environment.
"""
# PyTorch is missing where mypy runs, so that a class of it is unknown.
# mypy: disable-error-code="misc"

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

torch.set_num_threads(1)  # threads that wait for each other take most of the time where other processes run
PRESERVE = {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE}
ROWS = {"input_names": ["image"], "dynamic_axes": {"image": {0: "n"}}}
NEWER_ROWS = {"input_names": ["image"], "dynamic_shapes": ({0: "n"},)}


def activate_dropout(model: Any) -> Any:
    """The model in inference mode, except its modules of dropout."""
    model.eval()
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.train()
    return model


class Small(nn.Module):
    """A convolution, dropout, pooling, dropout and a linear layer, with the module names of torchvision's networks."""

    def __init__(self, *, norm: bool = False, rates: tuple[float, float] = (0.25, 0.5)) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(rates[0]),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Sequential(nn.Dropout(rates[1]), nn.Linear(4, 3))

    def forward(self, image: Any) -> Any:
        return self.classifier(torch.flatten(self.features(image), 1))


class Between(nn.Module):
    """A small network with operations between pooling and the linear layer."""

    def __init__(self, between: Callable[[Any], Any], *, first: bool = False, last: bool = False) -> None:
        super().__init__()
        self.d = between
        self.first, self.last = first, last
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4, 3)

    def forward(self, image: Any) -> Any:
        x = self.features(image)
        x = torch.flatten(self.pool(self.d(x) if self.first else x), 1)
        if self.last:
            return torch.softmax(self.d(self.classifier(x)), 1)
        return self.classifier(self.d(x))


class Pooled(nn.Module):
    """One dropout behind a mean over the pixels and a view, which the exporters write as Reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.d = nn.Dropout(0.5)
        self.classifier = nn.Linear(4, 3)

    def forward(self, image: Any) -> Any:
        x = self.features(image).mean((2, 3), keepdim=True)
        return self.classifier(self.d(x.view(x.shape[0], 4)))


class Attention(nn.Module):
    """Attention over pixels; without `weights`, PyTorch calls scaled_dot_product_attention."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.weights = weights
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.a = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
        self.classifier = nn.Linear(4, 3)

    def forward(self, image: Any) -> Any:
        x = self.features(image).flatten(2).transpose(1, 2)
        return self.classifier(self.a(x, x, x, need_weights=self.weights)[0].mean(1))


def handmade(x: Any) -> Any:
    return x * torch.bernoulli(torch.full_like(x, 0.7)) / 0.7


def floored(x: Any) -> Any:
    """Stochastic depth in many older repositories."""
    kept = (0.8 + torch.rand((x.shape[0], 1))).floor_()
    return x + x.div(0.8) * kept


def stochastic_depth(x: Any) -> Any:
    """Stochastic depth as torchvision writes it."""
    return x + x * torch.empty((x.shape[0], 1)).bernoulli_(0.8).div_(0.8)


def in_branch(x: Any) -> Any:
    return torch.cond(x.sum() > 0, lambda y: nn.functional.dropout(y, 0.3, True), lambda y: y * 2, (x,))


class VggLike(nn.Module):
    """A narrow VGG16 with BatchNormalization for images of 32 x 32 pixels, and its two dropouts."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        layers: list[Any] = []
        channels = 3
        for width, depth in ((8, 2), (8, 2), (16, 3), (16, 3), (16, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            *(nn.Linear(16, 32), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)),
            *(nn.Linear(32, 32), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)),
            nn.Linear(32, classes),
        )

    def forward(self, image: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))


class Block(nn.Module):
    """A block of torchvision's vision transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            *(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(2 * width, width), nn.Dropout(0.1)),
        )

    def forward(self, x: Any) -> Any:
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.ln_2(x))


class VitLike(nn.Module):
    """A narrow vision transformer for images of 32 x 32 pixels, with a class token and seven dropouts."""

    def __init__(self, classes: int = 3, width: int = 32) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, 8, stride=8)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.Sequential(Block(width), Block(width))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Any) -> Any:
        x = self.conv_proj(image).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.ln(self.layers(self.dropout(x + self.positions)))[:, 0])


def make_network(name: str) -> Any:
    """A network as if it were trained: BatchNormalization has met images, and the outputs differ between them."""
    torch.manual_seed(1)
    model: Any = {"vgg": VggLike, "vit": VitLike}[name]().train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(32, 3, 32, 32))
    return model


def layouts() -> dict[str, tuple[Any, dict[str, Any]]]:
    """The networks and the options of `torch.onnx.export`, by the name in `Layout.torch`."""
    old, dropout = {**PRESERVE, **ROWS}, nn.Dropout(0.3)
    channels = Small()
    channels.features[3] = nn.Dropout2d(0.25)
    masked = Between(handmade)
    masked.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    return {
        "constants": (Small(), {**old, "opset_version": 17}),
        "constants_12": (Small(), {**old, "opset_version": 12}),
        "constants_18": (Small(), {**old, "opset_version": 18}),
        "fixed_batch": (Small(), {**PRESERVE, "opset_version": 17}),
        "softmax_13": (Between(dropout, last=True), {**old, "opset_version": 13}),
        "norm_12": (Small(norm=True), {**old, "opset_version": 12}),
        "norm_in_training": (
            Small(norm=True),
            {**old, "opset_version": 17, "training": torch.onnx.TrainingMode.TRAINING},
        ),
        "functions": (
            Between(dropout, first=True),
            {**old, "opset_version": 17, "export_modules_as_functions": {nn.Dropout}},
        ),
        "shared_rate": (Between(dropout, first=True), NEWER_ROWS),
        "shared_rate_18": (Between(dropout, first=True), {**NEWER_ROWS, "opset_version": 18}),
        "unoptimized": (Pooled(), {**NEWER_ROWS, "opset_version": 18, "optimize": False}),
        "fixed_reshape": (Pooled(), {"input_names": ["image"]}),
        "attention_weights": (Attention(weights=True), {**old, "opset_version": 17}),
        "attention_alone": (Attention(weights=False), {**old, "opset_version": 17}),
        "without_dropout": (Small(), {**ROWS, "dynamo": False, "opset_version": 17}),
        "rate_zero": (Between(nn.Dropout(0.0)), {**old, "opset_version": 17}),
        "opset_11": (Between(nn.Dropout(0.25)), {**old, "opset_version": 11}),
        "handmade_mask": (masked, {**old, "opset_version": 17}),
        "stochastic_depth": (Between(floored), NEWER_ROWS),
        "alpha": (Between(nn.AlphaDropout(0.3)), NEWER_ROWS),
        "channels": (channels, NEWER_ROWS),
        "in_place": (Between(nn.Dropout(0.25, inplace=True)), NEWER_ROWS),
        "branches": (Between(stochastic_depth), NEWER_ROWS),
        "branch": (Between(in_branch), NEWER_ROWS),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    for name, (model, options) in layouts().items():
        activate_dropout(model)
        if name.startswith("attention"):
            model.train()  # MultiheadAttention has no module of dropout
        torch.onnx.export(model, (torch.randn(2, 3, 8, 8),), str(folder / f"{name}.onnx"), **options)
    versions = {one: importlib.metadata.version(one) for one in ("torch", "onnx", "onnxscript")}
    (folder / "versions.txt").write_text(", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
