"""Temperature, thresholds, scale of the heat map and parity of engines, from the validation films.

The screen for views that are not frontal comes from the training films.

Fits to a run's checkpoint and leaves `calibration.json` in the run; `training.export` puts it into the spec.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_curve

from cxr.errors import ModelError
from cxr.films.frontal import Screen
from cxr.model.parity import ENGINES, REFERENCE, Parity, files_digest, kind_of
from cxr.predict import Prediction, Predictor, softmax
from cxr_training.command import run_command
from cxr_training.data.records import Record, load_films
from cxr_training.drift import FEWEST as FEWEST_FOR_DRIFT
from cxr_training.drift import reference_of, write_reference
from cxr_training.fit.screen import FEWEST, screen_of
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.parity import default_engines, parity_of, processor_name, with_engine
from cxr_training.measure.predictions import score
from cxr_training.runs import CALIBRATION, checkpoint_predictor, write_text

_LEVEL: Final = 0.95  # of the sensitivity and specificity thresholds
POINTS: Final = {  # what `fit_operating_points` fits, in words
    "youden": "highest sensitivity + specificity",
    "sensitivity_95": f"highest threshold that still finds {100 * _LEVEL:g} % of the PNEUMONIA films",
    "specificity_95": f"lowest threshold that still clears {100 * _LEVEL:g} % of the NORMAL films",
}
_CAM_PERCENTILE: Final = 99.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is fitted to a checkpoint; the fields are those of `cxr.model.spec.ModelSpec`."""

    weights_sha256: str
    temperature: float
    operating_points: dict[str, float]
    operating_point: str
    indeterminate: tuple[float, float]
    cam_scale: float
    screen: Screen | None = None
    parity: dict[str, Parity] = field(default_factory=dict)


def fit_temperature(logits: Floats, targets: Targets) -> float:
    """The temperature with the lowest log loss: logits (N, K), targets (N,).

    Searched in 0.05 to 20, on a logarithmic axis.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML, section 4.2.
    """

    def loss(log_temperature: float) -> float:
        return float(log_loss(targets, softmax(logits, float(np.exp(log_temperature))), labels=[0, 1]))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def fit_operating_points(probabilities: Floats, targets: Targets) -> dict[str, float]:
    """Thresholds on the probability of PNEUMONIA, (N,), by name.

    Each lies halfway between the probabilities of two validation films, so that rounding cannot move a film across it.

    ``youden``
        Highest sensitivity + specificity (Youden 1950).
    ``sensitivity_95``
        The highest threshold that still finds 95 % of the PNEUMONIA films.
    ``specificity_95``
        The lowest threshold that still clears 95 % of the NORMAL films.
    """
    false_positive, true_positive, thresholds = roc_curve(targets, probabilities, drop_intermediate=False)
    halfway = (thresholds + np.append(thresholds[1:], 0.0)) / 2.0
    halfway[0] = (1.0 + thresholds[1]) / 2.0  # the curve starts at infinity, where no film is called
    return {
        "youden": float(halfway[np.argmax(true_positive - false_positive)]),
        "sensitivity_95": float(halfway[np.argmax(true_positive >= _LEVEL)]),
        "specificity_95": float(halfway[np.flatnonzero(false_positive <= 1 - _LEVEL)[-1]]),
    }


def fit_cam_scale(predictions: Sequence[Prediction]) -> float:
    """Logits at which the heat map is at full colour: the 99th percentile of the map cells' size."""
    cells = np.abs([prediction.explain("contrast").grid for prediction in predictions])
    return max(float(np.percentile(cells, _CAM_PERCENTILE)), 1e-3)


def calibrate(predictions: Sequence[Prediction], targets: Targets, weights_sha256: str) -> Calibration:
    """Everything that is fitted on validation.

    Parameters
    ----------
    predictions
        Of the validation films, by the uncalibrated checkpoint.
    targets
        (N,), 1 for PNEUMONIA; both classes are there.
    weights_sha256
        Of the checkpoint they belong to.
    """
    logits = np.stack([prediction.logits for prediction in predictions])
    temperature = fit_temperature(logits, targets)
    points = fit_operating_points(softmax(logits, temperature)[:, 1], targets)
    low, high = sorted((points["sensitivity_95"], points["specificity_95"]))
    return Calibration(weights_sha256, temperature, points, "youden", (low, high), fit_cam_scale(predictions))


