"""What is fitted on the validation films: temperature, thresholds, scale of the heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_curve

from cxr.predict import Prediction, softmax
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.runs import Calibration

_LEVEL: Final = 0.95  # of the sensitivity and specificity thresholds
POINTS: Final = {  # what `fit_operating_points` fits, in words
    "youden": "highest sensitivity + specificity",
    "sensitivity_95": f"highest threshold that still finds {100 * _LEVEL:g} % of the PNEUMONIA films",
    "specificity_95": f"lowest threshold that still clears {100 * _LEVEL:g} % of the NORMAL films",
}
_CAM_PERCENTILE: Final = 99.0


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
