"""``pneumoscan train``: fine-tune a ResNet on a data folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cxr_training.errors import TrainingError
from cxr_training.fit.settings import (
    LABEL_WEIGHTS,
    SAVE_EVERY_S,
    Augmentation,
    BoxSettings,
    HeadSettings,
    TrainSettings,
    TuneSettings,
)
from pneumoscan.options import Group, Option, at_least

_USUAL: Final = TrainSettings()
_HEAD, _TUNING, _BOXES = _USUAL.head, _USUAL.tuning, BoxSettings()


@dataclass(frozen=True, kw_only=True)
class Below:
    """Options of what is trained below the head."""

    batch_size: Annotated[
        int | None, Option(f"films in a step (default: {_TUNING.batch_size})", "N", check=at_least(1))
    ] = None
    patience: Annotated[
        int | None, Option(f"epochs without gain (default: {_TUNING.patience})", "N", check=at_least(1))
    ] = None
    layer_decay: Annotated[
        float | None,
        Option(f"a stage's learning rate over that of the stage above it (default: {_TUNING.layer_decay:g})", "SHARE"),
    ] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        Option("of training; auto is bfloat16 or float16 on a GPU and float32 on a CPU (default: auto)"),
    ] = None
    save_every: Annotated[
        float | None,
        Option(f"between two states to resume from (default: {SAVE_EVERY_S:g})", "SECONDS", check=at_least(0)),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ByBoxes:
    """Options of what boxes teach."""

    box_weight: Annotated[
        float | None, Option(f"of the loss of the cells, that of the films is 1 (default: {_BOXES.weight:g})", "WEIGHT")
    ] = None
    head_decay: Annotated[
        float | None, Option(f"L2 penalty on the head's weight (default: {_BOXES.weight_decay:g})", "PENALTY")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fine-tune a ResNet on a data folder and keep the best epoch on validation."""

    data: Annotated[Path, Option("folder with a manifest.csv or train|val|test/CLASS/*", "DIR")]
    run: Annotated[Path, Option("folder for the results, e.g. runs/first", "DIR")]
    weights: Annotated[
        str,
        Option(
            "starting weights: imagenet (downloaded), random, or a state dict with torchvision's keys (.pth or "
            ".safetensors)",
            "imagenet|random|FILE",
        ),
    ] = _USUAL.weights
    arch: Annotated[
        Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"], Option("the network")
    ] = "resnet152"
    normalisation: Annotated[
        Literal["imagenet", "unit"],
        Option("how the starting weights saw pictures: ImageNet mean and deviation, or grey values in 0-1 as they are"),
    ] = "imagenet"
    size: Annotated[int, Option("side of the network's input", "PIXELS", check=at_least(32))] = _USUAL.size
    decode: Annotated[
        Literal["exact", "reduced"],
        Option(
            "reduced: large films come at least twice as large as the network's input, several times as fast; exact: "
            "every pixel is decoded. Serving does as training did"
        ),
    ] = "reduced"
    greys: Annotated[
        Literal["stored", "field"],
        Option(
            "stored: grey values as they are; field: brought to a standard by the exposed field of each film, so that "
            "an answer depends little on how it was rendered. Serving does as training did"
        ),
    ] = "stored"
    trainable: Annotated[
        Literal["head", "layer4", "all"],
        Option("the head on stored features, layer4 and head on the stored output of layer3, or all"),
    ] = "head"
    epochs: Annotated[
        int | None,
        Option(
            f"passes over the films (default: {_HEAD.epochs}; layer4 and all: at most {_TUNING.epochs} after the head)",
            "N",
            check=at_least(1),
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        Option(
            f"(default: {_HEAD.learning_rate:g}; with layer4 or all {_TUNING.learning_rate:g}, of the head)", "RATE"
        ),
    ] = None
    views: Annotated[int, Option("stored augmented views of each film", "N", check=at_least(0))] = _USUAL.views
    mirrored: Annotated[
        bool, Option("also learn from the mirror image of each film, where stored features are trained on")
    ] = False
    views_of: Annotated[
        tuple[str, ...],
        Option(
            "source (in the manifest) whose films are stored under mirrored and augmented views; may be given again "
            "(default: all)",
            "SOURCE",
            repeated=True,
        ),
    ] = ()
    max_crop: Annotated[float, Option("up to this share of width and height is cut off an augmented view", "SHARE")] = (
        _USUAL.augmentation.max_crop
    )
    max_degrees: Annotated[float, Option("rotation, both ways", "DEGREES")] = _USUAL.augmentation.max_degrees
    flip: Annotated[bool, Option("also mirror films; moves the heart to the other side")] = False
    balance: Annotated[
        Literal["none", "class", "source"],
        Option("let classes, or sources and classes, weigh the same however many films they have"),
    ] = "none"
    label_weight: Annotated[
        tuple[str, ...],
        Option(
            "how much a film counts by who gave its label, read off label_source in the manifest; may be given again "
            f"(default: {' '.join(f'{kind}={weight:g}' for kind, weight in LABEL_WEIGHTS.items())})",
            "KIND=NUMBER",
            repeated=True,
        ),
    ] = ()
    other: Annotated[
        Literal["ignore", "negative", "class"],
        Option(
            "films labelled OTHER (abnormal, no opacity): leave them out, count them as NORMAL, or make them a class "
            "of their own"
        ),
    ] = "ignore"
    positive: Annotated[
        tuple[str, ...],
        Option(
            "class whose probability counts for the decision, of films that have other labels than NORMAL and "
            "PNEUMONIA; may be given again, they count together (default: every class but NORMAL and OTHER)",
            "CLASS",
            repeated=True,
        ),
    ] = ()
    boxes: Annotated[
        bool, Option("also teach the head where radiologists saw opacities, by the boxes of the data folder")
    ] = False
    seed: Annotated[int, Option("of everything that is drawn at random", "N")] = _USUAL.seed
    device: Annotated[str, Option("auto, cpu, cuda or cuda:N; torchrun gives each process one")] = "auto"
    cache: Annotated[Path | None, Option("folder of stored features (default: .features beside the run)", "DIR")] = None
    or_random: Annotated[bool, Option("without ImageNet weights go on with random ones")] = False
    resume: Annotated[bool, Option("go on with this run where an earlier try ended", exclusive="earlier")] = False
    force: Annotated[bool, Option("replace the run in the folder, finished or not", exclusive="earlier")] = False
    log: Annotated[
        Literal["none", "tensorboard", "mlflow"], Option("show the epochs in TensorBoard or MLflow, if installed")
    ] = "none"
    by_boxes: Annotated[ByBoxes, Group("with --boxes")] = ByBoxes()
    below: Annotated[Below, Group("with --trainable layer4 or all")] = Below()

    @property
    def settings(self) -> TrainSettings:
        """The settings of the training; ``--epochs`` and ``--learning-rate`` are those of what is trained last.

        Raises
        ------
        TrainingError
            If an option is given that would not be used.
        """
        only_head = self.trainable == "head"
        below = self.below.given
        if only_head and below:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in below)
            raise TrainingError(f"{names}: only with --trainable layer4 or all; the head is trained without it")
        if not self.boxes and self.by_boxes != ByBoxes():
            raise TrainingError("--box-weight, --head-decay: only with --boxes")
        if self.boxes and self.learning_rate is not None:
            raise TrainingError("--learning-rate: not with --boxes, whose steps find their own length")
        below.pop("save_every", None)
        given = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        last: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return TrainSettings(
            weights=self.weights,
            arch=self.arch,
            normalisation=self.normalisation,
            size=self.size,
            decode=self.decode,
            greys=self.greys,
            trainable=self.trainable,
            views=self.views,
            mirrored=self.mirrored,
            views_of=self.views_of,
            augmentation=Augmentation(self.max_degrees, self.flip, self.max_crop),
            head=replace(HeadSettings(), **last) if only_head else HeadSettings(),
            tuning=replace(TuneSettings(), **below, **({} if only_head else last)),
            balance=self.balance,
            label_weights={**LABEL_WEIGHTS, **dict(map(_label_weight, self.label_weight))},
            other=self.other,
            boxes=self._box_settings if self.boxes else None,
            seed=self.seed,
            or_random=self.or_random,
        )

    @property
    def _box_settings(self) -> BoxSettings:
        given: dict[str, Any] = {
            "weight": self.by_boxes.box_weight,
            "weight_decay": self.by_boxes.head_decay,
            "epochs": self.epochs,
        }
        return replace(_BOXES, **{name: value for name, value in given.items() if value is not None})


