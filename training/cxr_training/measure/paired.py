"""Two models on the same films: paired differences over patients, and McNemar's test of their calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm, rankdata

from cxr_training.measure.intervals import LEVEL, Bootstrap, percentiles
from cxr_training.measure.metrics import Floats, Targets, weighted_figures
from cxr_training.measure.records import Interval

FIGURES: Final = ("auroc", "sensitivity", "specificity", "accuracy")

Calls = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of the second model minus that of the first, with its interval and the resamples it is undefined in."""

    difference: float | None
    ci: Interval | None
    undefined_resamples: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """Films that only one of the models calls rightly, and the two-sided p of so uneven a split."""

    only_first_right: int
    only_second_right: int
    p: float


def figures_of(targets: Targets, probabilities: Floats, called: Calls, weights: Floats) -> Mapping[str, Floats]:
    """AUROC by the probabilities, the shares by the calls, for each row of weights: (B,) each."""
    ranked = weighted_figures(targets, probabilities, 0.5, weights)
    by_call = weighted_figures(targets, called.astype(np.float64), 0.5, weights)
    return {"auroc": ranked["auroc"], **{name: by_call[name] for name in FIGURES[1:]}}


def paired_differences(
    targets: Targets,
    first: tuple[Floats, Calls],
    second: tuple[Floats, Calls],
    patients: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Difference]:
    """Differences of AUROC, sensitivity, specificity and accuracy, both models being resampled together.

    Parameters
    ----------
    first, second
        Probabilities (N,) and calls (N,) of each model.
    patients
        (N,), whose film each is.
    """

    def differences(weights: Floats) -> dict[str, Floats]:
        one, two = figures_of(targets, *first, weights), figures_of(targets, *second, weights)
        return {name: two[name] - one[name] for name in FIGURES}

    point = differences(np.ones((1, len(targets))))
    parts = [differences(weights) for weights in bootstrap.weights(patients)]
    found: dict[str, Difference] = {}
    for name in FIGURES:
        sample = np.concatenate([part[name] for part in parts])
        value = float(point[name][0])
        known = not np.isnan(value)
        ci = percentiles(sample, len(set(patients))) if known else None
        found[name] = Difference(value if known else None, ci, int(np.isnan(sample).sum()))
    return found


def mcnemar(targets: Targets, first: Calls, second: Calls) -> McNemar:
    """McNemar's exact test of whether the films that one model alone gets right are split evenly.

    References
    ----------
    McNemar (1947): Note on the sampling error of the difference between correlated proportions. Psychometrika 12:153.
    """
    one, two = first == targets, second == targets
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    disagreeing = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0)


@dataclass(frozen=True, slots=True)
class DeLong:
    """What the test found.

    Parameters
    ----------
    difference
        AUROC of the second minus that of the first.
    standard_error
        Of the difference.
    ci
        95 % interval of the difference by the normal distribution.
    z, p
        The difference in standard errors, and its two-sided p. Where the standard error is 0 there is no interval and
        no z, and p is 1 for equal areas and None for others.
    """

    difference: float
    standard_error: float
    ci: Interval | None
    z: float | None
    p: float | None


def delong_covariance(targets: Targets, scores: Floats) -> tuple[Floats, Floats]:
    """AUROCs of several readings of the same films and their covariance.

    Parameters
    ----------
    targets
        (N,), 1 for PNEUMONIA; each class twice or more.
    scores
        (K, N), any numbers that rank the films.

    Returns
    -------
    (K,) and (K, K).
    """
    positive, negative = scores[:, targets == 1], scores[:, targets == 0]
    m, n = positive.shape[1], negative.shape[1]
    ranks = rankdata(np.concatenate([positive, negative], axis=1), axis=1)  # ties share their mean rank
    placed_positive = (ranks[:, :m] - rankdata(positive, axis=1)) / n  # share of NORMAL films below each PNEUMONIA
    placed_negative = 1.0 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(placed_positive)) / m + np.atleast_2d(np.cov(placed_negative)) / n
    return placed_positive.mean(axis=1), covariance


def delong(targets: Targets, first: Floats, second: Floats) -> DeLong | None:
    """Whether two readings of the same films, (N,) each, have different AUROCs; None with a single film of a class."""
    if min(targets.sum(), (1 - targets).sum()) < 2:
        return None
    areas, covariance = delong_covariance(targets, np.stack([first, second]))
    difference = float(areas[1] - areas[0])
    error = math.sqrt(max(float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1]), 0.0))
    if error < 1e-12:
        return DeLong(difference, 0.0, None, None, 1.0 if abs(difference) < 1e-12 else None)
    half = float(norm.ppf((1.0 + LEVEL) / 2.0)) * error
    z = difference / error
    return DeLong(difference, error, (difference - half, difference + half), z, float(2.0 * norm.sf(abs(z))))
