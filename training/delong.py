"""DeLong's test of two AUROCs on the same films.

References
----------
DeLong, DeLong, Clarke-Pearson (1988): Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves: A Nonparametric Approach. Biometrics 44:837-845.
Sun, Xu (2014): Fast Implementation of DeLong's Algorithm for Comparing the Areas Under Correlated Receiver Operating
Characteristic Curves. IEEE Signal Processing Letters 21:1389-1393, theorem 1 and algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from training.intervals import LEVEL, Interval
from training.metrics import Floats, Targets


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
    return DeLong(difference, error, [difference - half, difference + half], z, float(2.0 * norm.sf(abs(z))))
