# Written by `python -m tests.generated` from the signatures of the functions.

from collections.abc import Mapping
from collections.abc import Sequence
from export.contract.insertion import Insertion
from export.contract.metadata import ModelContract
from export.errors import CalibrationRefused as CalibrationRefused
from export.errors import ContractRefused as ContractRefused
from export.errors import EngineFailed as EngineFailed
from export.errors import ExitCode as ExitCode
from export.errors import InputChanged as InputChanged
from export.errors import InputRefused as InputRefused
from export.errors import Interrupted as Interrupted
from export.errors import ModelRefused as ModelRefused
from export.errors import OodscreenError as OodscreenError
from export.errors import OptionRefused as OptionRefused
from export.errors import OutOfMemory as OutOfMemory
from export.errors import OutputLocked as OutputLocked
from export.errors import OutputRefused as OutputRefused
from export.errors import ReadFailed as ReadFailed
from export.errors import Refused as Refused
from export.errors import ShardRefused as ShardRefused
from export.errors import Terminated as Terminated
from export.errors import VerificationFailed as VerificationFailed
from export.errors import WriteFailed as WriteFailed
from export.exporter import ExportNotice as ExportNotice
from export.source.load import load_keras as load_keras
from pathlib import Path
from screen.decide.request import CalibrationReport
from screen.pack.summary import PackSummary
from screen.review.evaluate.metrics import Evaluation
from screen.review.labels.summary import LabelReport
from screen.review.queue.summary import QueueReport
from screen.review.report.written import WrittenReport
from screen.run.screener import Screener as Screener
from screen.run.summary import RunSummary
from typing import Any
from typing import Literal

__all__: list[str]
__version__: str

def calibrate(
    model: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    review_rate: float | str = 0.02,
    reference: str | Path | None = None,
    features: Sequence[str] = (),
    distance: Literal['cosine', 'euclidean'] | None = None,
    detector: Sequence[str] = (),
    image_column: str = 'image',
    image_root: str | Path | None = None,
    max_pixels: int = 67108864,
    go_on: bool = False,
    passes: int | None = 100,
    adaptive: bool = False,
    seed: int | None = 0,
    masks: Literal['shared', 'per-row', 'none'] | None = 'shared',
    precision: Literal['float32', 'tf32'] | None = 'float32',
    device: str = 'auto',
    threads: int = 0,
    memory: int | None = None,
    batch_size: int = 2048,
) -> CalibrationReport:
    """Fit the flag threshold on in-distribution rows, and write a calibration file.

    Args:
        model: file that an export wrote.
        source: shards of in-distribution rows that the model was not trained on.
        output: calibration file to write; an existing calibration is replaced.
        review_rate: Target share of in-distribution rows that are flagged, for example 0.02 or 2%; at least 0.000001.
        reference: Shards of the reference set, from which distances are measured: in-distribution rows, for example
            training rows. Default: a third of IN_DISTRIBUTION.
        features: Features whose distance from the reference set is a detector: `layout` (channel means of an early
            tensor in each spatial cell), `contrast` (channel means and standard deviations of the same tensor) or
            `penultimate` (input of the last layer with weights); may be repeated. Default: all that the model has.
        distance: Metric of all distances: `cosine`, or `euclidean` between standardized features. Default: euclidean
            for contrast, else cosine.
        detector: Score to combine into `ood_score`, instead of the default scores; may be repeated. Default: the
            distances and, for a classifier, entropy.
        image_column: Column of the images.
        image_root: Base folder of the paths of images in the input; paths outside this folder are not read.
        max_pixels: Maximum number of pixels in an image; larger images are not decoded.
        go_on: Continue even if none of the rows that are tried first can be read. By default, the command stops in this
            case and writes nothing, if an option can correct the reason for most of these rows.
        passes: Number of Monte Carlo dropout passes for each image.
        adaptive: Early exit: stop the passes of a row once its flag is decided. The column `passes` holds the number of
            completed passes.
        seed: Seed for the dropout masks.
        masks: Dropout masks: `shared` (all rows have the same masks, which is fast), `per-row` (independent masks for
            each row) or `none` (the network without dropout; requires `--passes 1`).
        precision: Precision of matrix products and convolutions: `float32`, or `tf32`, which rounds the mantissas of
            their factors to 10 bits (GPUs only).
        device: Device of the passes; `auto` is CUDA if CUDA works on this machine, else the CPU; `cuda:1` is the second
            GPU.
        threads: Number of threads for passes and for decoding; 0 is one thread for each core that this process may use
            (affinity, CPU quota, OMP_NUM_THREADS). Results do not depend on this number.
        memory: Maximum total size of the tensors of all concurrent session runs, in MiB; the process needs more memory
            than this size. Default: 512 on the CPU, half of the free memory of a GPU.
        batch_size: Maximum number of rows that are read, decoded and scored together.

    Raises:
        Refused: the model or the output cannot be used, there are too few rows, or an option is invalid.
        OodscreenError: the calibration failed; an existing calibration is unchanged.
    """


