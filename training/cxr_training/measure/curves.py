"""The curves of an evaluation with what the resamples say of them: ROC, precision and recall, reliability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cxr_training.measure.intervals import (
    FEWEST_PATIENTS,
    LEVEL,
    MOST_UNDEFINED,
    Bootstrap,
    exact_interval,
    share_interval,
)
from cxr_training.measure.metrics import Floats, Targets, counts_by_score
from cxr_training.measure.records import Interval

_GRID: Final = np.linspace(0.0, 1.0, 101)
_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Band:
    """Where the middle 95 % of the resampled curves lie at each point of the axis: (G,) each."""

    grid: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Bin:
    """Films of like probability: mean stated probability, frequency of PNEUMONIA and its interval, number of films."""

    stated: float
    frequency: float
    interval: Interval
    films: int


def bands(
    targets: Targets, probabilities: Floats, patients: Sequence[str], bootstrap: Bootstrap
) -> tuple[Band, Band] | None:
    """Bands of sensitivity over 1 - specificity, and of precision over recall; None where they would say nothing.

    The rules are those of `cxr_training.measure.intervals`. The bands hold point by point, not for the whole curve at
    once.
    """
    if len(set(patients)) < FEWEST_PATIENTS:
        return None
    curves = [_resampled_curves(targets, probabilities, weights) for weights in bootstrap.weights(patients)]
    roc, precision = (np.concatenate(parts) for parts in zip(*curves, strict=True))
    if len(roc) < (1.0 - MOST_UNDEFINED) * bootstrap.resamples:
        return None
    return _band(roc), _band(precision)


def _band(curves: Floats) -> Band:
    low, high = np.percentile(curves, [50.0 * (1.0 - LEVEL), 50.0 * (1.0 + LEVEL)], axis=0)
    return Band(_GRID, low, high)


def _resampled_curves(targets: Targets, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Both curves on the grid, a row for each resample that has both classes."""
    positive, negative = counts_by_score(targets, probabilities, weights)
    found, alarmed = positive.cumsum(axis=1), negative.cumsum(axis=1)
    defined = (found[:, -1] > 0) & (alarmed[:, -1] > 0)
    found, alarmed = found[defined], alarmed[defined]
    roc, precision = np.empty((len(found), len(_GRID))), np.empty((len(found), len(_GRID)))
    for row, (tp, fp) in enumerate(zip(found, alarmed, strict=True)):
        sensitivity = tp / tp[-1]
        roc[row] = np.interp(_GRID, np.r_[0.0, fp / fp[-1]], np.r_[0.0, sensitivity])
        # Between its points precision is no straight line (Davis, Goadrich 2006); the step is what AUPRC sums up.
        first = np.searchsorted(sensitivity, np.maximum(_GRID, 1.0 / tp[-1]) - 1e-12)
        precision[row] = tp[first] / (tp[first] + fp[first])
    return roc, precision


def reliability(
    targets: Targets, probabilities: Floats, patients: Sequence[str], blocks: Iterable[Floats]
) -> list[Bin]:
    """Frequency of PNEUMONIA in ten equally wide bins of its stated probability; empty bins are left out."""
    owners = np.asarray(patients)
    bins = np.searchsorted(np.linspace(0.0, 1.0, _BINS + 1)[1:-1], probabilities)
    member = (bins[:, None] == np.arange(_BINS)).astype(np.float64)
    counts = [(weights @ (member * targets[:, None]), weights @ member) for weights in blocks]
    part, whole = (np.concatenate(parts) for parts in zip(*counts, strict=True))
    sample = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    found: list[Bin] = []
    for i in np.flatnonzero(member.any(axis=0)):
        inside = bins == i
        frequency = float(targets[inside].mean())
        count = len(np.unique(owners[inside]))
        interval = share_interval(frequency, sample[:, i], count)[0] or exact_interval(frequency, count)
        found.append(Bin(float(probabilities[inside].mean()), frequency, interval, int(inside.sum())))
    return found
