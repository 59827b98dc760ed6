"""`model.json`: everything about a trained model that is not its weights.

The spec rides beside the weights from `pneumoscan export` into the archive, and `cxr.predict.Predictor` reads nothing
else. What is not in the spec cannot differ between training and serving.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cxr.errors import ModelError
from cxr.films.frontal import Screen
from cxr.json_records import read_text, sealed
from cxr.model.brightness import Brightness
from cxr.model.classes import CLASSES, POSITIVE, Scheme
from cxr.model.parity import DEVICES, REFERENCE, Parity, check_choice

SPEC_FILE: Final = "model.json"
RESIZE_RULES: Final = ("squash",)
DECODES: Final = ("exact", "reduced")
GREYS: Final = ("stored", "field")
BAND_RATES: Final = (0.05, 0.05)
CAM_ZEROS: Final = ("head", "decision")
_REDUCED_TO: Final = 2  # times the size
_LEAST_THRESHOLD: Final = 1e-6
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a film becomes a tensor; it belongs to the weights, which were trained on tensors made this way.

    Parameters
    ----------
    size
        Height and width of the tensor, pixels.
    resize
        ``squash``: the whole film is resized to a square, its aspect ratio is not kept, nothing is cut off.
    mean, std
        Subtracted from and divided into grey values in 0-1, one for each of the three equal channels.
    decode
        ``exact``: every pixel is decoded and resized at once. ``reduced``: a large film is brought to at least twice
        the size by whole factors first, a JPEG while it is decoded; several times faster, a few grey levels apart.
    greys
        ``stored``: grey values are taken as they are. ``field``: they are brought to a standard by the exposed field of
        the film itself (`cxr.model.preprocess.standard_greys`), so that a film that is rendered brighter, darker, with
        another window or gamma gives nearly the same tensor.
    """

    size: int = 224
    resize: str = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    decode: str = "exact"  # of the models that were made before there was a choice
    greys: str = "stored"  # likewise

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ModelError(f"size is {self.size}: a ResNet needs at least 32 pixels")
        if self.resize not in RESIZE_RULES:
            raise ModelError(f"resize is {self.resize!r}: known are {', '.join(RESIZE_RULES)}")
        if self.decode not in DECODES:
            raise ModelError(f"decode is {self.decode!r}: known are {', '.join(DECODES)}")
        if self.greys not in GREYS:
            raise ModelError(f"greys is {self.greys!r}: known are {', '.join(GREYS)}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelError(f"mean {self.mean} and std {self.std}: three numbers each, every std above 0")

    @property
    def least_side(self) -> int | None:
        """The side, in pixels, below which no film is brought before it is resized; None where none is brought down."""
        return _REDUCED_TO * self.size if self.decode == "reduced" else None

    def digest(self) -> str:
        """SHA-256 of the settings: tensors made under another digest are other tensors."""
        settings = dataclasses.asdict(self)
        if self.greys == "stored":
            del settings["greys"]  # so that what was stored before there was a choice is still found
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Observed:
    """What a probability meant on the validation films: how many of those scored like this had pneumonia.

    Parameters
    ----------
    low, high
        The probabilities of the positive group it is about, the lower end included; of the last one both ends.
    films, positive
        Validation films with such a probability, and those of them that are of the positive group.
    share
        `positive` over `films`.
    interval
        Of the share, 95 %: exact binomial, each patient being one observation.
    """

    low: float
    high: float
    films: int
    positive: int
    share: float
    interval: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ModelError(f"observed from {self.low} to {self.high}: two rising probabilities in 0-1 are needed")
        if not 0 < self.films >= self.positive >= 0 or abs(self.share * self.films - self.positive) > 1e-6:
            raise ModelError(f"observed {self.positive} of {self.films} films, share {self.share}: they do not agree")
        if not 0 <= self.interval[0] <= self.share <= self.interval[1] <= 1:
            raise ModelError(f"observed share {self.share} has the interval {self.interval}: it does not hold it")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One trained model.

    Parameters
    ----------
    arch
        A key of `cxr.model.network.ARCHITECTURES`.
    pretrained
        Where the backbone came from: ``imagenet``, ``random`` or ``file:NAME``.
    weights_file, weights_sha256
        Name of the state dict beside the spec, and its digest.
    preprocessing
        How a film becomes a tensor.
    classes, positive
        The classes in the order of the logits, and those of them whose probability together decides
        (`cxr.model.classes.Scheme`).
    temperature
        The logits are divided by it before the softmax (Guo et al. 2017); 1.0 until calibrated.
    operating_points
        Thresholds on the probability of the positive group by name; `operating_point` is the one that decides.
    indeterminate
        Probabilities of the positive group inside this closed band are reported as indeterminate; None for no band.
    observed
        What probabilities meant on the validation films, from 0 to 1 without a gap; empty where nobody counted.
    band_rates
        The share of further PNEUMONIA films that is expected below the band at most, and of NORMAL films above it.
    cam_scale
        Logits at which the contrast map is at full colour, the same for every film of this model.
    cam_zero
        What zero means in a map. ``decision``: the point from which a film is called positive, the bias being spread
        over the cells. ``head``: nothing, the bias lies beside the map, as of models before there was a choice.
    screen
        What tells frontal films from others where no tag does; None where it was not fitted.
    brightness
        The brightness of the training films, beyond which a film is flagged; None where it was not measured.
    engines
        What computes the feature map on a CPU and on a GPU, names of `cxr.model.parity.ENGINES`.
    parity
        How far engines are from the reference, by name; one that serves has passed the parity check.
    code_version, data_sha256, training
        What made the model: package version, digest of the films and labels, settings and seeds.
    made_from
        SHA-256 of the run's files that the spec was made from, by name.
    """

    arch: str
    pretrained: str
    weights_file: str
    weights_sha256: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    classes: tuple[str, ...] = CLASSES
    positive: tuple[str, ...] = POSITIVE
    temperature: float = 1.0
    operating_points: dict[str, float] = field(default_factory=lambda: {"default": 0.5})
    operating_point: str = "default"
    indeterminate: tuple[float, float] | None = None
    observed: tuple[Observed, ...] = ()
    band_rates: tuple[float, float] = BAND_RATES
    cam_scale: float = 1.0
    cam_zero: str = "head"
    screen: Screen | None = None
    brightness: Brightness | None = None
    engines: dict[str, str] = field(default_factory=lambda: dict.fromkeys(DEVICES, REFERENCE))
    parity: dict[str, Parity] = field(default_factory=dict)
    code_version: str = ""
    data_sha256: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Scheme(self.classes, self.positive)  # refuses what is none
        for name in ("temperature", "cam_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ModelError(f"{name} is {value}: a finite number above 0 is needed")
        if self.cam_zero not in CAM_ZEROS:
            raise ModelError(f"cam_zero is {self.cam_zero!r}: known are {', '.join(CAM_ZEROS)}")
        if self.operating_point not in self.operating_points:
            raise ModelError(f"operating_point {self.operating_point!r} is not in {sorted(self.operating_points)}")
        for name, threshold in self.operating_points.items():
            if not 0 <= threshold <= 1:
                raise ModelError(f"operating point {name!r} is {threshold}: a probability in 0-1 is needed")
        if self.indeterminate is not None and not 0 <= self.indeterminate[0] <= self.indeterminate[1] <= 1:
            raise ModelError(f"indeterminate is {self.indeterminate}: two rising probabilities in 0-1 are needed")
        edges = [0.0, *(one.high for one in self.observed)]
        if self.observed and (edges[-1] != 1.0 or edges[:-1] != [one.low for one in self.observed]):
            raise ModelError("observed has a gap: its probabilities go from 0 to 1, each from where the last one ends")
        if not all(0 < rate < 1 for rate in self.band_rates):
            raise ModelError(f"band_rates are {self.band_rates}: two shares above 0 and below 1 are needed")
        check_choice(self.engines, self.parity)
        if Path(self.weights_file).name != self.weights_file:
            raise ModelError(f"weights_file is {self.weights_file!r}: a plain file name beside {SPEC_FILE} is needed")

    @property
    def scheme(self) -> Scheme:
        """The classes and the positive group."""
        return Scheme(self.classes, self.positive)

    @property
    def threshold(self) -> float:
        """The probability of the positive group at and above which a film is called positive."""
        return self.operating_points[self.operating_point]

    @property
    def neutral(self) -> float:
        """Temperature times the log-odds at the threshold; of two classes the difference of their logits there."""
        return neutral_logit(self.threshold, self.temperature)

    @property
    def decisions(self) -> tuple[float, ...]:
        """The probabilities at which the answer to a film changes: the threshold, the band's ends."""
        return (self.threshold, *(self.indeterminate or ()))

    def observed_at(self, probability: float) -> Observed | None:
        """What a probability of the positive group meant on the validation films; None where nobody counted."""
        last = self.observed[-1] if self.observed else None
        return next((one for one in self.observed if probability < one.high), last)

    def to_json(self) -> str:
        """The spec as indented JSON, the same text for the same spec."""
        return json.dumps(sealed(dataclasses.asdict(self)), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """The spec in a `model.json`.

        Raises
        ------
        ModelError
            If the text is not JSON, has other values than it was written with, or a field is missing, unknown or out of
            range.
        """
        return read_text(text, cls, f"{SPEC_FILE} is not a model spec of this version, run pneumoscan export again")

    @classmethod
    def load(cls, folder: Path) -> ModelSpec:
        """The spec in a folder.

        Raises
        ------
        ModelError
            If there is none, or it is not valid.
        """
        path = folder / SPEC_FILE
        if not path.is_file():
            raise ModelError(f"{path} is missing: run pneumoscan export, which writes it beside the weights")
        return cls.from_json(path.read_bytes())


def neutral_logit(threshold: float, temperature: float) -> float:
    """Temperature times the log-odds at a threshold on the probability; finite for thresholds of 0 and 1 too."""
    inside = min(max(threshold, _LEAST_THRESHOLD), 1.0 - _LEAST_THRESHOLD)
    return temperature * math.log(inside / (1.0 - inside))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