def evaluate(
    known: str | Path,
    others: str | Path | Sequence[str | Path] = (),
    *,
    label_column: str | None = None,
    output: Path | str | None = None,
    plot: Path | str | None = None,
) -> Evaluation:
    """Measure how well each score separates out-of-distribution rows from in-distribution rows.

    With labels, also measure how well each score separates wrong from right predictions.

    Args:
        known: folder with the results of in-distribution rows.
        others: folder or folders with the results of out-of-distribution rows.
        label_column: Column of the labels, copied into the results by `run --keep`.
        output: JSON file to write the metrics to.
        plot: File to write the plot of the metrics to: .svg, .png or .pdf.

    Raises:
        Refused: there are no finished results, or an option is invalid.
        WriteFailed: the metrics cannot be written.
    """


def export_file(
    model: str | Path,
    output: str | Path,
    *,
    preprocess: Literal['unit', 'tf', 'torch', 'caffe'] | None = None,
    scale: float | str | None = None,
    mean: Sequence[float] | str = (),
    std: Sequence[float] | str = (),
    resize: str = 'none',
    image_shape: tuple[int, int, int] | str | None = None,
    keep_layer: Sequence[str] = (),
    rate: float | Mapping[str, float] | None | str | Sequence[str] = None,
    insert_dropout: Sequence[Insertion] | Mapping[str, float | str] | str | Sequence[str] = (),
    output_kind: Literal['softmax', 'logits', 'sigmoid', 'regression'] | None = None,
    output_layer: str | None = None,
    classes: Sequence[str] | str | Path = (),
    opset: int | None = None,
    weights: Path | str | None = None,
    custom_objects: Mapping[str, Any] | str | Sequence[str] | None = None,
    unsafe: bool = False,
    check_data: str | Path | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    image_root: str | Path | None = None,
    check_rows: int | None = None,
) -> ModelContract:
    """Export a Keras model or an ONNX file to an ONNX file in which dropout stays stochastic.

    Args:
        model: `.keras` or `.h5` file, SavedModel folder of Keras 2, JSON file of `model.to_json()`, or ONNX file with
            active Dropout nodes (not required if dropout is inserted).
        output: ONNX file to write; the file appears only after it has been verified.
        preprocess: Name of the preprocessing of 0..255 pixels in training: `unit` is a scale of 1/255; `tf`, `torch`
            and `caffe` are modes of `preprocess_input` in keras.applications. `torch` is also the preprocessing of
            torchvision's models. Cannot be combined with --scale, --mean or --std.
        scale: Factor by which 0..255 pixels were multiplied in training, such as 1/255, or 1 for raw pixels. Required
            unless --preprocess is given or the model scales the pixels itself, as Rescaling and Normalization layers
            do.
        mean: Mean to subtract from the scaled pixels: one number, or one for each channel, separated by commas.
        std: Standard deviation by which the pixels are divided after the mean is subtracted: one number, or one for
            each channel, separated by commas.
        resize: Method that resizes images to the input size of the model, as in training. METHOD: none, bilinear,
            nearest, pil-nearest, pil-box, pil-bilinear, pil-hamming, pil-bicubic, pil-lanczos, crop-or-pad. FIT, for
            all methods except none and crop-or-pad: stretch, crop, pad, short=N; short=N resizes the shorter side to N
            pixels, then crops the centre. With `none`, images of another size are not scored. With `:scaled`, large
            JPEG images are decoded at 1/2, 1/4 or 1/8 of their size before they are resized; this takes less time than
            decoding at full size, but changes the pixels.
        image_shape: Shape of the training images: height, width and channels, such as 64x64x3, or channels, height and
            width, such as 3x64x64. Required if the input of the model does not determine this shape. Default: from the
            input of the model.
        keep_layer: Name or pattern of the dropout layers that stay stochastic, such as 'top_dropout*'; may be repeated.
            In an ONNX file, the option also activates Dropout nodes in inference mode. Default: all.
        rate: Dropout rate that replaces the rate used in training: 0.3 for all layers that stay stochastic, or
            'block*=0.1' for the layers with a matching name; may be repeated. Default: as in training.
        insert_dropout: Dropout to insert before a layer of a model trained without dropout; may be repeated. LAYER: a
            name, or `classifier` for the last layer with weights. With `LAYER=auto`, the rate is chosen on the labelled
            rows of --check-data. With `list`, the command prints the layers and exports nothing.
        output_kind: Kind of output: softmax, logits, sigmoid, regression; required if the model ends in neither softmax
            nor sigmoid. Logits are converted to probabilities by softmax, or by sigmoid for a single logit.
        output_layer: Name of the output to export, for a model with several outputs.
        classes: Class names in the order of the class numbers: separated by commas, or a text file with one name per
            line.
        opset: Version of the ONNX operator set. Default: 18, or that of an ONNX file with operator set 17 to 21.
        weights: File with the weights: an HDF5 file that model.save_weights wrote, or a model file. Required if MODEL
            is a JSON file of the layers.
        custom_objects: Class or function that the model uses. MODULE is a module name or a .py file; the code of the
            module is run. May be repeated.
        unsafe: Run the code that the model file contains (Lambda layers). Use only for files that you trust.
        check_data: Labelled shards (a Parquet file, a folder or a glob) on which to compare the accuracies of the
            exported file and of MODEL.
        label_column: Column of the labels: class numbers, class names as in --classes, or, for a multi-label model,
            lists of 0 and 1. Default: label.
        image_column: Column of the images. Default: image.
        image_root: Base folder of the paths of images in the input; paths outside this folder are not read.
        check_rows: Maximum number of rows to check, drawn from all shards with a fixed seed. Default: 500.

    Returns:
        The contract that was written into the file, with the measurements of the verification.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file does not reproduce the source model; nothing was written.
    """


