"""Figures against hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import binary_metrics, expected_calibration_error

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
