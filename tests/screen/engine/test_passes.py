"""The engine on the article's network, compared with Keras, with numpy, and with itself in other batches."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from export.source.load import load_model
from export.source.network import KerasNetwork, KerasReference
from screen.engine.device.provider import Device
from screen.engine.graph.plan import plan_engine
from screen.engine.masks import draw_mask
from screen.engine.passes import PassEngine
from screen.engine.run_sizes import least_memory
from screen.engine.statistics import PassSummary
from tests.agreement import assert_agree, assert_close_to_scale, mean_and_std, mean_entropy

CPU = Device("cpu", 2)


def engine(model: ExportedModel, passes: int, seed: int = 1, memory: int = 2**28, raw: bool = False) -> PassEngine:
    return PassEngine(plan_engine(model, raw=raw), passes=passes, seed=seed, device=replace(CPU, memory=memory))


def assert_equal_rows(summary: PassSummary, whole: PassSummary, rows: slice) -> None:
    for field in fields(PassSummary):
        part, full = getattr(summary, field.name), getattr(whole, field.name)
        if full is not None:
            np.testing.assert_array_equal(part, full[rows], err_msg=field.name)


@pytest.mark.parametrize("passes", [1, 2, 17, 50])
def test_a_row_has_the_same_bits_in_every_batch(article: ExportedModel, digits: NDArray[np.uint8], passes: int) -> None:
    run = engine(article, passes)
    whole = run.summarize(digits[:400])
    for rows in (slice(0, 1), slice(399, 400), slice(3, 5), slice(11, 75), slice(100, 400)):
        assert_equal_rows(run.summarize(digits[rows]), whole, rows)


def test_a_row_has_the_same_bits_whatever_memory_there_is(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    whole = engine(article, 30).summarize(digits[:300])
    small = engine(article, 30, memory=2**20)
    assert_equal_rows(small.summarize(digits[:300]), whole, slice(None))


def test_a_memory_that_is_too_small_for_two_rows_says_what_is_needed(article: ExportedModel) -> None:
    plan, notices = plan_engine(article), list[str]()

    def open_engine(memory: int) -> PassEngine:
        device = Device("cpu", 2, memory=memory)
        return PassEngine(plan, passes=30, seed=1, device=device, notify=notices.append)

    least = -(-least_memory(plan) // 2**20)
    assert open_engine(least * 2**20).rows_per_run >= 2
    assert not notices
    assert open_engine(1).rows_per_run == 2
    assert notices == [
        f"--memory 0 is too small: a session run of two rows needs {least} MiB; the run uses this size instead"
    ]


@pytest.mark.parametrize("passes", [2, 17, 50])
def test_a_row_has_the_same_bits_with_any_number_of_threads(
    article: ExportedModel, digits: NDArray[np.uint8], passes: int
) -> None:
    plan = plan_engine(article)
    whole = engine(article, passes).summarize(digits[:100])
    for threads in (1, 3, 8):
        other = PassEngine(plan, passes=passes, seed=1, device=Device("cpu", threads))
        assert_equal_rows(other.summarize(digits[:100]), whole, slice(None))
        assert_equal_rows(other.summarize(digits[40:45]), whole, slice(40, 45))


def test_the_seed_decides(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    one, same, other = (engine(article, 10, seed=seed).summarize(digits[:50]) for seed in (1, 1, 2))
    assert_equal_rows(same, one, slice(None))
    assert np.all(np.any(one.mean != other.mean, axis=1))


def test_masks_drawn_for_every_batch_are_those_that_are_kept(
    article: ExportedModel, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = engine(article, 20).summarize(digits[:40])
    monkeypatch.setattr("screen.engine.passes.MAX_CACHED_MASK_BYTES", 0)
    assert_equal_rows(engine(article, 20).summarize(digits[:40]), kept, slice(None))


def test_raw_passes_have_the_statistics_that_are_reported(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    raw = np.concatenate(list(engine(article, 33, raw=True).raw_passes(digits[:60]))).astype(np.float64)
    summary = engine(article, 33).summarize(digits[:60])
    assert raw.shape == (33, 60, 10)
    assert_close_to_scale(summary.mean, raw.mean(axis=0), 1e-6)
    assert_close_to_scale(summary.std, raw.std(axis=0), 1e-6, of=raw)
    votes = np.eye(10)[raw.argmax(axis=2)].sum(axis=0)
    assert summary.variation_ratio is not None
    np.testing.assert_allclose(summary.variation_ratio, 1 - votes.max(axis=1) / 33, atol=1e-12)


def numpy_passes(
    model: Any, sites: tuple[Any, ...], images: NDArray[np.uint8], passes: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities and logits, `[T, B, C]` each, by an independent float64 implementation with the Keras weights."""
    (k1, c1), (k2, c2), (w1, b1), (w2, b2) = (
        [np.asarray(weight, np.float64) for weight in layer.get_weights()] for layer in model.layers if layer.weights
    )

    def convolve(x: NDArray[np.float64], kernel: NDArray[np.float64], bias: NDArray[np.float64]) -> Any:
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        return np.maximum(np.einsum("bhwcij,ijcf->bhwf", windows, kernel, optimize=True) + bias, 0)

    x = convolve(convolve(images / 255.0, k1, c1), k2, c2)
    x = x.reshape(len(x), 12, 2, 12, 2, 64).max(axis=(2, 4))
    logits = []
    for index in range(passes):
        first, second = (draw_mask(seed, site, index).astype(np.float64) for site in sites)
        hidden = np.maximum((x * first.transpose(1, 2, 0)).reshape(len(x), -1) @ w1 + b1, 0)
        logits.append((hidden * second) @ w2 + b2)
    stacked = np.stack(logits)
    exp = np.exp(stacked - stacked.max(axis=2, keepdims=True))
    return exp / exp.sum(axis=2, keepdims=True), stacked