def export_model(
    model: Any,
    output: str | Path,
    *,
    preprocess: Literal['unit', 'tf', 'torch', 'caffe'] | None = None,
    scale: float | str | None = None,
    mean: Sequence[float] | str = (),
    std: Sequence[float] | str = (),
    resize: str = 'none',
    image_shape: tuple[int, int, int] | str | None = None,
    keep_layer: Sequence[str] = (),
    rate: float | Mapping[str, float] | None | str | Sequence[str] = None,
    insert_dropout: Sequence[Insertion] | Mapping[str, float | str] | str | Sequence[str] = (),
    output_kind: Literal['softmax', 'logits', 'sigmoid', 'regression'] | None = None,
    output_layer: str | None = None,
    classes: Sequence[str] | str | Path = (),
    opset: int | None = None,
    check_data: str | Path | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    image_root: str | Path | None = None,
    check_rows: int | None = None,
) -> ModelContract:
    """Export a Keras model in memory to an ONNX file in which dropout stays stochastic.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass.
        output: ONNX file to write; the file appears only after it has been verified.
        preprocess: Name of the preprocessing of 0..255 pixels in training: `unit` is a scale of 1/255; `tf`, `torch`
            and `caffe` are modes of `preprocess_input` in keras.applications. `torch` is also the preprocessing of
            torchvision's models. Cannot be combined with --scale, --mean or --std.
        scale: Factor by which 0..255 pixels were multiplied in training, such as 1/255, or 1 for raw pixels. Required
            unless --preprocess is given or the model scales the pixels itself, as Rescaling and Normalization layers
            do.
        mean: Mean to subtract from the scaled pixels: one number, or one for each channel, separated by commas.
        std: Standard deviation by which the pixels are divided after the mean is subtracted: one number, or one for
            each channel, separated by commas.
        resize: Method that resizes images to the input size of the model, as in training. METHOD: none, bilinear,
            nearest, pil-nearest, pil-box, pil-bilinear, pil-hamming, pil-bicubic, pil-lanczos, crop-or-pad. FIT, for
            all methods except none and crop-or-pad: stretch, crop, pad, short=N; short=N resizes the shorter side to N
            pixels, then crops the centre. With `none`, images of another size are not scored. With `:scaled`, large
            JPEG images are decoded at 1/2, 1/4 or 1/8 of their size before they are resized; this takes less time than
            decoding at full size, but changes the pixels.
        image_shape: Shape of the training images: height, width and channels, such as 64x64x3, or channels, height and
            width, such as 3x64x64. Required if the input of the model does not determine this shape. Default: from the
            input of the model.
        keep_layer: Name or pattern of the dropout layers that stay stochastic, such as 'top_dropout*'; may be repeated.
            In an ONNX file, the option also activates Dropout nodes in inference mode. Default: all.
        rate: Dropout rate that replaces the rate used in training: 0.3 for all layers that stay stochastic, or
            'block*=0.1' for the layers with a matching name; may be repeated. Default: as in training.
        insert_dropout: Dropout to insert before a layer of a model trained without dropout; may be repeated. LAYER: a
            name, or `classifier` for the last layer with weights. With `LAYER=auto`, the rate is chosen on the labelled
            rows of --check-data. With `list`, the command prints the layers and exports nothing.
        output_kind: Kind of output: softmax, logits, sigmoid, regression; required if the model ends in neither softmax
            nor sigmoid. Logits are converted to probabilities by softmax, or by sigmoid for a single logit.
        output_layer: Name of the output to export, for a model with several outputs.
        classes: Class names in the order of the class numbers: separated by commas, or a text file with one name per
            line.
        opset: Version of the ONNX operator set. Default: 18, or that of an ONNX file with operator set 17 to 21.
        check_data: Labelled shards (a Parquet file, a folder or a glob) on which to compare the accuracies of the
            exported file and of MODEL.
        label_column: Column of the labels: class numbers, class names as in --classes, or, for a multi-label model,
            lists of 0 and 1. Default: label.
        image_column: Column of the images. Default: image.
        image_root: Base folder of the paths of images in the input; paths outside this folder are not read.
        check_rows: Maximum number of rows to check, drawn from all shards with a fixed seed. Default: 500.

    Returns:
        The contract that was written into the file, with the measurements of the verification.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file does not reproduce the Keras model; nothing was written.
    """


