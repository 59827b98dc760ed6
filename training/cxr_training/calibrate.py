"""Temperature, thresholds, scale of the heat map and parity of engines, from the validation films.

The screen for views that are not frontal comes from the training films.

Fits to a run's checkpoint and leaves `calibration.json` in the run; `pneumoscan export` puts it into the spec.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from cxr.errors import ModelError
from cxr.model.parity import REFERENCE, Parity, files_digest, kind_of
from cxr.predict import Prediction, Predictor, softmax
from cxr_training.data.records import Films, Record
from cxr_training.drift import FEWEST as FEWEST_FOR_DRIFT
from cxr_training.drift import reference_of, write_reference
from cxr_training.fit.screen import FEWEST, screen_of
from cxr_training.measure.calibration import calibrate
from cxr_training.measure.parity import default_engines, parity_of, processor_name, with_engine
from cxr_training.measure.predictions import score
from cxr_training.runs import CALIBRATION, Calibration, checkpoint_predictor
from pneumoscan.files import write_text


def calibrate_run(run: Path, data: Callable[[], Films], device: str, engines: Sequence[str] | None) -> None:
    """Fit everything to a run's checkpoint, leave `calibration.json` and the drift reference, and print the figures.

    Parameters
    ----------
    data
        Gives the films; called when all that needs none was checked.
    engines
        Those to measure; None: the float32 engines that run here, and one that does not is left out with a word.

    Raises
    ------
    TrainingError, ModelError
        If the run or its films cannot be used, or an engine that was named does not run here.
    """
    for name in engines or ():
        files_digest(name, run)  # told before any film is scored
    films = data()
    records = films.of("val")
    predictor = checkpoint_predictor(run, device)
    predictions = score(predictor, records)
    targets = np.array([record.target for record in records], dtype=np.int64)
    fitted = calibrate(predictions, targets, predictor.spec.weights_sha256)
    fitted = replace(fitted, screen=screen_of([record for record in films.records if record.split == "train"]))
    probabilities = softmax(np.stack([prediction.logits for prediction in predictions]), fitted.temperature)[:, 1]
    reference = reference_of(records, probabilities, predictor.spec, fitted.temperature)
    write_reference(run, reference)
    fitted = replace(fitted, parity=_parities(engines, predictor, predictions, records, fitted, run))
    write_text(run / CALIBRATION, json.dumps(asdict(fitted), indent=2, sort_keys=True) + "\n")
    points = ", ".join(f"{name} {value:.3f}" for name, value in fitted.operating_points.items())
    print(f"{run}: temperature {fitted.temperature:.3f}; thresholds {points} ({len(records)} films)")
    if fitted.screen is None:
        print(f"{run}: fewer than {FEWEST} training films, so no screen for views that are not frontal")
    if reference is None:
        print(f"{run}: fewer than {FEWEST_FOR_DRIFT} validation films, so no reference to see drift by")


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
