"""Refusals of `oodscreen export`: each has a separate message and exit code 2, and nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import oodscreen
from tests.export import family


@dataclass(frozen=True)
class Refusal:
    """A model or a combination of options that the export refuses.

    Attributes:
        name: name of the test.
        build: function that returns the model.
        message: part of the error message, different for each refusal.
        then: how the test follows the next step in the message: options, whose names are in the message, in place of
            `options`; the code in the message (`CODE`); a function that builds the model as the message states; or
            None, if another test follows it.
        options: options of `oodscreen export`.
        what: description in the generated table; "" for a refusal that depends only on options.
        last: further options that the changed model needs.
    """

    name: str
    build: Callable[[Any], Any]
    message: str
    then: tuple[str, ...] | str | Callable[[Any], Any] | None = None
    options: tuple[str, ...] = family.UNIT
    what: str = ""
    last: tuple[str, ...] = ()


CODE = "the code in the message"


def ending_in(*last: Callable[[Any], Any], shape: tuple[int, ...] = (8, 8, 3)) -> Callable[[Any], Any]:
    """A function that builds a small model with the given layers after its first dropout."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        made = [make(layers) for make in last] or [layers.Dense(3, activation="softmax")]
        return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dropout(0.3, name="first"), *made])

    return build


def without_dropout(keras: Any) -> Any:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])


def idle(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dropout(0.0, name="idle")])


