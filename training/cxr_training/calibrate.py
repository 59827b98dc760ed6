"""Temperature, thresholds, scale of the heat map and parity of engines, from the validation films.

The screen for views that are not frontal, and the brightness beyond which a film is flagged, come from the training
films.

Fits to a run's checkpoint and leaves `calibration.json` in the run; `pneumoscan export` puts it into the spec.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch

from cxr.errors import ModelError
from cxr.films.film import Pixels
from cxr.films.frontal import Screen, thumbnail
from cxr.json_records import sealed
from cxr.model.brightness import Brightness, brightness_of
from cxr.model.classes import Scheme
from cxr.model.parity import REFERENCE, Parity, Vector, files_digest, kind_of
from cxr.model.preprocess import network_film
from cxr.model.spec import BAND_RATES, Preprocessing
from cxr.predict import Prediction, Predictor, softmax
from cxr_training.data.prefetch import in_batches, prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Films, Record, all_synthetic
from cxr_training.drift import FEWEST as FEWEST_FOR_DRIFT
from cxr_training.drift import reference_of, signals_of, write_reference
from cxr_training.fit.head import film_weights
from cxr_training.fit.screen import FEWEST, MOST, fit_screen
from cxr_training.measure.calibration import calibrate, observed_shares
from cxr_training.measure.parity import default_engines, parity_of, processor_name, with_engine
from cxr_training.measure.scoring import read_films, score
from cxr_training.runs import CALIBRATION, Calibration, Training, checkpoint_predictor, spec_of
from pneumoscan.files import write_text

_MOST_FOR_BRIGHTNESS: Final = 2000  # training films; the limits hold all but two in a thousand
_BATCH: Final = 8  # films that are read together
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Fitting:
    """How a run is calibrated.

    Parameters
    ----------
    engines
        Those to measure; None: the float32 engines that run here, and one that does not is left out with a word.
    balance
        One of `cxr_training.fit.head.BALANCES`: how much each film counts for temperature and thresholds.
    band_rates
        As `cxr_training.measure.calibration.fit_band` takes them.
    screen, brightness
        What tells frontal films from others, and the limits of their greys; None takes them from the training films.
    """

    engines: Sequence[str] | None = None
    balance: str = "none"
    band_rates: tuple[float, float] = BAND_RATES
    screen: Screen | None = None
    brightness: Brightness | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted, and the validation films it was fitted on, with their logits (N, K)."""

    calibration: Calibration
    records: tuple[Record, ...]
    logits: Vector


def calibrate_run(run: Path, data: Callable[[Scheme], Films], device: str, fitting: Fitting) -> Fitted:
    """Fit everything to a run's checkpoint, leave `calibration.json` and the drift reference, and print the figures.

    Parameters
    ----------
    data
        Gives the films of the model's classes; called when all that needs none was checked.

    Raises
    ------
    TrainingError, ModelError
        If the run or its films cannot be used, or an engine that was named does not run here.
    """
    for name in fitting.engines or ():
        files_digest(name, run)  # fails before any film is scored
    spec = spec_of(run)
    scheme = spec.scheme
    films = data(scheme).with_others(Training.of(spec).other)
    records = films.of("val")
    predictor = checkpoint_predictor(run, device)
    measured = _engines(fitting.engines, predictor, run)
    predictions: list[Prediction] = []
    signals: list[dict[str, float]] = []
    for films_read in read_films(records, predictor.spec.preprocessing, whole=False):
        inputs = [film.input for film in films_read]
        predictions += predictor.predict(inputs)
        signals += map(signals_of, films_read)
        for engine in measured.values():
            engine.score(inputs)
    targets = np.array([record.target for record in records], dtype=np.int64)
    weights = None if fitting.balance == "none" else film_weights(records, fitting.balance).astype(np.float64)
    fitted = calibrate(predictions, targets, predictor.spec.weights_sha256, weights, fitting.band_rates, scheme)
    trained = [record for record in films.records if record.split == "train"]
    screen, brightness = fitting.screen, fitting.brightness
    if screen is None or brightness is None:
        fresh = of_training_films(trained, spec.preprocessing)
        screen, brightness = screen or fresh[0], brightness or fresh[1]
    logits = np.stack([prediction.logits for prediction in predictions])
    probabilities = scheme.probability(softmax(logits, fitted.temperature))
    patients = [record.patient_id for record in records]
    observed = observed_shares(probabilities, scheme.is_positive(targets), patients)
    fitted = replace(fitted, screen=screen, brightness=brightness, observed=observed)
    reference = reference_of(signals, probabilities, predictor.spec, fitted.temperature)
    write_reference(run, reference)
    fitted = replace(fitted, parity=_parities(measured, predictor, predictions, records, fitted, run))
    write_text(run / CALIBRATION, json.dumps(sealed(asdict(fitted)), indent=2, sort_keys=True) + "\n")
    points = ", ".join(f"{name} {value:.3f}" for name, value in fitted.operating_points.items())
    print(f"{run}: temperature {fitted.temperature:.3f}; thresholds {points} ({len(records)} films)")
    if fitted.screen is None:
        print(f"{run}: fewer than {FEWEST} training films, so no screen for views that are not frontal")
    if fitted.brightness is None:
        print(f"{run}: fewer than {FEWEST} training films, so no flag for greys unlike theirs")
    if reference is None:
        print(f"{run}: fewer than {FEWEST_FOR_DRIFT} validation films, so no reference to see drift by")
    return Fitted(fitted, records, logits)


