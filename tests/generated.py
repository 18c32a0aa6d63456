"""The parts of README and docs/ that are made from the code and from measurements.

`python -m tests.generated` writes them. With `--console` it also runs `oodscreen demo` and other commands, and writes
their output; `make docs` does both. `tests/test_docs.py` fails if a page is stale.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_table import NOT_MEASURED, gpu_table
from export.errors import ExitCode
from screen.columns import COLUMNS, DISTANCES, STATUSES, Column
from screen.review.labels.summary import LABEL_COLUMNS
from screen.review.queue.row import ADDED_COLUMNS
from tests import colour_tables, console
from tests.alarm_table import alarm_table
from tests.dropout_table import dropout_tables
from tests.export.family import FAMILY
from tests.export.source.test_saved_model import FUNCTIONS
from tests.export.test_refusals import REFUSALS
from tests.hostile import find_kinds
from tests.hostile_images import CASES
from tests.pages import GUIDE, REPOSITORY, read
from tests.reference import reference_text
from tests.screen.test_hostile import MODELS, PARQUET
from tests.stubs import STUB, stub_text


def columns_table() -> str:
    """The result columns."""
    return _columns(COLUMNS)


def queue_columns_table() -> str:
    """The columns that a queue adds to the result columns."""
    return _columns(ADDED_COLUMNS)


def label_columns_table() -> str:
    """The columns that labelled rows add to the results."""
    return _columns(LABEL_COLUMNS[:6])


def _columns(columns: Sequence[Column]) -> str:
    rows = ["| column | type | unit | range | meaning |", "|---|---|---|---|---|"]
    for column in columns:
        kind = re.sub(r"list<item: (\w+)>", r"list of \1", str(column.type)).replace("double", "float64")
        rows.append(f"| `{column.name}` | {kind} | {column.unit} | {column.range} | {column.sentence} |")
    return "\n".join(rows)


def statuses_table() -> str:
    """The values of the column `status`."""
    rows = ["| status | meaning |", "|---|---|"]
    rows += [f"| `{status}` | {meaning} |" for status, meaning in STATUSES.items()]
    return "\n".join(rows)


def exit_codes_table() -> str:
    """The exit codes."""
    rows = ["| exit code | meaning |", "|---|---|"]
    rows += [f"| {int(code)} | {code.meaning} |" for code in ExitCode]
    return "\n".join(rows)


def mnist_sentence() -> str:
    """Results of `benchmarks/mnist.py`."""
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "mnist.json").read_text())
    return (
        f"After training on all of MNIST ({result['epochs']} epochs), the accuracy of the network's predictive mean "
        f"over {result['passes']} passes is {result['accuracy']:.2%} on the 10,000 test images. The article's image, "
        f"row 247, is number {result['rank_of_row_247_by_entropy']} of rows 0 to 499 by `entropy` and number "
        f"{result['rank_of_row_247_by_prediction_std']} by `prediction_std` (`python -m benchmarks.mnist`)."
    )


def throughput_table() -> str:
    """Results of `benchmarks/throughput.py`."""
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "throughput.json").read_text())
    rows = [
        "| network | T | Keras loop (a) | onnxruntime loop (b) | oodscreen (c) | floor (d) | a / c | b / c "
        "| image-passes/s | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in result["networks"].items():
        for run in one["oodscreen"]:
            passes, seconds = run["passes"], run["seconds"]
            keras, loop = one["keras_seconds_a_pass"] * passes, one["onnxruntime_seconds_a_pass"] * passes
            floor = one["trunk_seconds"] + one["head_floor_seconds_a_pass"] * passes
            rows.append(
                f"| {name} | {passes} | {keras:.1f} s | {loop:.1f} s | {seconds:.1f} s | {floor:.1f} s | "
                f"{keras / seconds:.1f} | {loop / seconds:.1f} | {one['rows'] * passes / seconds:,.0f} | "
                f"{run['peak_mib']} |"
            )
    legend = "; ".join(f"{name}: {one['network']}, {one['rows']:,} images" for name, one in result["networks"].items())
    machine = result["machine"]
    where = (
        f"{machine['cores']} cores ({machine['processor']}), without a GPU" if result["device"] == "cpu" else "a GPU"
    )
    memory = " and ".join(f"{one['peak_mib']} MiB for {one['rows']:,} rows" for one in result["sizes"]["by_rows"])
    shards = ", ".join(
        f"{one['seconds']:.1f} s in shards of {one['rows_a_shard']:,} rows" for one in result["sizes"]["by_shard_size"]
    )
    heads = ", ".join(
        f"{name} {one['head_seconds_a_pass'] / one['head_floor_seconds_a_pass']:.2f}"
        for name, one in result["networks"].items()
        if name != "mobilenet"  # its head is a thousandth of the trunk
    )
    hundred = ", ".join(
        f"{name} {one['hundred_passes_over_deterministic']:.2f}" for name, one in result["networks"].items()
    )
    return (
        "\n".join(rows)
        + f"\n\nThe times were measured on {where}. {legend}. The peak memory of the article's network at T = 2 is "
        + f"{memory}. A run of this network at T = 10 on 10,000 images takes {shards}. The following ratios were "
        + "measured in one process, without start-up. The time of one pass of the head, divided by the time of one "
        + f"head in method (d), is: {heads}. The time of 100 passes, divided by the time of one deterministic pass, "
        + f"is: {hundred}."
    )


def gpu_part() -> str:
    """Results of `benchmarks/gpu.py`; without a visit to a GPU, that none was measured."""
    path = REPOSITORY / "benchmarks" / "results" / "gpu.json"
    return gpu_table(json.loads(path.read_text())) if path.exists() else NOT_MEASURED


def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((REPOSITORY / "benchmarks" / "results" / f"{name}.json").read_text())
    return result


def detection_table() -> str:
    """Results of `benchmarks/detection.py` for every score, on the reported sets."""
    result = _result("detection")
    sets = result["reported"]
    rows = ["| score | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]
    shown = {
        "confidence": "1 - `confidence`",
        "entropy": "`entropy`",
        "expected_entropy": "`expected_entropy`",
        "mutual_information": "`mutual_information`",
        "variation_ratio": "`variation_ratio`",
        "prediction_std": "`prediction_std`",
        "skewness": "`skewness`",
        "kurtosis": "-`kurtosis`",
        "energy": "`energy`",
        **{name: f"`{name}`" for name in DISTANCES},
        "distances": "distances (these three)",
        "entropy, energy": "entropy, energy",
        **{f"entropy, {name}": f"entropy, {name}" for name in DISTANCES},
        "confidence, distances": "1 - confidence, distances",
        "mutual_information, distances": "mutual_information, distances",
        "energy, distances": "energy, distances",
        "entropy, energy, distances": "entropy, energy, distances",
        "default": "**`ood_score`: entropy, distances**",
    }
    rows += [_detection_row(label, result["scores"][score], sets) for score, label in shown.items()]
    flagged = " | ".join(f"{100 * result['flagged'][name][0]:.1f} %" for name in sets)
    rows.append(f"| flagged at a target rate of {result['review_rate']:.0%} | {flagged} |")
    known = ", ".join(f"{one:.2%}" for one in result["known_flagged"])
    return (
        "\n".join(rows)
        + "\n\nThe first number of a cell is the AUROC in percent. The second number is the FPR95: the percentage of "
        f"the set that is accepted if 95 % of the digits are accepted. Both are means over {result['seeds']} networks "
        f"(the article's network, trained for {result['epochs']} epochs on all of MNIST) with {result['passes']} "
        f"passes. Each set is compared with 10,000 test digits. The networks flag {known} of the digits at the review "
        f"rate of {result['review_rate']:.0%}."
    )


def _detection_row(label: str, by_set: dict[str, Any], sets: list[str]) -> str:
    cells = [f"{100 * by_set[name]['auroc'][0]:.2f} / {100 * by_set[name]['fpr95'][0]:.1f}" for name in sets]
    return f"| {label} | " + " | ".join(cells) + " |"


def moments_table() -> str:
    """FPR95 with and without higher moments: the article's question."""
    result = _result("detection")
    sets = result["reported"]
    rows = ["| score | " + " | ".join(sets) + " | mean |", "|---|" + "---|" * (len(sets) + 1)]
    shown = (
        "prediction_std",
        "skewness",
        "kurtosis",
        "entropy",
        "entropy, prediction_std",
        "entropy, skewness",
        "entropy, kurtosis",
        "entropy, prediction_std, skewness, kurtosis",
        "entropy, distances",
        "entropy, skewness, distances",
        "entropy, kurtosis, distances",
        "entropy, skewness, kurtosis, distances",
    )
    for score in shown:
        means = [100 * result["scores"][score][name]["fpr95"][0] for name in sets]
        spreads = [100 * result["scores"][score][name]["fpr95"][1] for name in sets]
        cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(means, spreads, strict=True)]
        rows.append(f"| {score} | " + " | ".join(cells) + f" | {sum(means) / len(means):.1f} |")
    return (
        "\n".join(rows)
        + "\n\nThe cells contain the mean and the standard deviation of the FPR95 over the networks, in percent "
        "(lower is better)."
    )