def labels(
    labels: str | Path,
    results: str | Path,
    output: str | Path,
    *,
    label_column: str = 'label',
    label_control: str | None = None,
    order_by: str | None = None,
    images: bool = False,
    ledger: str | Path | None = None,
    input: str | Path | None = None,
    model: str | Path | None = None,
    project: str | None = None,
    url: str | None = None,
) -> LabelReport:
    """Join labels with results: measure the precision of the flag, and write labelled rows for the next training.

    Args:
        labels: JSON export of Label Studio, a .parquet, .jsonl or .csv file, or `label-studio` for a project on a
            server.
        results: folder that a run wrote.
        output: Parquet file of labelled rows to write.
        label_column: Column of the labels in a .parquet, .jsonl or .csv file.
        label_control: Name of the Choices tag in Label Studio whose answers are the labels. Default: the tag whose
            choices are the classes.
        order_by: Score by which the flagged rows are divided into ranges in the table of flag precision. Default:
            ood_score, else the first score of the flag rule.
        images: Write the image bytes to FILE.parquet.
        ledger: Directory of the deduplication ledger, in which the rows of labels with only a `key` are found. Default:
            RESULTS/_queue.ledger.
        input: Current location of the input shards. Default: the location recorded by the run.
        model: Exported model from which the class names are read. Default: names recorded by the run, else numbers.
        project: Number or title of the Label Studio project. Default: oodscreen.
        url: Address of the Label Studio server. The access token is read from the environment variable
            LABEL_STUDIO_API_KEY.

    Raises:
        Refused: there are no labels or no finished results, no label matches a result, or an option is invalid.
        WriteFailed: the file cannot be written; an earlier file is unchanged.
    """


def pack(
    source: str | Path,
    shards: str | Path,
    *,
    label_from: Literal['first', 'last', 'none'] = 'first',
    path_column: str | None = None,
    image_root: str | Path | None = None,
    shard_rows: int = 20000,
    shard_size: int = 512,
) -> PackSummary:
    """Pack image files into Parquet shards, one row for each file; the bytes of the files are not changed.

    The exit code of the command is `exit_code` of the summary.

    Args:
        source: folder of image files, list of paths (CSV, TSV, JSONL or Parquet), WebDataset tar, or folder of tars.
        shards: folder of the shards; created if missing.
        label_from: Folder whose name is the label, if SOURCE is a folder of images: the `first` or the `last` folder in
            the path of the image relative to SOURCE; with `none`, labels are null.
        path_column: Column of the paths, if SOURCE is a list of paths. Default: the first of path, file_name, filename,
            file, image.
        image_root: Base folder of the paths in the list; paths outside this folder are not read. Default: the folder of
            the list.
        shard_rows: Maximum number of rows in a shard.
        shard_size: Total size of the images in a shard, in MiB, at which the shard ends.

    Raises:
        Refused: the source, the folder of the shards or an option cannot be used.
        InputChanged: a file changed while it was packed.
        OutputLocked: another pack writes to the folder.
        OodscreenError: the pack failed; finished shards stay.
    """


