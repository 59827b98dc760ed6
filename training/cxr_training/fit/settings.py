"""The settings of a training, and whether a run folder already holds it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr.model.spec import sha256_of
from cxr_training.data.records import Films
from cxr_training.errors import TrainingError
from cxr_training.fit.augment import Augmentation
from cxr_training.fit.head import HeadSettings
from cxr_training.fit.tune import TuneSettings
from cxr_training.fit.weights import KEYWORDS
from cxr_training.runs import RUN_FILE, RunRecord


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
    trainable
        ``head`` on features of a frozen backbone; ``layer4`` and head; or ``all``. The latter two start from the head.
    views
        Augmented views of each training film, beside the plain one, wherever stored features are trained on.
    balance
        One of `cxr_training.fit.head.BALANCES`: how much each film counts.
    or_random
        Go on with random weights where the ImageNet weights cannot be had.
    """

    weights: str = "imagenet"
    arch: str = "resnet152"
    normalisation: str = "imagenet"
    size: int = 224
    decode: str = "reduced"
    trainable: str = "head"
    views: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    head: HeadSettings = field(default_factory=HeadSettings)
    tuning: TuneSettings = field(default_factory=TuneSettings)
    balance: str = "none"
    seed: int = 0
    or_random: bool = False

    def __post_init__(self) -> None:
        for part in (self.head, self.tuning):
            for name, value in {"learning rate": part.learning_rate, "weight decay": part.weight_decay}.items():
                if not 0 <= value <= 10 or (name == "learning rate" and value == 0):
                    raise TrainingError(f"{name} is {value}: a number above 0 and at most 10 is needed")
        if not 0 < self.tuning.layer_decay <= 1:
            raise TrainingError(f"layer decay is {self.tuning.layer_decay}: above 0 and at most 1 is needed")
        if not 0 <= self.augmentation.max_degrees <= 180:
            raise TrainingError(f"max degrees is {self.augmentation.max_degrees}: 0 to 180 is needed")
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


def rows_digest(films: Films) -> str:
    """SHA-256 of the films that are trained with, in their order, with what their weight depends on."""
    rows = [
        f"{record.split} {record.sha256} {record.label} {record.extra.get('source', '')}"
        for split in ("train", "val")
        for record in films.of(split)
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def holds_run(run: Path, settings: TrainSettings, films: Films) -> bool:
    """Whether a run folder holds the finished training of these settings on these films."""
    if not (run / RUN_FILE).is_file():
        return False
    record = RunRecord.load(run)
    if record.pretrained == "random" and settings.weights != "random" and not settings.or_random:
        return False
    requested = json.loads(json.dumps(settings.as_json()))  # as it came back from the file
    rows = record.result.get("rows_sha256")
    return bool(record.settings == requested and record.data_sha256 == films.digest() and rows == rows_digest(films))