def choice_table() -> str:
    """The variants of the distances that were compared, on sets that no reported figure uses."""
    return colour_tables.choice_table(_result("detection"), _result("colour"))


def held_table() -> str:
    """The default on the sets that it was chosen on: digits that were changed."""
    result = _result("detection")
    rows = [f"| set | entropy | {' | '.join(DISTANCES)} | ood_score | flagged |", "|---" * (len(DISTANCES) + 4) + "|"]
    for name in result["choosing"]:
        cells = []
        for score in ("entropy", *DISTANCES, "default"):
            found = result["scores"][score][name]
            cells.append(f"{100 * found['auroc'][0]:.2f} / {100 * found['fpr95'][0]:.1f}")
        rows.append(f"| {name} | " + " | ".join(cells) + f" | {100 * result['flagged'][name][0]:.0f} % |")
    return "\n".join(rows)


def _colour(show: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """A table of the results of `benchmarks/colour.py`."""
    return lambda: show(_result("colour"))


def promises_text() -> str:
    """Early exits and the cost of distances: results of `benchmarks/promises.py`."""
    result = _result("promises")
    rows = [
        "| flagged by | target rate | rows | fewer passes | flags after all passes | lost | added | all passes "
        "| --adaptive | faster |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|---|---|")
    rows += [
        f"| {one['by']} | {one['rate']:.0%} | {one['rows']:,} | {one['fewer_passes']:.1f} times | {one['flags']:,} "
        f"| {one['lost']} | {one['added']} | {one['seconds']:.1f} s | {one['seconds_adaptive']:.1f} s "
        f"| {one['seconds'] / one['seconds_adaptive']:.1f} times |"
        for one in result["adaptive"]
    ]
    article, mobile = result["distance"]["article"], result["distance"]["mobilenet"]
    few, many = [one for one in result["adaptive"] if one["by"] == "calibration"][-2:]
    growth = (many["seconds_adaptive"] - few["seconds_adaptive"]) / (many["rows"] - few["rows"])
    fixed = few["seconds_adaptive"] - growth * few["rows"]
    return (
        "\n".join(rows)
        + f"\n\nThe rows are the {result['rows']:,} test digits, each of which is used once or several times; T is "
        f"{result['passes']}. The times are wall times of the whole process on {result['machine']['cores']} cores. "
        f"Of the {few['seconds_adaptive']:.1f} s with "
        f"--adaptive at {few['rate']:.0%}, {fixed:.1f} s do not depend on the number of rows: start-up, and session "
        f"runs with few rows. The measured engine had one distance, of the same kind as `layout_distance`, instead of "
        f"three. With this distance, the run of all passes takes {article['with'] / article['without'] - 1:.1%} longer "
        f"than without a distance ({article['with']:.1f} s and {article['without']:.1f} s, best of three). With the "
        f"trunk of MobileNetV2 at 50 passes, the run with a distance takes "
        f"{mobile['with'] / mobile['without'] - 1:.1%} longer than the run without ({mobile['bank_rows']:,} x "
        f"{mobile['features']:,} reference features; `python -m benchmarks.promises`)."
    )


def article_text() -> str:
    """Results of `benchmarks/article.py`."""
    result = _result("article")
    single, shared = (np.array(result[name]) for name in ("single_accuracies", "single_accuracies_shared"))
    row, noise = result["row_247"], result["random_image"]
    likely = sorted(range(10), key=lambda one: -row["mean"][one])[:3]
    likely_classes = ", ".join(f"{one}: {row['mean'][one]:.2f} ± {row['std'][one]:.2f}" for one in likely)
    improbable, spread = (", ".join(map(str, result[f"most_uncertain_by_{name}"])) for name in ("probability", "std"))
    return (
        f"The accuracy of a single pass on the test digits is {single.mean():.2%} ± {single.std():.2%} (independent "
        f"masks for every row, as in the article; ± {shared.std():.2%} with shared masks). The accuracy of the mean of "
        f"{result['passes']} passes is {result['ensemble_accuracy']:.2%}. The most probable classes of row 247, a "
        f"{row['label']}, are {likely_classes} (mean ± standard deviation). Of rows 0 to 499, the rows with the lowest "
        f"`confidence` are {improbable}, and the rows with the largest `prediction_std` are {spread}. "
        f"An image of uniformly random pixels is classified as {noise['prediction']}, with a mean probability of "
        f"{max(noise['mean']):.2f} over the passes. "
        f"The article's 10,000 x {result['passes']} passes, 17 min 2 s on its GPU, took "
        f"{result['seconds']:.0f} s here, on {result['machine']['cores']} cores (`python -m benchmarks.article`)."
    )


def faults_sentence() -> str:
    """The kills of `benchmarks/faults.py` and what followed."""
    result = _result("faults")
    return (
        "A benchmark kills real runs (SIGKILL) at random moments, restarts them and compares all files: of "
        f"{result['kills']} kills (`python -m benchmarks.faults`), {result['left_a_file_aside']} left a staging file "
        f"and {result['left_a_result_without_its_line']} left a result that was not in the manifest yet; "
        f"{result['different_outputs']} of the restarted runs ended with other files than an undisturbed run. INPUT "
        "contains linked folders, a circle of links, a folder that cannot be listed, and shards with a false row "
        f"count, with a page of 300 MiB and with a wrong checksum. The log of {result['kills_with_a_dead_log']} of "
        f"these runs was on a full disk, was closed, or had no reader. {result['hangs']} runs hung."
    )


def fuzz_sentence() -> str:
    """The outcomes of `benchmarks/fuzz.py`."""
    result = _result("fuzz")
    images = ", ".join(f"{status} {count:,}" for status, count in result["images_by_status"].items())
    files = ", ".join(f"{outcome} {count:,}" for outcome, count in result["files_by_outcome"].items())
    kinds = ", ".join(f"{kind} {sum(counts.values()):,}" for kind, counts in result["files_by_kind"].items())
    trees = result["trees"]
    return (
        "`tests/screen/test_hostile.py` contains cases of damaged and malicious images, Parquet files and models. "
        f"Of {result['images']:,} mutated images ({images}) and {result['files']:,} mutated "
        f"Parquet files ({files}; by the changed part: {kinds}), {result['crashes']} crashed the process, "
        f"{result['hangs']} made the process hang, {result['lost_rows']} lost a row, and "
        f"{result['silently_wrong']} changed the scores of a row with the status `ok` (this count excludes files with "
        f"changed bytes, which a reader cannot always detect). A process took at most {result['peak_mib']:,} MiB. In "
        f"{trees['trees']:,} random folders with {trees['links']:,} links and "
        f"{trees['unlisted']:,} folders or links that could not be followed, each shard was scored once "
        "(`python -m benchmarks.fuzz`)."
    )


def hostile_costs_sentence() -> str:
    """The costs of hostile files, by `benchmarks/hostile.py`."""
    result = _result("hostile")
    beyond = ", ".join(result["beyond_limits"])
    return (
        f"Each of {result['files']:,} hostile files of up to {result['largest_bytes'] / 2**20:.0f} MiB is screened by "
        f"a separate run. The slowest run takes {result['most_seconds']:.1f} s more than a run without the file "
        f"(limit: {result['limit_seconds']:.0f} s), and the largest peak memory is {result['most_mib']:,} MiB (limit: "
        f"{result['limit_mib']:,} MiB; a run without a hostile file: {result['empty_run']['peak_mib']} MiB). "
        f"{result['crashes']} runs crashed and {result['hangs']} hung. Files beyond the limits: {beyond or 'none'} "
        f"(`python -m benchmarks.hostile`, {result['cores']} cores). The time limit does not apply to files with many "
        "readable rows, because scoring these rows takes additional time."
    )


def hostile_text() -> str:
    """Every kind of hostile input and environment that a test tries, and the hostile images by status."""
    kinds = find_kinds(REPOSITORY / "tests")
    lines: list[str] = []
    for area in dict.fromkeys(kind.area for kind in kinds):
        lines += [f"## {area}", "", "| case | what happens |", "|---|---|"]
        lines += [f"| {_cell(one.given)} | {_cell(one.outcome)} |" for one in kinds if one.area == area]
        lines.append("")
    lines += ["## Parquet files", "", "INPUT of each run is a folder with a readable shard and one other file:", ""]
    lines += ["| exit code | other file, or its defect |", "|---|---|"]
    by_code: dict[int, list[str]] = {}
    for name, (_, code, *_) in PARQUET.items():
        by_code.setdefault(code, []).append(name)
    lines += [f"| {code} | {_cell('; '.join(names))} |" for code, names in sorted(by_code.items())]
    models = f"A run is refused with exit code 2 if the model has one of these defects: {'; '.join(MODELS)}."
    lines += ["", f"## Files of models\n\n{models}", ""]
    lines += ["## Images", "", "| status of the row | images |", "|---|---|"]
    by_status: dict[str, list[str]] = {}
    for name, case in CASES.items():
        by_status.setdefault(case.status, []).append(name)
    lines += [f"| `{status}` | {_cell('; '.join(names))} |" for status, names in sorted(by_status.items())]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A sentence for a cell of a table."""
    return (text[:1].upper() + text[1:]).rstrip(".").replace("|", "\\|")


def report_sentence() -> str:
    """Results of `benchmarks/report.py`."""
    result = _result("report")
    usual, large = result["default"][-1], result["top 1000"][-1]
    few = result["default"][0]
    return (
        f"For a run of {usual['rows']:,} rows, `oodscreen report` takes {usual['seconds']:.0f} s and "
        f"{usual['peak_mib']} MiB of peak memory, and writes a page of {usual['page_mb']} MB "
        f"({few['rows']:,} rows: {few['peak_mib']} MiB, {few['page_mb']} MB). "
        f"With `--top 1000`, the page is {large['page_mb']} MB (`python -m benchmarks.report`)."
    )


def scale_text() -> str:
    """Results of `benchmarks/scale.py` for workers, small shards and a lost worker."""
    result = _result("scale")
    workers, small, lost = result["workers"], result["small"], result["lost"]
    one, two, alone = (f"{workers[f'{name}_seconds']:.1f} s" for name in ("one", "two", "local"))
    same = "the same files" if lost["same_files"] else "OTHER FILES"
    return (
        f"Measured on {result['machine']['cores']} cores with the article's network at T = 100 (`python -m "
        f"benchmarks.scale`): a run of {workers['rows']:,} rows takes {one} with one worker of one thread, and {two} "
        f"with two of these workers, which is {workers['gain']:.2f} times as fast; the local engine with one thread "
        f"takes {alone}. These times do not include the start-up. A run of {small['rows']:,} rows in shards of 20 rows "
        f"has {small['throughput_share']:.0%} of the speed of a run in shards of 10,000 rows. In a separate "
        f"measurement with {lost['rows']:,} rows, a run with two workers takes {lost['calm_seconds']:.1f} s, and "
        f"{lost['lost_seconds']:.1f} s if one of them is killed half-way; both end with {same}."
    )


def pixel_scale_text() -> str:
    """Results of `benchmarks/pixel_scale.py` on the networks that were not used to choose the limits."""
    networks = [one for one in _result("pixel_scale")["networks"] if one["group"] == "reported"]

    def warned(key: str, some: list[dict[str, Any]]) -> str:
        return f"{sum(one[key] for one in some)} of {len(some)}"

    normalized = [one for one in networks if one["normalized"]]
    others = [one for one in networks if not one["normalized"]]
    large = [one for one in others if one["scaling"] == "0..255"]
    tanh = [one for one in others if one["name"].endswith("tanh") and one not in large]
    small = {
        scaling: warned("warned_wrong", [one for one in others if one["scaling"] == scaling and one not in tanh])
        for scaling in ("0..1", "-1..1", "standardized")
    }
    return (
        f"The warnings were measured on {len(networks)} trained networks that were not used to choose the limits "
        f"(`python -m benchmarks.pixel_scale`). Under the scaling of the training, the export warns for "
        f"{warned('warned_right', networks)}. Under a scaling that is wrong by a factor of about 255, it warns for "
        f"{warned('warned_wrong', normalized)} networks with BatchNormalization. Without BatchNormalization, it warns "
        f"if pixels in 0..255 are given to a network that was trained on pixels in 0..1 ({small['0..1']}), on pixels "
        f"in -1..1 ({small['-1..1']}), on standardized pixels ({small['standardized']}), or, with tanh activations, on "
        f"one of these three kinds of pixels ({warned('warned_wrong', tanh)}), and if pixels in 0..1 are given to a "
        f"network that was trained on 0..255 ({warned('warned_wrong', large)})."
    )


def billion_table() -> str:
    """Cost of a billion images, by `benchmarks/scale.py`."""
    result = _result("scale")
    names = list(result["billion"])
    rows = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]

    def row(label: str, show: Callable[[dict[str, Any], dict[str, Any]], str]) -> None:
        cells = [show(result["billion"][name], result["stages"][name]) for name in names]
        rows.append(f"| {label} | " + " | ".join(cells) + " |")

    for stage in ("read", "decode", "trunk", "head", "write"):
        row(f"{stage}, µs of one core per image", lambda _, one, stage=stage: f"{1e6 * one['seconds'][stage]:,.0f}")  # type: ignore[misc]
    row("core hours", lambda all_, _: f"{all_['core_hours']:,.0f}")
    row("nights of eight hours on a node with 16 cores", lambda all_, _: f"{all_['nights_of_a_node']:,.1f}")
    row("bottleneck", lambda all_, _: f"{all_['bottleneck']}")
    row("use of the node's network, 10 Gbit/s", lambda all_, _: f"{all_['network_use']:.1%}")
    row("read from storage", lambda all_, _: f"{all_['terabytes_in']:,.2f} TB")
    row("results, in Parquet", lambda all_, _: f"{all_['terabytes_out']:,.2f} TB")
    row("size of a shard of 100,000 rows (10,000 shards)", lambda all_, _: f"{all_['megabytes_a_shard']:,.0f} MB")
    row("GPU hours, if a GPU reaches 10 TFLOP/s", lambda all_, _: f"{all_['gpu_hours']:,.0f}")
    row("core hours beside the GPU", lambda all_, _: f"{all_['core_hours_beside_gpus']:,.0f}")
    row("cores for the other stages at the speed of the GPU", lambda all_, _: f"{all_['cores_a_gpu']:,.1f}")
    legend = "; ".join(f"{name}: {result['stages'][name]['network']}" for name in names)
    return (
        "\n".join(rows)
        + f"\n\n{legend}. Images: article, MNIST digits in PNG; mobilenet, photographs of about 500 x 375 in JPEG, "
        "resized; blocks, CIFAR-10 in JPEG. The first five rows are the measured CPU time of one thread. The other "
        "rows are computed from these times under assumptions: equally fast cores in full use, storage that is fast "
        "enough, and a GPU that was **not measured** (a third of the 31.2 TFLOP/s in float32 of NVIDIA's data sheet "
        "for the A10; trunk and head run on the GPU, and all other stages on cores)."
    )


def decoding_table() -> str:
    """Processor time of JPEG decoders, and equality of their pixels with Pillow's."""
    result = _result("decoding")
    total, sizes = sum(result["files"].values()), list(result["ms"])
    rows = [
        f"| decoder | {' | '.join(f'{size}: decode | with resize' for size in sizes)} | equal to Pillow |",
        "|---" * (2 * len(sizes) + 2) + "|",
    ]
    for name in result["equal"]:
        taken = [f"{result['ms'][size][name][step]:.1f} ms" for size in sizes for step in ("decode", "resize")]
        rows.append(f"| {name} | {' | '.join(taken)} | {sum(result['equal'][name].values()):,} of {total:,} files |")
    speeds = result["images_per_second"]
    pools = list(next(reversed(speeds.values())))
    rows += ["", f"| images per second | {' | '.join(pools)} |", "|---" * (len(pools) + 1) + "|"]
    for what, found in speeds.items():
        cells = [_speed(found[pool]) if pool in found else "not measured" for pool in pools]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    numbers = ", ".join(f"{result['images'][size]} of {size}" for size in sizes)
    large = result["ms_of_a_run"][sizes[-1]]
    return (
        "\n".join(rows)
        + f"\n\nThe decoders were measured with JPEG images: {numbers}. A run takes {large['bilinear']:.0f} ms "
        f"for a JPEG image of {sizes[-1]} with `bilinear`, and {large['bilinear:scaled']:.0f} ms with "
        "`bilinear:scaled`."
    )


def _speed(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def proof_text() -> str:
    """Refusals of correct files by the verification of exports, and planted faults that it found."""
    networks = _result("proof")["networks"]
    runs, counts = sum(one["runs"] for one in networks), sum(one["counts"] for one in networks)
    found = sum((Counter(one["found"]) for one in networks), Counter())
    planted = sum(one["planted"] for one in networks)
    faults = "; ".join(f"{what}: {found[what]} of {planted}" for what in networks[0]["found"])
    saturated, refused = (sum(one[key] for one in networks) for key in ("saturated", "refused"))
    smallest = min(one["smallest_uniformity_p_value"] for one in networks)
    return (
        f"`benchmarks/proof.py` exported {len(networks)} networks once, {saturated} of them with saturated outputs, "
        f"and repeated the verification {runs:,} times with other seeds. The verification refused {refused} correct "
        f"files. The p-values of the {counts} counts agree with a uniform distribution: of {counts} Kolmogorov-Smirnov "
        f"tests, the smallest p-value is {smallest:.2g}. Planted faults that were found: {faults}."
    )


def family_table() -> str:
    """The models that are tested, by area, and the ones that are refused."""
    areas: dict[str, list[str]] = {}
    for member in FAMILY:
        areas.setdefault(member.area, []).append(member.what)
    areas["refused, with the alternative"] = [refusal.what for refusal in (*REFUSALS, *FUNCTIONS) if refusal.what]
    rows = [f"| {area} | {'; '.join(what)} |" for area, what in areas.items()]
    return "\n".join(["| area | models |", "|---|---|", *rows])


PARTS: dict[str, Callable[[], str]] = {
    "columns": columns_table,
    "reference": reference_text,
    "queue-columns": queue_columns_table,
    "label-columns": label_columns_table,
    "family": family_table,
    "statuses": statuses_table,
    "exit-codes": exit_codes_table,
    "mnist": mnist_sentence,
    "decoding": decoding_table,
    "throughput": throughput_table,
    "gpu": gpu_part,
    "detection": detection_table,
    "moments": moments_table,
    "choice": choice_table,
    "held": held_table,
    "proof": proof_text,
    "colour-networks": _colour(colour_tables.colour_networks_table),
    "colour-combinations": _colour(colour_tables.colour_combinations_table),
    "colour-shift": _colour(colour_tables.colour_shift_table),
    "colour-self-test": _colour(colour_tables.self_test_table),
    "colour-peers": lambda: colour_tables.peers_table(_result("colour"), _result("peers")),
    "review-rates": lambda: colour_tables.review_rates_table(_result("promises"), _result("colour")),
    "promises": promises_text,
    "article": article_text,
    "alarm": lambda: alarm_table(_result("alarm")),
    "dropout": lambda: dropout_tables(_result("dropout")),
    "faults": faults_sentence,
    "fuzz": fuzz_sentence,
    "hostile": hostile_text,
    "hostile-costs": hostile_costs_sentence,
    "report": report_sentence,
    "scale": scale_text,
    "pixel-scale": pixel_scale_text,
    "billion": billion_table,
}


_END = "<!-- end -->"


def renew(text: str, made: dict[str, str], kind: str = "generated") -> str:
    """The text of a page with each generated part as it must be.

    Args:
        text: the page.
        made: the parts by their names.
        kind: `generated` or `console`.

    Raises:
        KeyError: the page has a part that nothing makes.
    """
    pattern = re.compile(rf"(<!-- {kind}: (\S+) -->\n).*?({_END})", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", text)


def make_parts() -> dict[str, str]:
    """Every generated part by its name."""
    return {name: make() for name, make in PARTS.items()}


def find_parts(kind: str = "generated") -> list[str]:
    """The names of the parts of all pages, in order."""
    return [name for page in GUIDE for name in re.findall(rf"<!-- {kind}: (\S+) -->", read(page))]


def main(arguments: list[str]) -> None:
    """Write the parts of every page, and the types of `import oodscreen`."""
    parts, shown = make_parts(), None
    if "--console" in arguments:
        with tempfile.TemporaryDirectory() as folder:
            shown = console.run_all(Path(folder))
    for page in GUIDE:
        text = renew(read(page), parts)
        if shown is not None:
            text = renew(text, shown, "console")
        page.write_text(text, encoding="utf-8")
    STUB.write_text(stub_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