def queue(
    results: str | Path,
    *,
    output: str | Path | None = None,
    to: Literal['parquet', 'jsonl', 'csv', 'imagefolder', 'label-studio-tasks', 'label-studio'] | None = None,
    project: str | None = None,
    images: bool = True,
    image_url: str | None = None,
    url: str | None = None,
    top: int | None = None,
    per_class: int | None = None,
    reason: Sequence[str] = (),
    order_by: str | None = None,
    include_random: str | float | None = None,
    audit_seed: int = 0,
    ledger: str | Path | None = None,
    dry_run: bool = False,
    input: str | Path | None = None,
    model: str | Path | None = None,
    classes: Sequence[str] | str | Path = (),
) -> QueueReport:
    """Export flagged rows for labelling, the most suspicious first; each image is exported at most once per project.

    Args:
        results: folder that a run wrote.
        output: File or folder of the queue to write.
        to: Format of QUEUE: parquet, jsonl, csv, imagefolder or label-studio-tasks; or label-studio for a project on a
            server. Default: by the ending of QUEUE.
        project: Labelling project; an image is queued at most once per project. For Label Studio, give the number or
            the title of a project; a project is created if none has this title. Default: the name default, or oodscreen
            for Label Studio.
        images: Write the image bytes into a parquet or jsonl queue.
        image_url: Template of the image addresses in Label Studio tasks, such as 'https://.../{path}'; placeholders:
            {path}, {id}, {shard}, {row}, {key}. Default: images are embedded in the tasks.
        url: Address of the Label Studio server. The access token is read from the environment variable
            LABEL_STUDIO_API_KEY.
        top: Maximum number of flagged rows to export. Default: all.
        per_class: Maximum number of flagged rows to export of each predicted class. Default: all.
        reason: Score or status by which flagged rows are selected: a flagged row is exported only if its `flag_reasons`
            contain one of the given names. May be repeated.
        order_by: Score by which rows are ordered, the most suspicious first. Default: ood_score, else the first score
            of the flag rule.
        include_random: Share of the unflagged rows to draw at random and to export in addition, with `audit` in the
            column `source`.
        audit_seed: Seed for the draw of --include-random.
        ledger: Directory of the deduplication ledger. Default: RESULTS/_queue.ledger.
        dry_run: Print the number of rows that the command would export, and the first 20 of these rows; write nothing
            to files or to a server.
        input: Current location of the input shards. Default: the location recorded by the run.
        model: Exported model from which the class names are read. Default: names recorded by the run, else numbers.
        classes: Class names in the order of the class numbers: separated by commas, or a text file with one name per
            line. Default: names recorded by the run, else numbers.

    Raises:
        Refused: there are no finished results, or an option is invalid.
        OodscreenError: the export failed; exported images are recorded in the ledger or in the project.
    """


def report(
    results: str | Path,
    output: str | Path,
    *,
    against: str | Path | None = None,
    top: int = 100,
    look_alikes: int = 1000,
    title: str | None = None,
    input: str | Path | None = None,
    classes: Sequence[str] | str | Path = (),
) -> WrittenReport:
    """Write an HTML page with counts, score distributions, top-ranked images, quarantined rows and changed flags.

    Args:
        results: folder that a run wrote.
        output: HTML file to write; an existing report is replaced.
        against: Folder that an earlier `oodscreen run` wrote, for a comparison of the results.
        top: Maximum number of cards, the most suspicious images first; a card also shows similar images.
        look_alikes: Maximum number of flagged rows, the most suspicious first, whose images are compared; similar
            images are shown together.
        title: Title of the page. Default: the name of the folder RESULTS.
        input: Current location of the input shards. Default: the location recorded by the run.
        classes: Class names in the order of the class numbers: separated by commas, or a text file with one name per
            line. Default: names recorded by the run, else numbers.

    Raises:
        Refused: there are no finished results, `output` is a folder or a file that is not a report, or an option is
            invalid.
        WriteFailed: the page cannot be written.
    """


