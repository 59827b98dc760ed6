"""Figures against hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_training.measure.metrics import binary_metrics, expected_calibration_error, predictive_values, weighted_figures

TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95])


def test_figures_are_the_hand_worked_ones() -> None:
    figures = binary_metrics(TARGETS, PROBABILITIES, 0.6)
    assert (figures["true_positive"], figures["false_negative"]) == (5, 1)
    assert (figures["true_negative"], figures["false_positive"]) == (3, 1)
    assert figures["sensitivity"] == pytest.approx(5 / 6)
    assert figures["specificity"] == pytest.approx(3 / 4)
    assert figures["accuracy"] == pytest.approx(0.8)
    # of 24 pairs three are in the wrong order (0.4, 0.6, 0.7 against 0.8) and one is a tie
    assert figures["auroc"] == pytest.approx((24 - 3 - 0.5) / 24)
    assert figures["brier"] == pytest.approx(np.mean((PROBABILITIES - TARGETS) ** 2))


def test_the_threshold_itself_counts_as_pneumonia() -> None:
    assert binary_metrics(np.array([1, 0]), np.array([0.5, 0.4]), 0.5)["sensitivity"] == 1.0


def test_a_group_of_one_class_has_no_auroc_and_no_specificity() -> None:
    figures = binary_metrics(np.array([1, 1]), np.array([0.9, 0.2]), 0.5)
    assert figures["auroc"] is None
    assert figures["specificity"] is None
    assert figures["sensitivity"] == 0.5


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    targets = np.array([1, 1, 0, 0])
    assert expected_calibration_error(targets, np.array([0.9, 0.9, 0.9, 0.9])) == pytest.approx(0.4)
    assert expected_calibration_error(targets, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0)


def test_predictive_values_are_the_hand_worked_ones() -> None:
    # of 1000, 100 are ill: 90 found, 10 missed; of 900 healthy 720 are cleared, 180 alarmed
    ppv, npv = predictive_values(np.array([0.9]), np.array([0.8]), 0.1)
    assert ppv[0] == pytest.approx(90 / 270, abs=1e-12)
    assert npv[0] == pytest.approx(720 / 730, abs=1e-12)


def test_at_the_films_own_prevalence_predictive_values_are_plain_shares() -> None:
    figures = binary_metrics(TARGETS, PROBABILITIES, 0.6)
    found, cleared = (np.array([figures[name]], dtype=np.float64) for name in ("sensitivity", "specificity"))
    ppv, npv = predictive_values(found, cleared, 0.6)
    assert ppv[0] == pytest.approx(5 / 6)  # 5 true of 6 called
    assert npv[0] == pytest.approx(3 / 4)


def test_a_test_that_calls_nothing_has_no_positive_predictive_value() -> None:
    ppv, npv = predictive_values(np.array([0.0]), np.array([1.0]), 0.3)
    assert np.isnan(ppv[0])
    assert npv[0] == pytest.approx(0.7)


def test_weighted_figures_are_those_of_films_repeated_by_their_weight() -> None:
    rng = np.random.default_rng(4)
    targets = rng.integers(0, 2, 60)
    probabilities = rng.integers(0, 21, 60) / 20  # with ties, and with 0 and 1
    draws = rng.integers(0, 60, (50, 60))
    weights = np.stack([np.bincount(draw, minlength=60) for draw in draws]).astype(np.float64)
    fast = weighted_figures(targets, probabilities, 0.45, weights)
    for row, draw in enumerate(draws):
        slow = binary_metrics(targets[draw], probabilities[draw], 0.45)  # scikit-learn, one resample at a time
        for name in set(fast) - {"prevalence"}:
            assert fast[name][row] == pytest.approx(slow[name], abs=1e-12), name
        assert fast["prevalence"][row] == pytest.approx(targets[draw].mean(), abs=1e-12)


def test_weighted_films_of_one_class_have_no_auroc() -> None:
    weights = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 1.0]])
    fast = weighted_figures(np.array([1, 1, 0]), np.array([0.8, 0.3, 0.4]), 0.5, weights)
    np.testing.assert_array_equal(np.isnan(fast["auroc"]), [True, False])
    np.testing.assert_array_equal(np.isnan(fast["auprc"]), [True, False])
    np.testing.assert_array_equal(np.isnan(fast["specificity"]), [True, False])
    np.testing.assert_allclose(fast["sensitivity"], [1 / 3, 1.0])
