"""What a training is asked for, and whether a run folder already holds it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.augment import Augmentation
from training.data import Films
from training.engine import HeadSettings
from training.runs import RUN_FILE, RunRecord


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What was asked for.

    Parameters
    ----------
    weights
        ``imagenet``, ``random`` or a file.
    normalisation
        A key of `training.weights.NORMALISATIONS`: how the starting weights saw pictures.
    views
        Augmented views of each training film, beside the plain one.
    or_random
        Go on with random weights where the ImageNet weights cannot be had.
    """

    weights: str = "imagenet"
    arch: str = "resnet152"
    normalisation: str = "imagenet"
    size: int = 224
    trainable: str = "head"
    views: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    head: HeadSettings = field(default_factory=HeadSettings)
    seed: int = 0
    or_random: bool = False

    def as_json(self) -> dict[str, Any]:
        """The settings as plain values, for `run.json`; of a weights file only its name."""
        return {**dataclasses.asdict(self), "weights": Path(self.weights).name}


def holds_run(run: Path, settings: TrainSettings, films: Films) -> bool:
    """Whether a run folder holds the finished training of these settings on these films."""
    if not (run / RUN_FILE).is_file():
        return False
    record = RunRecord.load(run)
    asked = json.loads(json.dumps(settings.as_json()))  # as it came back from the file
    return bool(record.settings == asked and record.data_sha256 == films.digest())
