"""What is fitted on the validation films: temperature, thresholds, scale of the heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_curve

from cxr.model.cam import Cam, about_decision, contrast_of
from cxr.model.classes import STANDARD, Scheme
from cxr.model.spec import BAND_RATES, Observed, neutral_logit
from cxr.predict import Prediction, softmax
from cxr_training.measure.intervals import exact_interval
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.runs import Calibration

_LEVEL: Final = 0.95  # of the sensitivity and specificity thresholds
POINTS: Final = {  # what `fit_operating_points` fits, in words; of classes that are filled in
    "youden": "highest sensitivity + specificity",
    "sensitivity_95": f"highest threshold that still finds {100 * _LEVEL:g} % of the {{positive}} films",
    "specificity_95": f"lowest threshold that still clears {100 * _LEVEL:g} % of the {{negative}} films",
}
DECIDES: Final = "youden"
_CAM_PERCENTILE: Final = 99.0
_MOST_KINDS: Final = 10  # of scores
_FILMS_A_KIND: Final = 25


def fit_temperature(logits: Floats, targets: Targets, weights: Floats | None = None) -> float:
    """The temperature with the lowest log loss: logits (N, K), targets and weights (N,).

    Searched in 0.05 to 20, on a logarithmic axis.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017): On Calibration of Modern Neural Networks. ICML, section 4.2.
    """

    def loss(log_temperature: float) -> float:
        return float(
            log_loss(
                targets,
                softmax(logits, float(np.exp(log_temperature))),
                labels=range(logits.shape[1]),
                sample_weight=weights,
            )
        )

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def fit_operating_points(probabilities: Floats, targets: Targets, weights: Floats | None = None) -> dict[str, float]:
    """Thresholds on the positive group's probability, (N,), by name; films count by their weights, (N,), where given.

    Each lies halfway between the probabilities of two validation films, so that rounding cannot move a film across it.

    ``youden``
        Highest sensitivity + specificity (Youden 1950).
    ``sensitivity_95``
        The highest threshold that still finds 95 % of the PNEUMONIA films.
    ``specificity_95``
        The lowest threshold that still clears 95 % of the NORMAL films.
    """
    false_positive, true_positive, thresholds = roc_curve(
        targets, probabilities, sample_weight=weights, drop_intermediate=False
    )
    halfway = (thresholds + np.append(thresholds[1:], 0.0)) / 2.0
    halfway[0] = (1.0 + thresholds[1]) / 2.0  # the curve starts at infinity, where no film is called
    return {
        "youden": float(halfway[np.argmax(true_positive - false_positive)]),
        "sensitivity_95": float(halfway[np.argmax(true_positive >= _LEVEL)]),
        "specificity_95": float(halfway[np.flatnonzero(false_positive <= 1 - _LEVEL)[-1]]),
    }


def fit_band(
    probabilities: Floats, targets: Targets, points: Mapping[str, float], rates: tuple[float, float] = BAND_RATES
) -> tuple[float, float]:
    """The indeterminate band: it holds the threshold, and few films of either class lie beyond its far end.

    Below the band lies at most the first rate of the PNEUMONIA films, above it at most the second of the NORMAL ones.
    Each end is the one that a further film of the class passes with a chance of at most the rate, were it drawn as the
    validation films were: of n films of a class, at most floor(rate (n + 1)) - 1 may lie beyond. Classes of too few
    films for it (under 19 for a rate of 0.05) give no such end; then the band reaches to 0 or 1.

    References
    ----------
    Vovk, Gammerman, Shafer (2005): Algorithmic Learning in a Random World, section 2.2 (conformal prediction).
    """
    positive, negative = np.sort(probabilities[targets == 1]), np.sort(-probabilities[targets == 0])
    low = min(_conformal_end(positive, 0.0, rates[0]), points[DECIDES])
    high = max(-_conformal_end(negative, -1.0, rates[1]), points[DECIDES])
    return float(low), float(high)


def _conformal_end(rising: Floats, without: float, rate: float) -> float:
    """The value below which a further one lies with a chance of at most the rate; `without` where there are too few."""
    rank = int(rate * (len(rising) + 1) + 1e-9)
    if rank < 1:
        return without
    before = rising[rank - 2] if rank > 1 else without
    return float((before + rising[rank - 1]) / 2.0)


def observed_shares(probabilities: Floats, targets: Targets, patients: Sequence[str]) -> tuple[Observed, ...]:
    """How many of the films scored alike had pneumonia, for up to ten kinds of score; none of under 25 films.

    Each kind holds about as many films, 25 at least; its ends lie halfway between two films, the outer ones at 0 and 1.
    Films are counted as they are, whatever weight they had in the fit.

    Parameters
    ----------
    probabilities, targets, patients
        (N,) each: of the positive group, 1 for a film of it, whose film it is.
    """
    distinct, counts = np.unique(probabilities, return_counts=True)
    parts = min(_MOST_KINDS, len(probabilities) // _FILMS_A_KIND)
    if not parts:
        return ()
    places = np.searchsorted(np.cumsum(counts), np.arange(1, parts) * len(probabilities) / parts)
    inner = {float((distinct[at] + distinct[at + 1]) / 2.0) for at in places if at + 1 < len(distinct)}
    edges = [0.0, *sorted(inner), 1.0]
    kind = np.searchsorted(edges[1:-1], probabilities, side="right")
    owners = np.asarray(patients)
    found: list[Observed] = []
    for number, (low, high) in enumerate(pairwise(edges)):
        here = kind == number
        share = float(targets[here].mean())
        interval = exact_interval(share, len(np.unique(owners[here])))
        found.append(Observed(low, high, int(here.sum()), int(targets[here].sum()), share, interval))
    return tuple(found)


def fit_cam_scale(
    predictions: Sequence[Prediction], neutral: float, scheme: Scheme = STANDARD, temperature: float = 1.0
) -> float:
    """Logits at which the heat map is at full colour: the 99th percentile of the map cells' size, about the decision.

    Parameters
    ----------
    predictions
        With the head's own bias beside the maps.
    neutral, scheme, temperature
        As for `cxr.model.cam.about_decision`.
    """
    cells = np.abs([_contrast(one, neutral, scheme, temperature) for one in predictions])
    return max(float(np.percentile(cells, _CAM_PERCENTILE)), 1e-3)


def _contrast(one: Prediction, neutral: float, scheme: Scheme, temperature: float) -> Cam:
    if len(scheme.classes) > 2:
        return contrast_of(one.maps, one.bias, neutral, scheme, temperature)[0]
    normal, pneumonia = about_decision(one.maps, one.bias, neutral)[0]
    return np.asarray(pneumonia - normal)


def calibrate(
    predictions: Sequence[Prediction],
    targets: Targets,
    weights_sha256: str,
    weights: Floats | None = None,
    band_rates: tuple[float, float] = BAND_RATES,
    scheme: Scheme = STANDARD,
) -> Calibration:
    """Everything that is fitted on validation.

    Parameters
    ----------
    predictions
        Of the validation films, by the uncalibrated checkpoint.
    targets
        (N,), class indices; all classes are there.
    weights_sha256
        Of the checkpoint they belong to.
    weights
        How much each film counts for temperature and thresholds, (N,); all the same by default.
    band_rates
        As `fit_band` takes them.
    scheme
        The classes and the positive group.
    """
    logits = np.stack([prediction.logits for prediction in predictions])
    temperature = fit_temperature(logits, targets, weights)
    probabilities = scheme.probability(softmax(logits, temperature))
    positives = scheme.is_positive(targets)
    points = fit_operating_points(probabilities, positives, weights)
    return Calibration(
        weights_sha256,
        temperature,
        points,
        DECIDES,
        fit_band(probabilities, positives, points, band_rates),
        fit_cam_scale(predictions, neutral_logit(points[DECIDES], temperature), scheme, temperature),
        cam_zero="decision",
        band_rates=band_rates,
    )
