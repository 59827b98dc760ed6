"""The one path from films to predictions: whatever scores films calls it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.models.resnet import ResNet

from cxr.engines.load import Engine, ReferenceEngine, load_engine
from cxr.errors import ModelError
from cxr.films.film import Pixels
from cxr.model.cam import Cam, about_decision, class_maps, contrast_of, logits_of
from cxr.model.classes import STANDARD, Scheme, Vector
from cxr.model.network import build, load_strictly, read_state_dict
from cxr.model.parity import check_files, kind_of, left_open
from cxr.model.preprocess import network_film
from cxr.model.spec import ModelSpec, sha256_of


@dataclass(frozen=True, slots=True)
class Explanation:
    """The map of one target: ``mean(grid) + bias`` is the target's logit.

    For ``contrast`` it is the temperature times the log-odds of the positive group: of two classes the difference of
    their logits.
    """

    target: str
    grid: Cam
    bias: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to one film.

    Parameters
    ----------
    logits, probabilities
        (K,), in the order of the classes; the probabilities are calibrated.
    maps
        (K, h, w) class activation maps, in logits.
    bias
        (K,), what lies beside the maps: the mean of a map plus its bias is the logit.
    label
        The likeliest class of the positive group where its probability reaches the threshold, else of the rest.
    indeterminate
        Whether the probability lies in the spec's indeterminate band.
    rescored
        Whether the engine left the film open and its second answered.
    about_decision
        Whether zero in the contrast map is the decision's neutral point.
    scheme
        The classes and the positive group.
    contrast
        The map of the positive group against the rest, where there are more classes than two.
    """

    logits: Vector
    probabilities: Vector
    maps: Cam
    bias: Vector
    label: str
    indeterminate: bool
    rescored: bool = False
    about_decision: bool = False
    scheme: Scheme = STANDARD
    contrast: Explanation | None = None

    @property
    def probability(self) -> float:
        """The probability of the positive group."""
        return float(self.scheme.probability(self.probabilities))

    @property
    def is_positive(self) -> bool:
        """True where the film is called positive."""
        return self.label in self.scheme.positive

    @property
    def is_finite(self) -> bool:
        """False where an overflow or a NaN made the answer worthless."""
        return bool(np.isfinite(self.logits).all() and np.isfinite(self.maps).all())

    def explain(self, target: str) -> Explanation:
        """The map of ``predicted``, a class, or ``contrast`` (the positive group against the rest)."""
        if target == "contrast":
            return self.contrast or Explanation(target, *contrast_of(self.maps, self.bias, None))
        name = self.label if target == "predicted" else target
        index = self.scheme.classes.index(name)
        return Explanation(name, self.maps[index], float(self.bias[index]))

    @property
    def evidence(self) -> Cam:
        """The evidence of each cell, (h, w) in logits: for the positive group above 0.

        It is the contrast map where that is about the decision, else what a cell would say alone.
        """
        contrast = self.explain("contrast")
        return contrast.grid if self.about_decision else contrast.grid + np.float32(contrast.bias)


