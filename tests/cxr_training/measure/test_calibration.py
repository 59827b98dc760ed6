"""Temperature, thresholds and the scale of the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from cxr.model.brightness import Brightness, brightness_of
from cxr.model.preprocess import network_film
from cxr.model.spec import ModelSpec, Preprocessing
from cxr.predict import Prediction, softmax
from cxr_training.calibrate import of_training_films
from cxr_training.data.records import load_films
from cxr_training.measure.calibration import (
    fit_band,
    fit_cam_scale,
    fit_operating_points,
    fit_temperature,
    observed_shares,
)
from tests.cxr_training.folders import write_manifest


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_overconfident_is_found(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(scale=2.0, size=(20000, 2))
    targets = (rng.random(20000) < softmax(honest, 1.0)[:, 1]).astype(int)
    assert fit_temperature(honest * true_temperature, targets) == pytest.approx(true_temperature, rel=0.05)


def test_thresholds_reach_what_their_names_say() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 2000)
    probabilities = 1 / (1 + np.exp(-rng.normal(loc=2.0 * targets - 1)))
    points = fit_operating_points(probabilities, targets)
    sensitivity = (probabilities >= points["sensitivity_95"])[targets == 1].mean()
    specificity = (probabilities < points["specificity_95"])[targets == 0].mean()
    assert 0.95 <= sensitivity < 0.952
    assert 0.95 <= specificity < 0.952
    best = max(
        (probabilities >= t)[targets == 1].mean() + (probabilities < t)[targets == 0].mean() for t in probabilities
    )
    at = points["youden"]
    reached = (probabilities >= at)[targets == 1].mean() + (probabilities < at)[targets == 0].mean()
    assert reached == pytest.approx(best)


def test_thresholds_of_a_perfect_model_separate_the_classes() -> None:
    points = fit_operating_points(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert points["youden"] == points["sensitivity_95"] == pytest.approx(0.5)
    assert points["specificity_95"] == pytest.approx(0.5)


def test_no_threshold_lies_on_a_film() -> None:
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, 100)
    probabilities = np.clip(rng.normal(0.3 + 0.4 * targets, 0.2), 0.01, 0.99)
    for point in fit_operating_points(probabilities, targets).values():
        assert np.abs(probabilities - point).min() > 1e-5


def test_without_any_signal_the_thresholds_are_still_probabilities() -> None:
    points = fit_operating_points(np.array([0.9, 0.8, 0.2, 0.1]), np.array([0, 0, 1, 1]))
    assert all(0 <= point <= 1 for point in points.values())


def test_the_scale_is_the_99th_percentile_of_the_contrast() -> None:
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(50, 2, 7, 7)).astype(np.float32)
    zero = np.zeros(2)
    predictions = [Prediction(zero, zero, one, zero, "NORMAL", False) for one in maps]
    expected = np.percentile(np.abs(maps[:, 1] - maps[:, 0] - 0.7), 99)
    assert fit_cam_scale(predictions, 0.7) == pytest.approx(expected)


@pytest.mark.parametrize("films", [24, 25, 60, 1000])
def test_every_film_is_among_those_scored_like_it_and_counted_once(films: int) -> None:
    rng = np.random.default_rng(films)
    probabilities = rng.random(films).round(2)  # some alike
    targets = (rng.random(films) < probabilities).astype(int)
    found = observed_shares(probabilities, targets, [str(n // 2) for n in range(films)])
    assert len(found) == min(films // 25, 10)
    if not found:
        return
    assert (found[0].low, found[-1].high) == (0.0, 1.0)
    assert (sum(one.films for one in found), sum(one.positive for one in found)) == (films, targets.sum())
    for one in found:
        here = (probabilities >= one.low) & (probabilities < one.high + (one.high == 1.0))
        patients = len({n // 2 for n in np.flatnonzero(here)})
        assert (here.sum(), targets[here].sum()) == (one.films, one.positive)
        assert one.films >= 15
        # Clopper and Pearson: the ends at which what was found, or more so, has a chance of 2.5 %.
        low, high = one.interval
        assert low == 0 or beta.cdf(low, one.share * patients, patients * (1 - one.share) + 1) == pytest.approx(0.025)
        assert high == 1 or beta.sf(high, one.share * patients + 1, patients * (1 - one.share)) == pytest.approx(0.025)


def test_films_that_all_get_one_score_are_one_kind() -> None:
    (only,) = observed_shares(np.full(80, 0.3), np.repeat([0, 1], 40), [str(n) for n in range(80)])
    assert (only.low, only.high, only.films, only.positive) == (0.0, 1.0, 80, 40)


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 6.0])
def test_the_band_holds_the_threshold_and_a_further_film_is_beyond_its_far_end_at_most_once_in_twenty(
    distance: float,
) -> None:
    rng = np.random.default_rng(4)
    below, above = [], []
    for _ in range(300):
        targets = np.repeat([0, 1], [45, 60])
        probabilities = 1 / (1 + np.exp(-rng.normal(loc=distance * (targets - 0.5))))
        low, high = fit_band(probabilities, targets, points := fit_operating_points(probabilities, targets))
        assert 0 <= low <= points["youden"] <= high <= 1
        assert (probabilities[targets == 1] < low).sum() <= 2  # floor(0.05 * 61) - 1
        assert (probabilities[targets == 0] > high).sum() <= 1  # floor(0.05 * 46) - 1
        normal, pneumonia = 1 / (1 + np.exp(-rng.normal(loc=distance * np.array([[-0.5], [0.5]]), size=(2, 100))))
        below.append((pneumonia < low).mean())
        above.append((normal > high).mean())
    assert np.mean(below) < 0.055
    assert np.mean(above) < 0.055


def test_too_few_films_of_a_class_give_no_end_to_the_band() -> None:
    probabilities, targets = np.linspace(0.1, 0.9, 30), np.repeat([0, 1], [12, 18])
    assert fit_band(probabilities, targets, {"youden": 0.4}) == (0.0, 1.0)


def test_weights_count_as_films_that_are_there_as_often() -> None:
    rng = np.random.default_rng(6)
    targets = rng.integers(0, 2, 120)
    logits = rng.normal(size=(120, 2)) + 2.0 * np.eye(2)[targets]
    probabilities = softmax(logits, 1.0)[:, 1]
    times = np.where(np.arange(120) < 100, 1, 4)  # a small source that is to weigh more
    many = np.repeat(np.arange(120), times)
    weights = times.astype(np.float64)
    assert fit_temperature(logits, targets, weights) == pytest.approx(fit_temperature(logits[many], targets[many]))
    found, expected = (
        fit_operating_points(probabilities, targets, weights),
        fit_operating_points(probabilities[many], targets[many]),
    )
    for name, threshold in expected.items():
        assert (probabilities >= found[name]).tolist() == (probabilities >= threshold).tolist(), name


def test_the_brightness_of_training_is_that_of_its_films_where_there_are_enough(tmp_path: Path) -> None:
    records = load_films(write_manifest(tmp_path, 15)).of("train")
    preprocessing = Preprocessing(size=64, greys="field")
    spec = ModelSpec("resnet10", "random", "w.pth", "0", preprocessing)
    assert of_training_films(records[1:], spec.preprocessing) == (None, None)
    _, known = of_training_films(records, spec.preprocessing)
    assert known is not None
    assert known.films == 30
    figures = [brightness_of(network_film(record.read(), preprocessing)) for record in records]
    assert known == Brightness.of(figures)
