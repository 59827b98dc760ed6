"""A run folder: what one training left, and the files later steps add.

run.json checkpoint.pth history.csv history.png augmentations.png    pneumoscan train
unfinished.pth                                                       the same, while layers below the head are trained
calibration.json drift.json                                          pneumoscan calibrate
site.json site.md site.html                                          the same, with --site
model.pth model.json                                                 pneumoscan export
metrics.json predictions.csv report.md report.html *.png errors*     pneumoscan evaluate
localisation*                                                        the same, where films have boxes
audit*                                                               pneumoscan audit
model-card.md model-card.html                                        pneumoscan card
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cxr.errors import ModelError
from cxr.films.frontal import Screen
from cxr.json_records import FieldError, parse, read, read_file, sealed
from cxr.model.brightness import Brightness
from cxr.model.classes import CLASSES, POSITIVE
from cxr.model.network import build, load_strictly, read_state_dict
from cxr.model.parity import Parity
from cxr.model.spec import BAND_RATES, SPEC_FILE, ModelSpec, Observed, Preprocessing, sha256_of
from cxr.predict import Predictor, resolve_device
from cxr.serving.card import AUDIT_FILE, METRICS_FILE
from cxr.serving.drift import DRIFT_FILE
from cxr_training.errors import TrainingError
from pneumoscan.resources import code_version

RUN_FILE: Final = "run.json"
CHECKPOINT: Final = "checkpoint.pth"
CALIBRATION: Final = "calibration.json"
PREDICTIONS: Final = "predictions.csv"
CARD_FILES: Final = ("model-card.md", "model-card.html")
NAMING_WEIGHTS: Final = (
    *(RUN_FILE, CHECKPOINT, CALIBRATION, DRIFT_FILE, SPEC_FILE, METRICS_FILE, AUDIT_FILE),
    *CARD_FILES,
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is fitted to a checkpoint; the fields are those of `cxr.model.spec.ModelSpec`."""

    weights_sha256: str
    temperature: float
    operating_points: dict[str, float]
    operating_point: str
    indeterminate: tuple[float, float]
    cam_scale: float
    cam_zero: str = "head"
    observed: tuple[Observed, ...] = ()
    band_rates: tuple[float, float] = BAND_RATES
    screen: Screen | None = None
    brightness: Brightness | None = None
    parity: dict[str, Parity] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What made a checkpoint.

    Parameters
    ----------
    settings
        Everything that was asked for; a run with the same settings on the same data gives the same checkpoint.
    result
        What came out: best epoch, losses, elapsed time.
    versions
        Of Python, torch and torchvision.
    checkpoint_sha256
        Of the weights; empty in a run of before it was noted.
    classes, positive
        As `cxr.model.spec.ModelSpec` has them.
    """

    arch: str
    pretrained: str
    preprocessing: Preprocessing
    data_sha256: str
    settings: dict[str, Any]
    result: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    classes: tuple[str, ...] = CLASSES
    positive: tuple[str, ...] = POSITIVE

    def to_json(self) -> str:
        """The record as indented JSON."""
        return json.dumps(sealed(dataclasses.asdict(self)), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def load(cls, run: Path) -> RunRecord:
        """The record of a run folder.

        Raises
        ------
        TrainingError
            If the folder is missing or holds no finished training.
        """
        path = run / RUN_FILE
        if not path.is_file():
            raise TrainingError(
                f"{run} holds no run ({RUN_FILE} is missing): train one with pneumoscan train --run {run}"
            )
        try:
            return read(cls, parse(path.read_bytes()))
        except FieldError as error:
            raise TrainingError(f"{path} is not a run record of this version ({error}): train again") from error


@dataclass(frozen=True, slots=True)
class Epochs:
    """The settings of one stage of a training, as far as a card tells them."""

    epochs: int


@dataclass(frozen=True, slots=True)
class Turned:
    """How training films were augmented."""

    flip: bool
    max_degrees: float


@dataclass(frozen=True, slots=True)
class Collection:
    """Films of one source, label source and licence, counted by split and label; what is not known is empty."""

    source: str
    label_source: str
    licence: str
    films: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Training:
    """What `model.json` says of the training, as far as pages tell it; the defaults where it says nothing."""

    trainable: str = "head"
    best_epoch: int | None = None
    val_loss: float | None = None
    head: Epochs | None = None
    tuning: Epochs | None = None
    augmentation: Turned | None = None
    balance: str = "none"
    boxes: Epochs | None = None
    other: str = "ignore"
    views: int = 0
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    data: tuple[Collection, ...] = ()

    @classmethod
    def of(cls, spec: ModelSpec) -> Training:
        """What a spec says.

        Raises
        ------
        TrainingError
            If it is not as this version's `pneumoscan train` writes it.
        """
        try:
            return read(cls, spec.training, ignore_unknown=True)
        except FieldError as error:
            raise TrainingError(
                f"training in {SPEC_FILE} is not of this version ({error}): train and export again"
            ) from error

    @property
    def frozen(self) -> bool:
        """Whether the backbone stayed as it was."""
        return self.trainable == "head"

    @property
    def epochs(self) -> int | None:
        """How many epochs the last stage could take; None where that is not known."""
        stage = self.boxes or (self.head if self.frozen else self.tuning)
        return None if stage is None else stage.epochs


@dataclass(frozen=True, slots=True)
class _Table:
    """The table that a `metrics.json` was made with."""

    predictions_sha256: str = ""


def features_folder(run: Path) -> Path:
    """The folder of stored features that the runs beside each other share, where no other is given."""
    return run.parent / ".features"


def check_predictions(file: Path) -> None:
    """Hold a `predictions.csv` against the `metrics.json` beside it, where there is one.

    Raises
    ------
    TrainingError, ModelError
        If the file is missing, or is not the one that was written, or `metrics.json` is damaged.
    """
    if not file.is_file():
        raise TrainingError(f"{file} is missing: run pneumoscan evaluate first, or give a {PREDICTIONS}")
    metrics = file.with_name(METRICS_FILE)
    if file.name != PREDICTIONS or not metrics.is_file():
        return
    if read_file(metrics, _Table, "pneumoscan evaluate").predictions_sha256 not in (sha256_of(file), ""):
        raise TrainingError(
            f"{file} was changed after it was written, {METRICS_FILE} names another: run pneumoscan evaluate again"
        )


def spec_of(run: Path) -> ModelSpec:
    """The spec of a run's checkpoint, with its calibration where there is one.

    Raises
    ------
    TrainingError
        If the run has no checkpoint, or its checkpoint, record or calibration is damaged or of another training.
    """
    record = RunRecord.load(run)
    checkpoint = run / CHECKPOINT
    if not checkpoint.is_file():
        raise TrainingError(
            f"{run} has no weights ({CHECKPOINT} is missing): train again with pneumoscan train --force"
        )
    digest = sha256_of(checkpoint)
    if record.checkpoint_sha256 not in (digest, ""):
        raise TrainingError(
            f"{checkpoint} is damaged or of another training, its sha256 is not that in {RUN_FILE}: train again with "
            "pneumoscan train --force"
        )
    spec = ModelSpec(
        arch=record.arch,
        pretrained=record.pretrained,
        weights_file=CHECKPOINT,
        weights_sha256=digest,
        preprocessing=record.preprocessing,
        classes=record.classes,
        positive=record.positive,
        code_version=code_version(),
        data_sha256=record.data_sha256,
        training={**record.settings, **record.result, "versions": record.versions},
    )
    path = run / CALIBRATION
    if not path.is_file():
        return spec
    calibration = read_file(path, Calibration, "pneumoscan calibrate")
    if calibration.weights_sha256 != spec.weights_sha256:
        raise TrainingError(f"{path} belongs to another checkpoint: run pneumoscan calibrate --run {run} again")
    fitted = {one.name: getattr(calibration, one.name) for one in dataclasses.fields(calibration)}
    return dataclasses.replace(spec, **fitted)


def checkpoint_predictor(run: Path, device: str) -> Predictor:
    """A predictor on a run's checkpoint, before it is calibrated and exported.

    Raises
    ------
    TrainingError, ModelError
        If the run has no checkpoint or it does not fit.
    """
    spec = spec_of(run)
    network = build(spec.arch, len(spec.classes))
    try:
        load_strictly(network, read_state_dict(run / CHECKPOINT))
    except ModelError as error:
        raise TrainingError(f"{run}: {error}") from error
    return Predictor(network, spec, resolve_device(device))


def exported_or_checkpoint(run: Path, device: str) -> Predictor:
    """The predictor of a run: of what it exported, else of its checkpoint."""
    return Predictor.load(run, device) if (run / SPEC_FILE).is_file() else checkpoint_predictor(run, device)