def test_the_numbers_are_those_of_a_numpy_loop_over_the_keras_weights(
    article: ExportedModel, article_keras: Path, digits: NDArray[np.uint8]
) -> None:
    network = load_model(article_keras).network
    assert isinstance(network, KerasNetwork)
    model = network.model
    p, logits = numpy_passes(model, article.contract.sites, digits[:40], 25, seed=1)
    summary = engine(article, 25).summarize(digits[:40])
    mean = p.mean(axis=0)
    assert_close_to_scale(summary.mean, mean, 1e-5)
    assert_close_to_scale(summary.std, p.std(axis=0), 1e-5, of=p)
    assert summary.entropy is not None
    assert summary.expected_entropy is not None
    assert summary.energy is not None
    assert_close_to_scale(summary.entropy, -(mean * np.log(mean)).sum(axis=1), 1e-5)
    assert_close_to_scale(summary.expected_entropy, -(p * np.log(p)).sum(axis=2).mean(axis=0), 1e-5)
    assert_close_to_scale(summary.energy, -np.log(np.exp(logits).sum(axis=2)).mean(axis=0), 5e-6)
    rows, chosen = np.arange(40), mean.argmax(axis=1)
    values = p[:, rows, chosen]
    moving = values.std(axis=0) >= 1e-4
    skewness = ((values - values.mean(axis=0)) ** 3).mean(axis=0) / values.std(axis=0) ** 3
    kurtosis = ((values - values.mean(axis=0)) ** 4).mean(axis=0) / values.std(axis=0) ** 4 - 3
    assert summary.skewness is not None
    assert summary.kurtosis is not None
    np.testing.assert_allclose(summary.skewness[moving], skewness[moving], rtol=0.01, atol=1e-3)
    np.testing.assert_allclose(summary.kurtosis[moving], kurtosis[moving], rtol=0.01, atol=1e-2)


def test_mean_and_std_agree_with_free_running_keras_passes(
    article: ExportedModel, article_keras: Path, digits: NDArray[np.uint8]
) -> None:
    """99.9 % of the values agree within 4 pooled standard errors plus 1e-4, all within 8."""
    reference = KerasReference(load_model(article_keras).network, article.contract.preprocessing)
    rows, passes = digits[:40], 200
    free = np.stack([reference.draw(rows, seed).outputs for seed in range(passes)]).astype(np.float64)
    ours = np.concatenate(list(engine(article, passes, raw=True).raw_passes(rows))).astype(np.float64)
    sides = []
    for values in (free, ours):
        (numbers, errors), (entropy, error) = mean_and_std(values), mean_entropy(values)
        sides.append(([*numbers, entropy], [*errors, error]))
    assert_agree(sides[0][0], sides[1][0], (sides[0][1], sides[1][1]), slack=1e-4)


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from export.contract.reader import read_model
from screen.engine.passes import PassEngine
from screen.engine.graph.plan import plan_engine
from screen.engine.device.provider import Device

notices = []
model = read_model(sys.argv[1])
engine = PassEngine(plan_engine(model), passes=5, seed=1, device=Device("cpu", 1, memory=2**40), notify=notices.append)
images = np.random.default_rng(0).integers(0, 256, (4000, 28, 28, 1), dtype=np.uint8)
before = engine.summarize(images[:50])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20,) * 2)
summary = engine.summarize(images)
assert len(summary.mean) == 4000
assert np.array_equal(summary.mean[:50], before.mean)
print(len(notices), notices[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_when_memory_runs_out_the_run_continues_with_smaller_batches_and_notifies_once(article_onnx: Path) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(article_onnx)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 memory ran out with 4000 rows per session run; later session runs have at most 2000 rows\n"