def _label_weight(text: str) -> tuple[str, float]:
    kind, _, number = text.partition("=")
    try:
        return kind, float(number)
    except ValueError as error:
        raise TrainingError(f"--label-weight {text}: write KIND=NUMBER, for example radiologist=8") from error


OPTIONS = Options


def run(options: Options) -> int:
    """Train, or say that the run is there already."""
    from cxr_training.data.progress import is_first_process
    from cxr_training.data.records import load_films
    from cxr_training.fit.head import format_elapsed
    from cxr_training.fit.resume import clear, holds_run, is_unfinished
    from cxr_training.runs import RUN_FILE
    from cxr_training.train import train

    settings = options.settings
    films = load_films(options.data, positive=options.positive).with_others(settings.other)
    if (options.run / RUN_FILE).is_file() and not options.force:
        if options.resume and holds_run(options.run, settings, films):
            if is_first_process():
                clear(options.run)  # a kill between the record and the clearing leaves a state
                print(f"{options.run} already holds this run.")
            return 0
        raise TrainingError(f"{options.run} already holds a run: choose another --run, or replace it with --force")
    if is_unfinished(options.run) and not (options.resume or options.force):
        raise TrainingError(f"{options.run} holds an unfinished run: go on with --resume, or give it up with --force")
    record = train(
        films,
        options.run,
        settings,
        cache=options.cache,
        device=options.device,
        resume=options.resume,
        save_every_s=SAVE_EVERY_S if options.below.save_every is None else options.below.save_every,
        tracker=options.log,
    )
    if is_first_process():
        stage = "boxes" if settings.boxes else "head" if settings.trainable == "head" else "tuning"
        result, epochs = record.result, record.settings[stage]["epochs"]
        print(
            f"{options.run}: {record.arch} from {record.pretrained} weights, best epoch {result['best_epoch']} of "
            f"{epochs}, validation loss {result['val_loss']:.4f}, accuracy {result['val_accuracy']:.3f}, "
            f"in {format_elapsed(result['elapsed_s'])}"
        )
    return 0
