"""Bands and bins against scikit-learn's curves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_training.measure.curves import bands, reliability
from cxr_training.measure.intervals import Bootstrap

RNG = np.random.default_rng(6)
TARGETS = np.repeat([1, 0], [100, 100])
PROBABILITIES = 1 / (1 + np.exp(-RNG.normal(1.5 * TARGETS, 1.0)))
PATIENTS = [f"{i:03}" for i in range(200)]


def test_the_bands_hold_the_curves_of_plain_resamples() -> None:
    found = bands(TARGETS, PROBABILITIES, PATIENTS, Bootstrap(200, 9))
    assert found is not None
    roc, precision = found
    draws = np.random.default_rng(9).integers(0, 200, (200, 200))
    sensitivity, share = [], []
    for draw in draws:  # by hand: at which threshold 30 % of the NORMAL films are called, and at which 60 % are found
        normal, ill = PROBABILITIES[draw][TARGETS[draw] == 0], PROBABILITIES[draw][TARGETS[draw] == 1]
        levels = np.r_[np.inf, np.unique(PROBABILITIES[draw])[::-1]]
        alarmed, hit = [np.array([(side >= level).mean() for level in levels]) for side in (normal, ill)]
        after = np.searchsorted(alarmed, 0.3, side="right")
        step = (0.3 - alarmed[after - 1]) / (alarmed[after] - alarmed[after - 1])
        sensitivity.append(hit[after - 1] + step * (hit[after] - hit[after - 1]))
        level = levels[np.argmax(hit >= 0.6 - 1e-12)]
        share.append((ill >= level).sum() / ((ill >= level).sum() + (normal >= level).sum()))
    place = int(np.flatnonzero(np.isclose(roc.grid, 0.3))[0])
    np.testing.assert_allclose([roc.low[place], roc.high[place]], np.percentile(sensitivity, [2.5, 97.5]), atol=1e-9)
    place = int(np.flatnonzero(np.isclose(precision.grid, 0.6))[0])
    expected = np.percentile(share, [2.5, 97.5])
    np.testing.assert_allclose([precision.low[place], precision.high[place]], expected, atol=1e-9)


def test_patients_with_the_same_films_make_bands_of_no_width() -> None:
    """Every resample has the same curve, whose areas are scikit-learn's."""
    targets, patients = np.tile([1, 1, 0, 0], 50), np.repeat(PATIENTS[:50], 4).tolist()
    probabilities = np.tile([0.8, 0.3, 0.5, 0.1], 50)  # each patient has all four
    found = bands(targets, probabilities, patients, Bootstrap(100))
    assert found is not None
    roc, precision = found
    np.testing.assert_allclose(roc.low, roc.high)
    np.testing.assert_allclose(precision.low, precision.high)
    auprc = average_precision_score(targets, probabilities)
    assert precision.low[1:].mean() == pytest.approx(auprc)
    # on the grid the step at one half is a slope, 0.01 wide
    assert np.trapezoid(roc.low, roc.grid) == pytest.approx(roc_auc_score(targets, probabilities), abs=0.01)


def test_few_patients_have_no_bands() -> None:
    assert bands(TARGETS, PROBABILITIES, [str(i % 9) for i in range(200)], Bootstrap(100)) is None
    assert bands(np.repeat([1, 0], [1, 199]), PROBABILITIES, PATIENTS, Bootstrap(100)) is None


def test_reliability_has_scikit_learns_points_and_an_interval_around_each() -> None:
    bins = reliability(TARGETS, PROBABILITIES, PATIENTS, Bootstrap(500).weights(PATIENTS))
    frequency, stated = calibration_curve(TARGETS, PROBABILITIES, n_bins=10)
    np.testing.assert_allclose([one.frequency for one in bins], frequency)
    np.testing.assert_allclose([one.stated for one in bins], stated)
    assert sum(one.films for one in bins) == 200
    for one in bins:
        assert one.interval[0] <= one.frequency <= one.interval[1]
        assert one.interval[1] - one.interval[0] > 0.05