def of_training_films(
    records: Sequence[Record], preprocessing: Preprocessing
) -> tuple[Screen | None, Brightness | None]:
    """Screen and brightness of training films, of a sample where there are many; None where they are too few."""
    if len(records) < FEWEST:
        return None, None
    chosen = [records[i] for i in np.random.default_rng(_SEED).permutation(len(records))[:_MOST_FOR_BRIGHTNESS]]

    def look(record: Record) -> tuple[Pixels, dict[str, float]]:
        pixels = record.read(preprocessing.least_side)
        return thumbnail(pixels), brightness_of(network_film(pixels, preprocessing))

    batches = prefetched(in_batches(chosen, _BATCH), look)
    looked = [*progress_bar(chain.from_iterable(batches), "training films", "film", total=len(chosen))]
    thumbnails = np.stack([small for small, _ in looked[:MOST]])
    screen = fit_screen(thumbnails, refuses=not all_synthetic(records))
    return screen, Brightness.of([figures for _, figures in looked])


class _EngineScores:
    """What an engine says of the films that the reference is scoring, or why it does not run here.

    Parameters
    ----------
    required
        Whether it was requested by name, so that its failure is an error.
    """

    def __init__(self, name: str, reference: Predictor, run: Path, *, required: bool) -> None:
        self.predictions: list[Prediction] = []
        self.failure: ModelError | None = None
        self.required, self._name = required, name
        with self._noting_failure():
            self._predictor = with_engine(reference, name, run)

    def score(self, inputs: Sequence[Pixels]) -> None:
        """Add what it says of some films, unless it has failed."""
        if self.failure is None:
            with self._noting_failure():
                self.predictions += self._predictor.predict(inputs)

    def checked(self) -> tuple[list[Prediction], torch.device]:
        """All it said, and where it ran.

        Raises
        ------
        ModelError
            If it failed.
        """
        if self.failure is not None:
            raise self.failure
        return self.predictions, self._predictor.device

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            with _engine_errors(self._name):
                yield
        except ModelError as error:
            if self.required:
                raise
            self.failure = error


@contextmanager
def _engine_errors(name: str) -> Iterator[None]:
    """What torch and OpenVINO raise, as one error of ours."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"engine {name!r} does not run here ({reason}): choose another --engine") from error


def _engines(requested: Sequence[str] | None, reference: Predictor, run: Path) -> dict[str, _EngineScores]:
    """The engines that are requested, or those that run here."""
    names = default_engines(reference.device) if requested is None else requested
    return {name: _EngineScores(name, reference, run, required=requested is not None) for name in names}


def _parities(
    engines: Mapping[str, _EngineScores],
    reference: Predictor,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    fitted: Calibration,
    run: Path,
) -> dict[str, Parity]:
    """How far each engine is from the reference; of one that fails it is reported."""
    found: dict[str, Parity] = {}
    for name, engine in engines.items():
        try:
            found[name] = _parity(name, engine, reference, predictions, records, fitted, run)
        except ModelError as error:
            if engine.required:
                raise
            print(f"{run}: {name} is left out, {REFERENCE} serves in its place: {error}", file=sys.stderr)
    return found


def _parity(
    name: str,
    engine: _EngineScores,
    reference: Predictor,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    fitted: Calibration,
    run: Path,
) -> Parity:
    """How far an engine is from the reference's predictions; reported, with whether it passes."""
    scored, device = engine.checked()
    second = kind_of(name).second

    def score_again(places: Sequence[int]) -> list[Prediction]:
        assert second is not None
        with _engine_errors(second):
            return score(with_engine(reference, second, run), [records[place] for place in places])

    parity = parity_of(
        predictions,
        scored,
        np.array([record.is_positive for record in records], dtype=np.int64),
        scheme=reference.spec.scheme,
        temperature=fitted.temperature,
        decisions=(fitted.operating_points[fitted.operating_point], *fitted.indeterminate),
        processor=processor_name(device),
        files_sha256=files_digest(name, run),
        again=None if second is None else score_again,
    )
    verdict = "does not pass" if parity.misses else "passes"
    if second is not None:
        print(
            f"{run}: {name} leaves {parity.asked} of {parity.films} films to {second}: those within "
            f"{parity.margin:.2f} log-odds of a decision, and those beyond its ranges"
        )
    print(
        f"{run}: {name} {verdict}: {parity.flips} of {parity.films} labels change, "
        f"AUROC {parity.auroc_difference:+.5f}, "
        f"probabilities differ by up to {parity.probability_difference:.2g}, "
        f"heat maps correlate by {parity.cam_correlation:.4f} or more (median {parity.cam_correlation_median:.4f})"
    )
    return parity
