"""The settings of a training, with their defaults and their rules; nothing here needs torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from cxr.films.film import Pixels
from cxr.model.spec import sha256_of
from cxr_training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to a training film.

    Parameters
    ----------
    max_degrees
        The film is turned by an angle drawn evenly from ±this; what comes in from outside is black.
    flip
        Mirror every second film. Off by default: a mirrored chest has its heart on the wrong side.
    max_crop
        Up to this share of width and height is cut off, evenly drawn, and what is left enlarged to the size before.
    """

    max_degrees: float = 20.0
    flip: bool = False
    max_crop: float = 0.0

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """One changed film: (H, W) uint8, the size of the one given."""
        picture = Image.fromarray(pixels)
        angle = rng.uniform(-self.max_degrees, self.max_degrees)
        picture = picture.rotate(angle, Image.Resampling.BILINEAR)
        if self.flip and rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.max_crop:
            off = rng.uniform(0.0, self.max_crop)
            left, top = rng.uniform(0.0, off, 2) * picture.size
            box = (left, top, left + (1.0 - off) * picture.width, top + (1.0 - off) * picture.height)
            picture = picture.resize(picture.size, Image.Resampling.BILINEAR, box=box)
        return np.asarray(picture)


KEYWORDS: Final = ("imagenet", "random")  # starting weights that are no file
SAVE_EVERY_S: Final = 300.0  # between two states to resume from


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How the head is trained.

    Parameters
    ----------
    epochs
        Passes over the training films.
    learning_rate, weight_decay
        Of Adam; the decay is its L2 penalty on the weight of standardised features. The bias, which holds how common
        the classes are, is left alone.
    gamma
        The learning rate is multiplied by this at one third and at two thirds of the epochs.
    batch_size
        Films in one step at most; fewer where an epoch would have under twenty steps, too few to learn in.
    seed
        Of the order, the views and the head's first weights.
    """

    epochs: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 6e-2
    gamma: float = 0.1
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """How the head learns from boxes that radiologists drew, beside the labels.

    Parameters
    ----------
    weight
        Of the loss of the cells beside that of the films.
    weight_decay
        L2 penalty on the weight of standardised features, as in `HeadSettings`.
    epochs
        Steps of L-BFGS, each over all films; it ends earlier where nothing changes any more.
    """

    weight: float = 1.0
    weight_decay: float = 0.2
    epochs: int = 100


# By who gave the label. Readings of the very film by radiologists are the best there are and the fewest; a PCR test is
# sure of the patient, though not of each film. Chosen by cross-validation over patients, on films that radiologists
# labelled (docs/results.md). A label of any other kind counts 1.
LABEL_WEIGHTS: Final = {"radiologist": 8.0, "physician": 1.0, "pcr": 2.0, "text-mined": 1.0}
OTHER_RULES: Final = ("ignore", "negative", "class")


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How layers below the head are trained.

    Parameters
    ----------
    epochs
        Passes over the training films, at most.
    learning_rate
        Of the head at its highest; it rises over the first twentieth of the steps and falls along a cosine.
    layer_decay
        The learning rate of each stage is this times the one above it.
    weight_decay
        Of AdamW, on weights; biases and BatchNorm are left alone.
    batch_size
        Films in a step, over all processes together.
    patience
        Epochs without a lower loss on validation after which training ends.
    precision
        Of forward and backward passes: a key of `PRECISIONS`, or ``auto`` for bfloat16 (else float16) on a GPU and
        float32 on a CPU. Validation is always in float32.
    """

    epochs: int = 20
    learning_rate: float = 1e-4
    layer_decay: float = 0.5
    weight_decay: float = 1e-2
    batch_size: int = 32
    patience: int = 5
    precision: str = "auto"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything a training is asked to do.

    Parameters
    ----------
    weights
        ``imagenet``, ``random`` or a file.
    normalisation
        A key of `cxr_training.fit.weights.NORMALISATIONS`: how the starting weights saw pictures.
    decode
        One of `cxr.model.spec.DECODES`: whether large films are brought near the network's size while they are decoded.
    greys
        One of `cxr.model.spec.GREYS`: grey values as they are stored, or brought to a standard by the exposed field.
    trainable
        ``head`` on features of a frozen backbone; ``layer4`` and head; or ``all``. The latter two start from the head.
    views
        Augmented views of each training film, beside the plain one, wherever stored features are trained on.
    mirrored
        Also the mirror image of each training film there, not augmented.
    views_of
        Sources of the training films that mirrored and augmented views are stored of; all where none is named. Films
        of the others count as much, under the plain view alone.
    balance
        One of `cxr_training.fit.head.BALANCES`: how much each film counts.
    label_weights
        How much a film counts by who gave its label, by the kinds of `LABEL_WEIGHTS`.
    other
        Films labelled OTHER (abnormal, no opacity): ``ignore`` leaves them out, ``negative`` counts them as NORMAL,
        ``class`` makes them a class of their own outside the positive group.
    boxes
        How the head learns from boxes; None for labels alone.
    or_random
        Go on with random weights where the ImageNet weights cannot be had.
    """

    weights: str = "imagenet"
    arch: str = "resnet152"
    normalisation: str = "imagenet"
    size: int = 224
    decode: str = "reduced"
    greys: str = "stored"
    trainable: str = "head"
    views: int = 1
    mirrored: bool = False
    views_of: tuple[str, ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)
    head: HeadSettings = field(default_factory=HeadSettings)
    tuning: TuneSettings = field(default_factory=TuneSettings)
    balance: str = "none"
    label_weights: dict[str, float] = field(default_factory=lambda: dict(LABEL_WEIGHTS))
    other: str = "ignore"
    boxes: BoxSettings | None = None
    seed: int = 0
    or_random: bool = False

    def __post_init__(self) -> None:
        if self.boxes is not None:
            if self.trainable != "head":
                raise TrainingError(f"boxes teach the head alone: leave out --boxes, or --trainable {self.trainable}")
            if not 0 < self.boxes.weight <= 1000 or not 0 <= self.boxes.weight_decay <= 10:
                raise TrainingError(
                    f"box weight is {self.boxes.weight} and weight decay {self.boxes.weight_decay}: above 0 and at "
                    "most 1000, and 0 to 10, are needed"
                )
        for kind, weight in self.label_weights.items():
            if kind not in LABEL_WEIGHTS or not 0 < weight <= 1000:
                raise TrainingError(
                    f"label weight {kind}={weight:g}: known are {', '.join(LABEL_WEIGHTS)}, above 0 and at most 1000"
                )
        if self.other not in OTHER_RULES:
            raise TrainingError(f"other is {self.other!r}: known are {', '.join(OTHER_RULES)}")
        for part in (self.head, self.tuning):
            for name, value in {"learning rate": part.learning_rate, "weight decay": part.weight_decay}.items():
                if not 0 <= value <= 10 or (name == "learning rate" and value == 0):
                    raise TrainingError(f"{name} is {value}: a number above 0 and at most 10 is needed")
        if not 0 < self.tuning.layer_decay <= 1:
            raise TrainingError(f"layer decay is {self.tuning.layer_decay}: above 0 and at most 1 is needed")
        if not 0 <= self.augmentation.max_degrees <= 180:
            raise TrainingError(f"max degrees is {self.augmentation.max_degrees}: 0 to 180 is needed")
        if not 0 <= self.augmentation.max_crop < 1:
            raise TrainingError(f"max crop is {self.augmentation.max_crop}: 0 to below 1 is needed")
        if self.views_of and self.trainable != "head":
            raise TrainingError(f"views of some sources are for a head alone: leave out --trainable {self.trainable}")
        if self.seed < 0:
            raise TrainingError(f"seed is {self.seed}: 0 or more is needed")

    def as_json(self) -> dict[str, Any]:
        """The settings as plain values, for `run.json`; of a weights file its name and its digest."""
        path = Path(self.weights)
        known = self.weights in KEYWORDS or not path.is_file()
        values = {
            **dataclasses.asdict(self),
            "weights": path.name,
            "weights_sha256": None if known else sha256_of(path),
        }
        del values["or_random"]  # what came of it is `RunRecord.pretrained`
        if self.trainable == "head":
            del values["tuning"]
        return values