def _command(arguments: argparse.Namespace) -> None:
    for name in arguments.engine or ():
        files_digest(name, arguments.run)  # told before any film is scored
    films = load_films(arguments.data)
    records = films.of("val")
    predictor = checkpoint_predictor(arguments.run, arguments.device)
    predictions = score(predictor, records)
    targets = np.array([record.target for record in records], dtype=np.int64)
    fitted = calibrate(predictions, targets, predictor.spec.weights_sha256)
    fitted = replace(fitted, screen=screen_of([record for record in films.records if record.split == "train"]))
    probabilities = softmax(np.stack([prediction.logits for prediction in predictions]), fitted.temperature)[:, 1]
    reference = reference_of(records, probabilities, predictor.spec, fitted.temperature)
    write_reference(arguments.run, reference)
    fitted = replace(fitted, parity=_parities(arguments.engine, predictor, predictions, records, fitted, arguments.run))
    write_text(arguments.run / CALIBRATION, json.dumps(asdict(fitted), indent=2, sort_keys=True) + "\n")
    points = ", ".join(f"{name} {value:.3f}" for name, value in fitted.operating_points.items())
    print(f"{arguments.run}: temperature {fitted.temperature:.3f}; thresholds {points} ({len(records)} films)")
    if fitted.screen is None:
        print(f"{arguments.run}: fewer than {FEWEST} training films, so no screen for views that are not frontal")
    if reference is None:
        print(f"{arguments.run}: fewer than {FEWEST_FOR_DRIFT} validation films, so no reference to see drift by")


def _parities(
    asked: Sequence[str] | None,
    reference: Predictor,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    fitted: Calibration,
    run: Path,
) -> dict[str, Parity]:
    """What was measured of the engines that are asked for, or of those that run here; of one that fails it is told."""
    found: dict[str, Parity] = {}
    for name in default_engines(reference.device) if asked is None else asked:
        try:
            found[name] = _parity(name, reference, predictions, records, fitted, run)
        except ModelError as error:
            if asked is not None:
                raise
            print(f"{run}: {name} is left out, {REFERENCE} serves in its place: {error}", file=sys.stderr)
    return found


def _parity(
    name: str,
    reference: Predictor,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    fitted: Calibration,
    run: Path,
) -> Parity:
    """What an engine says of the films that the reference's predictions are of; told, with what the gate says of it."""
    second = kind_of(name).second
    scored, device = _score_by(name, reference, run, records, range(len(records)))
    parity = parity_of(
        predictions,
        scored,
        np.array([record.target for record in records], dtype=np.int64),
        temperature=fitted.temperature,
        decisions=(fitted.operating_points[fitted.operating_point], *fitted.indeterminate),
        processor=processor_name(device),
        files_sha256=files_digest(name, run),
        again=None if second is None else lambda places: _score_by(second, reference, run, records, places)[0],
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


def _score_by(
    name: str, reference: Predictor, run: Path, records: Sequence[Record], places: Sequence[int]
) -> tuple[list[Prediction], torch.device]:
    """What an engine says of some of the films, and where it ran."""
    try:
        other = with_engine(reference, name, run)
        return score(other, [records[place] for place in places], what=name), other.device
    except RuntimeError as error:  # torch's and OpenVINO's
        reason = str(error).partition("\n")[0]
        raise ModelError(f"engine {name!r} does not run here ({reason}): choose another --engine") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.calibrate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run folder with a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="the data folder it was trained on")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--engine",
        action="append",
        choices=[name for name in ENGINES if name != REFERENCE],
        help=f"compare this engine with {REFERENCE}, so that training.export can choose it; may be given again "
        "(default: the float32 engines that run here)",
    )
    return run_command(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