def run(
    model: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    metrics: str | Path | None = None,
    image_column: str = 'image',
    id_column: str | None = None,
    keep: Sequence[str] = (),
    image_root: str | Path | None = None,
    max_pixels: int = 67108864,
    go_on: bool = False,
    calibration: str | Path | None = None,
    flag_if: str | None = None,
    passes: int | None = None,
    adaptive: bool = False,
    seed: int | None = None,
    masks: Literal['shared', 'per-row', 'none'] | None = None,
    precision: Literal['float32', 'tf32'] | None = None,
    device: str = 'auto',
    threads: int = 0,
    memory: int | None = None,
    batch_size: int = 2048,
    engine: Literal['local', 'ray'] = 'local',
    address: str | None = None,
    part: str | None = None,
    classes: Sequence[str] | str | Path = (),
    max_bad_rows: str | float = '1%',
    alarm: bool = False,
    alarm_rows: int | None = None,
    force: Literal['all', 'quarantined'] | None = None,
) -> RunSummary:
    """Score every image of `source` with T dropout passes, and flag the images that a person should review.

    The exit code of the command is `exit_code` of the summary.

    Args:
        model: file that an export wrote.
        source: Parquet shard, folder of shards, or glob.
        output: folder of the result shards; created if missing.
        image_column: Column of the images.
        id_column: Column of the row ids, which become the result column `id`. Default: id, if the column exists.
        keep: Input column to copy into the results; may be repeated.
        image_root: Base folder of the paths of images in the input; paths outside this folder are not read.
        max_pixels: Maximum number of pixels in an image; larger images are not decoded.
        go_on: Continue even if none of the rows that are tried first can be read. By default, the command stops in this
            case and writes nothing, if an option can correct the reason for most of these rows.
        calibration: Calibration file that `oodscreen calibrate` wrote for this model; rows get an `ood_score` and a
            `p_value`, and are flagged by `p_value`.
        flag_if: Rule that flags a row by its result columns, such as 'entropy > 0.5 or prediction_std > 0.2'. With a
            calibration, the rows that the rule flags are flagged in addition. Required for a regression without a
            calibration. Default: the calibration's rule, else entropy above 25 % of its maximum.
        passes: Number of Monte Carlo dropout passes for each image. Default: as calibrated, else 100.
        adaptive: Early exit: stop the passes of a row once its flag is decided. The column `passes` holds the number of
            completed passes.
        seed: Seed for the dropout masks. Default: as calibrated, else 0.
        masks: Dropout masks: `shared` (all rows have the same masks, which is fast), `per-row` (independent masks for
            each row) or `none` (the network without dropout; requires `--passes 1`). Default: as calibrated, else
            shared.
        precision: Precision of matrix products and convolutions: `float32`, or `tf32`, which rounds the mantissas of
            their factors to 10 bits (GPUs only). Default: as calibrated, else float32.
        device: Device of the passes; `auto` is CUDA if CUDA works on this machine, else the CPU; `cuda:1` is the second
            GPU.
        threads: Number of threads for passes and for decoding; 0 is one thread for each core that this process may use
            (affinity, CPU quota, OMP_NUM_THREADS). Results do not depend on this number.
        memory: Maximum total size of the tensors of all concurrent session runs, in MiB; the process needs more memory
            than this size. Default: 512 on the CPU, half of the free memory of a GPU.
        batch_size: Maximum number of rows that are read, decoded and scored together.
        engine: Executor that scores the rows: `local` for this process, or `ray` for the workers of a Ray cluster;
            results do not depend on the executor.
        address: Address of the Ray cluster. Default: RAY_ADDRESS, else a cluster on this machine.
        part: Score part I of N of the shards, as one job of a job array; all jobs have the same OUTPUT.
        classes: Class names in the order of the class numbers: separated by commas, or a text file with one name per
            line. Default: as recorded in OUTPUT, else as exported.
        max_bad_rows: Maximum number or share of rows that could not be scored; above this limit the run ends with exit
            code 3.
        alarm: Drift alarm: end with exit code 4 if the number of flagged rows is outside the prediction interval of the
            calibration.
        alarm_rows: Minimum number of readable rows for the test of `--alarm`; if a run has fewer rows, the rows of
            earlier runs are tested together with its rows. Default: 1000.
        force: Score finished shards again, in addition to new and changed shards: all of them (`--force` alone, or
            `all`), or those with rows that could not be scored (`quarantined`).
        metrics: `.prom` file for the textfile collector of Prometheus' node_exporter; None for no metrics.

    Raises:
        Refused: the model, the input, the output or an option cannot be used; nothing was written.
        OutputLocked: another run writes to the output; nothing was written.
        OodscreenError: the run failed; finished shards stay.
    """
