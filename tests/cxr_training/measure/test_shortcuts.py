"""Figures of readings, the strength of linear models, and what may be said of a figure."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_training.measure.intervals import Bootstrap
from cxr_training.measure.shortcut_readings import STRENGTHS, fit_linear
from cxr_training.measure.shortcuts import (
    ABOVE,
    BELOW,
    NO_INTERVAL,
    UNCLEAR,
    auroc_figures,
    balanced_accuracy_figures,
    verdict,
)

BOOTSTRAP = Bootstrap(500, 1)


def people(count: int) -> list[str]:
    return [f"p{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("value", "ci", "fewest", "said"),
    [
        (0.7, (0.51, 0.9), 20, ABOVE),
        (0.7, (0.49, 0.9), 20, UNCLEAR),
        (0.5, (0.5, 0.9), 20, UNCLEAR),
        (0.3, (0.1, 0.49), 20, BELOW),
        (0.7, None, 20, NO_INTERVAL),
        (0.5, None, 20, UNCLEAR),
        (1.0, None, 5, ABOVE),
        (1.0, None, 4, NO_INTERVAL),
        (0.0, None, 5, BELOW),
        (None, None, 0, None),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_chance(
    value: float | None, ci: tuple[float, float] | None, fewest: int, said: str | None
) -> None:
    assert verdict(value, ci, 0.5, fewest) == said


def test_auroc_and_difference_of_four_films_are_the_hand_worked_ones() -> None:
    """NORMAL 0.1 and 0.6, PNEUMONIA 0.5 and 0.9: three of four pairs in order. The other reading has all four."""
    targets = np.array([0, 0, 1, 1])
    readings = {"model": np.array([0.1, 0.2, 0.8, 0.9]), "border": np.array([0.1, 0.6, 0.5, 0.9])}
    found = auroc_figures(readings, targets, people(4), BOOTSTRAP, "model")
    assert found["border"].auroc == 0.75
    assert found["border"].difference == -0.25
    assert found["border"].auroc_ci is None  # of four patients
    assert found["border"].verdict == NO_INTERVAL
    assert found["model"].auroc == 1.0
    assert found["model"].difference is None
    assert (found["border"].films, found["border"].positive, found["border"].patients) == (4, 2, 4)


def test_readings_meet_the_same_resamples() -> None:
    """Readings that rank alike differ by 0 in each resample, though each of them varies."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 40)
    ranks = np.clip(rng.normal(0.4 + 0.1 * targets, 0.1), 0, 1)
    found = auroc_figures({"model": ranks, "twin": ranks**2}, targets, people(80), BOOTSTRAP, "model")
    assert found["twin"].auroc_ci == found["model"].auroc_ci
    assert found["twin"].difference == 0.0
    assert found["twin"].difference_ci is None  # all resamples agree


def test_films_of_one_class_have_no_auroc() -> None:
    found = auroc_figures({"model": np.linspace(0, 1, 12)}, np.ones(12, dtype=np.int64), people(12), BOOTSTRAP, "model")
    assert (found["model"].auroc, found["model"].auroc_ci, found["model"].verdict) == (None, None, None)
    assert found["model"].positive == 12


def test_balanced_accuracy_counts_each_source_the_same() -> None:
    """Of a all 9 are right, of b 1 of 3: (1 + 1/3) / 2."""
    truth = np.array(["a"] * 9 + ["b"] * 3)
    called = np.array(["a"] * 9 + ["b", "a", "a"])
    found = balanced_accuracy_figures(called, truth, people(12), BOOTSTRAP, 1.0)
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert found.chance == 0.5
    assert found.films == 12


def test_a_call_that_ignores_the_film_is_at_chance_however_many_films_a_source_has() -> None:
    truth = np.array(["a"] * 90 + ["b"] * 10 + ["c"] * 5)
    found = balanced_accuracy_figures(np.full(105, "a"), truth, people(105), BOOTSTRAP, 1.0)
    assert found.balanced_accuracy == pytest.approx(found.chance)
    assert found.verdict == UNCLEAR


def test_the_strength_has_the_lowest_log_loss_on_validation() -> None:
    rng = np.random.default_rng(4)
    targets = [rng.permutation(np.repeat([0, 1], count)) for count in (60, 200)]
    inputs = [rng.normal(0.5 * side[:, None] * (np.arange(30) < 3), 1.0) for side in targets]
    fitted = fit_linear((inputs[0], targets[0]), (inputs[1], targets[1]), name="test")
    losses = []
    for strength in STRENGTHS:
        other = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        losses.append(log_loss(targets[1], other.fit(inputs[0], targets[0]).predict_proba(inputs[1])))
    assert fitted.strength == STRENGTHS[int(np.argmin(losses))]
    assert 0 < STRENGTHS.index(fitted.strength) < len(STRENGTHS) - 1  # an end would show nothing
    assert log_loss(targets[1], fitted.probabilities(inputs[1])) == pytest.approx(min(losses))


def test_balanced_classes_count_the_same_in_the_fit() -> None:
    inputs = np.zeros((100, 3))
    labels = np.array(["many"] * 90 + ["few"] * 10)
    fitted = fit_linear((inputs, labels), (inputs, labels), balanced=True, name="test")
    np.testing.assert_allclose(fitted.probabilities(inputs), 0.5, atol=1e-3)