def tokens(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """A function that builds a model over the rows of the image: `make`, then a dropout that can be kept."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((8, 8, 1))
        x = make(layers, layers.Reshape((8, 8))(image))
        x = layers.Dropout(0.2)(layers.Flatten()(x))
        return keras.Model(image, layers.Dense(3, activation="softmax")(x))

    return build


def two_images(keras: Any) -> Any:
    layers = keras.layers
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    x = layers.Dropout(0.3)(layers.Flatten()(layers.Add()(inputs)))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def own_class(kind: str) -> Callable[[Any], Any]:
    """A function that builds a model with a custom layer."""

    def build(keras: Any) -> Any:
        from tests.export import custom

        layers = keras.layers
        image = keras.Input((8, 8, 3))
        x = getattr(custom, kind)()(layers.Dropout(0.3)(layers.Flatten()(image)))
        return keras.Model(image, layers.Dense(3, activation="softmax")(x))

    return build


def stochastic_depth(keras: Any) -> Any:
    """ConvNeXt's stochastic depth, which draws random numbers; `keras.applications` builds it with rate 0 only."""
    from keras.src.applications.convnext import StochasticDepth

    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Add()([image, StochasticDepth(0.2, name="depth")(layers.Conv2D(3, 3, padding="same")(image))])
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def quantized(keras: Any) -> Any:
    model = ending_in()(keras)
    model.layers[-1].quantize("int8")
    return model


def sizeless(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.SpatialDropout2D(0.2)(image))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


OWN = ("--custom-objects", "tests.export.custom:NoisyLayer", "--custom-objects", "tests.export.custom:TrainedNoise")
UNIT = family.UNIT

REFUSALS = (
    Refusal(
        "no_dropout",
        without_dropout,
        "has no active dropout. Examined: no Dropout among 2 layers",
        ("--insert-dropout", "classifier=0.2"),
        what="models without dropout, unless `--insert-dropout` is given",
        last=("--output-kind", "logits"),
    ),
    Refusal("rate_zero", idle, "has no active dropout. Examined: idle (rate 0", ending_in()),
    Refusal("no_scale", ending_in(), "no scale was given", (), options=()),
    Refusal(
        "keep_nothing",
        ending_in(),
        "--keep-layer 'top*' matches none",
        ("--keep-layer", "first"),
        options=(*UNIT, "--keep-layer", "top*"),
    ),
    Refusal(
        "rate_of_nothing",
        ending_in(),
        "--rate 'top*' matches none",
        ("--rate", "first=0.2"),
        options=(*UNIT, "--rate", "top*=0.2"),
    ),
    Refusal("rate_of_one", ending_in(), "would have rate 1", ("--rate", "0.5"), options=(*UNIT, "--rate", "1")),
    Refusal("rate_no_number", ending_in(), "--rate is 'half'", ("--rate", "0.5"), options=(*UNIT, "--rate", "half")),
    Refusal(
        "recurrent",
        tokens(lambda layers, x: layers.LSTM(4, recurrent_dropout=0.2)(x)),
        "noise that the export would disable: lstm",
        ("--keep-layer", "*"),
        what="recurrent dropout",
    ),
    Refusal(
        "gru",
        tokens(lambda layers, x: layers.GRU(4, dropout=0.2, name="memory")(x)),
        "would disable: memory (GRU)",
        ("--keep-layer", "*"),
        what="`dropout=` of LSTM and GRU",
    ),
    Refusal(
        "attention",
        tokens(lambda layers, x: layers.Attention(dropout=0.2)([x, x])),
        "would disable: attention (Attention)",
        ("--keep-layer", "*"),
        what="`dropout=` of `layers.Attention`",
    ),
    Refusal(
        "random_in_a_layer",
        own_class("NoisyLayer"),
        "draws random numbers outside its dropout layers: noisy",
        own_class("KeptNoise"),
        options=(*UNIT, *OWN),
        what="`keras.random` in a layer",
        last=("--custom-objects", "tests.export.custom:KeptNoise"),
    ),
    Refusal(
        "random_in_training",
        own_class("TrainedNoise"),
        "noise that the export would disable: trained_noise",
        ("--keep-layer", "*"),
        options=(*UNIT, *OWN),
        last=OWN,
    ),
    Refusal(
        "stochastic_depth",
        stochastic_depth,
        "noise that the export would disable: depth (StochasticDepth)",
        ("--keep-layer", "*"),
        what="ConvNeXt's StochasticDepth with a rate above 0 (`keras.applications` builds ConvNeXt without it)",
    ),
    Refusal(
        "unknown_class",
        own_class("PositionEmbedding"),
        "uses classes or functions that are not part of Keras: PositionEmbedding",
        ("--custom-objects", "tests.export.custom:PositionEmbedding"),
        what="layers of unknown classes",
    ),
    Refusal(
        "code_in_the_file",
        family.with_lambda,
        "contains code that loading would run",
        ("--unsafe",),
        what="Lambda layers without `--unsafe`",
    ),
    Refusal(
        "no_such_object",
        ending_in(),
        "--custom-objects nowhere:Thing cannot be imported",
        (),
        options=(*UNIT, "--custom-objects", "nowhere:Thing"),
    ),
    Refusal("two_inputs", two_images, "takes 2 inputs", CODE, what="models with several inputs"),
    Refusal(
        "no_size",
        sizeless,
        "--image-shape 224x224x3",
        ("--image-shape", "32x32x3"),
        what="images of variable size without `--image-shape`",
    ),
    Refusal(
        "flat_colour",
        ending_in(shape=(192,)),
        "add --image-shape 8x8x3 if the three values of a pixel are adjacent",
        ("--image-shape", "8x8x3"),
        what="flat colour images without `--image-shape`",
    ),
    Refusal(
        "another_shape",
        ending_in(),
        "--image-shape is 8x9x3, but the input of",
        ("--image-shape", "8x8x3"),
        options=(*UNIT, "--image-shape", "8x9x3"),
    ),
    Refusal(
        "no_image_shape",
        ending_in(),
        "--image-shape is 'small'",
        ("--image-shape", "8x8x3"),
        options=(*UNIT, "--image-shape", "small"),
    ),
    Refusal(
        "two_channels",
        ending_in(),
        "--image-shape is 8x8x2",
        ("--image-shape", "8x8x3"),
        options=(*UNIT, "--image-shape", "8x8x2"),
    ),
    Refusal(
        "five_channels",
        ending_in(shape=(8, 8, 5)),
        "takes an input of shape [N, 8, 8, 5]",
        CODE,
        what="images with another number of channels than 1 or 3",
    ),
    Refusal("which_output", family.several_outputs, "the name of the output to screen", ("--output-layer", "kind")),
    Refusal(
        "no_such_output",
        family.several_outputs,
        "--output-layer colour matches none",
        ("--output-layer", "kind"),
        options=(*UNIT, "--output-layer", "colour"),
    ),
    Refusal(
        "a_map",
        ending_in(lambda layers: layers.Reshape((8, 24))),
        "has an output of shape [N, 8, 24]",
        CODE,
        what="models whose outputs are maps, as in segmentation",
        last=("--output-kind", "regression"),
    ),
    Refusal(
        "kind_unsaid",
        ending_in(lambda layers: layers.Dense(3)),
        "probabilities, logits or regression values",
        ("--output-kind", "logits"),
    ),
    Refusal("kind_contradicted", ending_in(), "is a softmax", (), options=(*UNIT, "--output-kind", "sigmoid")),
    Refusal(
        "one_softmax",
        ending_in(lambda layers: layers.Dense(1)),
        "whose probability is always 1",
        ("--output-kind", "logits"),
        options=(*UNIT, "--output-kind", "softmax"),
    ),
    Refusal(
        "logits_as_softmax",
        ending_in(lambda layers: layers.Dense(3)),
        "they are not probabilities of a softmax",
        ("--output-kind", "logits"),
        options=(*UNIT, "--output-kind", "softmax"),
        what="logits with `--output-kind softmax` or `sigmoid`",
    ),
    Refusal(
        "logit_as_sigmoid",
        ending_in(lambda layers: layers.Dense(1)),
        "they are not probabilities of a sigmoid",
        ("--output-kind", "logits"),
        options=(*UNIT, "--output-kind", "sigmoid"),
    ),
    Refusal(
        "probabilities_as_logits",
        ending_in(lambda layers: layers.Softmax(), lambda layers: layers.Identity()),
        "so they are not logits",
        ("--output-kind", "softmax"),
        options=(*UNIT, "--output-kind", "logits"),
    ),
    Refusal("quantized", quantized, "has quantized layers: dense", ending_in(), what="quantized models"),
    Refusal(
        "shared_by_rows",
        tokens(lambda layers, x: layers.Dropout(0.2, noise_shape=(2, 8, 1))(x)),
        "has noise_shape",
        tokens(lambda layers, x: layers.Dropout(0.2, noise_shape=(None, 8, 1))(x)),
    ),
    Refusal("old_opset", ending_in(), "--opset is 16", (), options=(*UNIT, "--opset", "16")),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: one.name)
def test_what_cannot_be_exported_is_refused_by_its_reason(
    keras: Any, refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.backend.clear_session()
    source, folder = tmp_path / "model.keras", tmp_path / "out"
    folder.mkdir()
    refusal.build(keras).save(source)
    assert oodscreen("export", source, folder / "m.onnx", *refusal.options, monkeypatch=monkeypatch) == 2
    message = capsys.readouterr().err
    assert refusal.message in message
    assert "wanted:" in message
    assert "next:" in message
    assert list(folder.iterdir()) == []
    follow(keras, refusal, source, message, monkeypatch)


def follow(keras: Any, refusal: Refusal, source: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the next step in a message states; it must end in an export."""
    options: tuple[str, ...] = ()
    if isinstance(refusal.then, tuple):
        options = refusal.then
        assert all(option in message for option in options if option.startswith("--"))
    elif refusal.then == CODE:
        source = run_code(message, source.parent, monkeypatch)
    else:
        assert callable(refusal.then)
        source = source.with_name("changed.keras")
        refusal.then(keras).save(source)
    output = source.with_name("m.onnx")
    given = (*family.UNIT, *options, *refusal.last)
    assert oodscreen("export", source, output, *given, monkeypatch=monkeypatch) == 0
    assert output.exists()


def run_code(message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the Python code in a message, and return the path of the model that it writes."""
    match = re.search(r"Python code writes: (.*other\.save\('(\S+)'\))", message)
    assert match is not None
    monkeypatch.chdir(folder)
    exec(match[1], {})  # noqa: S102
    return folder / match[2]


def test_every_refusal_has_its_own_message() -> None:
    assert len({refusal.message for refusal in REFUSALS}) == len(REFUSALS) >= 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("saved", "There is no model file"),
        ("model.weights.h5", "contains only weights"),
        ("model.pt", "is of an unknown kind (it begins with b'torch')"),
    ],
)
def test_files_of_other_kinds_are_refused(
    keras: Any,
    name: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, model = tmp_path / name, ending_in()(keras)
    if name.endswith(".h5"):
        model.save_weights(source)
    elif name.endswith(".pt"):
        source.write_bytes(b"torch")
    assert oodscreen("export", source, tmp_path / "m.onnx", "--scale", "1", monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()