def resolve_device(name: str) -> torch.device:
    """The device meant by ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; auto takes a GPU where there is one.

    Raises
    ------
    ModelError
        If a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise ModelError(f"device is {name!r}: known are auto, cpu, cuda and cuda:N")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device is {name!r} and torch sees no GPU: use cpu or auto, or mend the driver")
    return torch.device(name)


def softmax(logits: Vector, temperature: float) -> Vector:
    """Calibrated probabilities: softmax of logits / temperature along the last axis, in float64.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML, equation 9.
    """
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


class Predictor:
    """A network with its spec, ready to predict.

    Parameters
    ----------
    network
        A network of ``spec.arch`` with its weights; moved to `device` and put in evaluation mode.
    spec
        What the weights mean.
    device
        Where the network runs.
    engine
        What computes the feature map; the reference by default.
    second
        What scores again the films that `engine` leaves open; without it their answers stay.
    margin
        How near log-odds by the engine may come to a decision of the spec before the film is left open.
    """

    def __init__(
        self,
        network: ResNet,
        spec: ModelSpec,
        device: torch.device,
        engine: Engine | None = None,
        *,
        second: Engine | None = None,
        margin: float = 0.0,
    ) -> None:
        self.network = network.eval().to(device)
        self.spec = spec
        self.device = device
        self.engine = engine or ReferenceEngine(self.network, spec.preprocessing, device)
        self.second = second
        self.margin = margin

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Predictor:
        """A predictor from a folder with `model.json` and the weights it names, by the engine it chooses.

        Raises
        ------
        ModelError
            If a file is missing, the weights are not the ones the spec names or do not fit, or the engine's own files
            are not those that passed the gate.
        """
        spec = ModelSpec.load(folder)
        path = folder / spec.weights_file
        if not path.is_file():
            raise ModelError(f"{path} is missing: run pneumoscan export, which writes it beside the spec")
        digest = sha256_of(path)
        if digest != spec.weights_sha256:
            raise ModelError(
                f"{path} is damaged or of another model: its sha256 is {digest[:12]}…, "
                f"the spec names {spec.weights_sha256[:12]}…; pack the archive again from its run"
            )
        network = build(spec.arch, len(spec.classes))
        load_strictly(network, read_state_dict(path))
        place = resolve_device(device)
        network = network.to(place)
        name = spec.engines[place.type]
        check_files(name, spec.parity, folder)
        engine = load_engine(name, network, spec.preprocessing, place, folder)
        after = kind_of(name).second
        if after is None:
            return cls(network, spec, place, engine)
        second = load_engine(after, network, spec.preprocessing, place, folder)
        return cls(network, spec, place, engine, second=second, margin=spec.parity[name].margin)

    def predict(self, films: Sequence[Pixels]) -> list[Prediction]:
        """One prediction for each film, in their order, independent of which others are in the batch.

        Parameters
        ----------
        films
            Grey films, each (H, W) uint8, of any sizes.
        """
        predictions: list[Prediction] = []
        for start in range(0, len(films), self.engine.max_batch):
            chosen = films[start : start + self.engine.max_batch]
            small = [network_film(film, self.spec.preprocessing) for film in chosen]
            predictions += self._predict_batch(torch.from_numpy(np.stack(small)))
        return predictions

    def _predict_batch(self, grey: torch.Tensor) -> list[Prediction]:
        logits, maps = self._answers(self.engine, grey)
        again = np.zeros(len(grey), dtype=np.bool_)
        if self.second is not None:
            scheme, temperature = self.spec.scheme, self.spec.temperature
            odds = scheme.log_odds(logits, temperature)
            leads = scheme.lead(logits, temperature, self.spec.neutral / temperature)
            again = left_open(odds, self.spec.decisions, self.margin, leads)
            for index in np.flatnonzero(again):
                # One at a time, so that its answer does not depend on which others are open.
                one = slice(index, index + 1)
                logits[one], maps[one] = self._answers(self.second, grey[one])
        bias = self.network.fc.bias.detach().double().cpu().numpy()
        rows = zip(logits, maps, again, strict=True)
        return [self._prediction(row, grid, bias, rescored=bool(is_again)) for row, grid, is_again in rows]

    def _answers(self, engine: Engine, grey: torch.Tensor) -> tuple[Vector, Cam]:
        """Logits (B, K) and maps (B, K, h, w) of films at the network's size, (B, S, S) uint8."""
        head = self.network.fc
        with torch.inference_mode():
            maps = class_maps(engine.features(grey), head.weight)
            logits = logits_of(maps, head.bias)
        return logits.double().cpu().numpy(), maps.cpu().numpy()

    def _prediction(self, logits: Vector, maps: Cam, bias: Vector, *, rescored: bool) -> Prediction:
        spec, scheme = self.spec, self.spec.scheme
        probabilities = softmax(logits, spec.temperature)
        positive = float(scheme.probability(probabilities))
        band = spec.indeterminate
        about = spec.cam_zero == "decision"
        contrast = None
        if len(scheme.classes) > 2:
            neutral = spec.neutral if about else None
            contrast = Explanation("contrast", *contrast_of(maps, bias, neutral, scheme, spec.temperature))
        if about:
            maps, bias = about_decision(maps, bias, spec.neutral, scheme, spec.temperature)
        return Prediction(
            logits=logits,
            probabilities=probabilities,
            maps=maps,
            bias=bias,
            label=scheme.label(probabilities, spec.threshold),
            indeterminate=band is not None and math.isfinite(positive) and band[0] <= positive <= band[1],
            rescored=rescored,
            about_decision=about,
            scheme=scheme,
            contrast=contrast,
        )
